//! Tasks of ours, begun behind one type.
//!
//! A task is boxed before the runtime gets it: else the compiler makes the machinery of a task anew for
//! each place that begins one, which was a twentieth of what it made of this crate in a debug build.

use std::pin::Pin;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

pub(crate) type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub(crate) fn boxed<T>(work: impl Future<Output = T> + Send + 'static) -> Boxed<T> {
    Box::pin(work)
}

/// Begins `work` on the runtime that we are in.
pub(crate) fn spawn<T: Send + 'static>(
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    tokio::spawn(boxed(work))
}

/// Begins `work` on `runtime`.
pub(crate) fn spawn_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    runtime.spawn(boxed(work))
}
