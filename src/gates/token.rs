//! Signed tokens by which one person makes one decision elsewhere: in a mail, in a chat.
//!
//! A token is `pca1.<claims>.<mac>`, both in base64url without padding. The claims are written in
//! the way of [`canon`](crate::canon), under a label of their own; the MAC is HMAC-SHA256 under a key
//! that serves nothing else. What algorithm it is, the token does not say: there is one. A token
//! holds for one tenant, request, approver and decision, until a moment, once; and only if somebody who may
//! decide has given it out, which is stored: every program of an agent's has the key.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::approver::{ApproverRef, fold};
use super::core::Core;
use super::decide::{Ballot, Decided};
use super::engine::RequestState;
use super::error::GateError;
use super::policy::{InvalidApprovalPolicy, is_life};
use super::record::About;
use super::request::Decision;
use super::store::Stored;
use crate::canon::Fields;
use crate::ids::RequestId;
use crate::time::Timestamp;

const PREFIX: &str = "pca1";
const LABEL: &str = "portcullis/approval/v1";
/// The longest token, in bytes: a longer one is not even looked at.
const LONGEST: usize = 8_192;
/// The longest life of a token.
const MAX_LIFE: Duration = Duration::from_hours(24);

/// A token, to be given to its approver and to nobody else: whoever has it decides.
#[derive(Clone)]
pub struct ApprovalToken(Zeroizing<String>);

impl ApprovalToken {
    /// The text, for a link or a button. It must not be logged.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ApprovalToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApprovalToken(..)")
    }
}

/// Why a token lets nobody decide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenFault {
    /// Not one of ours, or not as it was made.
    #[error("the token is not valid; ask for a new one")]
    Invalid,
    /// Its time is up, by the database's clock.
    #[error("the token has expired; ask for a new one")]
    Expired,
    /// Somebody has used it.
    #[error("the token was used before; nothing is left to decide with it")]
    Used,
}

impl TokenFault {
    /// What would make it a yes.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::Invalid | Self::Expired => "ask for a new one",
            Self::Used => "nothing is left to decide with it",
        }
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) token: [u8; 16],
    pub(super) key_id: u32,
    pub(super) tenant: String,
    pub(super) request: RequestId,
    pub(super) agent: String,
    pub(super) session: String,
    pub(super) label: String,
    /// The call that was asked for.
    pub(super) call_digest: [u8; 32],
    pub(super) policy_hash: String,
    /// What is agreed to; `None` if it is refused.
    pub(super) grants: Option<[u8; 32]>,
    pub(super) approver: ApproverRef,
    pub(super) operator: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) issued_at: Timestamp,
    pub(super) expires_at: Timestamp,
}

impl Claims {
    fn bytes(&self) -> Vec<u8> {
        let mut fields = Fields::labelled(LABEL);
        fields
            .present(&self.token)
            .present(&self.key_id.to_be_bytes())
            .present(self.tenant.as_bytes())
            .present(self.request.as_bytes())
            .present(self.agent.as_bytes())
            .present(self.session.as_bytes())
            .present(self.label.as_bytes())
            .present(&self.call_digest)
            .present(self.policy_hash.as_bytes())
            .maybe(self.grants.as_ref().map(<[u8; 32]>::as_slice))
            .present(self.approver.to_string().as_bytes())
            .text(self.operator.as_deref())
            .text(self.reason.as_deref())
            .present(&self.issued_at.as_micros().to_be_bytes())
            .present(&self.expires_at.as_micros().to_be_bytes());
        fields.as_bytes().to_vec()
    }

    /// Reads claims whose MAC was right; `None` if they are of another form.
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader(bytes);
        if rest.text()? != LABEL {
            return None;
        }
        let claims = Self {
            token: rest.array()?,
            key_id: u32::from_be_bytes(rest.array()?),
            tenant: rest.text()?,
            request: RequestId::from_uuid(uuid::Uuid::from_bytes(rest.array()?)),
            agent: rest.text()?,
            session: rest.text()?,
            label: rest.text()?,
            call_digest: rest.array()?,
            policy_hash: rest.text()?,
            grants: match rest.field()? {
                Some(bytes) => Some(bytes.try_into().ok()?),
                None => None,
            },
            approver: ApproverRef::parse(rest.text()?).ok()?,
            operator: rest.maybe_text()?,
            reason: rest.maybe_text()?,
            issued_at: Timestamp::from_micros(i64::from_be_bytes(rest.array()?)),
            expires_at: Timestamp::from_micros(i64::from_be_bytes(rest.array()?)),
        };
        rest.0.is_empty().then_some(claims)
    }

    /// Whether they are about this very request.
    fn is_of(&self, request: &Stored) -> bool {
        self.agent == request.shown.agent.as_str()
            && self.session == request.shown.session.as_str()
            && self.label == request.shown.label
            && self.call_digest == request.call_digest
            && self.policy_hash == request.policy_hash
    }
}

/// Reads fields one after the other.
struct Reader<'r>(&'r [u8]);

impl<'r> Reader<'r> {
    /// The outer `None` is no field at all.
    #[expect(clippy::option_option, reason = "an absent field is one, too")]
    fn field(&mut self) -> Option<Option<&'r [u8]>> {
        let (mark, rest) = self.0.split_first()?;
        match mark {
            0 => {
                self.0 = rest;
                Some(None)
            }
            1 => {
                let (len, rest) = rest.split_first_chunk::<4>()?;
                let len = usize::try_from(u32::from_be_bytes(*len)).ok()?;
                let (bytes, rest) = rest.split_at_checked(len)?;
                self.0 = rest;
                Some(Some(bytes))
            }
            _ => None,
        }
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.field()??.try_into().ok()
    }

    fn text(&mut self) -> Option<String> {
        Some(std::str::from_utf8(self.field()??).ok()?.to_owned())
    }

    #[expect(clippy::option_option, reason = "an absent field is one, too")]
    fn maybe_text(&mut self) -> Option<Option<String>> {
        match self.field()? {
            Some(bytes) => Some(Some(std::str::from_utf8(bytes).ok()?.to_owned())),
            None => Some(None),
        }
    }
}

impl Core {
    pub(super) async fn token_for(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: &Decision,
        life: Duration,
    ) -> Result<ApprovalToken, GateError> {
        if !is_life(life) || life > MAX_LIFE {
            return Err(InvalidApprovalPolicy::Life.into());
        }
        // Nobody gets a token for what he could not do himself.
        let request = self.look(id, approver).await?.request;
        if request.shown.state != RequestState::Pending || request.due {
            return Err(GateError::NotPending {
                state: request.shown.state,
            });
        }
        let (grants, _) = self.agreed(&request, &decision.verdict)?;
        let mut token = [0; 16];
        // Without the system's randomness there are no tokens.
        getrandom::fill(&mut token).map_err(|_| TokenFault::Invalid)?;
        let claims = Claims {
            token,
            key_id: self.audit.key_number(),
            tenant: self.store.store.tenant().to_string(),
            request: id,
            agent: request.shown.agent.to_string(),
            session: request.shown.session.to_string(),
            label: request.shown.label.clone(),
            call_digest: request.call_digest,
            policy_hash: request.policy_hash.clone(),
            grants,
            approver: approver.clone(),
            operator: request.operator.clone(),
            reason: decision.reason.clone(),
            issued_at: request.now,
            expires_at: request.now.plus(life),
        };
        let bytes = claims.bytes();
        // Whoever has the key could make one; only who may decide can store that it was given out.
        let hash = Sha256::digest(&bytes).into();
        let issued = async { Ok(self.store.issue_token(&token, id, &hash).await?) };
        self.within("give a token out", issued).await?;
        let mac = self.audit.token_mac(&bytes);
        let text = format!(
            "{PREFIX}.{}.{}",
            URL_SAFE_NO_PAD.encode(&bytes),
            URL_SAFE_NO_PAD.encode(mac)
        );
        Ok(ApprovalToken(Zeroizing::new(text)))
    }

    pub(super) async fn decide_by_token(&self, text: &str) -> Result<Decided, GateError> {
        let claims = self.open(text)?;
        let hash = Sha256::digest(claims.bytes()).into();
        let issued = self
            .store
            .is_token_issued(&claims.token, claims.request, &hash);
        if !issued.await? {
            return Err(TokenFault::Invalid.into());
        }
        let looked = match self.look(claims.request, &claims.approver).await {
            Ok(looked) => looked,
            // Used before, it has voted, or ended the request: that is a replay, and said so.
            Err(error) => return Err(self.replay_or(error, &claims).await),
        };
        if !claims.is_of(&looked.request) {
            return Err(TokenFault::Invalid.into());
        }
        let ballot = Ballot {
            id: claims.request,
            approver: &claims.approver,
            grants: claims.grants,
            narrowed: claims.grants.is_some_and(|to| to != claims.call_digest),
            reason: claims.reason.as_deref(),
            token: Some(&claims),
        };
        match self.vote(&looked, &ballot).await {
            Ok(decided) => Ok(decided),
            Err(GateError::Token(TokenFault::Used)) => {
                let about = About::from(&looked.request);
                self.replayed(Some(&about), &claims.token, &claims.approver.to_string());
                Err(TokenFault::Used.into())
            }
            Err(error) => Err(self.replay_or(error, &claims).await),
        }
    }

    /// What is said of a token that came too late: that it was used, if it was.
    async fn replay_or(&self, error: GateError, claims: &Claims) -> GateError {
        let late = matches!(
            error,
            GateError::AlreadyVoted | GateError::NotPending { .. }
        );
        if !late {
            return error;
        }
        match self.store.is_token_used(&claims.token).await {
            Ok(true) => {
                self.replayed(None, &claims.token, &claims.approver.to_string());
                TokenFault::Used.into()
            }
            Ok(false) => error,
            Err(error) => error.into(),
        }
    }

    /// Checks the MAC before anything of the claims is believed.
    fn open(&self, text: &str) -> Result<Claims, TokenFault> {
        let invalid = TokenFault::Invalid;
        if text.len() > LONGEST {
            return Err(invalid);
        }
        let mut parts = text.split('.');
        let (Some(PREFIX), Some(claims), Some(mac), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(invalid);
        };
        let bytes = URL_SAFE_NO_PAD.decode(claims).map_err(|_| invalid)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| invalid)?;
        let mac: [u8; 32] = mac.try_into().map_err(|_| invalid)?;
        if !self.audit.is_token_mac(&bytes, &mac) {
            return Err(invalid);
        }
        let claims = Claims::read(&bytes).ok_or(invalid)?;
        // The key is the tenant's own; its name is looked at all the same.
        let ours = claims.tenant == self.store.store.tenant().as_str()
            && claims.key_id == self.audit.key_number()
            && !fold(claims.approver.id()).is_empty();
        if ours { Ok(claims) } else { Err(invalid) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claims() -> Claims {
        Claims {
            token: [3; 16],
            key_id: 1,
            tenant: "default".to_owned(),
            request: RequestId::new(),
            agent: "billing".to_owned(),
            session: "s-1".to_owned(),
            label: "refund".to_owned(),
            call_digest: [5; 32],
            policy_hash: String::new(),
            grants: Some([6; 32]),
            approver: ApproverRef::parse("user:erin").unwrap(),
            operator: Some("dana".to_owned()),
            reason: None,
            issued_at: Timestamp::from_micros(1),
            expires_at: Timestamp::from_micros(2),
        }
    }

    #[test]
    fn claims_are_read_back_as_they_were_written() {
        for reason in [None, Some("Grüße".to_owned())] {
            for grants in [None, Some([9; 32])] {
                let claims = Claims {
                    reason: reason.clone(),
                    grants,
                    ..claims()
                };
                assert_eq!(Claims::read(&claims.bytes()), Some(claims));
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Claims::read(&bytes);
        }

        #[test]
        fn no_two_claims_have_the_same_bytes(at in any::<prop::sample::Index>(), x in 1..=255_u8) {
            let claims = claims();
            let mut bytes = claims.bytes();
            let i = at.index(bytes.len());
            bytes[i] ^= x;
            prop_assert_ne!(Claims::read(&bytes), Some(claims));
        }
    }
}
