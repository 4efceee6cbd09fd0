//! Whether a condition or a promise holds: what was found instead, in a word, if not.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::about::About;
use super::model::{Check, Predicate};
use super::{ApprovedBy, Around};
use crate::audit::{AuditEvent, Receipt, Recorded};
use crate::call::{Action, Parts};
use crate::error::ErrorKind;
use crate::scope::Target;
use crate::usage::Ceiling;

/// What was found instead of what was required.
pub(super) type Found = Result<(), &'static str>;

const fn word(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Denied => "denied",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::Misuse => "misuse",
        ErrorKind::Integrity => "integrity",
    }
}

pub(super) fn not_halted(around: &Around, about: &About) -> Found {
    around.halt.check(about.principal()).map_err(|_| "halted")
}

pub(super) fn scope_allowed(around: &Around, parts: &Parts<'_>) -> Found {
    let target = match parts.action {
        Action::Tool(name) => Target::Tool(name.as_str()),
        Action::Model(name) => Target::Model(name.as_str()),
    };
    let api = parts.api.map(Target::Api);
    for target in std::iter::once(target).chain(api) {
        let allowed = around.scope.decide(parts.principal, target);
        allowed.map_err(|error| word(error.kind()))?;
    }
    Ok(())
}

/// Reserves and gives back: what can be reserved is what the budgets say, and nothing else is.
pub(super) async fn budget_available(around: &Around, about: &About, ceiling: &Ceiling) -> Found {
    let reserved = around
        .cost
        .reserve(about.principal(), ceiling.clone())
        .await;
    match reserved {
        // A call that the gate would let through unasked has no budget that was asked.
        Ok(reservation) if !reservation.is_reserved() => {
            reservation.release_detached();
            Err("unavailable")
        }
        Ok(reservation) => reservation
            .release()
            .await
            .map_err(|error| word(error.kind())),
        Err(error) => Err(word(error.kind())),
    }
}

/// Whether a person agreed to the very call that this digest is of.
pub(super) async fn approved(by: Option<&ApprovedBy>, about: &About, digest: &[u8; 32]) -> Found {
    // Nobody who could be asked has agreed.
    let Some(by) = by else {
        return Err("not_approved");
    };
    match (by.0)(about.principal().clone(), *digest).await {
        Ok(true) => Ok(()),
        Ok(false) => Err("not_approved"),
        Err(kind) => Err(word(kind)),
    }
}

/// Puts `event` on record, and says whether it is durable.
pub(super) async fn audited(around: &Around, event: AuditEvent) -> Found {
    match around.audit.append(event).await {
        Ok(recorded) => durable(&recorded),
        Err(error) => Err(word(error.kind())),
    }
}

const fn durable(recorded: &Recorded) -> Found {
    match recorded {
        Recorded::Committed(_) | Recorded::Journalled(_) => Ok(()),
        Recorded::Spooled(_) => Err("spooled"),
    }
}

/// Whether the entry of a call's end is durable.
pub(super) const fn receipt(receipt: &Receipt) -> Found {
    match receipt {
        Receipt::Committed(_) | Receipt::Journalled(_) => Ok(()),
        Receipt::Spooled(_) => Err("spooled"),
        Receipt::Lost { .. } => Err("lost"),
    }
}

/// Asks a check of the host's. It runs on a thread that may block, so that the deadline holds for one
/// that blocks, too; such a one goes on, unheard, for as long as it likes.
pub(super) async fn custom(check: &Check, about: Arc<About>) -> Found {
    let (ask, deadline) = (Arc::clone(&check.ask), check.deadline);
    let runtime = Handle::current();
    let work =
        spawn_blocking(move || runtime.block_on(timeout(deadline, async { ask(about).await })));
    match timeout(deadline, work).await {
        Ok(Ok(Ok(Some(true)))) => Ok(()),
        Ok(Ok(Ok(Some(false)))) => Err("false"),
        Ok(Ok(Ok(None))) => Err("failed"),
        Ok(Err(join)) if join.is_panic() => Err("panicked"),
        // The runtime is shutting down.
        Ok(Err(_)) => Err("unavailable"),
        Ok(Ok(Err(_))) | Err(_) => Err("timed_out"),
    }
}

/// Shows a result to a predicate.
pub(super) fn result(predicate: &Predicate, result: Option<&dyn Any>) -> Found {
    let Some(result) = result else {
        return Err("result_unseen");
    };
    // A predicate of the host's may panic half-way; what it holds is its own.
    match catch_unwind(AssertUnwindSafe(|| (predicate.holds)(result))) {
        Ok(Some(true)) => Ok(()),
        Ok(Some(false)) => Err("false"),
        Ok(None) => Err("result_type"),
        Err(_) => Err("panicked"),
    }
}
