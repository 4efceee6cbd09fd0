//! What entries say of journals: is every line on record once, or accounted for?
//!
//! An entry that came from a journal names the line. Once a journal is drained, `chain.degraded_end`
//! says up to which line, and how many lines are no entries of their own: events that were on
//! record already, notes of other modules, lines that were set aside or were in no file. A line below
//! that is neither on record nor counted is a hole. Lines after it are being drained, and not judged.
//!
//! Lines that were set aside or missing are in the report for ever; they are no findings, since the
//! trail is what it was. An outage whose end is not on record is a finding, unless its chain is held
//! by a writer at this moment, who is draining it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use uuid::Uuid;

use super::finding::{Finding, FindingClass, Findings};
use super::lines::Lines;
use super::reader::Reader;
use crate::audit::retention::Purged;
use crate::audit::row::Row;
use crate::audit::store::verify as sql;
use crate::store::StoreError;

const START: &str = "chain.degraded_start";
const END: &str = "chain.degraded_end";
/// The most journals that are looked into for the place of a hole.
const MOST_ASKED: usize = 100;

type Place = (u32, u64);

/// An outage, as it began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) id: String,
    pub(super) journal: Option<Uuid>,
    pub(super) line: u64,
    pub(super) place: Place,
}

/// What is on record of one journal.
#[derive(Debug, Default)]
struct Journal {
    lines: Lines,
    /// Lines whose events were on record already.
    present: Vec<(u64, u64)>,
    /// Lines that are accounted for without their numbers.
    counted: u64,
    /// Up to which line it was drained, and where that is said.
    drained: Option<(u64, Place)>,
}

#[derive(Debug, Default)]
pub(super) struct Journals {
    all: BTreeMap<Uuid, Journal>,
    starts: Vec<Outage>,
    ended: BTreeSet<String>,
    lost: u64,
    /// Whether entries before the first that was read are known by somebody else's word only.
    resumed: bool,
}

impl Journals {
    /// Goes on with the outages that were open.
    pub(super) fn resume(&mut self, open: Vec<Outage>) {
        (self.starts, self.resumed) = (open, true);
    }

    /// The outages whose end was not read yet.
    pub(super) fn open(&self) -> Vec<Outage> {
        let open = self.starts.iter().filter(|start| !self.is_over(start));
        open.cloned().collect()
    }

    /// Takes an entry whose MAC is right.
    pub(super) fn take(&mut self, row: &Row<'_>, findings: &mut Findings) {
        let place = (row.chain_no, row.seq);
        let origin = origin(row);
        if let Some((journal, line)) = origin {
            let known = self.all.entry(journal).or_default();
            if !known.lines.insert(line) {
                let detail = "the entry came from a line of a journal that another one came from";
                push(findings, place, detail);
            }
        }
        if row.kind == START
            && let Some(map) = object(row.metadata)
            && let Some(id) = text(&map, "outage_id")
        {
            self.starts.push(Outage {
                id: id.to_owned(),
                journal: origin.map(|(journal, _)| journal),
                line: origin.map_or(0, |(_, line)| line),
                place,
            });
        } else if row.kind == END
            && let Some(map) = object(row.metadata)
        {
            self.end(&map, place);
        }
    }

    fn end(&mut self, map: &Map<String, Value>, place: Place) {
        let count = |name| map.get(name).and_then(Value::as_u64).unwrap_or(0);
        if let Some(id) = text(map, "outage_id") {
            self.ended.insert(id.to_owned());
        }
        self.lost += count("quarantined") + count("missing");
        let Some(journal) = text(map, "journal").and_then(|id| Uuid::parse_str(id).ok()) else {
            return;
        };
        let journal = self.all.entry(journal).or_default();
        let present = ranges(text(map, "present").unwrap_or_default());
        let listed: u64 = present.iter().map(|(from, to)| to - from + 1).sum();
        journal.present.extend(present);
        journal.counted += count("notes") + count("quarantined") + count("missing");
        journal.counted += count("already_present").saturating_sub(listed);
        // What is said before all files are read says nothing of how far they go.
        if map.get("partial").is_none() {
            let last = (count("last_line"), place);
            journal.drained = journal.drained.max(Some(last));
        }
    }

    fn is_over(&self, start: &Outage) -> bool {
        let drained = |journal| self.all.get(&journal).and_then(|j: &Journal| j.drained);
        self.ended.contains(&start.id)
            || start
                .journal
                .and_then(drained)
                .is_some_and(|(line, _)| line >= start.line)
    }

    /// Says what is wrong, and answers with what is not proved. Writers hold the chains `held`.
    pub(super) async fn finish(
        self,
        reader: &mut Reader,
        held: &[i32],
        purged: &Purged,
        findings: &mut Findings,
    ) -> Result<Vec<String>, StoreError> {
        let mut limits = Vec::new();
        for start in self.open() {
            let (chain_no, _) = start.place;
            if held.contains(&chain_no.cast_signed()) {
                limits.push(format!(
                    "what the journal of an outage holds that is not over (chain {chain_no} seq {})",
                    start.place.1
                ));
            } else {
                let detail = "an outage begins here, and its end is not on record: what its journal held may be lost; drain it";
                push(findings, start.place, detail);
            }
        }
        if self.lost > 0 {
            limits.push(format!(
                "what {} lines of journals said that were missing or set aside when they were drained",
                self.lost
            ));
        }
        let mut asked = 0;
        for (id, journal) in &self.all {
            if self.resumed && !journal.lines.contains(1) {
                limits.push(format!(
                    "that journal {id} had no more lines: it was begun before"
                ));
                continue;
            }
            let Some((hole, place)) = journal.hole() else {
                continue;
            };
            if purged.may_have(*id) {
                limits.push(format!(
                    "that journal {id} had no other lines than those on record: entries from it may be archived"
                ));
                continue;
            }
            asked += 1;
            let next = if asked <= MOST_ASKED {
                let tenant = reader.tenant.clone();
                sql::fetch_after_line(&mut reader.connection, &tenant, *id, hole).await?
            } else {
                None
            };
            let place = next.map_or(place, |(chain_no, seq)| {
                (chain_no.cast_unsigned(), seq.cast_unsigned())
            });
            let detail = "lines of the journal before the one that this entry came from are neither on record nor accounted for";
            push(findings, place, detail);
        }
        Ok(limits)
    }
}

impl Journal {
    /// The first line that should be on record and is not, if more are not than are accounted for.
    fn hole(&self) -> Option<(u64, Place)> {
        let (drained, place) = self.drained?;
        let mut present = self.present.clone();
        present.sort_unstable();
        let (mut known, mut next) = (self.lines.count(1, drained), 1);
        for (from, to) in present {
            let (from, to) = (from.max(next), to.min(drained));
            if from <= to {
                known += to - from + 1 - self.lines.count(from, to);
                next = to + 1;
            }
        }
        if known.saturating_add(self.counted) >= drained {
            return None;
        }
        let mut line = self.lines.first_missing(1);
        while let Some((_, to)) = self
            .present
            .iter()
            .find(|(from, to)| (from..=to).contains(&&line))
        {
            line = self.lines.first_missing(to + 1);
        }
        Some((line, place))
    }
}

fn origin(row: &Row<'_>) -> Option<(Uuid, u64)> {
    let journal = Uuid::from_slice(row.origin_journal?).ok()?;
    Some((journal, row.origin_seq?))
}

fn object(metadata: &str) -> Option<Map<String, Value>> {
    serde_json::from_str(metadata).ok()
}

fn text<'m>(map: &'m Map<String, Value>, name: &str) -> Option<&'m str> {
    map.get(name)?.as_str()
}

/// `5-7,9`
fn ranges(list: &str) -> Vec<(u64, u64)> {
    let range = |part: &str| {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (0 < from && from <= to && to < u64::MAX).then_some((from, to))
    };
    list.split(',').filter_map(range).collect()
}

fn push(findings: &mut Findings, (chain_no, seq): Place, detail: &'static str) {
    let class = FindingClass::Journal;
    findings.push(Finding::new(class, chain_no, (seq, seq), detail));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(lines: &[u64], present: &[(u64, u64)], counted: u64, drained: u64) -> Journal {
        let mut journal = Journal {
            present: present.to_vec(),
            counted,
            drained: Some((drained, (7, 9))),
            ..Journal::default()
        };
        for line in lines {
            assert!(journal.lines.insert(*line));
        }
        journal
    }

    #[test]
    fn a_line_is_on_record_listed_or_counted_or_a_hole() {
        let hole = |journal: &Journal| journal.hole().map(|(line, _)| line);
        assert_eq!(hole(&journal(&[1, 2, 3], &[], 0, 3)), None);
        assert_eq!(hole(&journal(&[1, 3], &[], 0, 3)), Some(2));
        assert_eq!(hole(&journal(&[1, 3], &[], 1, 3)), None, "counted");
        assert_eq!(hole(&journal(&[1, 4], &[(2, 3)], 0, 4)), None, "listed");
        assert_eq!(hole(&journal(&[1, 5], &[(2, 3)], 0, 5)), Some(4));
        assert_eq!(hole(&journal(&[1, 2], &[], 0, 3)), Some(3), "at the end");
        // Listed twice, or listed and on record: counted once.
        assert_eq!(
            hole(&journal(&[1, 2, 6], &[(2, 3), (3, 4), (2, 3)], 0, 6)),
            Some(5)
        );
        // What comes after is being drained.
        assert_eq!(hole(&journal(&[1, 2, 9], &[], 0, 2)), None);
        let mut under_way = journal(&[1, 9], &[], 0, 9);
        under_way.drained = None;
        assert_eq!(hole(&under_way), None);
    }

    #[test]
    fn lists_are_read_and_nonsense_is_passed_over() {
        assert_eq!(ranges("5-7,9,.."), [(5, 7), (9, 9)]);
        assert_eq!(ranges(""), []);
        assert_eq!(ranges("7-5,0,x-1,18446744073709551615"), []);
    }
}
