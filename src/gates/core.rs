//! What every clone of the handle shares, and the way in which everything is changed.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::book::{Book, InForce, Known, Read};
use super::error::GateError;
use super::notify::Desk;
use super::policy::Terms;
use super::store::GateStore;
use crate::audit::Audit;
use crate::call::Parts;
use crate::halt::Halt;
use crate::ids::{AgentId, RequestId};
use crate::store::{PolicyWatch, StoreError};
use crate::task;

/// How many things may be under way in the background: enough never to be reached.
pub(super) const MANY: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct Core {
    pub(super) store: GateStore,
    pub(super) audit: Audit,
    pub(super) halt: Halt,
    pub(super) book: Arc<Book>,
    pub(super) watch: PolicyWatch<Option<Read>>,
    pub(super) desk: Desk,
    /// The requests that are in the journal, so that asking again does not write them again.
    pub(super) kept: Mutex<HashMap<[u8; 32], Kept>>,
    pub(super) others: Others,
    pub(super) runtime: Handle,
    /// Held by what goes on without a caller, so that shutdown can wait for it.
    pub(super) background: Arc<Semaphore>,
}

/// A request that is in the journal, or on its way there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub(super) id: RequestId,
    /// Whether it is synced.
    pub(super) written: bool,
}

type List = Box<dyn Fn() -> Vec<AgentId> + Send + Sync>;

/// The agents that only this process knows of.
#[derive(Default)]
pub(super) struct Others(OnceLock<List>);

impl Others {
    pub(super) fn set(&self, list: impl Fn() -> Vec<AgentId> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(list));
    }

    pub(super) fn list(&self) -> Vec<AgentId> {
        self.0.get().map_or_else(Vec::new, |list| list())
    }
}

impl fmt::Debug for Others {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Others(..)")
    }
}

impl Core {
    /// The policy that asks for a person's approval of this call, if one does.
    pub(super) fn requirement(&self, parts: &Parts<'_>) -> Result<Option<Arc<InForce>>, GateError> {
        match self.book.find(parts.principal.agent_id()) {
            Some(Known::Policy(found)) if found.policy.requires(parts.action) => Ok(Some(found)),
            Some(Known::Broken) => Err(GateError::BrokenPolicy),
            _ => Ok(None),
        }
    }

    /// Waits for `work` no longer than the deadline, however many statements it has.
    pub(super) async fn within<T>(
        &self,
        operation: &'static str,
        work: impl Future<Output = Result<T, GateError>>,
    ) -> Result<T, GateError> {
        match tokio::time::timeout(self.store.store.deadline(), work).await {
            Ok(answer) => answer,
            Err(_) => Err(StoreError::timed_out(operation).into()),
        }
    }

    /// Goes on without a caller; shutdown waits for it.
    pub(super) fn detach(&self, work: impl Future<Output = ()> + Send + 'static) {
        let under_way = Arc::clone(&self.background).try_acquire_owned();
        task::spawn_on(&self.runtime, async move {
            let _under_way = under_way;
            work.await;
        });
    }
}

/// Under which policy somebody is asked, and how.
#[derive(Clone, Debug)]
pub(super) struct Under {
    pub(super) terms: Terms,
    /// Empty where the host asks by itself.
    pub(super) policy_hash: String,
}

impl From<&InForce> for Under {
    fn from(found: &InForce) -> Self {
        Self {
            terms: found.policy.terms(),
            policy_hash: found.hash.clone(),
        }
    }
}
