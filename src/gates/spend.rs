//! Using what was agreed to: once, by the call that was agreed to, under what holds then.

use std::sync::Arc;

use uuid::Uuid;

use super::approval::{Approval, By};
use super::approver::{barred, operator_is_known};
use super::ask::Subject;
use super::book::Known;
use super::core::{Core, Under};
use super::engine::RequestState;
use super::error::GateError;
use super::record::About;
use super::request::Requested;
use crate::audit::{AuditEvent, Kind};
use crate::call::{Action, Parts, Principal};
use crate::error::ErrorKind;
use crate::ids::RequestId;
use crate::store::StoreError;

impl Core {
    /// Lets a call go on that a person agreed to; asks one otherwise.
    pub(super) async fn admit(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        parts: Option<&Parts<'_>>,
        under: &Under,
    ) -> Result<Approval, GateError> {
        self.halt.check(subject.who)?;
        let hold = Uuid::now_v7();
        let taken = self.within("take an approval", self.take(subject, parts, under, hold));
        match taken.await {
            Ok(Some((by, id))) => {
                let about = subject.about(id, &under.policy_hash);
                return Ok(Approval::new(
                    Arc::clone(self),
                    by,
                    hold,
                    about,
                    subject.who,
                ));
            }
            Ok(None) => {}
            // It may be held now, for a moment, by nobody: that it was away is what counts.
            Err(error) if error.kind() == ErrorKind::Unavailable => {}
            Err(error) => return Err(error),
        }
        Err(self.refuse(subject, under).await)
    }

    /// Lets a call go on that the host had somebody asked about; asks nobody.
    pub(super) async fn take_asked(
        self: &Arc<Self>,
        subject: &Subject<'_>,
    ) -> Result<Approval, GateError> {
        self.halt.check(subject.who)?;
        let hold = Uuid::now_v7();
        // On the terms of the policy that is in force, or on the host's own.
        let in_force = match self.book.find(subject.who.agent_id()) {
            Some(Known::Policy(found)) => Some(found.hash.clone()),
            _ => None,
        };
        let taken = self.within("take an approval", async {
            for hash in in_force.into_iter().chain([String::new()]) {
                if let Some(id) = self.store.try_take(&subject.digest, &hash, hold).await? {
                    return Ok(Some((id, hash)));
                }
            }
            Ok(None)
        });
        let (id, hash) = taken.await?.ok_or(GateError::NotAsked)?;
        let (by, about) = (By::Request(id), subject.about(id, &hash));
        Ok(Approval::new(
            Arc::clone(self),
            by,
            hold,
            about,
            subject.who,
        ))
    }

    async fn take(
        &self,
        subject: &Subject<'_>,
        parts: Option<&Parts<'_>>,
        under: &Under,
        hold: Uuid,
    ) -> Result<Option<(By, RequestId)>, GateError> {
        let policy = &under.policy_hash;
        if let Some(id) = self.store.try_take(&subject.digest, policy, hold).await? {
            return Ok(Some((By::Request(id), id)));
        }
        if let Some(parts) = parts
            && let Some(grant) = self.take_standing(subject, parts, under).await?
        {
            return Ok(Some((By::Standing(grant), RequestId::new())));
        }
        Ok(None)
    }

    /// Takes one use of what was agreed to in advance, by somebody who may decide for this caller.
    async fn take_standing(
        &self,
        subject: &Subject<'_>,
        parts: &Parts<'_>,
        under: &Under,
    ) -> Result<Option<crate::ids::GrantId>, StoreError> {
        let Action::Tool(tool) = parts.action else {
            return Ok(None);
        };
        let who = subject.who;
        if under.policy_hash.is_empty() || !(under.terms.unknown_operator || operator_is_known(who))
        {
            return Ok(None);
        }
        let what = self.audit.what_digest(parts);
        let agent = who.agent_id().as_str();
        let never = barred(who);
        self.store
            .try_take_standing(agent, tool.as_str(), &what, &under.policy_hash, &never)
            .await
    }

    /// Finds or makes the request, and says where it stands.
    async fn refuse(self: &Arc<Self>, subject: &Subject<'_>, under: &Under) -> GateError {
        let found = match self.ask(subject, under).await {
            Ok(Requested::Stored(found)) => found,
            Ok(Requested::Journalled { id }) => return GateError::Journalled { request: id },
            Err(error) => return error,
        };
        let request = found.id;
        match found.state {
            RequestState::Denied => GateError::Denied { request },
            RequestState::Granted => match self.store.fetch_request(request).await {
                // The same call, and another one has it just now.
                Ok(Some(stored)) if stored.approved_digest == Some(subject.digest) => {
                    GateError::NotHeld
                }
                Ok(Some(_)) => GateError::Narrowed { request },
                Ok(None) => GateError::NoRequest,
                Err(error) => error.into(),
            },
            _ => GateError::Pending { request },
        }
    }

    /// Whether the policy that asked still says the same.
    pub(super) fn is_in_force(&self, who: &Principal, hash: &str) -> bool {
        match self.book.find(who.agent_id()) {
            _ if hash.is_empty() => true,
            Some(Known::Policy(found)) => found.hash == hash,
            _ => false,
        }
    }

    /// Says that a token was tried again.
    pub(super) fn replayed(&self, about: Option<&About>, token: &[u8; 16], approver: &str) {
        let event = match about {
            Some(about) => about.event(Kind::GateTokenReplayBlocked),
            None => AuditEvent::system(None, Kind::GateTokenReplayBlocked),
        };
        let event = event
            .decision("deny")
            .with("token_id", hex::encode(token))
            .with("approver", approver);
        self.audit.log_detached(event);
    }
}
