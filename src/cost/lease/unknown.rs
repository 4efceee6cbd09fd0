//! Calls of unknown outcome: each leaves its slice and becomes a reservation of its own, which anybody
//! can settle late or resolve by its id. Until then it is reserved in the slice.

use std::sync::Arc;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::Leases;
use super::hold::Hold;
use super::part::{Cost, Part};
use super::record;
use super::slice::{Amounts, NOTHING};
use super::store::Moved;
use crate::call::Principal;
use crate::cost::settle::Core;
use crate::ids::{CallId, ModelName, ReservationId};
use crate::store::StoreError;
use crate::time::Timestamp;

/// A call of unknown outcome, on its way.
#[derive(Debug)]
pub(in crate::cost) struct Left {
    pub(in crate::cost) id: ReservationId,
    by: Uuid,
    pub(in crate::cost) who: Principal,
    pub(in crate::cost) call: Option<CallId>,
    pub(in crate::cost) model: Option<ModelName>,
    provider: Option<String>,
    at: Timestamp,
    /// The most of all budgets, where a fallback price differs.
    pub(in crate::cost) charged: Amounts,
    shares: Vec<Taken>,
    /// From which slices it was taken, once it is on record.
    gone: Option<Vec<Uuid>>,
}

/// What it has of one slice, and stays charged at.
#[derive(Debug)]
struct Taken {
    hold: Arc<Hold>,
    asked: Amounts,
    charged: Amounts,
    /// Whether its slice knows that it has left.
    done: bool,
}

impl Part {
    /// Leaves what was taken charged at the larger of its ceiling and `seen`.
    pub(in crate::cost) fn leave(
        mut self,
        id: ReservationId,
        call: Option<CallId>,
        model: (Option<ModelName>, Option<String>),
        seen: &Cost,
    ) -> Left {
        let mut charged = NOTHING;
        let shares = self.served().map(|(share, asked)| {
            let costs = share.at_least(seen, asked);
            for (most, cost) in charged.iter_mut().zip(costs) {
                *most = cost.max(*most);
            }
            Taken {
                hold: Arc::clone(&share.hold),
                asked,
                charged: costs,
                done: false,
            }
        });
        let shares = shares.collect();
        let left = Left {
            id,
            by: Uuid::now_v7(),
            who: self.who().clone(),
            call,
            model: model.0,
            provider: model.1,
            at: self.at,
            charged,
            shares,
            gone: None,
        };
        self.forget();
        left
    }
}

impl Leases {
    /// Has the keeper put `left` on record.
    pub(in crate::cost) fn leave(&self, left: Left) {
        self.leaving.fetch_add(1, Ordering::AcqRel);
        let mut unknown = self.unknown.lock().unwrap_or_else(PoisonError::into_inner);
        unknown.push(left);
        drop(unknown);
        self.wake.notify_one();
    }

    pub(super) fn has_unknown(&self) -> bool {
        self.leaving.load(Ordering::Acquire) > 0
    }
}

impl Core {
    /// Puts calls of unknown outcome on record: all that are on their way. What the store does not take
    /// now is kept for the next time. One finds out for all that wait.
    pub(in crate::cost) async fn put_unknown_on_record(&self) -> Result<(), StoreError> {
        if !self.leases.has_unknown() {
            return Ok(());
        }
        let came = self.leases.mono();
        let mut failed = self.leases.recording.lock().await;
        match &*failed {
            Some((at, error)) if *at >= came => return Err(error.clone()),
            _ => {}
        }
        let answer = self.put_all_on_record().await;
        let error = answer.as_ref().err().cloned();
        *failed = error.map(|error| (self.leases.mono(), error));
        answer
    }

    async fn put_all_on_record(&self) -> Result<(), StoreError> {
        loop {
            let next = {
                let unknown = &self.leases.unknown;
                unknown.lock().unwrap_or_else(PoisonError::into_inner).pop()
            };
            let Some(left) = next else { return Ok(()) };
            // Cancelled, it goes back.
            let mut left = Returned(self, Some(left));
            if let Some(kept) = &mut left.1 {
                self.put_on_record(kept).await?;
                self.audit.log_detached(record::left(kept));
            }
            left.1 = None;
            self.leases.leaving.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Cancel safe: what was done of it is not done again.
    async fn put_on_record(&self, left: &mut Left) -> Result<(), StoreError> {
        let gone = match left.gone.clone() {
            Some(gone) => gone,
            None => self.move_out(left).await?,
        };
        left.gone = Some(gone.clone());
        for taken in left.shares.iter_mut().filter(|taken| !taken.done) {
            let mut books = taken.hold.books().await;
            if books.lease().is_some_and(|lease| gone.contains(&lease)) {
                books.moved_out(taken.asked);
            } else {
                // The slice was lost: what this call is charged at is part of what its holder says of it.
                taken.hold.slice.settle(&taken.asked, &taken.charged);
                tracing::error!(id = %left.id, "a call of unknown outcome is part of what is charged for a lost slice");
            }
            taken.done = true;
        }
        Ok(())
    }

    /// Says from which slices it was taken.
    async fn move_out(&self, left: &Left) -> Result<Vec<Uuid>, StoreError> {
        let mut moved = Vec::new();
        for taken in &left.shares {
            let books = taken.hold.books().await;
            let mut own = taken.asked;
            for (own, limited) in own.iter_mut().zip(books.limited()) {
                *own = if limited { *own } else { 0 };
            }
            let [usd, ..] = taken.charged;
            if let Some(lease) = books.lease() {
                moved.push(Moved { lease, usd, own });
            }
        }
        let [_, tokens, _] = left.charged;
        let model = (left.model.as_ref(), left.provider.as_deref());
        self.store
            .move_out(left.id, left.by, &left.who, model, left.at, tokens, &moved)
            .await
    }
}

/// Put back unless it is done.
struct Returned<'c>(&'c Core, Option<Left>);

impl Drop for Returned<'_> {
    fn drop(&mut self) {
        if let Some(left) = self.1.take() {
            let unknown = &self.0.leases.unknown;
            let mut unknown = unknown.lock().unwrap_or_else(PoisonError::into_inner);
            unknown.push(left);
        }
    }
}
