//! What was drained of one journal, as the trail tells it.

use std::fmt::Write as _;

use super::Shared;
use super::drain::begins_outage;
use crate::audit::error::AuditError;
use crate::audit::keys::Tag;
use crate::audit::kind::Kind;
use crate::audit::model::{AuditEvent, Draft};
use crate::ids::JournalId;

/// The longest list of lines that were present already; the count is of all.
const LONGEST_LIST: usize = 4_000;

/// Counts of one journal.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) drained: u64,
    pub(super) quarantined: u64,
    pub(super) missing: u64,
    /// Notes of other modules that were redeemed.
    pub(super) notes: u64,
    pub(super) outage: Option<String>,
    /// Lines that were present already, as ranges.
    present: Vec<(u64, u64)>,
    last: Option<(u64, Tag)>,
}

impl Tally {
    pub(super) fn count(&mut self, (seq, mac): (u64, Tag), draft: &Draft, on_record: bool) {
        if begins_outage(draft) {
            let said = draft.metadata.to_value();
            let id = said.get("outage_id").and_then(serde_json::Value::as_str);
            self.outage = id.map(str::to_owned);
        }
        if on_record {
            self.add_present(seq, seq);
        } else {
            self.drained += 1;
        }
        self.last = Some((seq, mac));
    }

    pub(super) fn present(&self) -> u64 {
        self.present.iter().map(|(from, to)| to - from + 1).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.drained == 0 && !self.has_others() && self.present.is_empty() && self.outage.is_none()
    }

    /// Whether there is something to be said of the journal, whose files end with the line `end`.
    pub(super) fn reach(&mut self, end: Option<(u64, Tag)>) -> bool {
        self.last = self.last.or(end);
        !self.is_empty() || self.last.is_some()
    }

    /// Whether there are lines that are no entries, of this journal or otherwise.
    pub(super) const fn has_others(&self) -> bool {
        self.quarantined + self.missing + self.notes > 0
    }

    /// What was counted so far is on record; the outage goes on.
    pub(super) fn told(&mut self) {
        let (outage, last) = (self.outage.take(), self.last);
        *self = Self {
            outage,
            last,
            ..Self::default()
        };
    }

    /// Whether it must be on record before a file of the journal goes: in an outage also what was
    /// committed and journalled both.
    pub(super) fn is_owed(&self, in_outage: bool) -> bool {
        self.has_others() || (in_outage && !self.present.is_empty())
    }

    pub(super) fn add(&mut self, other: Self) {
        self.drained += other.drained;
        self.quarantined += other.quarantined;
        self.missing += other.missing;
        self.notes += other.notes;
        self.outage = other.outage.or(self.outage.take());
        self.last = other.last.or(self.last);
        for (from, to) in other.present {
            self.add_present(from, to);
        }
    }

    fn add_present(&mut self, from: u64, to: u64) {
        match self.present.last_mut() {
            Some(last) if last.1.checked_add(1) == Some(from) => last.1 = to,
            _ => self.present.push((from, to)),
        }
    }

    /// The entry that says that the journal is drained.
    pub(super) fn degraded_end(
        &self,
        shared: &Shared,
        journal: JournalId,
    ) -> Result<Draft, AuditError> {
        let mut event = self.event(journal);
        if let Some(outage) = &self.outage {
            event = event.with("outage_id", outage);
        }
        event.seal(shared.store.now(), &shared.keys.load().content)
    }

    /// The same before it is: of the files that go now.
    pub(super) fn account(&self, shared: &Shared, journal: JournalId) -> Result<Draft, AuditError> {
        let event = self.event(journal).with("partial", true);
        event.seal(shared.store.now(), &shared.keys.load().content)
    }

    fn event(&self, journal: JournalId) -> AuditEvent {
        let mut event = AuditEvent::system(None, Kind::ChainDegradedEnd)
            .with("journal", journal.to_string())
            .with("drained", self.drained)
            .with("already_present", self.present())
            .with("quarantined", self.quarantined)
            .with("missing", self.missing)
            .with("notes", self.notes)
            .with("process_id", std::process::id());
        if let Some((line, mac)) = &self.last {
            event = event
                .with("last_line", *line)
                .with("last_mac", hex::encode(mac));
        }
        if !self.present.is_empty() {
            event = event.with("present", self.list());
        }
        event
    }

    /// `5-7,9`: these lines' events are in the trail, but not as lines of the journal.
    fn list(&self) -> String {
        let mut list = String::new();
        for (from, to) in &self.present {
            if list.len() > LONGEST_LIST {
                list.push_str(",..");
                break;
            }
            let comma = if list.is_empty() { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = if from == to {
                write!(list, "{comma}{from}")
            } else {
                write!(list, "{comma}{from}-{to}")
            };
        }
        list
    }
}
