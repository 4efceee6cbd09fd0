//! Sessions that move between processes: written behind, read where they are met first.
//!
//! Each process writes what it saw of a session into a row of its own, within [`BEHIND`] of the call
//! while the database is there, and reads the rows of the others at the same beat. A process that
//! meets a session for the first time waits until it has read them. So a session that moves takes with
//! it all but what happened in the last [`BEHIND`] before it moved; while two processes use it at once,
//! each counts its own calls at once and the other's within about twice that. When a call was made is
//! told by the clock of the host that made it.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::evidence;
use super::model::WhenAway;
use super::ring::{REMEMBERED, Seen};
use super::rules::{Rules, Shared};
use super::store::{LoopStore, Of, Row, Written};
use super::windows::{CAPACITY, Windows};
use crate::audit::{Audit, Purpose};
use crate::canon::Fields;
use crate::store::StoreError;
use crate::task;

/// How long calls may wait to be written.
const BEHIND: Duration = Duration::from_millis(100);
/// How long a call of an unknown session may wait for what others saw of it.
const FIRST_LOOK: Duration = Duration::from_secs(1);
/// How long to wait after the database did not take it.
const PAUSE: Duration = Duration::from_secs(1);
/// How often old rows are looked for: at the first time of so many that something is written.
const SWEEP_EVERY: u64 = 36_000;
/// How many sessions one statement writes.
const BATCH: usize = 256;
const DAY: Duration = Duration::from_hours(24);
/// Bytes of one call.
const WIDTH: usize = 25;

/// What the task and the checks share.
#[derive(Debug)]
pub(super) struct Sharing {
    pub(super) store: LoopStore,
    audit: Audit,
    writer: Uuid,
    dirty: Mutex<HashSet<Of>>,
    work: Notify,
    started: AtomicBool,
    closed: AtomicBool,
    /// Where the task runs: what observes may be no part of a runtime.
    runtime: Option<Handle>,
    /// Whether the database could not be asked the last time.
    pub(super) away: AtomicBool,
    /// Whether that is on record.
    told: AtomicBool,
    /// Rows that were not as this crate writes them.
    pub(super) unreadable: AtomicU64,
}

impl Sharing {
    pub(super) fn new(store: LoopStore, audit: Audit) -> Self {
        Self {
            store,
            audit,
            writer: Uuid::now_v7(),
            dirty: Mutex::default(),
            work: Notify::new(),
            started: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            runtime: Handle::try_current().ok(),
            away: AtomicBool::new(false),
            told: AtomicBool::new(false),
            unreadable: AtomicU64::new(0),
        }
    }

    /// Makes sure that what others saw of the session is known, or that the policy goes on without.
    pub(super) async fn meet(
        &self,
        windows: &Windows,
        of: &Of,
        how: Shared,
    ) -> Result<(), StoreError> {
        if windows.is_loaded(&of.0, &of.1) {
            return Ok(());
        }
        let asked = std::slice::from_ref(of);
        let looked = timeout(FIRST_LOOK, self.refresh(windows, asked, how.window)).await;
        let Err(error) = looked
            .unwrap_or_else(|_| Err(StoreError::timed_out("read what was seen of a session")))
        else {
            return Ok(());
        };
        let goes_on = how.when_away == WhenAway::GoOn;
        self.away.store(true, Ordering::Relaxed);
        // Once an outage for those that go on; its end is the next session that could be read.
        let is_news = !self.told.swap(true, Ordering::Relaxed);
        if is_news || !goes_on {
            let event = evidence::unavailable(&of.0, &of.1, &error, goes_on);
            self.audit.log_detached(event);
            tracing::error!(%error, goes_on, "what other processes saw of a session could not be read");
        }
        if !goes_on {
            return Err(error);
        }
        // Its next calls do not wait again: the task reads what there is when the database is back.
        let now = self.store.store().now().as_micros();
        windows.merge(&of.0, &of.1, Vec::new(), now, how.window);
        Ok(())
    }

    /// Has the session written, soon.
    pub(super) fn touch(self: &Arc<Self>, windows: &Arc<Windows>, rules: &Arc<Rules>, of: Of) {
        let mut dirty = lock(&self.dirty);
        // More than can be remembered need not be written: those beyond have lost their windows.
        if dirty.len() < CAPACITY * 2 {
            dirty.insert(of);
        }
        drop(dirty);
        self.work.notify_one();
        if let Some(runtime) = &self.runtime
            && !self.started.swap(true, Ordering::Relaxed)
        {
            task::spawn_on(
                runtime,
                write_behind(
                    Arc::downgrade(self),
                    Arc::downgrade(windows),
                    Arc::clone(rules),
                ),
            );
        }
    }

    /// Ends the task. What is not written by then is not written.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.work.notify_one();
    }

    /// Writes what is to be written, now, and reads what others wrote of the same sessions.
    pub(super) async fn flush(&self, windows: &Windows, rules: &Rules) -> Result<(), StoreError> {
        let all: Vec<Of> = lock(&self.dirty).drain().collect();
        for batch in all.chunks(BATCH) {
            if let Err(error) = self.exchange(windows, rules, batch).await {
                lock(&self.dirty).extend(all);
                self.away.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    async fn exchange(
        &self,
        windows: &Windows,
        rules: &Rules,
        batch: &[Of],
    ) -> Result<(), StoreError> {
        let mut written = Vec::with_capacity(batch.len());
        for of in batch {
            // A window that gave way has nothing left to say.
            if let Some(own) = windows.own(&of.0, &of.1) {
                let calls = encode(&own);
                let mac = self.mac(&of.0, &of.1, self.writer, &calls);
                let of = of.clone();
                written.push(Written { of, calls, mac });
            }
        }
        if !written.is_empty() {
            self.store.write(self.writer, &written).await?;
        }
        let longest = |of: &Of| rules.shared(&of.0).map_or(0, |how| how.window);
        let time = batch.iter().map(longest).max().unwrap_or(0);
        self.refresh(windows, batch, time).await
    }

    /// Reads what others saw of these sessions into their windows.
    async fn refresh(&self, windows: &Windows, of: &[Of], time: i64) -> Result<(), StoreError> {
        let rows = self.store.read(self.writer, of).await?;
        self.away.store(false, Ordering::Relaxed);
        self.told.store(false, Ordering::Relaxed);
        let mut seen: HashMap<(String, String), Vec<Seen>> = HashMap::new();
        for row in rows {
            match self.open(&row) {
                Some(calls) => seen.entry((row.0, row.1)).or_default().extend(calls),
                None if self.unreadable.fetch_add(1, Ordering::Relaxed) == 0 => {
                    tracing::error!(
                        "a stored loop window is not as it was written, or is under another key; it is not counted"
                    );
                }
                None => {}
            }
        }
        let now = self.store.store().now().as_micros();
        for (agent, session) in of {
            let name = (agent.as_str().to_owned(), session.as_str().to_owned());
            let mut calls = seen.remove(&name).unwrap_or_default();
            // The clocks of two hosts differ; nothing is later than now.
            for call in &mut calls {
                call.at = call.at.min(now);
            }
            windows.merge(agent, session, calls, now, time);
        }
        Ok(())
    }

    fn open(&self, (agent, session, calls, mac, writer): &Row) -> Option<Vec<Seen>> {
        let mut fields = Self::fields(agent, session, *writer);
        let tag = self
            .audit
            .derive(Purpose::Loop)
            .tag(&[fields.present(calls).as_bytes()]);
        let same: bool = subtle::ConstantTimeEq::ct_eq(tag.as_slice(), mac.as_slice()).into();
        same.then(|| decode(calls))
    }

    fn mac(
        &self,
        agent: &crate::ids::AgentId,
        session: &crate::ids::SessionId,
        writer: Uuid,
        calls: &[u8],
    ) -> [u8; 32] {
        let mut fields = Self::fields(agent.as_str(), session.as_str(), writer);
        self.audit
            .derive(Purpose::Loop)
            .tag(&[fields.present(calls).as_bytes()])
    }

    fn fields(agent: &str, session: &str, writer: Uuid) -> Fields {
        let mut fields = Fields::labelled("portcullis/loop-window/v1");
        fields
            .present(agent.as_bytes())
            .present(session.as_bytes())
            .present(writer.as_bytes());
        fields
    }
}

fn lock(dirty: &Mutex<HashSet<Of>>) -> MutexGuard<'_, HashSet<Of>> {
    dirty.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes until the last handle is gone.
async fn write_behind(sharing: Weak<Sharing>, windows: Weak<Windows>, rules: Arc<Rules>) {
    let mut beat: u64 = 0;
    loop {
        let (Some(sharing), Some(windows)) = (sharing.upgrade(), windows.upgrade()) else {
            return;
        };
        sharing.work.notified().await;
        if sharing.closed.load(Ordering::Relaxed) {
            return;
        }
        sleep(BEHIND).await;
        if beat.is_multiple_of(SWEEP_EVERY)
            && let Err(error) = sharing.store.sweep(DAY).await
        {
            tracing::debug!(%error, "old loop windows were not removed");
        }
        beat += 1;
        if let Err(error) = sharing.flush(&windows, &rules).await {
            tracing::warn!(%error, "what was seen of sessions could not be written; it is tried again");
            sleep(PAUSE).await;
            sharing.work.notify_one();
        }
    }
}

fn encode(calls: &[Seen]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(calls.len() * WIDTH);
    for seen in calls {
        bytes.extend_from_slice(&seen.call.to_be_bytes());
        bytes.extend_from_slice(&seen.result.to_be_bytes());
        bytes.extend_from_slice(&seen.at.to_be_bytes());
        bytes.push(seen.polls);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Vec<Seen> {
    let one = |bytes: &[u8]| {
        let (call, rest) = bytes.split_first_chunk()?;
        let (result, rest) = rest.split_first_chunk()?;
        let (at, rest) = rest.split_first_chunk()?;
        Some(Seen {
            call: u64::from_be_bytes(*call),
            result: u64::from_be_bytes(*result),
            at: i64::from_be_bytes(*at),
            polls: *rest.first()?,
            foreign: true,
        })
    };
    bytes
        .chunks(WIDTH)
        .take(REMEMBERED)
        .filter_map(one)
        .collect()
}
