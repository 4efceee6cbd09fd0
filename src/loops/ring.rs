//! The last calls of one agent in one session: a fixed ring, in the order of time.

/// How many calls are remembered.
pub(super) const REMEMBERED: usize = 128;

/// The layer of rules under which a tool counts as a poller, as a bit.
pub(super) type Layers = u8;

/// One call. Fingerprints, never what they are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Of tool, arguments, resource and URL together.
    pub(super) call: u64,
    /// Of what came of it; 0 while nobody has said.
    pub(super) result: u64,
    /// When, in microseconds.
    pub(super) at: i64,
    /// Under which layers it is a declared poller.
    pub(super) polls: Layers,
    /// Whether another process made it.
    pub(super) foreign: bool,
}

impl Seen {
    /// The same call, and the same result as far as the two are known.
    pub(super) const fn is_like(&self, other: &Self) -> bool {
        self.call == other.call && is_same_result(self.result, other.result)
    }

    pub(super) const fn polls_under(&self, layer: Layers) -> bool {
        self.polls & layer != 0
    }
}

pub(super) const fn is_same_result(a: u64, b: u64) -> bool {
    a == b || a == 0 || b == 0
}

/// A ring of [`REMEMBERED`] calls, allocated once.
#[derive(Clone, Debug)]
pub(super) struct Ring {
    // Apart, so that looking for a call touches a third of the memory.
    calls: Box<[u64]>,
    rest: Box<[Seen]>,
    next: usize,
    len: usize,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            calls: vec![0; REMEMBERED].into_boxed_slice(),
            rest: vec![Seen::default(); REMEMBERED].into_boxed_slice(),
            next: 0,
            len: 0,
        }
    }

    pub(super) fn push(&mut self, seen: Seen) {
        if let (Some(call), Some(slot)) =
            (self.calls.get_mut(self.next), self.rest.get_mut(self.next))
        {
            *call = seen.call;
            *slot = seen;
        }
        self.next = (self.next + 1) % REMEMBERED;
        self.len = (self.len + 1).min(REMEMBERED);
    }

    /// The newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Seen> {
        let (older, newer) = self.halves(&self.rest);
        newer.iter().rev().chain(older.iter().rev())
    }

    /// How many times `call` is in it, whenever that was.
    pub(super) fn count(&self, call: u64) -> usize {
        let (older, newer) = self.halves(&self.calls);
        let times = |part: &[u64]| part.iter().filter(|seen| **seen == call).count();
        times(older) + times(newer)
    }

    /// Says what came of the first call like `call` of which nobody has said it: results come back in
    /// the order of the calls, as far as that can be told.
    pub(super) fn resolve(&mut self, call: u64, result: u64) -> bool {
        let mut open = None;
        for (at, seen) in self.rest.iter().enumerate() {
            let is_open = at < self.len && seen.call == call && seen.result == 0 && !seen.foreign;
            if is_open && open.is_none_or(|(_, earliest)| seen.at < earliest) {
                open = Some((at, seen.at));
            }
        }
        let Some(slot) = open.and_then(|(at, _)| self.rest.get_mut(at)) else {
            return false;
        };
        slot.result = result;
        true
    }

    /// Nothing in it is later than `now`: a clock that was put back must not keep calls for ever.
    pub(super) fn hold_back(&mut self, now: i64) {
        for seen in &mut self.rest {
            seen.at = seen.at.min(now);
        }
    }

    /// Replaces what other processes did by `foreign`; the newest of all stay.
    pub(super) fn merge(&mut self, foreign: Vec<Seen>) {
        let mut all = foreign;
        all.extend(self.newest_first().filter(|seen| !seen.foreign));
        all.sort_by_key(|seen| seen.at);
        let from = all.len().saturating_sub(REMEMBERED);
        let mut merged = Self::new();
        for seen in all.iter().skip(from) {
            merged.push(*seen);
        }
        *self = merged;
    }

    /// The older and the newer half, each in the order of time.
    fn halves<'r, T>(&self, of: &'r [T]) -> (&'r [T], &'r [T]) {
        let (newer, older) = of.split_at_checked(self.next).unwrap_or((of, &[]));
        if self.len < REMEMBERED {
            (&[], newer)
        } else {
            (older, newer)
        }
    }
}
