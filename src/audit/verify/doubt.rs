//! What is remembered of entries that could not be proved, to find out which of two lied.
//!
//! Everything here is bounded and empty on a clean chain.

use subtle::{Choice, ConstantTimeEq as _};

use super::keyring::Keyring;
use crate::audit::keys::{MacKey, Tag};
use crate::audit::row;
use crate::canon::Fields;

/// The most MACs that the last entry may have had.
const MAX_CANDIDATES: usize = 8;
/// The most MACs of entries that may have been moved.
const MAX_DISPLACED: usize = 16;
/// The most entries that wait for what they follow to turn up, and their bytes in total.
const MAX_WAITING: usize = 16;
const MAX_WAITING_BYTES: usize = 1 << 20;

#[derive(Debug, Default)]
pub(super) struct Doubt {
    /// What the MAC of the last entry may be: what is stored first, then what it would be after
    /// each of the candidates before it.
    candidates: Vec<Tag>,
    /// Stored MACs of bad entries: if they were moved here, something else follows them.
    displaced: Vec<Tag>,
    waiting: Vec<Waiting>,
    /// Whether the last entry has a finding.
    reported: bool,
}

#[derive(Debug)]
struct Waiting {
    late: Late,
    encoded: Vec<u8>,
    mac: Tag,
}

/// An entry that was proved after it went by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Late {
    pub(super) seq: u64,
    pub(super) key_id: u32,
    /// It was counted as unproved; else it was reported.
    pub(super) lost: bool,
}

impl Doubt {
    /// The last entry is proved.
    pub(super) fn settle(&mut self) {
        self.candidates.clear();
        self.reported = false;
    }

    /// All that is known of the last entry's MAC is what is stored; it has a finding.
    pub(super) fn replace(&mut self, mac: Option<&Tag>) {
        self.candidates.clear();
        self.candidates.extend(mac);
        self.reported = true;
    }

    /// The last entry is not proved: `encoded` after `follows` or else after any candidate.
    pub(super) fn enter(
        &mut self,
        key: &MacKey,
        encoded: &Fields,
        follows: Option<Tag>,
        mac: Option<&Tag>,
        reported: bool,
    ) {
        let mut earlier = std::mem::take(&mut self.candidates);
        earlier.extend(follows);
        self.candidates.extend(mac);
        let computed = earlier
            .iter()
            .map(|previous| row::mac(key, encoded, previous));
        self.candidates.extend(computed);
        if self.candidates.len() > MAX_CANDIDATES {
            // The oldest, which is what it is if all MACs since were changed, stays.
            self.candidates.remove(MAX_CANDIDATES - 1);
        }
        self.reported = reported;
    }

    /// Whether `mac` is that of `encoded` after any MAC that the last entry may have had.
    pub(super) fn explains(&self, key: &MacKey, encoded: &Fields, mac: &Tag) -> bool {
        any(
            key,
            encoded,
            mac,
            self.candidates.iter().chain(&self.displaced),
        )
    }

    /// Whether `mac` is that of `encoded` after an entry that came by out of its place.
    pub(super) fn has_displaced(&self, key: &MacKey, encoded: &Fields, mac: &Tag) -> bool {
        any(key, encoded, mac, self.displaced.iter())
    }

    pub(super) fn macs(&self) -> impl Iterator<Item = &Tag> {
        self.candidates.iter()
    }

    pub(super) const fn is_reported(&self) -> bool {
        self.reported
    }

    /// Keeps an entry for when what it follows turns up.
    pub(super) fn remember(
        &mut self,
        seq: u64,
        key_id: u32,
        encoded: &Fields,
        mac: &Tag,
        lost: bool,
    ) {
        let held: usize = self.waiting.iter().map(|w| w.encoded.len()).sum();
        if self.waiting.len() < MAX_WAITING && held + encoded.as_bytes().len() <= MAX_WAITING_BYTES
        {
            self.waiting.push(Waiting {
                late: Late { seq, key_id, lost },
                encoded: encoded.as_bytes().to_vec(),
                mac: *mac,
            });
        }
    }

    /// An entry with the MAC `mac` stands where it does not belong: whoever waited for it is
    /// proved.
    pub(super) fn displace(&mut self, keys: &Keyring, mac: &Tag) -> Vec<Late> {
        let mut late = Vec::new();
        self.waiting.retain(|waiting| {
            let follows = keys.key(waiting.late.key_id).is_some_and(|key| {
                row::mac_of(key, &waiting.encoded, mac)
                    .ct_eq(&waiting.mac)
                    .into()
            });
            if follows {
                late.push(waiting.late);
            }
            !follows
        });
        if self.displaced.len() == MAX_DISPLACED {
            self.displaced.remove(0);
        }
        self.displaced.push(*mac);
        late
    }
}

fn any<'t>(
    key: &MacKey,
    encoded: &Fields,
    mac: &Tag,
    candidates: impl Iterator<Item = &'t Tag>,
) -> bool {
    candidates
        .map(|previous| row::mac(key, encoded, previous).ct_eq(mac))
        .fold(Choice::from(0), |any, one| any | one)
        .into()
}
