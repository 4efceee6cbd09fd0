//! The windows of all sessions of this process: sharded, bounded, and none lost while it matters.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;

use super::engine::{Found, Pattern, Place, judge, poll, victim};
use super::fingerprint::Fingerprint;
use super::model::{LoopAction, Poller, Rule};
use super::ring::{Ring, Seen};
use crate::call::Principal;
use crate::ids::{AgentId, SessionId};

/// How many sessions are remembered at the most, about 5 KiB each; the windows of one that has not
/// called for long make room for another.
pub(super) const CAPACITY: usize = 8_192;
const SHARDS: usize = 64;
/// How many loops of one session are told apart, so that each is on record once.
const EPISODES: usize = 8;

/// The rules of one agent: those pinned in code, and those stored.
pub(super) type Both<'r> = [Option<&'r Rule>; 2];

/// What `record` found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verdict {
    pub(super) found: Option<(LoopAction, Found)>,
    /// Whether this loop was not known a moment ago.
    pub(super) is_new: bool,
    pub(super) mark: Mark,
}

/// Where a call was recorded, so that its result can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    key: u64,
    call: u64,
}

#[derive(Debug)]
pub(super) struct Windows {
    first: Mutex<Shard>,
    others: Box<[Mutex<Shard>]>,
    place: RandomState,
    per_shard: usize,
    lots: AtomicU64,
    crowded: AtomicU64,
}

type Shard = HashMap<u64, Window, RandomState>;

#[derive(Debug)]
struct Window {
    agent: AgentId,
    session: SessionId,
    ring: Ring,
    place: Place,
    allowances: Vec<Allowance>,
    episodes: [Episode; EPISODES],
    /// Whether what other processes saw of the session is in it.
    loaded: bool,
}

/// What is left to a poller.
#[derive(Debug)]
struct Allowance {
    of: (usize, usize),
    full_at: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Episode {
    of: u64,
    until: i64,
}

impl Windows {
    pub(super) fn new(capacity: usize) -> Self {
        let shards = SHARDS.min(capacity.max(1));
        Self {
            first: Mutex::default(),
            others: (1..shards).map(|_| Mutex::default()).collect(),
            place: RandomState::default(),
            per_shard: capacity.div_ceil(shards).max(1),
            lots: AtomicU64::new(0),
            crowded: AtomicU64::new(0),
        }
    }

    /// Records a call and judges it. Once the session is known, nothing is allocated.
    pub(super) fn record(
        &self,
        who: &Principal,
        call: Fingerprint<'_>,
        result: u64,
        rules: Both<'_>,
        now: i64,
    ) -> Verdict {
        let key = self.key(who.agent_id(), who.session_id());
        let pollers = rules.map(|rule| rule.and_then(|rule| rule.poller(call.tool)));
        let [pinned, stored] = pollers.map(|poller| poller.is_some());
        let polls = layer(0, pinned) | layer(1, stored);
        let mut shard = self.shard(key);
        let window = self.window(&mut shard, key, who.agent_id(), who.session_id(), now);
        let longest = rules.iter().flatten().map(|rule| rule.window).max();
        window.begin(now, longest.unwrap_or(0));
        window.ring.push(Seen {
            call: call.call,
            result,
            at: now,
            polls,
            foreign: false,
        });
        window.place.repeats |= window.ring.count(call.call) > 1;
        let mut worst: Option<(LoopAction, Found, i64)> = None;
        for (at, (rule, poller)) in rules.into_iter().zip(pollers).enumerate() {
            let Some(rule) = rule else { continue };
            let found = window.judge(rule, at, poller, now);
            if let Some(found) = found
                && worst.is_none_or(|(action, ..)| rule.action > action)
            {
                worst = Some((rule.action, found, rule.window));
            }
        }
        let is_new = worst.is_some_and(|(_, found, time)| window.is_new(found, now, time));
        Verdict {
            found: worst.map(|(action, found, _)| (action, found)),
            is_new,
            mark: Mark {
                key,
                call: call.call,
            },
        }
    }

    /// Says what came of a call that was recorded.
    pub(super) fn resolve(&self, mark: Mark, result: u64) -> bool {
        let mut shard = self.shard(mark.key);
        shard
            .get_mut(&mark.key)
            .is_some_and(|window| window.ring.resolve(mark.call, result))
    }

    /// Where a call of `who` is recorded, if it is.
    pub(super) fn mark(&self, who: &Principal, call: u64) -> Mark {
        Mark {
            key: self.key(who.agent_id(), who.session_id()),
            call,
        }
    }

    /// Whether what other processes saw of the session is known.
    pub(super) fn is_loaded(&self, agent: &AgentId, session: &SessionId) -> bool {
        let key = self.key(agent, session);
        let shard = self.shard(key);
        let window = shard.get(&key);
        window.is_some_and(|window| window.is_of(agent, session) && window.loaded)
    }

    /// Takes what other processes saw of the session.
    pub(super) fn merge(
        &self,
        agent: &AgentId,
        session: &SessionId,
        foreign: Vec<Seen>,
        now: i64,
        time: i64,
    ) {
        let key = self.key(agent, session);
        let mut shard = self.shard(key);
        let window = self.window(&mut shard, key, agent, session, now);
        window.ring.merge(foreign);
        window.loaded = true;
        window.place.expires = window.place.expires.max(now.saturating_add(time));
    }

    /// What this process saw of the session.
    pub(super) fn own(&self, agent: &AgentId, session: &SessionId) -> Option<Vec<Seen>> {
        let key = self.key(agent, session);
        let shard = self.shard(key);
        let window = shard.get(&key).filter(|w| w.is_of(agent, session))?;
        let own = window.ring.newest_first().filter(|seen| !seen.foreign);
        Some(own.copied().collect())
    }

    /// How many sessions are remembered now.
    pub(super) fn len(&self) -> usize {
        self.shards().map(|shard| lock(shard).len()).sum()
    }

    /// How many sessions there can be at once.
    pub(super) fn capacity(&self) -> usize {
        self.per_shard * self.shards().count()
    }

    /// How often a window had to give way in which a call had come back in time.
    pub(super) fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }

    fn key(&self, agent: &AgentId, session: &SessionId) -> u64 {
        self.place.hash_one((agent.as_str(), session.as_str()))
    }

    fn shards(&self) -> impl Iterator<Item = &Mutex<Shard>> {
        std::iter::once(&self.first).chain(&self.others)
    }

    fn shard(&self, key: u64) -> MutexGuard<'_, Shard> {
        // The middle bits: the tables within use the low and the high ones.
        let at = usize::try_from((key >> 32) & 0xffff).unwrap_or(0) % (self.others.len() + 1);
        lock(self.others.get(at).unwrap_or(&self.first))
    }

    /// The window of the session; a new one takes the place of another if all are taken.
    fn window<'s>(
        &self,
        shard: &'s mut Shard,
        key: u64,
        agent: &AgentId,
        session: &SessionId,
        now: i64,
    ) -> &'s mut Window {
        if shard.len() >= self.per_shard && !shard.contains_key(&key) {
            self.make_room(shard, now);
        }
        let new = || Window::new(agent.clone(), session.clone());
        let window = shard.entry(key).or_insert_with(new);
        // Two sessions with one hash: the one that calls now counts.
        if !window.is_of(agent, session) {
            *window = new();
        }
        window
    }

    fn make_room(&self, shard: &mut Shard, now: i64) {
        let (keys, places): (Vec<u64>, Vec<Place>) = shard
            .iter()
            .map(|(key, window)| (*key, window.place))
            .unzip();
        // Weyl's sequence: no two lots in a row have anything to do with each other.
        let lot = self
            .lots
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
            >> 33;
        let lot = usize::try_from(lot).unwrap_or(0);
        let Some((at, had_repeats)) = victim(&places, now, lot) else {
            return;
        };
        if let Some(key) = keys.get(at) {
            shard.remove(key);
        }
        if had_repeats && self.crowded.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(
                capacity = self.capacity(),
                "more sessions repeat calls at once than are remembered: loops may go unseen"
            );
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Nothing under the lock can panic half-way through a change.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bit of a layer of rules, if `set`.
const fn layer(at: usize, set: bool) -> u8 {
    if set { 1 << at } else { 0 }
}

impl Window {
    fn new(agent: AgentId, session: SessionId) -> Self {
        Self {
            agent,
            session,
            ring: Ring::new(),
            place: Place {
                last_at: i64::MIN,
                expires: i64::MIN,
                repeats: false,
            },
            allowances: Vec::new(),
            episodes: [Episode::default(); EPISODES],
            loaded: false,
        }
    }

    fn is_of(&self, agent: &AgentId, session: &SessionId) -> bool {
        self.agent == *agent && self.session == *session
    }

    /// Makes the window one of `now`, wherever the clock went.
    fn begin(&mut self, now: i64, longest: i64) {
        if self
            .ring
            .newest_first()
            .next()
            .is_some_and(|seen| seen.at > now)
        {
            self.ring.hold_back(now);
            for episode in &mut self.episodes {
                episode.until = episode.until.min(now.saturating_add(longest));
            }
        }
        if self.place.expires <= now {
            self.place.repeats = false;
        }
        self.place.last_at = now;
        self.place.expires = now.saturating_add(longest);
    }

    fn judge(
        &mut self,
        rule: &Rule,
        at: usize,
        poller: Option<(usize, Poller)>,
        now: i64,
    ) -> Option<Found> {
        let Some((of, Poller::AtMost { most, per_seconds })) = poller else {
            let poller = poller.map(|(_, poller)| poller);
            return judge(rule, layer(at, true), poller, &self.ring, now);
        };
        let per = i64::try_from(per_seconds)
            .unwrap_or(i64::MAX)
            .saturating_mul(1_000_000);
        let of = (at, of);
        let place = self
            .allowances
            .iter()
            .position(|allowance| allowance.of == of);
        let mut fresh = Allowance { of, full_at: now };
        let known = place.and_then(|place| self.allowances.get_mut(place));
        let full_at = known.map_or(&mut fresh.full_at, |known| &mut known.full_at);
        let clears_at = poll(full_at, most, per, now).err();
        if place.is_none() {
            self.allowances.push(fresh);
        }
        clears_at.map(|clears_at| Found {
            pattern: Pattern::Polling,
            clears_at,
            episode: u64::try_from(of.0 * 64 + of.1 + 1).unwrap_or(1),
        })
    }

    /// Whether this loop is another one than those of late, which it then joins.
    fn is_new(&mut self, found: Found, now: i64, time: i64) -> bool {
        let until = now.saturating_add(time);
        let known = |episode: &&mut Episode| episode.of == found.episode;
        if let Some(episode) = self.episodes.iter_mut().find(known) {
            let goes_on = episode.until > now;
            episode.until = until;
            return !goes_on;
        }
        let oldest = self.episodes.iter_mut().min_by_key(|episode| episode.until);
        if let Some(oldest) = oldest {
            *oldest = Episode {
                of: found.episode,
                until,
            };
        }
        true
    }
}
