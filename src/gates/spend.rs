//! Using what was agreed to: once, by the call that was agreed to, under what holds then.

use std::sync::Arc;

use uuid::Uuid;

use super::approval::{Approval, By};
use super::approver::{ancestors, barred, fold, operator_is_known};
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
            Ok(Some((by, id, hash))) => {
                let about = subject.about(id, &hash);
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
        let taken = self.take_granted(subject, "", hold);
        let taken = self.within("take an approval", taken);
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

    /// Takes what was granted under the policy; where the host asks, also what was granted on its own terms.
    async fn take_granted(
        &self,
        subject: &Subject<'_>,
        policy_hash: &str,
        hold: Uuid,
    ) -> Result<Option<(RequestId, String)>, GateError> {
        let in_force = match self.book.find(subject.who.agent_id()) {
            Some(Known::Policy(found)) if policy_hash.is_empty() => Some(found.hash.clone()),
            _ => None,
        };
        for hash in in_force.into_iter().chain([policy_hash.to_owned()]) {
            if let Some(id) = self.store.try_take(&subject.digest, &hash, hold).await? {
                return Ok(Some((id, hash)));
            }
        }
        Ok(None)
    }

    async fn take(
        &self,
        subject: &Subject<'_>,
        parts: Option<&Parts<'_>>,
        under: &Under,
        hold: Uuid,
    ) -> Result<Option<(By, RequestId, String)>, GateError> {
        let policy = &under.policy_hash;
        if let Some((id, hash)) = self.take_granted(subject, policy, hold).await? {
            return Ok(Some((By::Request(id), id, hash)));
        }
        if let Some(parts) = parts
            && let Some(grant) = self.find_standing(subject, parts, under).await?
        {
            let (by, none) = (By::Standing(grant), RequestId::new());
            return Ok(Some((by, none, policy.clone())));
        }
        Ok(None)
    }

    /// Finds what was agreed to in advance by somebody who may decide for this caller.
    async fn find_standing(
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
        let mut never = barred(who);
        let (tool, hash) = (tool.as_str(), under.policy_hash.as_str());
        let store = &self.store;
        let any = store.find_standing(agent, tool, &what, hash, &never);
        if any.await?.is_none() {
            return Ok(None);
        }
        // Whom the caller did not name, and others know to operate its agents.
        let session = who.session_id().as_str();
        let ancestors = ancestors(who);
        let known = store.operators_of(agent, session, &ancestors).await?;
        never.extend(known.iter().map(|known| fold(&known.operator)));
        store.find_standing(agent, tool, &what, hash, &never).await
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
