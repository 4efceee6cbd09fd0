//! From drafts to the rows of one append: places, MACs, rows.

use uuid::Uuid;

use super::Keys;
use super::queue::Group;
use crate::audit::keys::Tag;
use crate::audit::model::{Committed, Draft, Ingest, Signed};
use crate::audit::row::{GENESIS, Row, mac};
use crate::audit::store::chain::{Genesis, Head};
use crate::audit::store::rows::Rows;
use crate::canon::Fields;
use crate::ids::TenantId;
use crate::time::Timestamp;

/// What a chain's entries have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'p> {
    pub(super) tenant: &'p TenantId,
    pub(super) keys: &'p Keys,
    pub(super) chain_no: u32,
}

/// The rows of one append. Its memory is kept from batch to batch.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) rows: Rows,
    /// The head that the batch follows.
    pub(super) from: Head,
    /// The head once it is appended.
    pub(super) to: Head,
    /// The process's signature of `to`, if there is one.
    pub(super) signed: Option<Signed>,
    bytes: Fields,
}

impl Default for Batch {
    fn default() -> Self {
        let nowhere = Head {
            next_seq: 1,
            mac: GENESIS,
            recorded: Timestamp::MIN,
        };
        Self {
            rows: Rows::default(),
            from: nowhere,
            to: nowhere,
            signed: None,
            bytes: Fields::default(),
        }
    }
}

impl Batch {
    /// How many entries it has.
    pub(super) const fn len(&self) -> u64 {
        self.to.next_seq.saturating_sub(self.from.next_seq)
    }

    /// Chains the drafts of `groups` that are not on record yet to `head`, and gives them their
    /// places.
    pub(super) fn fill(
        &mut self,
        place: Place<'_>,
        head: &Head,
        now: Timestamp,
        groups: &mut [Group],
    ) {
        self.rows.clear();
        self.from = *head;
        self.to = Head {
            // Time never runs backwards within a chain, whatever the hosts' clocks do.
            recorded: now.max(head.recorded),
            ..*head
        };
        for group in groups {
            for (draft, placed) in group.drafts.iter().zip(group.placed.iter_mut()) {
                if placed.on_record {
                    continue;
                }
                placed.at = Committed {
                    id: draft.id,
                    chain_no: place.chain_no,
                    seq: self.to.next_seq,
                };
                self.push(place, draft);
            }
        }
        if self.len() == 0 {
            // It only asks whether the store takes anything: the head stays that of its last entry.
            self.to = self.from;
        }
    }

    fn push(&mut self, place: Place<'_>, draft: &Draft) {
        let row = row(place, &self.to, draft);
        row.encode(&mut self.bytes);
        self.to.mac = mac(&place.keys.chain, &self.bytes, &self.to.mac);
        self.to.next_seq = self.to.next_seq.saturating_add(1);

        let occurred = draft.occurred.to_postgres().to_be_bytes();
        let signature = draft.signed.as_ref().map(|signed| &signed.signature);
        let origin_seq = row.origin_seq.map(u64::to_be_bytes);
        let rows = &mut self.rows;
        rows.push(&[
            Some(row.kind.as_bytes()),
            Some(&occurred),
            Some(row.event_id),
            row.session.map(str::as_bytes),
            row.agent.map(str::as_bytes),
            row.user.map(str::as_bytes),
            row.parent,
            row.model.map(str::as_bytes),
            row.input_hash,
            row.output_hash,
            row.decision.map(str::as_bytes),
            Some(row.metadata.as_bytes()),
            Some(&self.to.mac),
            Some(row.ingest.as_bytes()),
            row.agent_key,
            signature.map(<[u8; 64]>::as_slice),
            row.origin_journal,
            origin_seq.as_ref().map(<[u8; 8]>::as_slice),
            row.origin_mac,
        ]);
        rows.outbox.extend(draft.ingest.place());
        rows.rich |= draft.signed.is_some() || draft.ingest != Ingest::Live;
    }

    /// The first entry of a chain, and the chain's head after it.
    pub(super) fn genesis<'d>(
        &mut self,
        place: Place<'_>,
        now: Timestamp,
        draft: &'d Draft,
    ) -> (Genesis<'d>, Head) {
        let first = Head {
            next_seq: 1,
            mac: GENESIS,
            recorded: now,
        };
        let draft_at = Draft {
            occurred: now,
            ..draft.clone()
        };
        row(place, &first, &draft_at).encode(&mut self.bytes);
        let mac = mac(&place.keys.chain, &self.bytes, &GENESIS);
        let genesis = Genesis {
            recorded: now,
            event_id: draft.id.as_uuid(),
            kind: draft.kind.as_str(),
            metadata: draft.metadata.as_str(),
            mac,
        };
        let head = Head {
            next_seq: 2,
            mac,
            recorded: now,
        };
        (genesis, head)
    }
}

/// The row of `draft` at the end of the chain, where `head` is.
fn row<'r>(place: Place<'r>, head: &Head, draft: &'r Draft) -> Row<'r> {
    let origin = draft.ingest.origin();
    Row {
        tenant: place.tenant.as_str(),
        chain_no: place.chain_no,
        seq: head.next_seq,
        key_id: place.keys.key_id,
        kind: draft.kind.as_str(),
        occurred_us: draft.occurred.as_micros(),
        recorded_us: head.recorded.as_micros(),
        event_id: draft.id.as_bytes(),
        session: draft.session.as_ref().map(AsRef::as_ref),
        agent: draft.agent.as_ref().map(AsRef::as_ref),
        user: draft.user.as_ref().map(AsRef::as_ref),
        agent_key: draft.signed.as_ref().map(|signed| signed.key.as_slice()),
        parent: draft.parent.as_ref().map(|id| id.as_bytes().as_slice()),
        model: draft.model.as_ref().map(AsRef::as_ref),
        input_hash: draft.input.as_ref().map(Tag::as_slice),
        output_hash: draft.output.as_ref().map(Tag::as_slice),
        decision: draft.decision.as_deref(),
        metadata: draft.metadata.as_str(),
        sealed: None,
        ingest: draft.ingest.as_str(),
        origin_journal: origin.map(|origin| origin.journal.as_slice()),
        origin_seq: origin.map(|origin| origin.seq),
        origin_mac: origin.map(|origin| origin.mac.as_slice()),
    }
}

/// The ids of all drafts of `groups`.
pub(super) fn ids(groups: &[Group]) -> Vec<Uuid> {
    let drafts = groups.iter().flat_map(|group| group.drafts.iter());
    drafts.map(|draft| draft.id.as_uuid()).collect()
}
