//! The one runtime in the background, and how a thread waits for it.

use std::cell::Cell;
use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::runtime::{Builder, Handle, Id, Runtime};

use crate::{Governance, TenantId};

/// How many threads there are in the background. Two, so that one that computes (a batch's MACs) does
/// not keep the other from what arrives; what callers ask for runs on their own threads.
const WORKERS: usize = 2;
/// How long dropping the last handle waits for what was handed over.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// The runtime, and the process that it is of.
static RUNTIME: Mutex<Option<(u32, Arc<Runtime>)>> = Mutex::new(None);

thread_local! {
    /// The runtime that this thread has stepped out of, to do what the host asked for.
    static OUTSIDE: Cell<Option<Id>> = const { Cell::new(None) };
}

/// The runtime of this process, started when it is first needed. It is never stopped: the pool of a
/// [`Database`](crate::Database) can outlive every handle, and its connections belong to the runtime
/// that opened them.
pub(super) fn background() -> io::Result<Arc<Runtime>> {
    of_process(std::process::id())
}

fn of_process(process: u32) -> io::Result<Arc<Runtime>> {
    let mut kept = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((of, runtime)) = &*kept
        && *of == process
    {
        return Ok(Arc::clone(runtime));
    }
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("portcullis")
        .enable_all()
        .build()?;
    let runtime = Arc::new(runtime);
    // After a fork, the threads of the other runtime are not in this process: it cannot be stopped.
    mem::forget(kept.replace((process, Arc::clone(&runtime))));
    Ok(runtime)
}

/// Waits for `work`, which runs on this thread; what it waits for runs in the background.
///
/// # Panics
///
/// Within a runtime.
pub(super) fn wait_on<F: Future>(runtime: &Runtime, work: F) -> F::Output {
    refuse_within_a_runtime();
    let _inside = Step::to(None);
    runtime.block_on(work)
}

/// Does what the host asked for in the middle of [`wait_on`], as if it were not: the host may wait
/// for other things there, ours included.
pub(super) fn outside<T>(work: impl FnOnce() -> T) -> T {
    let here = Handle::try_current().ok().map(|handle| handle.id());
    tokio::task::block_in_place(|| {
        let _outside = Step::to(here);
        work()
    })
}

/// The one panic that is meant: waiting here would stop every task of this thread, perhaps the very one
/// that is waited for. It is a defect of the program, to be seen at its first call.
fn refuse_within_a_runtime() {
    assert!(
        !is_within_a_runtime(),
        "portcullis::blocking was called from within an async runtime; use portcullis::Governance \
         there and await it, or call from a thread of its own (std::thread::spawn)"
    );
}

fn is_within_a_runtime() -> bool {
    let here = Handle::try_current().ok().map(|handle| handle.id());
    here.is_some() && here != OUTSIDE.get()
}

/// A change of [`OUTSIDE`], taken back when dropped, by a panic too.
struct Step {
    before: Option<Id>,
}

impl Step {
    fn to(outside: Option<Id>) -> Self {
        Self {
            before: OUTSIDE.replace(outside),
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        OUTSIDE.set(self.before);
    }
}

/// What all handles of one [`connect_blocking`](crate::GovernanceBuilder::connect_blocking) share.
/// Dropped with the last of them.
#[derive(Debug)]
pub(super) struct Background {
    runtime: Arc<Runtime>,
    /// `None` once it is being dropped.
    first: Option<Governance>,
    /// Those of other tenants, kept so that they are drained too.
    tenants: Mutex<HashMap<TenantId, Governance>>,
    is_drained: AtomicBool,
}

impl Background {
    pub(super) fn new(runtime: Arc<Runtime>, first: Governance) -> Self {
        Self {
            runtime,
            first: Some(first),
            tenants: Mutex::default(),
            is_drained: AtomicBool::new(false),
        }
    }

    /// Waits for `work`; panics within a runtime.
    pub(super) fn wait<F: Future>(&self, work: F) -> F::Output {
        wait_on(&self.runtime, work)
    }

    /// Keeps the handle of another tenant until all are dropped.
    pub(super) fn keep(&self, gov: &Governance) {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        tenants.insert(gov.tenant().clone(), gov.clone());
    }

    /// Nothing is left to be waited for when the last handle is dropped.
    pub(super) fn drained(&self) {
        self.is_drained.store(true, Ordering::Relaxed);
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let (Some(gov), tenants) = (self.first.take(), mem::take(&mut self.tenants)) else {
            return;
        };
        let is_drained = self.is_drained.load(Ordering::Relaxed);
        let (done, drained) = mpsc::channel();
        // In the background even if nobody waits for it: what is dropped there may need the runtime.
        self.runtime.spawn(async move {
            if !is_drained {
                gov.shutdown().await;
            }
            drop((gov, tenants));
            let _ = done.send(());
        });
        if is_drained {
            return;
        }
        if is_within_a_runtime() {
            tracing::warn!(
                "the last blocking handle was dropped within an async runtime: it is drained in the \
                 background, and nobody waits for it"
            );
            return;
        }
        if drained.recv_timeout(DRAIN_LIMIT).is_ok() {
            tracing::info!("the last blocking handle was dropped, and drained");
        } else {
            tracing::warn!(
                limit = ?DRAIN_LIMIT,
                "the last blocking handle was dropped, and could not be drained in time: it goes on in \
                 the background while the process lives; call shutdown to wait for it"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_one_runtime_and_a_forked_one_another() {
        let (us, forked) = (std::process::id(), u32::MAX);
        let ours = of_process(us).unwrap();
        assert!(Arc::ptr_eq(&ours, &of_process(us).unwrap()));
        let theirs = of_process(forked).unwrap();
        assert!(!Arc::ptr_eq(&ours, &theirs));
        assert_eq!(theirs.block_on(async { 7 }), 7);
    }
}
