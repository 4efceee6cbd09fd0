//! The task that keeps slices: fills them before they are empty, reports, gives back, and puts on record
//! what became of slices that were lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::hold::{Hold, Outcome, Wish, minus, nanos, plus};
use super::{ASKED, DRY};
use crate::cost::error::CostError;
use crate::cost::reservation::{Held, Spent};
use crate::cost::settle::{Core, Ending, Job};
use crate::error::ErrorKind;
use crate::ids::ReservationId;
use crate::money::Usd;
use crate::store::{Topic, Wake};
use crate::task;
use crate::usage::Usage;

/// How many slices are seen to at once.
const AT_ONCE: usize = 8;

/// Keeps slices until told to stop, or until the last handle is gone.
pub(in crate::cost) async fn keep(core: Arc<Core>, mut stopped: watch::Receiver<bool>) {
    let mut heard = core.store.subscribe(Topic::Leases);
    let every = core.settings.leases.report_every;
    let mut ticked = tokio::time::Instant::now();
    let mut revision = None;
    loop {
        let rest = every.saturating_sub(ticked.elapsed());
        let wake = tokio::select! {
            _ = stopped.changed() => return,
            () = core.leases.wake.notified() => None,
            wake = heard.next(rest) => Some(wake),
        };
        let asked = match &wake {
            None => None,
            Some(Wake::Poll) => {
                ticked = tokio::time::Instant::now();
                None
            }
            // The budget is as it was; somebody needs more of it.
            Some(Wake::Key(key)) if key.starts_with(ASKED) => {
                Some(Asked::For(key.trim_start_matches(ASKED)))
            }
            Some(Wake::Key(budget)) => {
                core.leases.forget_plans();
                Some(Asked::Changed(budget))
            }
            Some(Wake::Anything) => Some(Asked::Perhaps),
        };
        let tick = matches!(wake, Some(Wake::Poll));
        tokio::join!(
            see_to_all(&core, asked.as_ref(), tick),
            look_for_changes(
                &core,
                &mut revision,
                tick || matches!(wake, Some(Wake::Anything))
            ),
        );
    }
}

/// Finds what changed of budgets and was not heard: a connection that listens can be dead for long
/// before anybody knows. Where it cannot be read, callers go on by what they know: without the store,
/// slices last as long as their leases.
async fn look_for_changes(core: &Core, known: &mut Option<i64>, is_time: bool) {
    if !is_time {
        return;
    }
    match core.store.read_revision().await {
        Ok(now) if *known == Some(now) => {}
        Ok(now) => {
            *known = Some(now);
            core.leases.forget_plans();
        }
        Err(error) => {
            tracing::debug!(%error, "it cannot be read now whether budgets have changed");
        }
    }
}

/// Whose slices are asked back.
#[derive(Debug)]
enum Asked<'a> {
    For(&'a str),
    /// Those of a budget that changed, if its limit is near now: this process may have heard itself.
    Changed(&'a str),
    /// Perhaps some, which was not heard.
    Perhaps,
}

/// Whether a slice is asked back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Back {
    No,
    /// Where the limit is near.
    Perhaps,
    Yes,
}

impl Asked<'_> {
    fn back(&self, hold: &Hold) -> Back {
        match self {
            Self::For(budget) if hold.of.budget.as_str() == *budget => Back::Yes,
            Self::Changed(budget) if hold.of.budget.as_str() == *budget => Back::Perhaps,
            Self::For(_) | Self::Changed(_) => Back::No,
            Self::Perhaps => Back::Perhaps,
        }
    }
}

async fn see_to_all(core: &Arc<Core>, asked: Option<&Asked<'_>>, tick: bool) {
    if let Err(error) = core.put_unknown_on_record().await {
        tracing::warn!(%error, "calls of unknown outcome are not on record yet");
    }
    let holds: Vec<_> = {
        let leases = &core.leases;
        let old = leases.old().clone();
        leases.current().values().cloned().chain(old).collect()
    };
    let mut running = JoinSet::new();
    for hold in holds {
        let back = asked.map_or(Back::No, |asked| asked.back(&hold));
        if back == Back::No && !tick && !hold.told.load(Ordering::Acquire) && !hold.is_dead() {
            continue;
        }
        if running.len() >= AT_ONCE {
            running.join_next().await;
        }
        let core = Arc::clone(core);
        running.spawn(task::boxed(async move { see_to(&core, &hold, back).await }));
    }
    while running.join_next().await.is_some() {}
    let dead = |hold: &Arc<Hold>| hold.is_dead();
    let mut moved: Vec<_> = {
        let mut current = core.leases.current();
        let dead: Vec<_> = current
            .values()
            .filter(|hold| dead(hold))
            .cloned()
            .collect();
        current.retain(|_, hold| !hold.is_dead());
        dead
    };
    core.leases.old().append(&mut moved);
}

async fn see_to(core: &Core, hold: &Arc<Hold>, back: Back) {
    let done = if hold.is_dead() {
        bury(core, hold).await
    } else {
        renew(core, hold, back).await.map(|()| false)
    };
    match done {
        Ok(true) => {
            core.leases.old().retain(|old| !Arc::ptr_eq(old, hold));
        }
        Ok(false) => {}
        Err(error) => {
            tracing::warn!(budget = %hold.of.budget, %error, "a slice of a budget could not be renewed");
        }
    }
}

async fn renew(core: &Core, hold: &Hold, back: Back) -> Result<(), CostError> {
    let settings = &core.settings.leases;
    let mut books = hold.books().await;
    let mono = core.leases.mono();
    if back == Back::Yes {
        hold.dry(mono.saturating_add(nanos(DRY)));
    }
    let short = hold.told.swap(false, Ordering::AcqRel) && hold.is_low();
    let idle = books.idle_for(&hold.slice, mono) >= settings.idle;
    // Somebody may just be opening it; or nothing was ever taken from it, and nothing is.
    if books.lease().is_none() {
        if idle {
            hold.kill();
        }
        return Ok(());
    }
    let wish = Wish {
        want: short && !hold.is_dry(mono),
        give_back: back == Back::Yes || idle,
    };
    if wish.want
        || wish.give_back
        || back == Back::Perhaps
        || books.is_due(&hold.slice, mono, settings.lease)
    {
        let outcome = hold.exchange(core, &mut books, wish).await?;
        let near = outcome == Outcome::Held { near: true };
        if back == Back::Perhaps && near {
            let wish = Wish {
                give_back: true,
                want: false,
            };
            hold.exchange(core, &mut books, wish).await?;
        }
        if wish.want && near && hold.is_low() {
            // Less than half of a slice is all there is: the statement decides about the rest.
            hold.dry(mono.saturating_add(nanos(DRY)));
        }
    }
    Ok(())
}

/// Sees a slice off that is not spent from any more; says whether nothing is left to do.
async fn bury(core: &Core, hold: &Hold) -> Result<bool, CostError> {
    let mut books = hold.books().await;
    let Some(lease) = books.lease() else {
        return Ok(true);
    };
    if !books.lost {
        let wish = Wish {
            give_back: true,
            want: false,
        };
        let outcome = hold.exchange(core, &mut books, wish).await?;
        return Ok(outcome == Outcome::Gone && !books.lost);
    }
    // The store counts what was not reported as one call of unknown outcome, and the others as made.
    // When every call has ended, this process knows.
    let Some((spent, reported)) = books.spent(&hold.slice) else {
        return Ok(false);
    };
    let id = ReservationId::from_uuid(lease);
    let Some(owed) = core.store.fetch_reservation(id).await? else {
        // Nothing was held for it, as of a budget without limits.
        core.store.correct_lost(lease, spent).await?;
        return Ok(true);
    };
    let [usd, tokens, calls] = minus(spent, reported);
    let made = [0, 0, (calls - 1).max(0)];
    core.store.correct_lost(lease, plus(reported, made)).await?;
    let reservation = Held {
        id,
        who: crate::cost::record::principal(&owed),
        model: owed.model,
        provider: owed.provider,
        at: owed.reserved_at,
        usd: None,
        tokens: 0,
        call: None,
        on_record: true,
    };
    let ending = if calls == 0 {
        Ending::Release
    } else {
        let usage = Usage::tokens(tokens.unsigned_abs(), 0);
        Ending::Settle(Spent::tokens(usage).billed(Usd::nanos(usd.max(0))))
    };
    match core
        .perform(&Job::again(reservation, ending, Uuid::now_v7()))
        .await
    {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::Unavailable => Err(error),
        Err(error) => {
            tracing::error!(%id, %error, "what was spent of a lost slice had been resolved already");
            Ok(true)
        }
    }
}

/// Gives everything back: the process is about to end. What is still reserved stays in its slices, and
/// is reported when it is settled.
pub(in crate::cost) async fn return_all(core: &Core) {
    core.leases.closed.store(true, Ordering::Release);
    if !core.leases.keeping.load(Ordering::Acquire) {
        return;
    }
    if let Err(error) = core.put_unknown_on_record().await {
        tracing::error!(%error, "calls of unknown outcome are not on record; they stay charged until their slices run out and are resolved");
    }
    let holds: Vec<_> = {
        let old = core.leases.old().clone();
        core.leases.current().values().cloned().chain(old).collect()
    };
    for hold in holds {
        let given = match core.give_back(&hold).await {
            // It had run out before: what was spent of it is put on record.
            Ok(()) if hold.is_dead() => bury(core, &hold).await.map(drop),
            given => given.map_err(CostError::from),
        };
        if let Err(error) = given {
            tracing::error!(budget = %hold.of.budget, %error, "a slice could not be given back; it stays charged until its lease runs out");
        }
    }
}
