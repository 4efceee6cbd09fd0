//! Fingerprints of calls and results: 64 bits of a keyed hash, so that nothing can be read from them,
//! and nobody without the key can make two calls look alike.

use crate::audit::{Audit, Purpose};
use crate::call::{Action, Parts};
use crate::ids::MAX_ID_LEN;

/// A call, as it is remembered, with the name it is declared a poller by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fingerprint<'n> {
    pub(super) tool: &'n str,
    pub(super) call: u64,
}

/// What is compared: the tool in lower case, arguments, resource and URL. `None` for a call that
/// loops cannot be told of: one of a model whose prompt was not given.
pub(super) fn of_call<'n>(audit: &Audit, parts: &Parts<'n>) -> Option<Fingerprint<'n>> {
    if matches!(parts.action, Action::Model(_)) && parts.args.is_none() {
        return None;
    }
    let tool = parts.action.name();
    let mut lower = [0_u8; MAX_ID_LEN];
    let name = lower.get_mut(..tool.len())?;
    name.copy_from_slice(tool.as_bytes());
    name.make_ascii_lowercase();
    let name = &*name;
    let [args, resource, api] = [parts.args, parts.resource, parts.api];
    // Each length before its bytes, and one that no text has for what is absent.
    let [name_len, args_len, resource_len, api_len] = [
        length(Some(name)),
        length(args.map(str::as_bytes)),
        length(resource.map(str::as_bytes)),
        length(api.map(str::as_bytes)),
    ];
    let text = |text: Option<&'n str>| text.unwrap_or_default().as_bytes();
    let tag = audit.derive(Purpose::Loop).tag(&[
        b"portcullis/loop-call/v1",
        parts.action.kind().as_bytes(),
        &name_len,
        name,
        &args_len,
        text(args),
        &resource_len,
        text(resource),
        &api_len,
        text(api),
    ]);
    Some(Fingerprint {
        tool,
        call: first_eight(&tag),
    })
}

/// What came of a call, by its SHA-256.
pub(super) fn of_result(audit: &Audit, sha256: &[u8; 32]) -> u64 {
    let key = audit.derive(Purpose::Loop);
    first_eight(&key.tag(&[b"portcullis/loop-result/v1", sha256]))
}

fn length(bytes: Option<&[u8]>) -> [u8; 8] {
    bytes
        .and_then(|bytes| u64::try_from(bytes.len()).ok())
        .unwrap_or(u64::MAX)
        .to_be_bytes()
}

/// Never 0, which means that nothing is known.
fn first_eight(tag: &[u8; 32]) -> u64 {
    let first = tag.first_chunk().copied().unwrap_or_default();
    u64::from_be_bytes(first).max(1)
}
