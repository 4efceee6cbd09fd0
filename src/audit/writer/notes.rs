//! Handing notes back to the modules that wrote them.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Shared;
use crate::audit::error::AuditError;
use crate::audit::journal::{Answer, Content, JournalError, Mode, Note, Order};

/// What became of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Redeemed {
    /// It is done, or was before.
    Done,
    /// The store is (still) away.
    Later,
    /// It can never be done.
    Never,
}

type Doing = Pin<Box<dyn Future<Output = Redeemed> + Send>>;
/// Does what a note says.
pub(crate) type Redeem = Arc<dyn Fn(Note) -> Doing + Send + Sync>;

/// Who takes which module's notes.
#[derive(Default)]
pub(super) struct Notes(Mutex<HashMap<&'static str, Redeem>>);

impl Notes {
    pub(super) fn register(&self, module: &'static str, redeem: Redeem) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(module, redeem);
    }

    /// `None` if nobody here takes notes of that module.
    pub(super) async fn redeem(&self, note: Note) -> Option<Redeemed> {
        let redeem = {
            let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.get(note.module.as_str())?)
        };
        Some(redeem(note).await)
    }
}

impl fmt::Debug for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notes(..)")
    }
}

impl Shared {
    /// Brings a note to the disk, synced.
    pub(super) async fn note(&self, note: Note) -> Result<(), AuditError> {
        let Some(journal) = &self.journal else {
            return Err(JournalError::Closed.into());
        };
        let (written, answer) = oneshot::channel();
        journal.write(Order {
            content: Content::Note(Arc::new(note)),
            mode: Mode::Fallback,
            answer: Answer::Writer(written),
        });
        match timeout(self.store.deadline(), answer).await {
            Ok(Ok(line)) => line.map(drop),
            Ok(Err(_)) => Err(JournalError::Closed.into()),
            Err(_) => Err(JournalError::TimedOut.into()),
        }
    }
}
