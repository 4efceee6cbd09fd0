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
            let _ = writeln!(out, "{name} {}", escape(value));
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

/// Every character that is not seen, moves others, or is taken for another one, as JSON escapes it.
/// In JSON that changes nothing of what it says: read back, it is hashed as the same arguments.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_plain(c) {
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

/// Printable ASCII, and letters and digits of other scripts, without marks that have no place of
/// their own.
fn is_plain(c: char) -> bool {
    c == ' ' || c.is_ascii_graphic() || (c.is_alphanumeric() && !is_deceptive(c))
}

/// Letters by name that show nothing.
const fn is_deceptive(c: char) -> bool {
    matches!(
        c,
        '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' | '\u{17b4}' | '\u{17b5}'
    )
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

    proptest! {
        #[test]
        fn what_is_shown_is_what_is_hashed(key in ".*", text in ".*", n in any::<i32>()) {
            let args = json!({key: [text, n]});
            let shown = shown(&args);
            prop_assert!(shown.chars().all(|c| c == '\n' || is_plain(c)));
            prop_assert_eq!(shown.lines().count(), 2, "nothing begins a line of its own");
            let back: Value = serde_json::from_str(shown.lines().nth(1).unwrap().strip_prefix("args ").unwrap()).unwrap();
            prop_assert_eq!(canonical_arguments(&back).unwrap(), canonical_arguments(&args).unwrap());
        }
    }
}
