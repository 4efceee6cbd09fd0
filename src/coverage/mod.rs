//! Which clients of models and tools are wrapped, and how many calls went through them.
//!
//! A gate decides about the calls that reach it. Whether all of them do, it cannot know from its own
//! counts; so the registry keeps those, and [`compare`](Coverage::compare) holds them against a count
//! from outside (the provider's usage report, an egress proxy's log). What the provider saw and no
//! gate did went past the gates, and is put on record as `coverage.bypass_detected`. There is no
//! percentage here, since nothing in this process knows the whole.
//!
//! Adapters [register](Coverage::register) what they wrap, and count each call that they send. A
//! host is kept as a keyed digest only. Counting is done in memory and written behind, in batches, so
//! that no call waits for it. Counts are never too high, which would hide a bypass; a process that is
//! killed may lose its last five seconds, which shows as a difference that is none.
//!
//! | The store is | [`register`](Coverage::register), [`count`](Registered::count) | [`list`](Coverage::list), [`compare`](Coverage::compare), [`snapshot`](Coverage::snapshot) |
//! |---|---|---|
//! | reachable | in memory, written within seconds | answer, with what this process has counted |
//! | unreachable or hung | in memory, written when it is back | an error |
//! | away for so long that memory would grow without bound (10 000 rows; a batch of unknown outcome for half a day) | what finds no room is missing from the counts, and counted in [`status`](Coverage::status) | an error |
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::coverage::{Window, Wrapped};
//! use portcullis::Timestamp;
//!
//! let client = Wrapped::new("openai", "api.openai.com")?;
//! let registered = gov.coverage().register(&client); // the adapters do it by themselves
//! registered.count();
//!
//! let yesterday = Window::day(Timestamp::parse("2026-11-26T00:00:00Z")?.utc_day());
//! let found = gov.coverage().compare(&client, 1_204, yesterday).await?;
//! if found.is_bypass() {
//!     println!("{} calls went past the gates", found.difference());
//! }
//! # Ok(())
//! # }
//! ```

mod counts;
mod error;
mod model;
mod record;
mod store;
#[cfg(test)]
mod tests;
mod write;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Notify;

pub use error::CoverageError;
pub use model::{
    Client, Comparison, CoverageStatus, HostDigest, InvalidWindow, InvalidWrapped, Window, Wrapped,
};

use self::counts::{Counts, Name};
use self::store::CoverageStore;
use crate::audit::{Audit, Purpose, Recorded};
use crate::canon::Fields;
use crate::store::{Store, StoreError};
use crate::task;

/// The registry of one tenant's wrapped clients. Cheap to clone; every clone is the same.
#[derive(Clone)]
pub struct Coverage {
    shared: Arc<Shared>,
}

struct Shared {
    store: CoverageStore,
    audit: Audit,
    counts: Mutex<Counts>,
    /// There is something to write, or this is going away.
    wake: Arc<Notify>,
    /// Held while a batch is written, so that batches arrive in their order.
    writing: tokio::sync::Mutex<()>,
    /// Whether the next call is the first one, and is to be warned of if no client is wrapped.
    warn_at_first_call: AtomicBool,
    /// The clients that were known when this process began, for that warning.
    known_before: OnceLock<String>,
}

/// What the builder decides for the registry.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CoverageSettings {
    pub(crate) warn_on_no_wrappers: bool,
}

impl Coverage {
    /// A registry over `store`, with the task that writes counts. Must be called within a runtime.
    pub(crate) fn new(store: Store, audit: Audit, settings: CoverageSettings) -> Self {
        let shared = Arc::new(Shared {
            store: CoverageStore::new(store),
            audit,
            counts: Mutex::default(),
            wake: Arc::default(),
            writing: tokio::sync::Mutex::new(()),
            warn_at_first_call: AtomicBool::new(settings.warn_on_no_wrappers),
            known_before: OnceLock::new(),
        });
        task::spawn(write::behind(
            Arc::downgrade(&shared),
            Arc::clone(&shared.wake),
        ));
        Self { shared }
    }

    /// Says, where that was asked for, which clients are known. Never fails the host.
    pub(crate) async fn load(&self) {
        if !self.shared.warn_at_first_call.load(Ordering::Relaxed) {
            return;
        }
        match self.shared.store.list_clients().await {
            Ok(clients) if clients.is_empty() => {
                tracing::warn!(
                    "no wrapped client is known: a model or tool that is called past the gates is not seen"
                );
            }
            Ok(clients) => {
                let names = record::names(&clients);
                tracing::info!(clients = %names, "clients that were wrapped before");
                // Set here only, and once.
                drop(self.shared.known_before.set(names));
            }
            Err(error) => tracing::warn!(%error, "it is not known which clients are wrapped"),
        }
    }

    /// A call is about to be decided. Warns, once, if no client was wrapped before the first one.
    pub(crate) fn meet_call(&self) {
        let first = &self.shared.warn_at_first_call;
        if !first.load(Ordering::Relaxed) || !first.swap(false, Ordering::Relaxed) {
            return;
        }
        if self.counts().known() == 0 {
            let known = self.shared.known_before.get();
            tracing::warn!(
                known = known.map_or("none", String::as_str),
                "this process makes calls and has wrapped no client: wrap it with an adapter, or \
                 register it; what is called past the gates is not seen"
            );
        }
    }

    /// Enters `client`, which has been put behind the gates. Adapters call it when they wrap one.
    ///
    /// Returns at once, whatever the database does. Entering a client again only says that it is
    /// still there.
    #[expect(
        clippy::must_use_candidate,
        reason = "a client that is only entered is known"
    )]
    pub fn register(&self, client: &Wrapped) -> Registered {
        let name = Name::new(client, self.digest(client));
        let now = self.shared.store.now();
        self.counts().wrapped(&name, now);
        self.shared.wake.notify_one();
        Registered {
            shared: Arc::clone(&self.shared),
            name,
        }
    }

    /// Every client that was ever wrapped, in any process, by kind and host.
    ///
    /// After a rotation of the audit key a host has another digest, and its client a second line.
    ///
    /// # Errors
    ///
    /// [`CoverageError::Store`] if they cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a count that was being written is written once.
    pub async fn list(&self) -> Result<Vec<Client>, CoverageError> {
        self.write().await?;
        Ok(self.shared.store.list_clients().await?)
    }

    /// Puts what [`list`](Self::list) says on record, as `coverage.snapshot`, and gives both back.
    /// Of more than 200 clients the entry names the first 200, and says how many there are.
    ///
    /// # Errors
    ///
    /// [`CoverageError::Store`] if the clients cannot be read, [`CoverageError::Audit`] if they could
    /// not be put on record.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the entry is made as a whole or not at all.
    pub async fn snapshot(&self) -> Result<(Vec<Client>, Recorded), CoverageError> {
        let clients = self.list().await?;
        let recorded = self.shared.audit.append(record::snapshot(&clients)).await?;
        Ok((clients, recorded))
    }

    /// Holds the governed calls of `client` in `window` against `reported`, the calls that somebody
    /// else counted there: the provider in its usage report, a proxy in its log.
    ///
    /// If more were reported than governed, `coverage.bypass_detected` is put on record. Choose a
    /// window that ended a minute ago or more, so that the other processes have written what they
    /// counted, and an account that only this tenant's agents use. A call is in the quarter of an hour
    /// in which it was sent; the provider may put one that ran past the end into the next.
    ///
    /// # Errors
    ///
    /// [`CoverageError::Store`] if the counts cannot be read. That the finding could not be put on
    /// record is no error; the [receipt](Comparison::receipt) says so.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the entry is made as a whole or not at all.
    pub async fn compare(
        &self,
        client: &Wrapped,
        reported: u64,
        window: Window,
    ) -> Result<Comparison, CoverageError> {
        self.write().await?;
        let hosts = self.digests(client);
        let governed = self
            .shared
            .store
            .count(client.kind(), &hosts, window)
            .await?;
        let mut found = Comparison {
            kind: client.kind().to_owned(),
            host: self.digest(client),
            window,
            governed,
            reported,
            receipt: None,
        };
        if found.is_bypass() {
            let event = record::bypass(&found);
            found.receipt = Some(self.shared.audit.log(event).await);
        }
        Ok(found)
    }

    /// What this process knows by itself.
    #[must_use]
    pub fn status(&self) -> CoverageStatus {
        let counts = self.counts();
        CoverageStatus {
            wrapped: counts.known(),
            waiting: counts.waiting(),
            uncounted: counts.uncounted(),
        }
    }

    /// Writes what waits; what the store does not take now is lost with the process.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.write().await {
            tracing::warn!(%error, "the last counts of governed calls could not be written");
        }
    }

    async fn write(&self) -> Result<(), StoreError> {
        self.shared.write().await
    }

    fn digest(&self, client: &Wrapped) -> HostDigest {
        let key = self.shared.audit.derive(Purpose::Coverage);
        HostDigest::new(key.tag(&[of_host(client).as_bytes()]))
    }

    /// The digests under all keys: calls may have been counted before a rotation.
    fn digests(&self, client: &Wrapped) -> Vec<HostDigest> {
        let keys = self.shared.audit.derive_each(Purpose::Coverage);
        let host = of_host(client);
        keys.iter()
            .map(|key| HostDigest::new(key.tag(&[host.as_bytes()])))
            .collect()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.shared.counts()
    }
}

fn of_host(client: &Wrapped) -> Fields {
    let mut fields = Fields::labelled("portcullis/coverage-host/v1");
    fields.present(client.host().as_bytes());
    fields
}

impl Shared {
    /// Held for moments, and never across a wait.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.counts().is_empty() {
            tracing::warn!("counts of governed calls were not written; call shutdown");
        }
        self.wake.notify_one();
    }
}

impl fmt::Debug for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coverage")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// A client in the registry, of which each governed call is counted.
#[derive(Clone)]
pub struct Registered {
    shared: Arc<Shared>,
    name: Name,
}

impl Registered {
    /// Counts one governed call that was sent, and may be counted by the provider too. Returns at
    /// once.
    pub fn count(&self) {
        let now = self.shared.store.now();
        self.shared.counts().called(&self.name, now);
        self.shared.wake.notify_one();
    }
}

impl fmt::Debug for Registered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registered")
            .field("kind", &self.name.kind)
            .finish_non_exhaustive()
    }
}
