//! What is under way is stopped when its agent is halted.
//!
//! `async-openai` turns what breaks a stream into text, and hands on only the data of an event that it
//! cannot read. So the refusal goes that way, too: as a last event that no type reads, under a mark that
//! is drawn in each process and that no provider sees.

use std::fmt;
use std::sync::{LazyLock, Mutex, PoisonError};

use async_openai::error::OpenAIError;
use bytes::Bytes;

use super::error::boxed;
use crate::halt::Halt;
use crate::{EventId, Governance, Principal, Refusal};

/// How many different refusals are kept; there are five.
const KEPT: usize = 32;

/// What stops a call.
#[derive(Clone)]
pub(super) struct Switch {
    halt: Halt,
    who: Principal,
}

impl Switch {
    pub(super) fn new(gov: &Governance, who: &Principal) -> Self {
        Self {
            halt: gov.halt().clone(),
            who: who.clone(),
        }
    }

    /// Why the call must stop, if it must.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let asked = self.halt.check(&self.who);
        asked.map_err(|halted| Refusal::from(&halted))
    }

    /// Waits until it must stop.
    pub(super) async fn thrown(&self) -> Refusal {
        Refusal::from(&self.halt.until_halted(&self.who).await)
    }

    /// Goes on with `work` until it is done or must stop. What is stopped is dropped, with its
    /// connection and its permit.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = Result<T, OpenAIError>>,
    ) -> Result<T, OpenAIError> {
        tokio::select! {
            biased;
            refusal = self.thrown() => Err(boxed(refusal)),
            done = work => done,
        }
    }
}

impl fmt::Debug for Switch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switch").finish_non_exhaustive()
    }
}

static MARK: LazyLock<String> = LazyLock::new(|| format!("portcullis {}", EventId::new()));
/// The refusals that streams have ended with. Each is kept for good: what refers to it may be as old as
/// the process.
static SAID: Mutex<Vec<&'static Refusal>> = Mutex::new(Vec::new());

/// The last event of a stream that was stopped; `None` if there is no room to keep why.
//
// It begins with a line feed: an event too long to be held back may have been handed on in part, and
// what it lacks must not be taken for a whole one.
pub(super) fn last_event(refusal: &Refusal) -> Option<Bytes> {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let known = said.iter().position(|known| *known == refusal);
    let number = match known {
        Some(number) => number,
        None if said.len() < KEPT => {
            said.push(Box::leak(Box::new(refusal.clone())));
            said.len() - 1
        }
        None => return None,
    };
    let mark = &*MARK;
    Some(format!("\ndata: [{mark} {number}] {refusal}\n\n").into())
}

/// The refusal that the data of an event holds, if it is a last event.
pub(super) fn in_event(data: &str) -> Option<&'static Refusal> {
    let (_, rest) = data.split_once(MARK.as_str())?;
    let (number, _) = rest.trim_start().split_once(']')?;
    let number: usize = number.parse().ok()?;
    let said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    said.get(number).copied()
}
