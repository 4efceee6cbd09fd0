//! What binds a decision to the thing that it is about: keyed hashes of calls, and MACs of tokens.

use subtle::ConstantTimeEq as _;

use super::{Audit, Purpose};
use crate::call::{Action, Parts, Principal};
use crate::canon::Fields;

impl Audit {
    /// The keyed hash of a call: who, what, on what, with which arguments. Permits, approvals and
    /// loops mean the same call by it.
    ///
    /// It holds for one session: an agent that is restarted finds what it was granted if it keeps
    /// its session's id. It changes with the tenant's key: rotating it ends what is bound to it.
    pub(crate) fn call_digest(&self, parts: &Parts<'_>) -> [u8; 32] {
        self.bind_arguments(&self.call_frame(parts), parts.args)
    }

    /// All of a call but its arguments, so that whoever sees others can say what the call with
    /// those would be.
    pub(crate) fn call_frame(&self, parts: &Parts<'_>) -> [u8; 32] {
        let mut fields = Fields::labelled("portcullis/call-frame/v1");
        let mut next = Some(parts.principal);
        // The one who acts, and all those by whom it was started.
        while let Some(who) = next {
            next = who.parent();
            put_principal(&mut fields, who, next.is_some());
        }
        put_action(&mut fields, parts.action);
        fields
            .text(parts.resource)
            .text(parts.api)
            .text(parts.provider);
        put_said(&mut fields, parts);
        self.derive(Purpose::Call).tag(&[fields.as_bytes()])
    }

    /// The digest of the call with this frame and `args`, which must be canonical.
    pub(crate) fn bind_arguments(&self, frame: &[u8; 32], args: Option<&str>) -> [u8; 32] {
        let mut fields = Fields::labelled("portcullis/call/v2");
        fields.present(frame).text(args);
        self.derive(Purpose::Call).tag(&[fields.as_bytes()])
    }

    /// What is done, whoever does it: what may be agreed to in advance.
    pub(crate) fn what_digest(&self, parts: &Parts<'_>) -> [u8; 32] {
        let mut fields = Fields::labelled("portcullis/what/v1");
        put_action(&mut fields, parts.action);
        fields
            .text(parts.resource)
            .text(parts.api)
            .text(parts.provider)
            .text(parts.args);
        put_said(&mut fields, parts);
        self.derive(Purpose::Call).tag(&[fields.as_bytes()])
    }

    /// The keyed hash of something else that `who` may be allowed once, under a label of its own.
    pub(crate) fn subject_digest(
        &self,
        label: &str,
        who: &Principal,
        subject: &[&str],
    ) -> [u8; 32] {
        let mut fields = Fields::labelled(label);
        let mut next = Some(who);
        while let Some(who) = next {
            next = who.parent();
            put_principal(&mut fields, who, next.is_some());
        }
        for field in subject {
            fields.present(field.as_bytes());
        }
        self.derive(Purpose::Call).tag(&[fields.as_bytes()])
    }

    /// The number of the key that tokens are made under now.
    pub(crate) fn key_number(&self) -> u32 {
        self.writer.key_id()
    }

    /// The MAC of a token's claims, under the tenant's current key.
    pub(crate) fn token_mac(&self, claims: &[u8]) -> [u8; 32] {
        self.derive(Purpose::Approval).tag(&[claims])
    }

    /// Whether `mac` is that of `claims`; as fast for every wrong one.
    pub(crate) fn is_token_mac(&self, claims: &[u8], mac: &[u8; 32]) -> bool {
        self.token_mac(claims).ct_eq(mac).into()
    }

    /// The MAC of the terms on which a person is asked, under the tenant's current key.
    pub(crate) fn terms_mac(&self, terms: &[u8]) -> [u8; 32] {
        self.derive(Purpose::Terms).tag(&[terms])
    }

    /// Whether `mac` is that of `terms`; as fast for every wrong one.
    pub(crate) fn is_terms_mac(&self, terms: &[u8], mac: &[u8]) -> bool {
        self.terms_mac(terms).ct_eq(mac).into()
    }
}

/// `more` says that a parent follows: a chain of two is never read as something else.
fn put_principal(fields: &mut Fields, who: &Principal, more: bool) {
    fields
        .present(who.agent_id().as_str().as_bytes())
        .present(who.session_id().as_str().as_bytes())
        .text(who.user_id().map(AsRef::as_ref))
        .text(who.operator_id().map(AsRef::as_ref))
        .maybe(more.then_some(b"parent"));
}

/// Capability and labels, last: a call that says nothing of them has the digest that it always had.
fn put_said(fields: &mut Fields, parts: &Parts<'_>) {
    if let Some(capability) = parts.capability {
        fields.present(b"capability").present(capability.as_bytes());
    }
    for label in parts.labels {
        fields.present(b"label").present(label.as_bytes());
    }
}

fn put_action(fields: &mut Fields, action: &Action) {
    fields
        .present(action.kind().as_bytes())
        .present(action.name().as_bytes());
}
