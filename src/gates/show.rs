//! What an approver is shown: what is hashed, and nothing that looks like something else.

use std::fmt::Write as _;

use serde::Serialize;

use super::core::Core;
use super::error::GateError;
use crate::call::{Call, InvalidCall};
use crate::canon::canonical_arguments;
use crate::ids::RequestId;

/// The call as text: what is done, on what, with which arguments, one per line.
pub(super) fn text_of(call: &Call) -> Result<String, InvalidCall> {
    let parts = call.parts().map_err(Clone::clone)?;
    let mut out = format!("{} {}\n", parts.action.kind(), parts.action.name());
    let lines = [
        ("resource", parts.resource),
        ("capability", parts.capability),
        ("api", parts.api),
        ("provider", parts.provider),
    ];
    for (name, value) in lines {
        if let Some(value) = value {
            // Outside of JSON a backslash is one of the text, unless two are written for it.
            let _ = writeln!(out, "{name} {}", escape(&value.replace('\\', "\\\\")));
        }
    }
    for label in parts.labels {
        let _ = writeln!(out, "label {}", escape(label));
    }
    if let Some(args) = parts.args {
        let _ = writeln!(out, "args {}", escape(args));
    }
    Ok(out)
}

/// Every character but printable ASCII as JSON escapes it: one that is not seen, moves others, or is taken for another
/// one (a Cyrillic a, a fullwidth digit). In JSON that changes nothing of what it says: read back, it is hashed as the
/// same arguments.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ' '..='~') {
            out.push(c);
            continue;
        }
        let mut units = [0; 2];
        for unit in c.encode_utf16(&mut units) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    }
    out
}

impl Core {
    /// Whether `args` are the arguments of the call that the request is about.
    pub(super) async fn is_about(
        &self,
        id: RequestId,
        args: &impl Serialize,
    ) -> Result<bool, GateError> {
        let args = canonical_arguments(args).map_err(InvalidCall::Arguments)?;
        let found = self.store.fetch_request(id).await?;
        let found = found.ok_or(GateError::NoRequest)?;
        let digest = self.audit.bind_arguments(&found.frame_digest, Some(&args));
        Ok(found.is_call && digest == found.call_digest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::Principal;
    use crate::ids::AgentId;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn shown(args: &Value) -> String {
        let me = Principal::agent(AgentId::parse("a").unwrap());
        text_of(&Call::tool(&me, "refund").args(args)).unwrap()
    }

    #[test]
    fn what_deceives_the_eye_is_written_out() {
        let text =
            shown(&json!({"to": "a\u{202e}b\u{200b}c\u{7f}\u{2028}\u{e0041}\u{ad}d\u{1b}[2J\ne"}));
        assert_eq!(
            text,
            "tool refund\nargs {\"to\":\"a\\u202eb\\u200bc\\u007f\\u2028\\udb40\\udc41\\u00add\\u001b[2J\\ne\"}\n"
        );
    }

    #[test]
    fn f39_no_letter_is_taken_for_another_one() {
        // Cyrillic, fullwidth, mathematical, right-to-left, a digit of another script.
        let text = shown(&json!({"to": "p\u{430}ypal \u{ff41}\u{1d44e}\u{5d0}\u{661}\u{df}"}));
        assert_eq!(
            text,
            "tool refund\nargs {\"to\":\"p\\u0430ypal \\uff41\\ud835\\udc4e\\u05d0\\u0661\\u00df\"}\n"
        );
    }

    #[test]
    fn what_is_written_out_is_not_what_was_written_so() {
        let me = Principal::agent(AgentId::parse("a").unwrap());
        let on = |resource: &str| text_of(&Call::tool(&me, "refund").resource(resource)).unwrap();
        assert_eq!(on("a\\u000ab"), "tool refund\nresource a\\\\u000ab\n");
        assert_ne!(on("a\\u000ab"), on("a\nb"));
        assert_ne!(on("a\\\\b"), on("a\\b"));
    }

    proptest! {
        #[test]
        fn no_two_resources_are_shown_alike(one in "[\\\\u0ab\n\u{430}]{0,6}", other in "[\\\\u0ab\n\u{430}]{0,6}") {
            let me = Principal::agent(AgentId::parse("a").unwrap());
            let on = |resource: &str| text_of(&Call::tool(&me, "refund").resource(resource)).ok();
            prop_assert!(one == other || on(&one).is_none() || on(&one) != on(&other));
        }

        #[test]
        fn what_is_shown_is_what_is_hashed(key in ".*", text in ".*", n in any::<i32>()) {
            let args = json!({key: [text, n]});
            let shown = shown(&args);
            prop_assert!(shown.bytes().all(|b| b == b'\n' || (0x20..0x7f).contains(&b)));
            prop_assert_eq!(shown.lines().count(), 2, "nothing begins a line of its own");
            let back: Value = serde_json::from_str(shown.lines().nth(1).unwrap().strip_prefix("args ").unwrap()).unwrap();
            prop_assert_eq!(canonical_arguments(&back).unwrap(), canonical_arguments(&args).unwrap());
        }
    }
}
