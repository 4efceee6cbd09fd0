//! Approvals: what a person has to agree to first.
//!
//! A call that an [`ApprovalPolicy`] names is refused until somebody who was asked, and who neither
//! operates the agent nor is one, agrees to this very call: this agent and session, this tool, these
//! arguments. The agreement is used once. It outlives the process that asked; it does not outlive its
//! time, a change of the policy, or a change of a single byte of the arguments. Requests, decisions and
//! uses are committed together with their entries in the trail. No arguments are stored, only keyed
//! hashes of them.
//!
//! | The store is | a call that needs approval | [`Gates::request`] | [`Gates::wait`] | [`Gates::decide`] and other changes |
//! |---|---|---|---|---|
//! | reachable | goes on if it was granted, else is refused as pending | stored, or found | woken when it is decided | made, with their entries |
//! | unreachable | refused: the request is in the journal, and is stored later | [`Requested::Journalled`], at once | goes on trying, to its own end | fail; nothing changes |
//! | hung | the same, at the deadline | the same, at the deadline | the same | fail at the deadline |
//! | away, and the journal cannot be written | refused | fails | the same | fail |
//! | holding a broken policy | what was in force stays; without any, the agent's calls are refused | likewise | unaffected | unaffected |
//!
//! Calls that no policy names are not looked at: deciding that takes no store.
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance, me: portcullis::Principal) -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//!
//! use portcullis::gates::{ApprovalPolicy, ApproverRef, Ask, Decision};
//! use portcullis::{AgentId, Call};
//!
//! gov.gates()
//!     .register(
//!         ApprovalPolicy::new(AgentId::parse("billing-agent")?)
//!             .require_for_tools(["refund"])?
//!             .approvers(["user:erin"])?,
//!     )
//!     .await?;
//!
//! let call = Call::tool(&me, "refund").args(&serde_json::json!({"invoice": "inv_381"}));
//! let request = gov.gates().request(&call, Ask::policy()).await?.id();
//! // Elsewhere, somebody who has read `gov.gates().canonical(&call)`:
//! let erin = ApproverRef::parse("user:erin")?;
//! gov.gates().decide(request, &erin, Decision::grant().because("seen the invoice")).await?;
//! // Here, woken by it:
//! let decided = gov.gates().wait(request, Duration::from_mins(1)).await?;
//! # Ok(())
//! # }
//! ```

mod approval;
mod approver;
mod ask;
mod book;
mod core;
mod decide;
mod engine;
mod error;
mod handle;
mod narrow;
mod note;
mod notify;
mod pattern;
mod policy;
mod record;
mod request;
mod show;
mod spend;
mod standing;
mod store;
mod terms;
mod token;
mod wait;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

pub use approval::{Approval, UsedApproval};
pub use approver::{ApproverRef, InvalidApprover};
pub use decide::Decided;
pub use engine::RequestState;
pub use error::GateError;
pub use narrow::{Narrower, NotNarrower};
pub use notify::{ApprovalNotice, ApprovalNotifier, LogNotifier, NotifyError, NotifyFuture};
pub use pattern::PatternFault;
pub use policy::{ApprovalPolicy, InvalidApprovalPolicy};
pub use request::{ApprovalRequest, Ask, Decision, Escalation, Requested, Withdrawer};
pub use standing::{StandingApproval, StandingGrant};
pub use token::{ApprovalToken, TokenFault};

use self::ask::Subject;
use self::book::{Book, Known};
use self::core::{Core, MANY, Under};
use self::store::GateStore;
use crate::audit::Audit;
use crate::call::{Parts, Principal};
use crate::error::Disabled;
use crate::halt::Halt;
use crate::ids::{AgentId, BudgetName};
use crate::store::{Policies, Store, StoreError};
use crate::time::Timestamp;

/// Approvals: what a person has to agree to first. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Gates {
    core: Arc<Core>,
    /// What every call is answered, if the host switched the gate off.
    off: Option<Disabled>,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct GatesStatus {
    /// The hash of each policy in force, by its agent.
    pub policies: Vec<(AgentId, String)>,
    /// The agents that may do nothing, because their stored policy cannot be read.
    pub broken: Vec<AgentId>,
    /// The agents whose stored policy cannot be read. The last good one is in force.
    pub kept: Vec<AgentId>,
    /// The newest change of a policy that is in force here.
    pub revision: i64,
    /// Whether changes and decisions are heard at once; otherwise they are found by polling.
    pub heard: bool,
    /// The last look at the stored policies failed.
    pub failing: bool,
    /// When what is in force was last known to be what is stored.
    pub looked_at: Option<Timestamp>,
    /// The host switched the gate off.
    pub switched_off: bool,
}

impl GatesStatus {
    /// Whether all that is stored is in force.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.switched_off || (self.broken.is_empty() && self.kept.is_empty() && !self.failing)
    }
}

impl Gates {
    /// Must be called within a runtime.
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt) -> Self {
        let book = Arc::new(Book::default());
        let held = Arc::clone(&book);
        let watch = Policies::new(store.clone(), note::MODULE)
            .watch(|row| Book::read(&row), move |changes| held.apply(changes));
        let core = Arc::new(Core {
            store: GateStore::new(store),
            audit,
            halt,
            book,
            watch,
            desk: notify::Desk::new(),
            kept: std::sync::Mutex::default(),
            others: core::Others::default(),
            runtime: Handle::current(),
            background: Arc::new(Semaphore::new(MANY as usize)),
        });
        core.audit.redeem(note::MODULE, note::taker(&core));
        Self { core, off: None }
    }

    /// The same gate, switched off or not.
    pub(crate) fn switched(self, off: Option<Disabled>) -> Self {
        Self { off, ..self }
    }

    /// Whether the gate is asked at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.off.is_none()
    }

    /// Names what is in force: the same in every process in which the same is.
    pub(crate) fn in_force(&self) -> [u8; 32] {
        self.core.book.hash()
    }

    /// What is behind the handle, unless the gate is switched off.
    fn on(&self) -> Result<&Arc<Core>, Disabled> {
        self.off.map_or(Ok(&self.core), Err)
    }

    /// Also knows the agents that `list` names: those that only this process knows of.
    pub(crate) fn agents_by(&self, list: impl Fn() -> Vec<AgentId> + Send + Sync + 'static) {
        self.core.others.set(list);
    }

    /// Reads what is stored, and begins to hear of changes.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        self.core.watch.start().await
    }

    /// Stops following changes, and completes what was handed to the background.
    pub(crate) async fn shutdown(&self) {
        self.core.watch.stop();
        let deadline = self.core.store.store.deadline();
        self.core.desk.settle(deadline).await;
        let all = self.core.background.acquire_many(MANY);
        let _ = tokio::time::timeout(deadline, all).await;
    }

    /// Lets the call go on if it needs no approval (`None`), or if somebody agreed to it and nobody
    /// uses that. Otherwise asks, and refuses.
    ///
    /// For the enforcement point: `digest` is that of the call as it will be made. Money comes after
    /// it; if money refuses, [give back](Approval::give_back) what was held, else
    /// [use it up](Approval::use_up) before the call is made.
    pub(crate) async fn admit(
        &self,
        parts: &Parts<'_>,
        digest: [u8; 32],
    ) -> Result<Option<Approval>, GateError> {
        let core = self.on()?;
        let Some(found) = core.requirement(parts)? else {
            return Ok(None);
        };
        let subject = self.subject(parts, digest);
        let under = Under::from(&*found);
        // Apart, so that the futures of calls that need no approval are small: they are moved often.
        let held = Box::pin(core.admit(&subject, Some(parts), &under)).await?;
        Ok(Some(held))
    }

    /// As [`admit`](Self::admit), for a call that needs approval whatever the policy says of it: a contract
    /// asks for it. On the terms of the agent's policy; where there is none, only what the host asked
    /// for by itself counts.
    pub(crate) async fn admit_required(
        &self,
        parts: &Parts<'_>,
        digest: [u8; 32],
    ) -> Result<Approval, GateError> {
        let core = self.on()?;
        if let Some(held) = self.admit(parts, digest).await? {
            return Ok(held);
        }
        let subject = self.subject(parts, digest);
        match self.terms_of(parts.principal)? {
            // Nobody agrees in advance to what no policy names.
            Some(under) => Box::pin(core.admit(&subject, None, &under)).await,
            None => Box::pin(core.take_asked(&subject)).await,
        }
    }

    /// Has somebody agree that limits are raised for one call, once. `limits` says which, in windows of
    /// this caller's, and by how much at most; the same words find the same request. On the terms of
    /// the agent's approval policy; `None` if it has none: nobody can be asked.
    pub(crate) async fn admit_raise(
        &self,
        who: &Principal,
        budget: &BudgetName,
        limits: &[String],
    ) -> Result<Option<Approval>, GateError> {
        let core = self.on()?;
        let Some(under) = self.terms_of(who)? else {
            return Ok(None);
        };
        let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
        let bind = &core.audit;
        let digest = bind.subject_digest("portcullis/raise/v1", who, &limits);
        let label = format!("budget:{budget}");
        let subject = Subject {
            is_call: false,
            who,
            label: &label,
            digest,
            frame: digest,
        };
        Box::pin(core.admit(&subject, None, &under)).await.map(Some)
    }

    /// Uses up what a person agreed to of the very call with this digest; says whether one did. Asks
    /// nobody.
    pub(crate) async fn use_granted(
        &self,
        who: &Principal,
        digest: [u8; 32],
    ) -> Result<bool, GateError> {
        let core = self.on()?;
        let subject = Subject {
            is_call: true,
            who,
            label: "call",
            digest,
            frame: digest,
        };
        match core.take_asked(&subject).await {
            Ok(held) => held.use_up().await.map(|_| true),
            Err(GateError::NotAsked) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Who is asked about an agent's doings that no policy names, if it has a policy.
    fn terms_of(&self, who: &Principal) -> Result<Option<Under>, GateError> {
        match self.core.book.find(who.agent_id()) {
            Some(Known::Policy(found)) => Ok(Some(Under::from(&*found))),
            Some(Known::Broken) => Err(GateError::BrokenPolicy),
            None => Ok(None),
        }
    }

    fn subject<'p>(&self, parts: &Parts<'p>, digest: [u8; 32]) -> Subject<'p> {
        Subject {
            is_call: true,
            who: parts.principal,
            label: parts.action.name(),
            digest,
            frame: self.core.audit.call_frame(parts),
        }
    }
}
