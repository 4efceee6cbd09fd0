//! Asking: the same request is found as long as it lives, and a new one is made after that.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::approver::{ancestors, barred, operator_is_known};
use super::core::{Core, Kept, Under};
use super::engine::RequestState;
use super::error::GateError;
use super::notify::ApprovalNotice;
use super::record::About;
use super::request::{ApprovalRequest, Requested};
use super::store::{GateStore, NewRequest, Stored};
use crate::audit::{AuditEvent, Kind};
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::ids::RequestId;
use crate::store::{StoreError, StoreFault};
use crate::task;

/// How often a request is looked for that others end or make meanwhile.
const ROUNDS: u32 = 4;
/// How many journalled requests are remembered; beyond it, asking again writes another line.
const REMEMBERED: usize = 4_096;

/// When to look whether what the journal keeps can be stored.
const FIRST_DRAIN: Duration = Duration::from_millis(250);
const LAST_DRAIN: Duration = Duration::from_secs(5);

/// What a person is to agree to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'s> {
    pub(super) is_call: bool,
    pub(super) who: &'s Principal,
    /// The tool or model, or `budget:<name>`.
    pub(super) label: &'s str,
    pub(super) digest: [u8; 32],
    /// The digest of all but the arguments.
    pub(super) frame: [u8; 32],
}

impl Subject<'_> {
    pub(super) fn about(&self, id: RequestId, policy_hash: &str) -> About {
        About {
            id,
            label: self.label.to_owned(),
            agent: self.who.agent_id().clone(),
            session: self.who.session_id().clone(),
            digest: self.digest,
            policy_hash: policy_hash.to_owned(),
        }
    }

    fn new_request(&self, id: RequestId, under: &Under) -> NewRequest {
        let who = self.who;
        let life = under.terms.life.as_micros();
        NewRequest {
            id,
            is_call: self.is_call,
            label: self.label.to_owned(),
            agent: who.agent_id().to_string(),
            session: who.session_id().to_string(),
            user: who.user_id().map(ToString::to_string),
            operator: who.operator_id().map(ToString::to_string),
            ancestors: ancestors(who),
            call_digest: self.digest,
            frame_digest: self.frame,
            policy_hash: under.policy_hash.clone(),
            approvers: under.terms.approvers.clone(),
            quorum: under.terms.quorum,
            barred: barred(who),
            operator_known: under.terms.unknown_operator || operator_is_known(who),
            life_micros: i64::try_from(life).unwrap_or(i64::MAX),
        }
    }
}

impl Core {
    /// Finds the request about `subject`, or makes it; where the database is away, has the journal
    /// keep it.
    pub(super) async fn ask(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        under: &Under,
    ) -> Result<Requested, GateError> {
        let asked = self.within("ask for approval", self.find_or_make(subject, under));
        match asked.await {
            Ok(found) => Ok(Requested::Stored(found)),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(%error, "a request for approval goes to the journal");
                self.keep(subject, under).await
            }
            Err(error) => Err(error),
        }
    }

    async fn find_or_make(
        &self,
        subject: &Subject<'_>,
        under: &Under,
    ) -> Result<ApprovalRequest, GateError> {
        let mut id = self
            .remembered(&subject.digest)
            .unwrap_or_else(RequestId::new);
        for _ in 0..ROUNDS {
            if let Some(found) = self.store.find_request(&subject.digest).await?
                && let Some(standing) = self.standing_as(found, subject.who, under).await?
            {
                return Ok(standing);
            }
            let new = subject.new_request(id, under);
            if let Some(made) = self.make(subject, &new).await? {
                return Ok(made);
            }
            // Another one lives; or this very one was stored from the journal, and has ended since.
            id = RequestId::new();
        }
        // Others end and make it faster than it can be read.
        Err(StoreError::new("ask for approval", StoreFault::Aborted).into())
    }

    /// What was found, if it answers the question that is asked now. One that is past its time, or
    /// of another policy, is ended.
    async fn standing_as(
        &self,
        found: Stored,
        who: &Principal,
        under: &Under,
    ) -> Result<Option<ApprovalRequest>, GateError> {
        // What a contract had somebody asked on the policy's terms is not asked again on the host's.
        let by_policy =
            || !found.policy_hash.is_empty() && self.is_in_force(who, &found.policy_hash);
        let same_policy =
            found.policy_hash == under.policy_hash || (under.policy_hash.is_empty() && by_policy());
        if found.shown.state == RequestState::Pending && !self.is_ours(&found) {
            // Nobody can decide it, and it would be in the way.
            self.take_back(&found, |event| event.decision("other_terms"))
                .await?;
            return Ok(None);
        }
        match found.shown.state {
            RequestState::Pending | RequestState::Granted => {
                if found.held {
                    return Ok(Some(found.shown));
                }
                if found.due {
                    self.expire(&found).await?;
                    return Ok(None);
                }
                if !same_policy {
                    self.take_back(&found, |event| event.decision("policy_changed"))
                        .await?;
                    return Ok(None);
                }
                Ok(Some(found.shown))
            }
            // A no stands as long as the request would have: asking again is no way around it.
            RequestState::Denied if !found.due && same_policy => Ok(Some(found.shown)),
            _ => Ok(None),
        }
    }

    async fn make(
        &self,
        subject: &Subject<'_>,
        new: &NewRequest,
    ) -> Result<Option<ApprovalRequest>, GateError> {
        let mut tx = self.store.begin().await?;
        let mac = self.terms_mac(new);
        let stored = self.store.insert_request_in_tx(&mut tx, new, &mac);
        let Some((requested_at, expires_at)) = stored.await? else {
            return Ok(None);
        };
        let about = subject.about(new.id, &new.policy_hash);
        let event = about
            .event_of(subject.who, Kind::GateRequested)
            .with("approvers", &new.approvers)
            .with("quorum", new.quorum)
            .with("expires_at", expires_at.to_string());
        self.audit.append_in_tx(&mut tx, event).await?;
        self.store.notify_in_tx(&mut tx, new.id).await?;
        GateStore::commit(tx).await?;
        self.forget(&subject.digest);
        let shown = ApprovalRequest {
            id: new.id,
            state: RequestState::Pending,
            label: new.label.clone(),
            agent: subject.who.agent_id().clone(),
            session: subject.who.session_id().clone(),
            approvers: new.approvers.clone(),
            quorum: new.quorum,
            votes: 0,
            requested_at,
            expires_at,
        };
        self.desk.notify(&ApprovalNotice::of(&shown, requested_at));
        Ok(Some(shown))
    }

    /// Stores what the journal kept. Its entry is in the trail already.
    pub(super) async fn store_kept(&self, new: &NewRequest) -> Result<(), StoreError> {
        // A no stands here, too: an outage is no way around it.
        let before = self.store.find_request(&new.call_digest).await?;
        let refused = before.is_some_and(|found| {
            found.shown.state == RequestState::Denied
                && !found.due
                && found.policy_hash == new.policy_hash
        });
        if refused {
            self.forget(&new.call_digest);
            return Ok(());
        }
        let mut tx = self.store.begin().await?;
        let mac = self.terms_mac(new);
        let stored = self.store.insert_request_in_tx(&mut tx, new, &mac);
        let stored = stored.await?;
        if stored.is_some() {
            self.store.notify_in_tx(&mut tx, new.id).await?;
        }
        GateStore::commit(tx).await?;
        self.forget(&new.call_digest);
        if stored.is_some()
            && let Ok(Some(stored)) = self.store.fetch_request(new.id).await
        {
            self.desk
                .notify(&ApprovalNotice::of(&stored.shown, stored.now));
        }
        Ok(())
    }

    /// Ends a request whose time is up, with its entry; nothing if somebody else did.
    pub(super) async fn expire(&self, found: &Stored) -> Result<bool, GateError> {
        let mut tx = self.store.begin().await?;
        if !self.store.try_expire_in_tx(&mut tx, found.shown.id).await? {
            return Ok(false);
        }
        let event = About::from(found)
            .event(Kind::GateExpired)
            .decision(found.shown.state.as_str());
        self.audit.append_in_tx(&mut tx, event).await?;
        self.store.notify_in_tx(&mut tx, found.shown.id).await?;
        GateStore::commit(tx).await?;
        Ok(true)
    }

    /// Takes a request back, with its entry; answers with the state it has then, `None` if it had
    /// ended before.
    pub(super) async fn take_back(
        &self,
        found: &Stored,
        say: impl FnOnce(AuditEvent) -> AuditEvent,
    ) -> Result<Option<RequestState>, GateError> {
        let id = found.shown.id;
        let mut tx = self.store.begin().await?;
        let Some(state) = self.store.try_withdraw_in_tx(&mut tx, id).await? else {
            return Ok(None);
        };
        let kind = match state.as_str() {
            "revoked" => Kind::GateRevoked,
            _ => Kind::GateWithdrawn,
        };
        let event = About::from(found).event(kind).with("state", &state);
        self.audit.append_in_tx(&mut tx, say(event)).await?;
        self.store.notify_in_tx(&mut tx, id).await?;
        GateStore::commit(tx).await?;
        Ok(RequestState::parse(&state))
    }

    /// Has the journal keep the request, on the disk and synced, and its entry.
    async fn keep(
        self: &Arc<Self>,
        subject: &Subject<'_>,
        under: &Under,
    ) -> Result<Requested, GateError> {
        if let Some(id) = self.remembered(&subject.digest) {
            return Ok(Requested::Journalled { id });
        }
        let id = RequestId::new();
        let new = subject.new_request(id, under);
        // Before it is written: whoever stores it from the journal, at once perhaps, forgets it after that.
        self.remember(subject.digest, id);
        if let Err(error) = self.write_note(&new).await {
            self.forget_if(&subject.digest, id);
            return Err(error);
        }
        self.is_written(&subject.digest, id);
        self.drain_soon(subject.digest);
        let about = subject.about(id, &under.policy_hash);
        let event = about.event_of(subject.who, Kind::GateRequested);
        let event = event
            .decision("journalled")
            .with("approvers", &new.approvers)
            .with("quorum", new.quorum);
        self.audit.log_detached(event);
        Ok(Requested::Journalled { id })
    }

    /// Has the journal drained once the database is back: the trail itself may never notice that it
    /// was away, and would look into its journal only every half minute.
    fn drain_soon(self: &Arc<Self>, digest: [u8; 32]) {
        let core = Arc::downgrade(self);
        task::spawn_on(&self.runtime, async move {
            let mut pause = FIRST_DRAIN;
            loop {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LAST_DRAIN);
                let Some(core) = core.upgrade() else { return };
                if core.remembered(&digest).is_none() {
                    return;
                }
                // While the database is away, it says so.
                let _ = core.audit.drain().await;
            }
        });
    }

    fn remembered(&self, digest: &[u8; 32]) -> Option<RequestId> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.get(digest).filter(|kept| kept.written);
        found.map(|kept| kept.id)
    }

    fn remember(&self, digest: [u8; 32], id: RequestId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let before = kept.get(&digest);
        // Of two that write it at once the last is remembered, and of one that nobody waited for the next.
        let free = before.map_or(kept.len() < REMEMBERED, |before| !before.written);
        if free {
            kept.insert(digest, Kept { id, written: false });
        }
    }

    fn is_written(&self, digest: &[u8; 32], id: RequestId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.get_mut(digest).filter(|kept| kept.id == id) {
            kept.written = true;
        }
    }

    fn forget_if(&self, digest: &[u8; 32], id: RequestId) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get(digest).is_some_and(|kept| kept.id == id) {
            kept.remove(digest);
        }
    }

    fn forget(&self, digest: &[u8; 32]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.remove(digest);
    }
}
