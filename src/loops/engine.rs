//! The decision: is the newest call of a ring one too many? No clock, no lock, no store.

use super::model::{Poller, Rule};
use super::ring::{Layers, REMEMBERED, Ring, Seen, is_same_result};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) pattern: Pattern,
    /// When the same call would be possible again, if nothing like it happens until then.
    pub(super) clears_at: i64,
    /// The same for every call of the same loop.
    pub(super) episode: u64,
}

/// What goes round in circles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Pattern {
    /// The same call, with the same result as far as it is known.
    Repetition {
        /// How many times within the window, this one included.
        times: usize,
    },
    /// The same call, whatever came of it.
    Changing {
        /// How many times within the window, this one included.
        times: usize,
    },
    /// The same calls one after the other: two are a ping-pong.
    Cycle {
        /// How many calls make one round.
        length: usize,
        /// How many rounds there were.
        rounds: usize,
    },
    /// A poller that asks more often than it may.
    Polling,
}

impl Pattern {
    /// The word of it in the trail.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repetition { .. } => "repetition",
            Self::Changing { .. } => "changing",
            Self::Cycle { .. } => "cycle",
            Self::Polling => "polling",
        }
    }
}

/// Judges the newest call of `ring` under `rule`, whose pollers are marked with `layer`.
///
/// A ring holds the last [`REMEMBERED`] calls: what happened before them is not seen.
pub(super) fn judge(
    rule: &Rule,
    layer: Layers,
    poller: Option<Poller>,
    ring: &Ring,
    now: i64,
) -> Option<Found> {
    let newest = ring.newest_first().next()?;
    // Most calls are new: one look at the fingerprints says so.
    if ring.count(newest.call) < rule.fewest() {
        return None;
    }
    let since = now.saturating_sub(rule.window);
    let (times, found) = repetition(rule, poller, newest, ring, since);
    if found.is_some() || poller.is_some() || times < rule.cycle_repeats {
        return found;
    }
    cycle(rule, layer, ring, since)
}

/// How often the newest call is there, and whether that is too often.
fn repetition(
    rule: &Rule,
    poller: Option<Poller>,
    newest: &Seen,
    ring: &Ring,
    since: i64,
) -> (usize, Option<Found>) {
    let (mut total, mut same) = (0, 0);
    let mut result = newest.result;
    let (mut same_again, mut total_again) = (newest.at, newest.at);
    for seen in ring.newest_first().take_while(|seen| seen.at > since) {
        if seen.call != newest.call {
            continue;
        }
        total += 1;
        if total < rule.changing_repeats {
            total_again = seen.at;
        }
        // The result that is compared with is the last one that is known.
        if is_same_result(result, seen.result) {
            result = if result == 0 { seen.result } else { result };
            same += 1;
            if same < rule.repeats {
                same_again = seen.at;
            }
        }
    }
    let found = |pattern, again: i64| Found {
        pattern,
        clears_at: again.saturating_add(rule.window),
        episode: newest.call,
    };
    let found = if same >= rule.repeats {
        Some(found(Pattern::Repetition { times: same }, same_again))
    } else if total >= rule.changing_repeats && poller.is_none() {
        Some(found(Pattern::Changing { times: total }, total_again))
    } else {
        None
    };
    (total, found)
}

/// The shortest round that the newest calls have gone, often enough. Pollers are no part of it.
fn cycle(rule: &Rule, layer: Layers, ring: &Ring, since: i64) -> Option<Found> {
    let mut line = [Seen::default(); REMEMBERED];
    let mut len = 0;
    let in_time = ring.newest_first().take_while(|seen| seen.at > since);
    for (slot, seen) in line
        .iter_mut()
        .zip(in_time.filter(|seen| !seen.polls_under(layer)))
    {
        *slot = *seen;
        len += 1;
    }
    let line = line.get(..len)?;
    (2..=rule.cycle_len).find_map(|length| {
        let needed = length * rule.cycle_repeats;
        let rounds = line.get(..needed)?;
        let round = rounds.get(..length)?;
        let earlier = rounds.get(length..)?;
        let repeats = rounds.iter().zip(earlier).all(|(a, b)| a.is_like(b));
        // One call again and again is a repetition, which has a limit of its own.
        let (first, rest) = round.split_first()?;
        let varies = rest.iter().any(|seen| seen.call != first.call);
        (repeats && varies).then(|| Found {
            pattern: Pattern::Cycle {
                length,
                rounds: rule.cycle_repeats,
            },
            clears_at: rounds
                .iter()
                .rev()
                .nth(1)
                .map_or(first.at, |seen| seen.at)
                .saturating_add(rule.window),
            // Wherever the round is entered, its sum is the same.
            episode: round
                .iter()
                .fold(0, |sum: u64, seen| sum.wrapping_add(seen.call)),
        })
    })
}

/// A poller's allowance: a bucket of `most` that fills evenly over `per`.
///
/// `full_at` is when the bucket would be full again (the generic cell rate algorithm of ITU-T I.371).
/// Takes one out, or says when there will be one.
pub(super) fn poll(full_at: &mut i64, most: usize, per: i64, now: i64) -> Result<(), i64> {
    let each = per / i64::try_from(most).unwrap_or(i64::MAX).max(1);
    // A clock that was put back must not lock a poller out for longer than an empty bucket does.
    let full = (*full_at).clamp(now, now.saturating_add(per));
    let taken = full.saturating_add(each);
    if taken.saturating_sub(now) > per {
        return Err(taken.saturating_sub(per));
    }
    *full_at = taken;
    Ok(())
}

/// One of the windows of a shard, as it is looked at when one has to go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) last_at: i64,
    /// When the last of its calls is out of time.
    pub(super) expires: i64,
    /// Whether a call in it came back.
    pub(super) repeats: bool,
}

/// Which window gives way to a new one, and whether it was one in which a call had come back.
///
/// One whose calls are out of time, used longest ago, is lost without a loss. If there is none, a
/// window in which nothing came back goes, drawn by lot: were it always the oldest, sessions that take
/// turns would push each other out for ever, each before its second call, and no loop would be seen.
pub(super) fn victim(places: &[Place], now: i64, lot: usize) -> Option<(usize, bool)> {
    let oldest = |keep: &dyn Fn(&Place) -> bool| {
        let all = places.iter().enumerate().filter(|(_, place)| keep(place));
        all.min_by_key(|(_, place)| place.last_at).map(|(at, _)| at)
    };
    if let Some(expired) = oldest(&|place| place.expires <= now) {
        return Some((expired, false));
    }
    let unrepeated = places.iter().filter(|place| !place.repeats).count();
    if unrepeated > 0 {
        let mut at = places.iter().enumerate().filter(|(_, p)| !p.repeats);
        return at.nth(lot % unrepeated).map(|(at, _)| (at, false));
    }
    oldest(&|_| true).map(|at| (at, true))
}
