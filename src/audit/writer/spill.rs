//! The ways of an event: to the queue, to the journal first, or to the journal instead.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::Shared;
use super::queue::{Group, Taken};
use crate::audit::error::AuditError;
use crate::audit::journal::{Answer, Content, Journal, JournalError, Mode, Order};
use crate::audit::model::{Evidence, Journalled, Recorded, Sealed};
use crate::audit::several::Several;
use crate::store::StoreError;

/// How long an answer is waited for before looking whether the database is away.
const BRIEFLY: Duration = Duration::from_millis(25);
const APPEND: &str = "append to the audit trail";

type Answered = oneshot::Receiver<Result<Taken, AuditError>>;

impl Shared {
    /// Makes `events` durable, and says where.
    pub(super) async fn record(
        self: &Arc<Self>,
        events: &Arc<Sealed>,
    ) -> Result<Several<Recorded>, AuditError> {
        let deadline = self.store.deadline();
        let Some(journal) = &self.journal else {
            return self.commit(events, deadline).await;
        };
        if self.evidence == Evidence::Spooled {
            let written = timeout(deadline, journal.write_ahead(Arc::clone(events))).await;
            match written {
                Ok(Ok(lines)) => return Ok(each(lines, Recorded::Spooled)),
                // What the disk does not take is committed before the caller goes on.
                Ok(Err(error)) => tracing::warn!(%error, "an audit event could not be spooled"),
                Err(_) => return Err(JournalError::TimedOut.into()),
            }
        }
        if self.outage.is_known() {
            return self.journal(journal, events, None).await;
        }
        self.commit_or_journal(journal, events, deadline).await
    }

    /// Hands `events` over without waiting.
    pub(super) fn record_detached(
        self: &Arc<Self>,
        events: &Arc<Sealed>,
    ) -> Result<(), AuditError> {
        if !self.queue.is_open() {
            return Err(AuditError::Closed);
        }
        if let Some(journal) = &self.journal
            && self.outage.is_known()
        {
            self.spill(journal, events, Answer::Nobody, None);
            return Ok(());
        }
        match self.queue.try_room() {
            Ok(()) => self.push(Group::new(Arc::clone(events), Instant::now(), None)),
            // It cannot wait for room as callers do.
            Err(AuditError::Overloaded) if self.journal.is_some() => {
                if let Some(journal) = &self.journal {
                    self.spill(journal, events, Answer::Nobody, None);
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Without a journal: what is not committed in time is an error.
    async fn commit(
        self: &Arc<Self>,
        events: &Arc<Sealed>,
        deadline: Duration,
    ) -> Result<Several<Recorded>, AuditError> {
        let began = Instant::now();
        let end = began + deadline;
        let answer = match self.queued(events, began, end).await {
            Some(answer) => answer?,
            None => return Err(AuditError::Overloaded),
        };
        match timeout_at(end, answer).await {
            Ok(answer) => heard(answer),
            Err(_) => Err(StoreError::timed_out(APPEND).into()),
        }
    }

    /// What is not committed in time, or is known not to be, goes to the journal.
    async fn commit_or_journal(
        self: &Arc<Self>,
        journal: &Journal,
        events: &Arc<Sealed>,
        deadline: Duration,
    ) -> Result<Several<Recorded>, AuditError> {
        let began = Instant::now();
        let end = began + deadline;
        let slow = || StoreError::timed_out(APPEND);
        let Some(queued) = self.queued(events, began, end).await else {
            return self.journal(journal, events, Some(&slow())).await;
        };
        let mut answer = queued?;
        // A healthy store answers within this; only past it is anything else looked at.
        if let Ok(answer) = timeout_at(end.min(began + BRIEFLY), &mut answer).await {
            return heard(answer);
        }
        tokio::select! {
            biased;
            answer = &mut answer => return heard(answer),
            () = self.outage.known() => {}
            () = sleep_until(end) => {}
        }
        let (written, line) = oneshot::channel();
        if self.spill(journal, events, Answer::Writer(written), Some(&slow())) {
            return self.line(line).await;
        }
        // The lane has just handed it to the journal, which answers instead.
        match timeout(deadline, answer).await {
            Ok(answer) => heard(answer),
            Err(_) => Err(JournalError::TimedOut.into()),
        }
    }

    /// Queues `events`, which came at `began`; `None` if there was no room for them until `end`.
    async fn queued(
        self: &Arc<Self>,
        events: &Arc<Sealed>,
        began: Instant,
        end: Instant,
    ) -> Option<Result<Answered, AuditError>> {
        // There nearly always is room: a timer is for when there is none.
        match self.queue.try_room() {
            Ok(()) => {}
            Err(AuditError::Overloaded) => {
                match timeout_at(end, self.queue.wait_for_room()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => return Some(Err(error)),
                    Err(_) => return None,
                }
            }
            Err(error) => return Some(Err(error)),
        }
        let (reply, answer) = oneshot::channel();
        let queued = self.push(Group::new(Arc::clone(events), began, Some(reply)));
        Some(queued.map(|()| answer))
    }

    async fn journal(
        self: &Arc<Self>,
        journal: &Journal,
        events: &Arc<Sealed>,
        error: Option<&StoreError>,
    ) -> Result<Several<Recorded>, AuditError> {
        let (written, line) = oneshot::channel();
        self.spill(journal, events, Answer::Writer(written), error);
        self.line(line).await
    }

    async fn line(
        &self,
        line: oneshot::Receiver<Result<Vec<Journalled>, AuditError>>,
    ) -> Result<Several<Recorded>, AuditError> {
        match timeout(self.store.deadline(), line).await {
            Ok(Ok(lines)) => Ok(each(lines?, Recorded::Journalled)),
            Ok(Err(_)) => Err(JournalError::Closed.into()),
            Err(_) => Err(JournalError::TimedOut.into()),
        }
    }

    /// Sends `events` to the journal, because of `error` if it is not known that the database is
    /// away; false if somebody else has sent them.
    pub(super) fn spill(
        &self,
        journal: &Journal,
        events: &Arc<Sealed>,
        answer: Answer,
        error: Option<&StoreError>,
    ) -> bool {
        if !events.claim_for_journal() {
            return false;
        }
        if let Some(error) = error {
            self.outage
                .begin(&self.store, &self.keys.load(), journal, error);
        }
        journal.write(Order {
            content: Content::Events(Arc::clone(events)),
            mode: Mode::Fallback,
            answer,
        });
        true
    }
}

fn heard(
    answer: Result<Result<Taken, AuditError>, oneshot::error::RecvError>,
) -> Result<Several<Recorded>, AuditError> {
    match answer {
        Ok(Ok(Taken::Placed(placed))) => Ok(each(placed, |placed| Recorded::Committed(placed.at))),
        Ok(Ok(Taken::Journalled(lines))) => Ok(each(lines, Recorded::Journalled)),
        Ok(Err(error)) => Err(error),
        // The lane died with its runtime.
        Err(_) => Err(AuditError::Closed),
    }
}

fn each<T>(all: impl Into<Several<T>>, recorded: impl Fn(T) -> Recorded) -> Several<Recorded> {
    all.into().map(recorded)
}
