//! Deciding: one person at a time, each on record with what he decided.

use super::approver::{ApproverRef, fold};
use super::core::Core;
use super::engine::{Facts, RequestState, may_decide};
use super::error::GateError;
use super::record::{About, because};
use super::request::{Decision, Escalation, Verdict, Withdrawer};
use super::store::{GateStore, Looked, Stored, Vote, Voted};
use super::token::{Claims, TokenFault};
use crate::audit::Kind;
use crate::ids::{OperatorId, RequestId};
use crate::time::Timestamp;

/// What became of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decided {
    /// Where the request stands: still pending, if more people must agree.
    pub state: RequestState,
    /// How many have agreed.
    pub votes: u32,
    /// Until when it can be decided, or used, by the database's clock.
    pub expires_at: Timestamp,
}

/// A decision, with the hash of what is agreed to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ballot<'b> {
    pub(super) id: RequestId,
    pub(super) approver: &'b ApproverRef,
    pub(super) grants: Option<[u8; 32]>,
    pub(super) narrowed: bool,
    pub(super) reason: Option<&'b str>,
    pub(super) token: Option<&'b Claims>,
}

impl Core {
    pub(super) async fn decide(
        &self,
        id: RequestId,
        approver: &ApproverRef,
        decision: &Decision,
    ) -> Result<Decided, GateError> {
        let looked = self.look(id, approver).await?;
        let (grants, narrowed) = self.agreed(&looked.request, &decision.verdict)?;
        let ballot = Ballot {
            id,
            approver,
            grants,
            narrowed,
            reason: decision.reason.as_deref(),
            token: None,
        };
        self.vote(&looked, &ballot).await
    }

    /// What is agreed to, as a hash; `None` if it is refused.
    pub(super) fn agreed(
        &self,
        request: &Stored,
        verdict: &Verdict,
    ) -> Result<(Option<[u8; 32]>, bool), GateError> {
        Ok(match verdict {
            Verdict::Grant => (Some(request.call_digest), false),
            Verdict::Deny => (None, false),
            Verdict::Narrow(to) => {
                // He has seen what was asked for, or he cannot say that this is less.
                let frame = &request.frame_digest;
                let asked = self.audit.bind_arguments(frame, Some(&to.asked));
                if !request.is_call || asked != request.call_digest {
                    return Err(GateError::NotWhatWasAsked);
                }
                let to = self.audit.bind_arguments(frame, Some(&to.arguments()));
                (Some(to), true)
            }
        })
    }

    /// Finds the request, and whether `approver` may decide it; that he may not is on record.
    pub(super) async fn look(
        &self,
        id: RequestId,
        approver: &ApproverRef,
    ) -> Result<Looked, GateError> {
        let look = async { Ok(self.store.look(id, approver.id()).await?) };
        let looked = self.within("look who decides", look).await?;
        let looked = looked.ok_or(GateError::NoRequest)?;
        let request = &looked.request;
        let facts = Facts {
            approvers: &request.shown.approvers,
            in_team: looked.in_team,
            barred: &looked.barred,
            operator_known: self.is_operator_known(&looked),
            is_agent: looked.is_agent || self.is_agent_here(&fold(approver.id())),
            voters: &request.voters,
        };
        if let Err(blocked) = may_decide(&facts, approver) {
            let error = GateError::from(blocked);
            if matches!(error, GateError::SelfApproval | GateError::UnknownOperator) {
                self.blocked(request, &approver.to_string());
            }
            // Whoever decided a request that has ended hears that, and not that he did.
            if error == GateError::AlreadyVoted && request.shown.state.is_final() {
                return Err(self.too_late(request, approver));
            }
            return Err(error);
        }
        self.check_terms(&looked)?;
        Ok(looked)
    }

    /// That somebody may be who asks is on record.
    fn blocked(&self, request: &Stored, who: &str) {
        let event = About::from(request)
            .event(Kind::GateSelfApprovalBlocked)
            .decision("deny")
            .with("approver", who);
        self.audit.log_detached(event);
    }

    /// Counts the decision and puts it on record, in one transaction: neither is ever there alone.
    pub(super) async fn vote(
        &self,
        looked: &Looked,
        ballot: &Ballot<'_>,
    ) -> Result<Decided, GateError> {
        let cast = self.within("decide a request", self.cast(looked, ballot));
        if let Some(voted) = cast.await? {
            return Ok(Decided {
                state: voted.state,
                votes: voted.votes,
                expires_at: voted.expires_at,
            });
        }
        // It was decided, or changed, between the look and the vote.
        let again = async { Ok(self.store.fetch_request(ballot.id).await?) };
        let now = self.within("read a request for approval", again).await?;
        let now = now.ok_or(GateError::NoRequest)?;
        if now.shown.state == RequestState::Pending && now.due {
            self.within("expire a request", self.expire(&now)).await?;
            return Err(GateError::NotPending {
                state: RequestState::Expired,
            });
        }
        if now.shown.state != RequestState::Pending {
            return Err(self.too_late(&now, ballot.approver));
        }
        if now.voters.contains(&fold(ballot.approver.id())) {
            return Err(GateError::AlreadyVoted);
        }
        if now.revision != looked.request.revision {
            // Others are asked now; he may be one of them or not.
            return Err(GateError::NotApprover);
        }
        Err(GateError::OtherArguments)
    }

    async fn cast(&self, looked: &Looked, ballot: &Ballot<'_>) -> Result<Option<Voted>, GateError> {
        let voter = fold(ballot.approver.id());
        let mut tx = self.store.begin().await?;
        if let Some(claims) = ballot.token {
            let used = self
                .store
                .use_token_in_tx(&mut tx, &claims.token, ballot.id);
            match used.await? {
                None => return Err(TokenFault::Used.into()),
                Some(at) if at >= claims.expires_at => return Err(TokenFault::Expired.into()),
                Some(_) => {}
            }
        }
        let vote = Vote {
            id: ballot.id,
            voter: &voter,
            grants: ballot.grants,
            revision: looked.request.revision,
        };
        let Some(counted) = self.store.try_vote_in_tx(&mut tx, &vote).await? else {
            return Ok(None);
        };
        let about = About::from(&looked.request);
        if let Some(claims) = ballot.token {
            let event = about
                .event(Kind::GateTokenConsumed)
                .with("token_id", hex::encode(claims.token))
                .with("approver", ballot.approver.to_string());
            self.audit.append_in_tx(&mut tx, event).await?;
        }
        let (kind, decision) = match counted.state {
            RequestState::Granted => (Kind::GateGranted, "grant"),
            RequestState::Denied => (Kind::GateDenied, "deny"),
            _ => (Kind::GateVoted, "grant"),
        };
        let mut event = about
            .event(kind)
            .decision(decision)
            .with("approver", ballot.approver.to_string())
            .with("votes", counted.votes)
            .with("quorum", looked.request.shown.quorum);
        if let (true, Some(grants)) = (ballot.narrowed, ballot.grants) {
            event = event.with("approved_digest", hex::encode(grants));
        }
        if counted.state == RequestState::Granted {
            event = event.with("expires_at", counted.expires_at.to_string());
        }
        let event = because(event, ballot.reason);
        self.audit.append_in_tx(&mut tx, event).await?;
        self.store.notify_in_tx(&mut tx, ballot.id).await?;
        GateStore::commit(tx).await?;
        Ok(Some(counted))
    }

    /// A decision that came after another one is on record, too.
    fn too_late(&self, request: &Stored, approver: &ApproverRef) -> GateError {
        let event = About::from(request)
            .event(Kind::GateVoted)
            .decision("too_late")
            .with("approver", approver.to_string())
            .with("state", request.shown.state.as_str());
        self.audit.log_detached(event);
        GateError::NotPending {
            state: request.shown.state,
        }
    }

    pub(super) async fn escalate(
        &self,
        id: RequestId,
        by: &OperatorId,
        escalation: &Escalation,
    ) -> Result<Timestamp, GateError> {
        let found = self.store.fetch_request(id).await?;
        let found = found.ok_or(GateError::NoRequest)?;
        // Whoever may not decide it chooses nobody who does.
        let name = fold(by.as_str());
        let (barred, _) = self.store.barred_of(&found).await?;
        if name.is_empty() || barred.contains(&name) || self.is_agent(&name).await? {
            self.blocked(&found, &format!("operator:{by}"));
            return Err(GateError::SelfApproval);
        }
        let life = escalation.life.map(|life| life.as_micros());
        let life = life.map(|micros| i64::try_from(micros).unwrap_or(i64::MAX));
        let mut tx = self.store.begin().await?;
        let approvers = &escalation.approvers;
        let lives = self.store.try_escalate_in_tx(&mut tx, id, approvers, life);
        let Some(expires_at) = lives.await? else {
            let state = match (found.shown.state, found.due) {
                (RequestState::Pending, _) => RequestState::Expired,
                (state, _) => state,
            };
            return Err(GateError::NotPending { state });
        };
        let mut event = About::from(&found)
            .event(Kind::GateEscalated)
            .with("by", by.as_str())
            .with("expires_at", expires_at.to_string());
        if !approvers.is_empty() {
            event = event.with("approvers", approvers);
        }
        let event = because(event, escalation.reason.as_deref());
        self.audit.append_in_tx(&mut tx, event).await?;
        self.store.notify_in_tx(&mut tx, id).await?;
        GateStore::commit(tx).await?;
        let mut shown = found.shown;
        shown.expires_at = expires_at;
        if !approvers.is_empty() {
            shown.approvers.clone_from(approvers);
        }
        self.desk
            .notify(&super::notify::ApprovalNotice::of(&shown, found.now));
        Ok(expires_at)
    }

    pub(super) async fn withdraw(
        &self,
        id: RequestId,
        by: Withdrawer<'_>,
    ) -> Result<RequestState, GateError> {
        let found = self.store.fetch_request(id).await?;
        let found = found.ok_or(GateError::NoRequest)?;
        let whose = match by {
            Withdrawer::Requester(who) => {
                let same = *who.agent_id() == found.shown.agent
                    && *who.session_id() == found.shown.session;
                if !same {
                    return Err(GateError::NotRequester);
                }
                format!("agent:{}", who.agent_id())
            }
            Withdrawer::Operator(operator) => format!("operator:{operator}"),
        };
        let taken = self.take_back(&found, |event| event.with("by", whose));
        match taken.await? {
            Some(state) => Ok(state),
            None => Err(GateError::NotPending {
                state: found.shown.state,
            }),
        }
    }
}
