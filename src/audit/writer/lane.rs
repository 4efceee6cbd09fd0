//! One chain, one connection of its own, one batch at a time.
//!
//! Everything that can come between sending a batch and knowing what became of it is handled here,
//! by one rule: nothing is sent while the outcome of an earlier statement is unknown.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{ConnectOptions, PgConnection};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::batch::{Batch, Place, ids};
use super::chain::{Chain, Verdict};
use super::outcome::{Failure, Fault, expired, give_up, refuse, repeated, settle};
use super::queue::Group;
use super::{Keys, Shared};
use crate::audit::store::append::{learn_rows, try_append};
use crate::audit::store::chain::{Hold, prepare_session};
use crate::audit::store::lookup;
use crate::store::{StoreError, StoreFault};

const APPEND: &str = "append to the audit trail";
const CONNECT: &str = "connect the audit writer";

/// How long to wait after the first failure; doubled for each one after, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// How long events that were not sent wait for a database that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a batch is tried without an error that says why it did not succeed.
const ROUNDS: u32 = 16;

/// Runs one statement of a lane; in a transaction of its own where a pooler shares sessions.
macro_rules! alone {
    ($store:expr, $connection:ident, $run:path $(, $argument:expr)*) => {
        async {
            let connection: &mut PgConnection = &mut *$connection;
            if !$store.is_pooled() {
                return $run(connection $(, $argument)*).await;
            }
            let mut tx = crate::store::begin_on(connection, $store.deadline()).await?;
            let done = $run(&mut tx $(, $argument)*).await?;
            tx.commit().await?;
            Ok(done)
        }
    };
}
pub(super) use alone;

/// Groups on their way into one batch.
struct Attempt {
    groups: Vec<Group>,
    /// They were sent, and the outcome is unknown.
    sent: bool,
    /// Some of them may be on record: look before sending.
    look: bool,
}

enum Step {
    Done,
    Again,
    Apart,
}

pub(super) struct Lane<'s> {
    pub(super) shared: &'s Arc<Shared>,
    pub(super) holder: Uuid,
    pub(super) limit: Duration,
    pub(super) connection: Option<PgConnection>,
    pub(super) chain: Option<Chain>,
    /// The key of the chain that it holds, or was last told to use.
    pub(super) keys: Arc<Keys>,
    pub(super) batch: Batch,
    pause: Duration,
    /// Events of this share that were acknowledged.
    answered: usize,
}

impl<'s> Lane<'s> {
    pub(super) fn new(shared: &'s Arc<Shared>) -> Self {
        Self {
            shared,
            holder: Uuid::now_v7(),
            limit: shared.store.deadline(),
            connection: None,
            chain: None,
            keys: shared.keys.load_full(),
            batch: Batch::default(),
            pause: FIRST_PAUSE,
            answered: 0,
        }
    }

    /// Commits `groups`, and answers each of them; says how many events were acknowledged.
    pub(super) async fn commit(&mut self, groups: Vec<Group>) -> usize {
        self.answered = 0;
        self.register_process().await;
        let mut parts = vec![groups];
        while let Some(mut part) = parts.pop() {
            let later = repeated(&mut part);
            if !later.is_empty() {
                parts.push(later);
            }
            parts.extend(self.commit_part(part).await);
        }
        self.answered
    }

    /// Puts the process's key on record, if it signs heads and is not yet: no head is signed before.
    async fn register_process(&mut self) {
        let shared = self.shared;
        let Some(group) = shared.process_registration() else {
            return;
        };
        let (group, mut answer) = group;
        shared.queue.take_up(1);
        self.commit_part(vec![group]).await;
        // If not, the next share tries again.
        shared.process_registered(matches!(answer.try_recv(), Ok(Ok(_))));
        if self.answered == 0 {
            shared.queue.answered(1);
        }
        self.answered = 0;
    }

    /// Commits `groups`; answers with what is left to be tried apart from each other.
    async fn commit_part(&mut self, groups: Vec<Group>) -> Vec<Vec<Group>> {
        let mut attempt = Attempt {
            groups,
            sent: false,
            look: false,
        };
        let mut rounds = 0;
        // Ends by itself: errors use up the groups' time, and the rest is counted.
        while rounds < ROUNDS {
            if attempt.groups.is_empty() {
                return Vec::new();
            }
            match self.step(&mut attempt).await {
                Ok(Step::Done) => {
                    self.pause = FIRST_PAUSE;
                    self.acknowledge(attempt.groups);
                    return Vec::new();
                }
                Ok(Step::Again) => rounds += 1,
                Ok(Step::Apart) => {
                    let half = attempt.groups.split_off(attempt.groups.len().div_ceil(2));
                    return vec![half, attempt.groups];
                }
                Err(failure) => self.fail(&mut attempt, failure).await,
            }
        }
        let puzzled = StoreError::new(APPEND, StoreFault::Aborted);
        give_up(attempt.groups, &puzzled, self.shared);
        Vec::new()
    }

    fn acknowledge(&mut self, groups: Vec<Group>) {
        let events = groups.iter().map(|group| group.drafts.len()).sum();
        self.answered += events;
        self.shared.queue.answered(events);
        for group in groups {
            group.answer(Ok(()));
        }
    }

    /// Gives up what has waited too long, and lets some time pass.
    async fn fail(&mut self, attempt: &mut Attempt, failure: Failure) {
        if let Fault::Locked(locked) = failure.fault {
            let groups = std::mem::take(&mut attempt.groups);
            refuse(groups, &locked.into(), self.shared);
            return;
        }
        if matches!(failure.fault, Fault::Refused | Fault::Poison) {
            let groups = std::mem::take(&mut attempt.groups);
            if failure.fault == Fault::Poison {
                refuse(groups, &failure.error.into(), self.shared);
            } else {
                give_up(groups, &failure.error, self.shared);
            }
            return;
        }
        // The callers stop waiting at the limit; they should hear why before that.
        let limit = self.limit * 9 / 10;
        let unsent = self.connection.is_none() && !attempt.sent;
        let patience = match unsent {
            // That it is away is known: whoever waits only loses time.
            true if self.shared.outage.is_known() => Duration::ZERO,
            true => limit.min(PATIENCE),
            false => limit,
        };
        let gone = expired(&mut attempt.groups, patience);
        give_up(gone, &failure.error, self.shared);
        if !attempt.groups.is_empty() {
            tracing::debug!(error = %failure.error, "trying an audit batch again");
        }
        let waited = attempt.groups.iter().map(|group| group.queued.elapsed());
        let left = waited.max().map(|waited| patience.saturating_sub(waited));
        sleep(self.pause.min(left.unwrap_or_default())).await;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// One try.
    async fn step(&mut self, attempt: &mut Attempt) -> Result<Step, Failure> {
        self.connect().await?;
        let verdict = self.find_out().await?;
        if attempt.sent {
            match verdict {
                Some(Verdict::Applied) => return Ok(Step::Done),
                Some(Verdict::NotApplied) => {}
                Some(Verdict::Gone) | None => attempt.look = true,
            }
            attempt.sent = false;
        }
        if attempt.look {
            self.look(&mut attempt.groups).await?;
            attempt.look = false;
            if attempt.groups.is_empty() {
                return Ok(Step::Done);
            }
        }
        self.hold_a_chain().await?;
        self.send(attempt).await
    }

    async fn send(&mut self, attempt: &mut Attempt) -> Result<Step, Failure> {
        let (Some(connection), Some(chain)) = (self.connection.as_mut(), self.chain.as_mut())
        else {
            return Err(Failure::unreachable(APPEND));
        };
        let shared = self.shared;
        let place = Place {
            tenant: shared.store.tenant(),
            keys: &self.keys,
            chain_no: chain.no,
        };
        let now = shared.store.now();
        self.batch
            .fill(place, &chain.head, now, &mut attempt.groups);
        self.batch.signed = shared.sign_head(chain.no, &self.batch.to);
        let hold = Hold {
            tenant: shared.store.tenant().as_str(),
            chain_no: chain.no,
            epoch: chain.epoch,
            holder: self.holder,
            key_id: self.keys.key_id,
            now: shared.store.database_now(),
        };
        // From here on the outcome is unknown, until it is known: this future may be dropped.
        chain.doubt = Some(self.batch.to);
        attempt.sent = true;
        shared.stats.statement();
        let batch = &self.batch;
        let (from, to, rows) = (&batch.from, &batch.to, &batch.rows);
        let signed = batch.signed.as_ref();
        let store = &shared.store;
        let named = !store.is_pooled();
        let work = alone!(
            store, connection, try_append, hold, from, to, rows, signed, named
        );
        let failure = match timeout(self.limit, work).await {
            Ok(Ok(written)) if written == batch.len() => {
                chain.head = batch.to;
                chain.doubt = None;
                shared.stats.batch(written, store.now());
                if signed.is_none() {
                    shared.head_unsigned();
                }
                shared.outage.note(chain.no, &batch.to);
                return Ok(Step::Done);
            }
            // The head is not where we believe it to be, or the chain is not ours: find out.
            Ok(Ok(_)) => return Ok(Step::Again),
            Ok(Err(error)) => Failure::of(APPEND, &error),
            Err(_) => Failure::timed_out(APPEND),
        };
        if failure.fault == Fault::Lost {
            self.connection = None;
            return Err(failure);
        }
        chain.doubt = None;
        attempt.sent = false;
        match failure.fault {
            Fault::Duplicate => {
                attempt.look = true;
                Ok(Step::Again)
            }
            Fault::Occupied => {
                self.condemn("an entry stands past its head").await;
                attempt.look = true;
                Ok(Step::Again)
            }
            Fault::Poison if attempt.groups.len() > 1 => Ok(Step::Apart),
            Fault::Refused => {
                self.connection = None;
                Err(failure)
            }
            Fault::Poison | Fault::Aborted | Fault::Lost | Fault::Locked(_) => Err(failure),
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        if self.connection.is_some() {
            return Ok(());
        }
        // Statements are not logged by the driver: they would hold nothing that the trail lacks.
        let options = self.shared.store.connect_options();
        let options = (*options).clone().disable_statement_logging();
        let (limit, pooled) = (self.limit, self.shared.store.is_pooled());
        let work = async {
            let mut connection = options.connect().await?;
            // Through a pooler there is no session of one's own.
            if pooled {
                learn_rows(&mut connection, limit).await?;
            } else {
                prepare_session(&mut connection, limit).await?;
            }
            Ok(connection)
        };
        self.shared.stats.statement();
        match timeout(limit, work).await {
            Ok(Ok(connection)) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(error)) => Err(Failure::of(CONNECT, &error)),
            Err(_) => Err(Failure::timed_out(CONNECT)),
        }
    }

    /// Settles those of `groups` that are on record already.
    async fn look(&mut self, groups: &mut Vec<Group>) -> Result<(), Failure> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(Failure::unreachable("look for audit events"));
        };
        let ids = ids(groups);
        let tenant = self.shared.store.tenant().as_str();
        self.shared.stats.statement();
        let store = &self.shared.store;
        let work = alone!(store, connection, lookup::list_events, tenant, &ids);
        let found = Self::answer("look for audit events", timeout(self.limit, work).await);
        let found = Self::heed(&mut self.connection, found)?;
        settle(groups, &found, self.shared);
        Ok(())
    }

    pub(super) fn answer<T>(
        operation: &'static str,
        answer: Result<Result<T, sqlx::Error>, tokio::time::error::Elapsed>,
    ) -> Result<T, Failure> {
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(Failure::of(operation, &error)),
            Err(_) => Err(Failure::timed_out(operation)),
        }
    }

    /// Drops a connection that cannot be used any more.
    pub(super) fn heed<T>(
        connection: &mut Option<PgConnection>,
        answer: Result<T, Failure>,
    ) -> Result<T, Failure> {
        if answer
            .as_ref()
            .is_err_and(|failure| !failure.keeps_connection())
        {
            *connection = None;
        }
        answer
    }
}
