//! Who is there: heartbeats, and who operates the agent.
//!
//! A heartbeat never blocks and never fails the host. It is kept in memory, the newest of each session
//! of an agent, and written behind its back, all of them at once. How a session stands is decided when
//! it is asked for: by what it said of itself, by the database's clock, and by the halt switch, which
//! nothing here can turn.
//!
//! Who an agent is and who operates it come from its [`Principal`], which the host makes; **metadata is
//! shown and never believed**: an `operator` in it is a word. The first operator that is told of a session
//! stays its operator, and a closed session stays closed: begin a new one.
//!
//! | The store is | [`Presence::heartbeat`], [`mark_idle`](Presence::mark_idle), [`close`](Presence::close) | [`Presence::list`], [`operators_of`](Presence::operators_of), [`check_stale`](Presence::check_stale) |
//! |---|---|---|
//! | reachable | written within `flush_every` | answer |
//! | unreachable, or hung | the newest of each session is kept, for up to `most_waiting` sessions, and written when it is back, as of when it came; those of further sessions are dropped and counted | fail, at the deadline at the latest |
//!
//! Switched off ([`without`](crate::GovernanceBuilder::without)), what asks is answered
//! [`PresenceError::Disabled`], and heartbeats go nowhere, which is in the log once.
//!
//! ```no_run
//! # async fn example(gov: portcullis::Governance) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{AgentId, OperatorId, Principal, presence::{Filter, State}};
//!
//! let me = Principal::agent(AgentId::parse("billing-agent")?).operated_by(OperatorId::parse("user:anna")?);
//! gov.presence().heartbeat(&me);
//! let silent = gov.presence().list(&Filter::all().state(State::Unresponsive)).await?;
//! # Ok(())
//! # }
//! ```

mod beats;
mod error;
mod follow;
mod model;
mod store;

#[cfg(test)]
mod tests;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as Turn, watch};
use tokio::task::JoinHandle;

pub use error::PresenceError;
pub use model::{Cursor, Filter, Operators, Page, PresenceSettings, PresenceStats, Seen, State};

use self::beats::Beats;
use self::model::{MAX_METADATA, Status};
use self::store::{self as sql, Stored};
use crate::audit::{Audit, AuditEvent, Kind, Receipt};
use crate::call::Principal;
use crate::canon::Metadata;
use crate::error::Disabled;
use crate::halt::Halt;
use crate::ids::AgentId;
use crate::store::{Store, StoreError};
use crate::task;

/// How many heartbeats are written by one statement.
const BATCH: usize = 1_000;

/// Who is there, of one tenant. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Presence {
    shared: Arc<Shared>,
    /// What every call is answered, if the host switched presence off.
    off: Option<Disabled>,
}

#[derive(Debug)]
struct Shared {
    core: Arc<Core>,
    background: Mutex<Option<JoinHandle<()>>>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Core {
    store: Store,
    audit: Audit,
    halt: Halt,
    settings: PresenceSettings,
    beats: Beats,
    /// Held by who writes, so that an older heartbeat never comes after a newer one.
    writing: Turn<()>,
}

impl Presence {
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt, settings: &PresenceSettings) -> Self {
        Self {
            shared: Arc::new(Shared {
                core: Arc::new(Core {
                    store,
                    audit,
                    halt,
                    settings: settings.clone(),
                    beats: Beats::new(settings.most_waiting),
                    writing: Turn::default(),
                }),
                background: Mutex::default(),
                stop: watch::Sender::new(false),
            }),
            off: None,
        }
    }

    /// The same, switched off or not.
    pub(crate) fn switched(self, off: Option<Disabled>) -> Self {
        Self { off, ..self }
    }

    fn on(&self) -> Result<&Arc<Core>, Disabled> {
        self.off.map_or(Ok(&self.shared.core), Err)
    }

    fn take(&self, who: &Principal, status: Status, metadata: Option<Arc<str>>) {
        match self.on() {
            Ok(core) => core.beats.take(who, status, metadata),
            Err(disabled) => disabled.say_once(),
        }
    }

    /// Begins to write heartbeats, and to say who is not heard of.
    #[expect(
        clippy::unused_async,
        reason = "all modules are loaded in the same way"
    )]
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        let stopped = self.shared.stop.subscribe();
        let Ok(core) = self.on().map(Arc::clone) else {
            return Ok(());
        };
        let task = task::spawn(follow::follow(core, stopped));
        *self.background() = Some(task);
        Ok(())
    }

    /// Says that `who` is there, and who operates it. Call it as often as it suits: of many, the newest is
    /// written.
    pub fn heartbeat(&self, who: &Principal) {
        self.take(who, Status::Live, None);
    }

    /// The same, and something of itself: up to 4 KiB, which operators see. Longer metadata is left out,
    /// and counted. Nothing is concluded from it.
    pub fn heartbeat_with(&self, who: &Principal, metadata: &Metadata) {
        let beats = &self.shared.core.beats;
        let text = metadata.as_str();
        let kept = (text.len() <= MAX_METADATA).then(|| Arc::from(text));
        if kept.is_none() {
            beats.without_metadata.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the metadata of a heartbeat is longer than 4 KiB and is left out");
        }
        self.take(who, Status::Live, kept);
    }

    /// Says that `who` is there and has nothing to do, until its next heartbeat.
    pub fn mark_idle(&self, who: &Principal) {
        self.take(who, Status::Idle, None);
    }

    /// Says that the session of `who` has ended. No heartbeat of it counts any more. It lifts no halt.
    pub fn close(&self, who: &Principal) {
        self.take(who, Status::Closed, None);
    }

    /// Writes what waits now, instead of within `flush_every`.
    ///
    /// # Errors
    ///
    /// [`PresenceError::Store`] if the database did not take it. It is kept, and written later.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was not written waits on.
    pub async fn flush(&self) -> Result<(), PresenceError> {
        Ok(self.on()?.flush().await?)
    }

    /// The sessions that were heard of, page by page, in the order of agent and session.
    ///
    /// # Errors
    ///
    /// [`PresenceError::Store`] if they could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn list(&self, filter: &Filter) -> Result<Page, PresenceError> {
        let core = self.on()?;
        let page = filter.page();
        let mut found = Vec::new();
        let mut after = filter.after.clone();
        loop {
            let from = after.as_ref().map_or(("", ""), |cursor| {
                (cursor.agent.as_str(), cursor.session.as_str())
            });
            // One more, to know whether there is a next page.
            let silence = core.settings.unresponsive_after;
            let rows = sql::list_after(&core.store, filter, from, silence, page + 1).await?;
            let last = rows.len() <= page;
            for row in rows {
                let seen = core.seen(row);
                if found.len() == page {
                    return Ok(Page {
                        next: found.last().map(Cursor::at),
                        sessions: found,
                    });
                }
                after = Some(Cursor::at(&seen));
                if filter.state.is_none_or(|state| state == seen.state) {
                    found.push(seen);
                }
            }
            if last {
                return Ok(Page {
                    sessions: found,
                    next: None,
                });
            }
        }
    }

    /// Who operates `agent`, over all its sessions. Unknown is not nobody: an approval must not come from
    /// whom it is not known not to be.
    ///
    /// # Errors
    ///
    /// [`PresenceError::Store`] if it could not be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn operators_of(&self, agent: &AgentId) -> Result<Operators, PresenceError> {
        Ok(sql::list_operators(&self.on()?.store, agent).await?)
    }

    /// Who has not been heard of for `silence` and was not found before: each once, across all processes,
    /// until it is heard of again. They are put on record (`presence.unresponsive`). It happens by itself,
    /// too, with `unresponsive_after`.
    ///
    /// # Errors
    ///
    /// [`PresenceError::Store`] if it could not be looked for.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: those that were found are not found again.
    pub async fn check_stale(&self, silence: Duration) -> Result<Vec<Seen>, PresenceError> {
        Ok(self.on()?.check_stale(silence).await?)
    }

    /// What became of heartbeats.
    #[must_use]
    pub fn stats(&self) -> PresenceStats {
        PresenceStats {
            switched_off: self.off.is_some(),
            ..self.shared.core.beats.stats()
        }
    }

    /// Writes what waits, and stops the background task.
    pub(crate) async fn shutdown(&self) {
        self.shared.stop.send_replace(true);
        let task = self.background().take();
        if let Some(task) = task {
            let _ = task.await;
        }
        if let Err(error) = self.shared.core.flush().await {
            tracing::warn!(%error, "the last heartbeats were not written");
        }
    }

    fn background(&self) -> std::sync::MutexGuard<'_, Option<JoinHandle<()>>> {
        let background = &self.shared.background;
        background.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

impl Core {
    async fn flush(&self) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        let mut taken = self.beats.drain();
        loop {
            let batch = taken.batch(BATCH);
            let count = batch.len();
            if count == 0 {
                return Ok(());
            }
            sql::upsert(&self.store, batch).await?;
            taken.written(count);
        }
    }

    async fn check_stale(&self, silence: Duration) -> Result<Vec<Seen>, StoreError> {
        let late = sql::try_mark_unresponsive(&self.store, silence).await?;
        let late: Vec<Seen> = late.into_iter().map(|row| self.seen(row)).collect();
        for seen in &late {
            let who = Principal::agent(seen.agent.clone()).session(seen.session.clone());
            let event = AuditEvent::system(Some(&who), Kind::PresenceUnresponsive)
                .with("last_seen", seen.last_seen.to_string());
            let event = match &seen.operator {
                Some(operator) => event.with("operator_id", operator.as_str()),
                None => event,
            };
            if let Receipt::Lost { id, error } = self.audit.log(event).await {
                tracing::error!(%id, %error, "that an agent is unresponsive is not on record");
            }
        }
        Ok(late)
    }

    fn seen(&self, row: Stored) -> Seen {
        let halted = self.halt.is_halted(&row.agent, &row.session);
        Seen {
            state: State::of(row.status, row.late, halted),
            agent: row.agent,
            session: row.session,
            operator: row.operator,
            metadata: row.metadata,
            first_seen: row.first_seen,
            last_seen: row.last_seen,
        }
    }
}
