//! Which key each entry of a chain should be under.
//!
//! A right MAC is not enough: whoever has an old key can make one. A key holds from where the chain
//! begins, or was handed to it, to where it was handed to the next. The two entries of a rotation
//! say where that is; the second is under the new key, so the old one cannot move it.

use super::finding::FindingClass::{self, KeyWindow, Rotation};
use super::keyring::Keyring;
use crate::audit::rotate::{KIND, Marker, Side};
use crate::audit::row::Row;

/// What is wrong, from which entry to which.
pub(super) type Fault = (FindingClass, u64, u64, &'static str);

/// The windows of one chain, as far as it was walked.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The key that holds now; `None` before the first entry.
    key: Option<u32>,
    /// The first entry of a rotation, when it was the last one.
    half: Option<(u64, Box<Marker>)>,
    /// Entries under a newer key to which nothing has handed the chain yet.
    early: Option<(u32, u64, u64)>,
    /// The rotations that both keys attest.
    rotations: Vec<Marker>,
}

impl Window {
    /// The key that holds now.
    pub(super) const fn key(&self) -> Option<u32> {
        self.key
    }

    /// The key at the end, and the rotations on the way.
    pub(super) fn into_parts(self) -> (Option<u32>, Vec<Marker>) {
        (self.key, self.rotations)
    }

    /// Takes an entry whose MAC is right.
    pub(super) fn proved(&mut self, row: &Row<'_>, keys: &Keyring, mut fault: impl FnMut(Fault)) {
        // What is known of the time before the first proved entry is that it is not proved.
        let first = self.key.is_none();
        let key = *self.key.get_or_insert(row.key_id);
        let rotation = row.kind == KIND;
        if key == row.key_id && !rotation && self.half.is_none() && self.early.is_none() {
            return;
        }
        let marker = if rotation {
            Marker::parse(row.metadata)
        } else {
            None
        };
        if rotation && marker.as_ref().is_none_or(|(_, marker)| !keys.fits(marker)) {
            let detail =
                "the entry of a rotation is malformed, or its fingerprint is of another key";
            fault((Rotation, row.seq, row.seq, detail));
        }
        match (self.half.take(), marker) {
            (Some((at, old)), Some((Side::New, new)))
                if at + 1 == row.seq && *old == new && row.key_id == new.to =>
            {
                self.rotations.push(new);
            }
            (Some((at, _)), marker) => {
                let detail =
                    "the key changes here, and the first entry under the new one does not say so";
                fault((Rotation, at, at, detail));
                self.alone(row, marker, &mut fault);
            }
            (None, Some((Side::New, marker))) if first && marker.to == key => {
                self.rotations.push(marker);
            }
            (None, marker) => self.alone(row, marker, &mut fault),
        }
    }

    /// An entry that does not complete a rotation.
    fn alone(
        &mut self,
        row: &Row<'_>,
        marker: Option<(Side, Marker)>,
        fault: &mut impl FnMut(Fault),
    ) {
        let key = self.key.unwrap_or(row.key_id);
        if row.key_id > key {
            self.newer(row, marker);
            return;
        }
        if let Some((_, from, through)) = self.early.take() {
            let detail = "an entry under a key that the chain was not handed to yet";
            fault((KeyWindow, from, through, detail));
        }
        if row.key_id < key {
            let detail = "an entry under a key that the chain was handed on from before";
            fault((KeyWindow, row.seq, row.seq, detail));
            return;
        }
        match marker {
            Some((Side::Old, marker)) if marker.from == key => {
                self.key = Some(marker.to);
                self.half = Some((row.seq, Box::new(marker)));
            }
            Some(_) => {
                let detail = "an entry of a rotation that is none of this chain at this place";
                fault((Rotation, row.seq, row.seq, detail));
            }
            None => {}
        }
    }

    /// An entry under a newer key than holds: either it came too early, or the entries of the
    /// rotation are gone. What follows tells.
    fn newer(&mut self, row: &Row<'_>, marker: Option<(Side, Marker)>) {
        self.early = match self.early {
            Some((key, from, _)) if key == row.key_id => Some((key, from, row.seq)),
            Some((_, from, _)) => Some((row.key_id, from, row.seq)),
            None => Some((row.key_id, row.seq, row.seq)),
        };
        // The second entry is under the new key: what it says can be believed.
        if let Some((Side::New, marker)) = marker
            && marker.to == row.key_id
        {
            self.rotations.push(marker);
        }
    }

    /// At the end of what was walked; `whole` if the chain ends there.
    pub(super) fn finish(&mut self, whole: bool, mut fault: impl FnMut(Fault)) {
        if let Some((key, from, _)) = self.early.take() {
            let detail = "the key changes here, and the entries that should say so are missing";
            fault((Rotation, from, from, detail));
            self.key = Some(key);
        }
        if let (Some((at, _)), true) = (self.half.take(), whole) {
            let detail = "the chain ends between the two entries of a rotation";
            fault((Rotation, at, at, detail));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::keys::{AuditKeys, KeySource};
    use crate::audit::rotate;
    use crate::canon::Metadata;
    use crate::ids::TenantId;
    use crate::secret::Secret;

    fn ring() -> AuditKeys {
        let secret = || KeySource::memory(Secret::generate().unwrap());
        let ring = AuditKeys::builder().key(1, secret()).key(2, secret());
        ring.key(3, secret()).build().unwrap()
    }

    fn marker(ring: &AuditKeys, from: u32, to: u32) -> Marker {
        let print = |id| ring.fingerprint(id, &TenantId::single(), [7; 16]).unwrap();
        Marker {
            from,
            to,
            from_print: print(from),
            to_print: print(to),
            reason: rotate::Rotation::Planned,
            stopped: Vec::new(),
        }
    }

    /// An entry: its key, and what it says of a rotation.
    type Line = (u32, Option<(Side, Marker)>);

    fn row(seq: u64, key_id: u32, metadata: Option<&str>) -> Row<'_> {
        Row {
            tenant: "default",
            chain_no: 1,
            seq,
            key_id,
            kind: metadata.map_or("app.x", |_| KIND),
            occurred_us: 0,
            recorded_us: 0,
            event_id: &[0; 16],
            session: None,
            agent: None,
            user: None,
            agent_key: None,
            parent: None,
            model: None,
            input_hash: None,
            output_hash: None,
            decision: None,
            metadata: metadata.unwrap_or("{}"),
            sealed: None,
            ingest: "live",
            origin_journal: None,
            origin_seq: None,
            origin_mac: None,
        }
    }

    /// What is found in lines of which each has a right MAC, in their order from 1.
    fn found(ring: &AuditKeys, lines: &[Line]) -> Vec<(FindingClass, u64, u64)> {
        let keys = Keyring::new(ring, &TenantId::single());
        let (mut window, mut found) = (Window::default(), Vec::new());
        for (seq, (key_id, marker)) in (1..).zip(lines) {
            let text = marker.as_ref().map(|(side, marker)| marker.metadata(*side));
            let text = text.map(Result::unwrap);
            let row = row(seq, *key_id, text.as_ref().map(Metadata::as_str));
            window.proved(&row, &keys, |(class, a, b, _)| found.push((class, a, b)));
        }
        window.finish(true, |(class, a, b, _)| found.push((class, a, b)));
        found
    }

    #[test]
    fn each_entry_is_under_the_key_of_its_window() {
        let ring = ring();
        let old = |from, to| (from, Some((Side::Old, marker(&ring, from, to))));
        let new = |from, to| (to, Some((Side::New, marker(&ring, from, to))));
        let x = |key| (key, None);
        let found = |lines: &[Line]| found(&ring, lines);

        assert_eq!(found(&[x(1), x(1)]), []);
        assert_eq!(found(&[x(1), old(1, 2), new(1, 2), x(2)]), []);
        let twice = [x(1), old(1, 2), new(1, 2), old(2, 3), new(2, 3), x(3)];
        assert_eq!(found(&twice), []);
        // A number may be left out.
        assert_eq!(found(&[x(1), old(1, 3), new(1, 3), x(3)]), []);

        // Under the old key after it, under the new one before it.
        let late = [x(1), old(1, 2), new(1, 2), x(1), x(2), x(1)];
        assert_eq!(found(&late), [(KeyWindow, 4, 4), (KeyWindow, 6, 6)]);
        let early = [x(1), x(2), x(2), x(1), old(1, 2), new(1, 2), x(2)];
        assert_eq!(found(&early), [(KeyWindow, 2, 3)]);
        // Who has the old key only hands the chain to a key of nobody's.
        let stray = [x(1), old(1, 2), new(1, 2), old(1, 3)];
        assert_eq!(found(&stray), [(KeyWindow, 4, 4)]);

        // One of the two is not there, or both are not.
        assert_eq!(found(&[x(1), new(1, 2), x(2)]), [(Rotation, 2, 2)]);
        assert_eq!(found(&[x(1), x(2), x(2)]), [(Rotation, 2, 2)]);
        assert_eq!(found(&[x(1), old(1, 2), x(2)]), [(Rotation, 2, 2)]);
        assert_eq!(found(&[x(1), old(1, 2)]), [(Rotation, 2, 2)]);
        // Something between them.
        let apart = [x(1), old(1, 2), x(1), new(1, 2)];
        assert_eq!(
            found(&apart),
            [(Rotation, 2, 2), (KeyWindow, 3, 3), (Rotation, 4, 4)]
        );
        // They name another key than follows.
        let other = [x(1), old(1, 2), new(1, 3), x(3)];
        assert_eq!(found(&other), [(Rotation, 2, 2), (Rotation, 3, 3)]);
    }

    #[test]
    fn a_fingerprint_of_another_key_is_found() {
        let (ring, other) = (ring(), ring());
        let forged = marker(&other, 1, 2);
        let lines = [
            (1, None),
            (1, Some((Side::Old, forged.clone()))),
            (2, Some((Side::New, forged))),
        ];
        assert_eq!(found(&ring, &lines), [(Rotation, 2, 2), (Rotation, 3, 3)]);
    }
}
