//! Following the trail as it grows.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::query::Query;
use crate::audit::store::archive::list_marked_in;
use crate::audit::store::read as sql;
use crate::audit::{Audit, AuditError, Entry};
use crate::error::ErrorKind;

/// The most entries that are read from a chain at once.
const BATCH: i64 = 500;

/// Where a [`Follow`] stands: the last entry that it gave, of each chain.
///
/// As text it survives a restart: `1:42,2:7`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position(BTreeMap<i32, i64>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (chain_no, seq)) in self.0.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{chain_no}:{seq}")?;
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut chains = BTreeMap::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (chain_no, seq) = part.split_once(':').ok_or(AuditError::Cursor)?;
            let chain_no: i32 = chain_no.parse().map_err(|_| AuditError::Cursor)?;
            let seq: i64 = seq.parse().map_err(|_| AuditError::Cursor)?;
            if chain_no < 1 || seq < 0 || chains.insert(chain_no, seq).is_some() {
                return Err(AuditError::Cursor);
            }
        }
        Ok(Self(chains))
    }
}

/// The entries of the trail as they are appended, each exactly once, in the order of its chain.
///
/// Chains have no holes and an entry never changes, so that a place in each chain is all there is
/// to remember: nothing is missed between two looks, however long they are apart, and nothing comes
/// twice. Entries of different chains come in no particular order.
///
/// A database that is away is asked again until it is back. Where an entry is missing, or a chain
/// is shorter than it was, [`next`](Self::next) answers [`AuditError::Tampered`] and goes no
/// further.
///
/// ```no_run
/// # async fn example(audit: portcullis::audit::Audit) -> Result<(), portcullis::audit::AuditError> {
/// use portcullis::audit::Query;
///
/// let mut live = audit.follow(&Query::all().kind_prefix("gate.")).from_beginning();
/// loop {
///     let entry = live.next().await?;
///     println!("{} {}", entry.recorded_at, entry.kind);
/// }
/// # }
/// ```
#[derive(Debug)]
#[must_use]
pub struct Follow {
    audit: Audit,
    query: Query,
    every: Duration,
    /// Whether it is settled where it begins.
    begun: bool,
    /// The last entry that was read, of each chain.
    read: Position,
    given: Position,
    waiting: VecDeque<Step>,
}

#[derive(Debug)]
struct Step {
    chain_no: i32,
    seq: i64,
    /// `None` if the filter left it out.
    entry: Option<Entry>,
}

impl Follow {
    pub(super) fn new(audit: Audit, query: Query) -> Self {
        Self {
            audit,
            query,
            every: Duration::from_secs(1),
            begun: false,
            read: Position::default(),
            given: Position::default(),
            waiting: VecDeque::new(),
        }
    }

    /// Begins with the first entry of each chain, instead of now.
    pub fn from_beginning(self) -> Self {
        self.after(Position::default())
    }

    /// Begins after `position`, instead of now.
    pub fn after(mut self, position: Position) -> Self {
        self.read = position.clone();
        self.given = position;
        self.begun = true;
        self
    }

    /// How long to wait before looking again where nothing was new (1 s).
    pub const fn every(mut self, wait: Duration) -> Self {
        self.every = wait;
        self
    }

    /// Where it stands: after the last entry that [`next`](Self::next) gave.
    #[must_use]
    pub fn position(&self) -> Position {
        self.given.clone()
    }

    /// Makes this moment the beginning. Without it, the first call of [`next`](Self::next) does.
    ///
    /// # Errors
    ///
    /// [`AuditError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begin(&mut self) -> Result<(), AuditError> {
        if !self.begun {
            let heads = sql::list_heads(self.audit.store()).await?;
            let position = Position(heads.into_iter().collect());
            self.read = position.clone();
            self.given = position;
            self.begun = true;
        }
        Ok(())
    }

    /// Waits for the next entry that passes the filter. Its limit, order and cursor play no part.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Tampered`] if entries are missing, a chain is shorter than it was, or an
    ///   entry is not what this crate writes.
    /// * [`AuditError::Store`] if the database refused; one that is away is asked again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no entry is lost or given twice.
    pub async fn next(&mut self) -> Result<Entry, AuditError> {
        loop {
            while let Some(step) = self.waiting.pop_front() {
                self.given.0.insert(step.chain_no, step.seq);
                if let Some(entry) = step.entry {
                    return Ok(entry);
                }
            }
            match self.look().await {
                Ok(()) if self.waiting.is_empty() => tokio::time::sleep(self.every).await,
                Ok(()) => {}
                // What was read before is given first; the error comes again.
                Err(_) if !self.waiting.is_empty() => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    tracing::warn!(%error, "following the audit trail: trying again");
                    tokio::time::sleep(self.every).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads what is new in each chain.
    async fn look(&mut self) -> Result<(), AuditError> {
        self.begin().await?;
        let heads = sql::list_heads(self.audit.store()).await?;
        for (chain_no, head) in heads {
            let after = self.read.0.get(&chain_no).copied().unwrap_or(0);
            if head < after {
                return Err(tampered(chain_no, head + 1));
            }
            if head > after {
                self.read_chain(chain_no, after, head.min(after + BATCH))
                    .await?;
            }
        }
        Ok(())
    }

    async fn read_chain(&mut self, chain_no: i32, after: i64, to: i64) -> Result<(), AuditError> {
        let audit = &self.audit;
        let rows =
            sql::list_chain(audit.store(), chain_no, after, to, audit.checks_reads()).await?;
        let entries = audit.entries(&rows)?;
        let whole = i64::try_from(entries.len()) == Ok(to - after);
        let archived = if whole {
            Vec::new()
        } else {
            list_marked_in(audit.store(), chain_no, (after + 1, to)).await?
        };
        let mut entries = entries.into_iter().peekable();
        // Nothing is waited for from here on: what is read and where that leaves us go together.
        for seq in after + 1..=to {
            let entry = entries.next_if(|entry| i64::try_from(entry.seq) == Ok(seq));
            let gone = |(from, last): &(i64, i64)| *from <= seq && seq < *last;
            if entry.is_none() && !archived.iter().any(gone) {
                return Err(tampered(chain_no, seq));
            }
            let entry = entry.filter(|entry| self.query.matches(entry));
            self.waiting.push_back(Step {
                chain_no,
                seq,
                entry,
            });
            self.read.0.insert(chain_no, seq);
        }
        Ok(())
    }
}

fn tampered(chain_no: i32, seq: i64) -> AuditError {
    AuditError::Tampered {
        chain_no: chain_no.cast_unsigned(),
        seq: seq.max(0).cast_unsigned(),
    }
}
