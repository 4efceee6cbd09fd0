//! Exporting: the tree is read from its first leaf to its last, and each entry checked against it.
//!
//! Also those that are not selected: an entry that was changed so that it falls out of the selection
//! would be left out silently otherwise.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use sqlx::postgres::PgConnection;

use super::error::BundleError;
use super::line::{AnchorLine, CheckpointLine, EntryLine, FORMAT, Header, Line, leaf_of};
use super::sink::Sink;
use super::text::{Base64, Moment};
use super::tree::Tree;
use super::{Export, Exported, keys};
use crate::audit::checkpoint::read_stored;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::retention::{Gap, Purged};
use crate::audit::store::bundle::{self as sql, KeptRow};
use crate::audit::store::checkpoint::{self as tree_sql, CheckpointRow, RangeRow};
use crate::audit::store::tree::{PAGE, list_ranges};
use crate::audit::store::verify::open;
use crate::audit::verify::Keyring;
use crate::audit::{Audit, AuditError};
use crate::canon::Fields;
use crate::tlog::{Checkpoint, Growth, Plan, TILE_WIDTH, Tile, TreeHash};

/// How many leaves' tiles are held in memory at once (512 KiB).
const CHUNK: u64 = 16_384;

pub(super) async fn export<W: Write + Send>(
    audit: &Audit,
    what: &Export,
    out: W,
) -> Result<Exported, BundleError> {
    let note = audit.last_checkpoint().await?;
    let note = note.ok_or(AuditError::NoCheckpoint)?;
    let checkpoint = Checkpoint::open(&note, &what.log)?;
    let connection = open(audit.store()).await?;
    let keys = Keyring::new(audit.keys(), audit.store().tenant());
    let (purged, _) = Purged::load(audit, &keys).await?;
    if what.selection.is_all() && !purged.is_empty() {
        return Err(BundleError::Archived);
    }
    let mut exporter = Exporter {
        audit,
        what,
        purged: &purged,
        checkpoint: &checkpoint,
        connection,
        sink: Sink::new(out),
    };
    exporter.claims().await?;
    let always = exporter.keys().await?;
    let edge = exporter.edge().await?;
    let (size, root) = (checkpoint.size(), checkpoint.root());
    let mut body = Body {
        proved: Tree::new(size, &root, edge.clone()).map_err(|_| AuditError::Tree)?,
        shown: Tree::new(size, &root, edge).map_err(|_| AuditError::Tree)?,
        what,
        always,
        encoded: Fields::default(),
        next: 0,
        failed: None,
    };
    exporter.body(&mut body).await?;
    let sealed = exporter.sink.seal(size, root, &what.signer)?;
    let event = AuditEvent::system(None, Kind::ExportGenerated)
        .with("size", size.to_string())
        .with("root", root.to_string())
        .with("sha256", hex::encode(sealed.seal.sha256))
        .with("entries", sealed.seal.entries.to_string())
        .with("withheld", sealed.seal.withheld.to_string())
        .with("signer", what.signer.verifier().to_string())
        .with("selection", &what.selection);
    audit.append(event).await?;
    Ok(Exported::new(&checkpoint, sealed))
}

struct Exporter<'e, W> {
    audit: &'e Audit,
    what: &'e Export,
    checkpoint: &'e Checkpoint,
    purged: &'e Purged,
    connection: PgConnection,
    sink: Sink<W>,
}

impl<W: Write + Send> Exporter<'_, W> {
    /// What comes before the tree: what it is, the checkpoints, what the anchors gave for them.
    async fn claims(&mut self) -> Result<(), BundleError> {
        let tenant = self.audit.store().tenant().clone();
        let size = self.checkpoint.size();
        self.sink.header(Header {
            format: FORMAT.to_owned(),
            log: self.what.log.to_string(),
            root: Base64(self.checkpoint.root().as_bytes().to_vec()),
            selection: self.what.selection.clone(),
            signer: self.what.signer.verifier().to_string(),
            size,
            tenant: tenant.as_str().to_owned(),
        })?;
        if !self.what.selection.is_all() {
            // The last one, and those for which an anchor has its newest receipt.
            let kept = sql::list_last_receipts(&mut self.connection, &tenant, size).await?;
            let sizes = kept.iter().map(|kept| kept.size).chain([size]);
            for wanted in sizes.collect::<BTreeSet<_>>() {
                let page = (wanted.saturating_sub(1), wanted);
                let rows = sql::list_checkpoints(&mut self.connection, &tenant, page.0, page.1);
                let rows = rows.await?;
                self.checkpoints(&rows, &kept).await?;
            }
            return Ok(());
        }
        let mut after = 0;
        while after < size {
            let rows = sql::list_checkpoints(&mut self.connection, &tenant, after, size).await?;
            let last = rows.last().map_or(size, |row| row.size);
            let kept = sql::list_receipts(&mut self.connection, &tenant, after, last).await?;
            self.checkpoints(&rows, &kept).await?;
            after = last;
        }
        Ok(())
    }

    async fn checkpoints(
        &mut self,
        rows: &[CheckpointRow],
        kept: &[KeptRow],
    ) -> Result<(), BundleError> {
        let size = self.checkpoint.size();
        for row in rows {
            let plan = Plan::consistency(row.size, size)?;
            let hashes = self.audit.fold(&plan, size).await?;
            let bytes = |hash: &TreeHash| Base64(hash.as_bytes().to_vec());
            self.sink.put(&Line::Checkpoint(CheckpointLine {
                consistency: hashes.iter().map(bytes).collect(),
                note: row.note.clone(),
            }))?;
            for kept in kept.iter().filter(|kept| kept.size == row.size) {
                self.sink.put(&Line::Anchor(AnchorLine {
                    anchor: kept.anchor.clone(),
                    kept_at: Moment(kept.kept_at),
                    kind: kept.kind.clone(),
                    receipt: Base64(kept.receipt.clone()),
                    root: bytes(&kept.root),
                    size: kept.size,
                }))?;
            }
        }
        Ok(())
    }

    /// The keys, and the leaves that say so: they are shown whatever is selected.
    async fn keys(&mut self) -> Result<BTreeSet<u64>, BundleError> {
        let store = self.audit.store();
        let selection = &self.what.selection;
        let used = if selection.is_all() {
            None
        } else {
            let conditions = selection.conditions();
            let used = sql::list_used_keys(&mut self.connection, store.tenant(), conditions);
            Some(used.await?.into_iter().collect())
        };
        let size = self.checkpoint.size();
        let lines = keys::on_record(store, size, used.as_ref()).await?;
        let mut leaves = BTreeSet::new();
        for line in lines {
            leaves.insert(line.registered);
            leaves.extend(line.revoked);
            self.sink.put(&Line::Key(line))?;
        }
        Ok(leaves)
    }

    /// The tiles that the tree has begun, which make its root.
    async fn edge(&mut self) -> Result<Vec<(Tile, Vec<TreeHash>)>, BundleError> {
        let wanted: Vec<Tile> = Growth::edge_of(self.checkpoint.size()).collect();
        let mut stored = self.tiles(&wanted).await?;
        let mut edge = Vec::with_capacity(wanted.len());
        for tile in wanted {
            let hashes = stored.remove(&(tile.level(), tile.number()));
            let mut hashes = hashes.ok_or(AuditError::Tree)?;
            // The tile may have grown since.
            hashes.truncate(tile.width().into());
            self.sink.tile(tile, &hashes)?;
            edge.push((tile, hashes));
        }
        Ok(edge)
    }

    /// Every leaf, in order.
    async fn body(&mut self, body: &mut Body<'_>) -> Result<(), BundleError> {
        let tenant = self.audit.store().tenant().clone();
        let size = self.checkpoint.size();
        let (mut from, mut more) = (0, true);
        while more {
            let page = list_ranges(&mut self.connection, &tenant, from).await?;
            more = page.len() == PAGE;
            for (range, _) in page {
                if range.first_leaf >= size {
                    more = false;
                    break;
                }
                self.range(&range, body).await?;
                from = range.first_leaf + 1;
            }
        }
        if body.next == size {
            Ok(())
        } else {
            Err(AuditError::Tree.into())
        }
    }

    async fn range(&mut self, range: &RangeRow, body: &mut Body<'_>) -> Result<(), BundleError> {
        let (size, store) = (self.checkpoint.size(), self.audit.store());
        // Of what is stored nothing is believed, its constraints included.
        let count = range.to_seq.checked_sub(range.from_seq);
        let end = count.and_then(|count| range.first_leaf.checked_add(count)?.checked_add(1));
        let end = end.filter(|end| range.first_leaf == body.next && *end <= size);
        let end = end.ok_or(AuditError::Tree)?;
        let seq_of = |leaf: u64| range.from_seq.saturating_add(leaf - range.first_leaf);
        while body.next < end {
            let to = end.min(body.next + CHUNK);
            let seqs = (seq_of(body.next), seq_of(to - 1));
            let tiles = self.tiles(&full_tiles(body.next, to, size)).await?;
            let chain_no = range.chain_no;
            let (sink, purged) = (&mut self.sink, self.purged);
            // What was archived is in the tree by its hash, and withheld here.
            let archived =
                |leaf: u64| purged.gap(chain_no, seq_of(leaf), seq_of(leaf)) == Gap::Archived;
            read_stored(&mut self.connection, store, chain_no, seqs, |entry| {
                if body.failed.is_none() {
                    while entry.is_some_and(|entry| entry.row.seq > seq_of(body.next))
                        && archived(body.next)
                    {
                        body.next += 1;
                    }
                    let place = (chain_no.cast_unsigned(), seq_of(body.next));
                    let taken = match entry {
                        Some(entry) if entry.row.seq == place.1 => body.take(entry, &tiles, sink),
                        _ => Ok(false),
                    };
                    body.failed = match taken {
                        Ok(true) => None,
                        Ok(false) => Some(tampered(place)),
                        Err(error) => Some(error),
                    };
                }
            })
            .await?;
            if let Some(error) = body.failed.take() {
                return Err(error);
            }
            while body.next < to && archived(body.next) {
                body.next += 1;
            }
            if body.next != to {
                return Err(tampered((chain_no.cast_unsigned(), seq_of(body.next))));
            }
        }
        Ok(())
    }

    async fn tiles(&mut self, wanted: &[Tile]) -> Result<Tiles, BundleError> {
        let store = self.audit.store();
        let read = tree_sql::list_tiles(&mut self.connection, store.tenant(), wanted);
        let during = crate::store::StoreError::during("read the tree to export it");
        let stored = read.await.map_err(during)?;
        let keyed = stored
            .into_iter()
            .map(|(level, number, hashes)| ((level, number), hashes));
        Ok(keyed.collect())
    }
}

type Tiles = BTreeMap<(u8, u64), Vec<TreeHash>>;

fn tampered((chain_no, seq): (u32, u64)) -> BundleError {
    AuditError::Tampered { chain_no, seq }.into()
}

/// The full tiles over the leaves from one to before another.
fn full_tiles(from: u64, to: u64, size: u64) -> Vec<Tile> {
    let wide = u64::from(TILE_WIDTH);
    let mut tiles = Vec::new();
    let (mut low, mut high, mut count) = (from / wide, (to - 1) / wide, size);
    for level in 0_u8.. {
        let full = count / wide;
        if full == 0 {
            break;
        }
        let numbers = low..=high.min(full - 1);
        tiles.extend(numbers.filter_map(|number| Tile::new(level, number, TILE_WIDTH).ok()));
        (low, high, count) = (low / wide, high / wide, full);
    }
    tiles
}

/// The leaves as they come by.
struct Body<'b> {
    /// Every tile so far: what the entries are checked against.
    proved: Tree,
    /// The tiles that were written.
    shown: Tree,
    what: &'b Export,
    always: BTreeSet<u64>,
    encoded: Fields,
    next: u64,
    failed: Option<BundleError>,
}

impl Body<'_> {
    /// Takes the next entry, and shows it if it is selected; `false` if it is not the one in the
    /// tree.
    fn take<W: Write>(
        &mut self,
        entry: &crate::audit::stored::Stored<'_>,
        tiles: &Tiles,
        sink: &mut Sink<W>,
    ) -> Result<bool, BundleError> {
        let leaf = self.next;
        let of = |tile: &Tile| tiles.get(&(tile.level(), tile.number()));
        for tile in self.proved.missing(leaf) {
            let hashes = of(&tile).ok_or(AuditError::Tree)?;
            if !self.proved.take(tile, hashes.clone()) {
                return Err(AuditError::Tree.into());
            }
        }
        let hash = leaf_of(entry, &mut self.encoded);
        if hash.is_none() || hash != self.proved.leaf(leaf) {
            return Ok(false);
        }
        self.next += 1;
        if !self.what.selection.covers(&entry.row) && !self.always.contains(&leaf) {
            return Ok(true);
        }
        let Some(line) = EntryLine::of(leaf, entry) else {
            return Ok(false);
        };
        sink.withhold_to(leaf)?;
        for tile in self.shown.missing(leaf) {
            let hashes = of(&tile).ok_or(AuditError::Tree)?;
            sink.tile(tile, hashes)?;
            self.shown.take(tile, hashes.clone());
        }
        sink.entry(line)?;
        Ok(true)
    }
}
