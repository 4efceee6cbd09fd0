//! One pass over the entries: each is read once, and checked as a link of its chain and, where it is
//! under a checkpoint, as a leaf of the tree.
//!
//! What is under checkpoints is read in the order of the leaves, range by range; then the rest, chain
//! by chain. A chain's entries come in their order either way, so that one walk for each chain sees
//! all of them.

use std::collections::BTreeMap;

use sqlx::Connection as _;

use super::finding::{Finding, FindingClass, Findings};
use super::heads;
use super::journals::Journals;
use super::keyring::Keyring;
use super::pace::Breath;
use super::reader::{OPERATION, Reader, Tiles};
use super::scope::Progress;
use super::tree::{Leaves, Now, Trees, find};
use super::walk::{Part, Walk};
use super::{assurance::ChainReport, seq_of_sql};
use crate::audit::AuditError;
use crate::audit::checkpoint::leaf;
use crate::audit::identity::Registry;
use crate::audit::retention::Purged;
use crate::audit::row::Row;
use crate::audit::store::checkpoint::RangeRow;
use crate::audit::store::tree::{self as sql, Extent};
use crate::audit::store::verify::{RANGE, unhurry};
use crate::canon::Fields;
use crate::store::StoreError;
use crate::tlog::{TILE_WIDTH, Tile, TreeHash};

/// How many leaves are held in memory at once (2 MiB); a multiple of a tile's width.
const CHUNK: u64 = if cfg!(test) { 512 } else { 65_536 };

/// A chain, and how far it was read.
#[derive(Debug)]
struct Chain<'k> {
    walk: Walk<'k>,
    part: Part,
    /// The last place that was read, whatever stands there.
    after: i64,
}

/// Where a chain was read to before.
#[derive(Debug)]
pub(super) struct End<'k> {
    pub(super) walk: Walk<'k>,
    pub(super) leaf: TreeHash,
    pub(super) recorded_us: i64,
}

#[derive(Debug)]
pub(super) struct Pass<'k> {
    pub(super) reader: Reader,
    keys: &'k Keyring,
    registry: &'k Registry,
    purged: &'k Purged,
    chains: BTreeMap<i32, Chain<'k>>,
    pub(super) journals: Journals,
    pub(super) findings: Findings,
    entries: u64,
    breath: Breath,
}

impl<'k> Pass<'k> {
    pub(super) fn new(
        reader: Reader,
        keys: &'k Keyring,
        (registry, purged): (&'k Registry, &'k Purged),
        parts: impl IntoIterator<Item = (i32, Part)>,
        findings: Findings,
        breath: Breath,
    ) -> Self {
        let chain = |part: Part| Chain {
            walk: Walk::new(keys, part).signed(registry).past(purged),
            part,
            after: if part.from == 1 {
                // From the very first, so that what stands before it shows.
                i64::MIN
            } else {
                seq_of_sql(part.lead_in()) - 1
            },
        };
        let parts = parts.into_iter();
        Self {
            reader,
            keys,
            registry,
            purged,
            chains: parts.map(|(no, part)| (no, chain(part))).collect(),
            journals: Journals::default(),
            findings,
            entries: 0,
            breath,
        }
    }

    /// The entry at one place, where a walk goes on; `None` if it is not there, or not alone.
    pub(super) async fn end(
        &mut self,
        chain_no: i32,
        seq: u64,
    ) -> Result<Option<End<'k>>, StoreError> {
        let Some(part) = self.chains.get(&chain_no).map(|chain| chain.part) else {
            return Ok(None);
        };
        let (mut ends, mut encoded) = (Vec::new(), Fields::default());
        let (keys, registry, purged) = (self.keys, self.registry, self.purged);
        let place = (seq_of_sql(seq).saturating_sub(1), seq);
        let reading = self.reader.read(chain_no, place, RANGE, |entry| {
            let entry = entry.ok().and_then(|stored| Some((stored, stored.mac?)));
            ends.push(entry.map(|(stored, mac)| {
                stored.row.encode(&mut encoded);
                End {
                    walk: Walk::resume(keys, part, stored)
                        .signed(registry)
                        .past(purged),
                    leaf: leaf(&encoded, mac),
                    recorded_us: stored.row.recorded_us,
                }
            }));
        });
        reading.await?;
        let only = if ends.len() == 1 { ends.pop() } else { None };
        Ok(only.flatten())
    }

    /// Goes on with a chain after an entry of it that is known to be right.
    pub(super) fn go_on(&mut self, chain_no: i32, seq: u64, walk: Walk<'k>) {
        if let Some(chain) = self.chains.get_mut(&chain_no) {
            (chain.walk, chain.after) = (walk, seq_of_sql(seq));
            chain.part.from = seq.saturating_add(1);
        }
    }

    /// Reads what is under checkpoints, from where `trees` is on.
    pub(super) async fn under_checkpoints(
        &mut self,
        trees: &mut Trees<'_>,
        extent: &Extent,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), AuditError> {
        let resumed = trees.size();
        let (mut checkpoints, mut from, mut more) = (0, resumed, true);
        while more {
            let tenant = self.reader.tenant.clone();
            let page = sql::list_ranges(&mut self.reader.connection, &tenant, from).await?;
            more = page.len() == sql::PAGE;
            for (range, checkpoint) in page {
                // What was added since is of a later verification.
                if range.first_leaf >= extent.size {
                    more = false;
                    break;
                }
                self.range(trees, &range, progress).await?;
                if let Some(checkpoint) = checkpoint {
                    checkpoints += 1;
                    trees.checkpoint(checkpoint, &mut self.findings);
                }
                from = range.first_leaf.saturating_add(1);
            }
        }
        trees.finish(&mut self.findings);
        let tenant = self.reader.tenant.clone();
        let sizes = (resumed, extent.size);
        let total = sql::count_checkpoints(&mut self.reader.connection, &tenant, sizes).await?;
        if total != checkpoints {
            let detail = "a stored checkpoint is of a size that the stored ranges do not come to";
            self.find(0, trees.size(), detail);
        }
        let now = sql::fetch_extent(&mut self.reader.connection, &tenant).await?;
        let settled = now == *extent;
        self.compare(trees.edge(), settled).await?;
        if settled && extent.tiles != tiles_of(trees.size()) {
            let detail = "there are more tiles, or fewer, than a tree of this size has";
            self.find(0, trees.size(), detail);
        }
        self.tree_row(trees, extent);
        Ok(())
    }

    /// Reads the rest, chain by chain.
    pub(super) async fn rest(
        &mut self,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), AuditError> {
        let numbers: Vec<i32> = self.chains.keys().copied().collect();
        for chain_no in numbers {
            while let Some(to) = self.left_of(chain_no) {
                if !self.links(chain_no, to, progress).await? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Where to read a chain to, if there is more of it.
    fn left_of(&self, chain_no: i32) -> Option<u64> {
        let chain = self.chains.get(&chain_no)?;
        let to = chain.part.to.min(chain.part.max_seq);
        (chain.part.from <= to && chain.after < seq_of_sql(to)).then_some(to)
    }

    /// Checks the signed heads of a chain that was read.
    pub(super) async fn signed_heads(
        &mut self,
        report: &mut ChainReport,
    ) -> Result<(), StoreError> {
        let during = StoreError::during(OPERATION);
        let Reader {
            connection, tenant, ..
        } = &mut self.reader;
        let mut transaction = connection.begin().await.map_err(&during)?;
        unhurry(&mut transaction).await.map_err(&during)?;
        heads::check(
            &mut transaction,
            tenant,
            (self.registry, self.purged),
            report,
            &mut self.findings,
        )
        .await?;
        transaction.commit().await.map_err(during)
    }

    /// What was verified of each chain, by their numbers.
    pub(super) fn finish(&mut self) -> Vec<(i32, ChainReport)> {
        let findings = &mut self.findings;
        std::mem::take(&mut self.chains)
            .into_iter()
            .map(|(no, chain)| (no, chain.walk.finish(findings)))
            .collect()
    }

    /// Reads on in one chain, past all checkpoints; `false` if there is no more.
    async fn links(
        &mut self,
        chain_no: i32,
        to: u64,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<bool, AuditError> {
        let Some(chain) = self.chains.get_mut(&chain_no) else {
            return Ok(false);
        };
        let (findings, journals, count) =
            (&mut self.findings, &mut self.journals, &mut self.entries);
        let (place, before) = ((chain.after, to), *count);
        let most = self.breath.stretch();
        let last = self.reader.read(chain_no, place, most, |entry| {
            *count += 1;
            match entry {
                Ok(stored) => {
                    if chain.walk.entry(stored, findings) {
                        journals.take(&stored.row, findings);
                    }
                }
                Err(torn) => chain.walk.torn(torn, findings),
            }
        });
        let last = last.await?;
        chain.after = last.unwrap_or(seq_of_sql(to));
        let seq = u64::try_from(chain.after).unwrap_or(0);
        let read = *count - before;
        self.report(chain_no, seq, progress);
        self.breath.after(read, &mut self.reader).await?;
        Ok(last.is_some())
    }

    fn report(&self, chain_no: i32, seq: u64, progress: &mut (impl FnMut(Progress) + Send)) {
        progress(Progress {
            chain_no: chain_no.cast_unsigned(),
            seq,
            entries: self.entries,
            findings: self.findings.total(),
            rests: self.breath.rests(),
        });
    }

    /// Reads one range as leaves, in chunks.
    async fn range(
        &mut self,
        trees: &mut Trees<'_>,
        range: &RangeRow,
        progress: &mut (impl FnMut(Progress) + Send),
    ) -> Result<(), AuditError> {
        let chain_no = range.chain_no;
        trees.range(range, &mut self.findings);
        let read = self.chains.get(&chain_no).map_or(0, |chain| chain.after);
        if seq_of_sql(range.from_seq) - 1 > read.max(0) {
            // Left out by the ranges, and not by us.
            while let Some(to) = self.left_of(chain_no).map(|to| to.min(range.from_seq - 1)) {
                if !self.links(chain_no, to, progress).await? {
                    break;
                }
            }
        }
        let (mut from, mut last_mac) = (range.from_seq.max(1), None);
        while from <= range.to_seq {
            let most = CHUNK.min(self.breath.stretch());
            let to = range.to_seq.min(from.saturating_add(most - 1));
            let stored = self.stored_leaves(trees.size(), to - from + 1).await?;
            let mut leaves = Leaves::new(chain_no, (from, to), stored);
            self.chunk(trees, &mut leaves, (from, to)).await?;
            if !trees.close(&mut leaves, &mut self.findings) {
                // Whatever length the stored range claims to have.
                self.findings.push(Finding::new(
                    FindingClass::Checkpoint,
                    chain_no.cast_unsigned(),
                    (from, range.to_seq),
                    "the entries of a stored range are gone, and their hashes too",
                ));
                return Ok(());
            }
            last_mac = leaves.last_mac();
            self.compare(trees.finished(), true).await?;
            self.report(chain_no, to, progress);
            let read = to - from + 1;
            self.breath.after(read, &mut self.reader).await?;
            from = to + 1;
        }
        if last_mac.is_some_and(|mac| mac != range.to_mac) {
            let detail = "the entry has not the MAC that the stored range ends with";
            self.find(chain_no, range.to_seq, detail);
        }
        Ok(())
    }

    /// Reads entries, each as a leaf; as links those that were not read before, which are all if the
    /// ranges are as they were written.
    async fn chunk(
        &mut self,
        trees: &mut Trees<'_>,
        leaves: &mut Leaves,
        (from, to): (u64, u64),
    ) -> Result<(), AuditError> {
        let mut chain = self.chains.get_mut(&leaves.chain());
        let after = match &chain {
            Some(chain) if chain.after == i64::MIN && from == 1 => i64::MIN,
            _ => seq_of_sql(from) - 1,
        };
        let (findings, journals, count) =
            (&mut self.findings, &mut self.journals, &mut self.entries);
        // The first time, and not past the head that was read.
        let (read, end) = chain.as_ref().map_or((0, 0), |c| (c.after, c.part.to));
        let is_new = |seq: i64| seq > read && seq <= seq_of_sql(end);
        let mut again = Fields::default();
        let reading = self
            .reader
            .read(leaves.chain(), (after, to), RANGE, |entry| match entry {
                Ok(stored) => {
                    let seq = stored.row.seq;
                    let chain = chain.as_mut().filter(|_| is_new(seq.cast_signed()));
                    let encoded = if let Some(chain) = chain {
                        *count += 1;
                        if chain.walk.entry(stored, findings) {
                            journals.take(&stored.row, findings);
                            if let Some(told) = told(&stored.row) {
                                trees.told(told, findings);
                            }
                        }
                        chain.walk.encoded()
                    } else {
                        stored.row.encode(&mut again);
                        &again
                    };
                    let now = stored.mac.map(|mac| Now {
                        leaf: leaf(encoded, mac),
                        mac: *mac,
                        recorded_us: stored.row.recorded_us,
                    });
                    trees.entry(leaves, seq, now, findings);
                }
                Err(torn) => {
                    let seq = torn.seq.unwrap_or(i64::MAX);
                    if let Some(chain) = chain.as_mut().filter(|_| is_new(seq)) {
                        *count += 1;
                        chain.walk.torn(torn, findings);
                    }
                    if let Some(seq) = torn.seq.and_then(|seq| u64::try_from(seq).ok()) {
                        trees.entry(leaves, seq, None, findings);
                    }
                }
            });
        reading.await?;
        if let Some(chain) = &mut chain {
            chain.after = chain.after.max(seq_of_sql(to.min(chain.part.to)));
        }
        Ok(())
    }

    /// The stored leaves from `first` on, `None` where there is none.
    async fn stored_leaves(
        &mut self,
        first: u64,
        count: u64,
    ) -> Result<Vec<Option<TreeHash>>, AuditError> {
        let wide = u64::from(TILE_WIDTH);
        let tiles = (first / wide..(first + count).div_ceil(wide))
            .map(|number| Tile::new(0, number, TILE_WIDTH))
            .collect::<Result<Vec<_>, _>>()?;
        let stored: Tiles = self.reader.tiles(&tiles).await?;
        for ((_, number), hashes) in &stored {
            if hashes.len() > usize::from(TILE_WIDTH) {
                self.find(0, *number, NO_TILE);
            }
        }
        let at = |leaf: u64| {
            let place = usize::try_from(leaf % wide).ok()?;
            stored.get(&(0, leaf / wide))?.get(place).copied()
        };
        Ok((first..first + count).map(at).collect())
    }

    /// Compares tiles as they should be with what is stored; what is not `settled` may have grown.
    async fn compare(
        &mut self,
        wanted: Vec<(Tile, Vec<TreeHash>)>,
        settled: bool,
    ) -> Result<(), AuditError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let tiles: Vec<Tile> = wanted.iter().map(|(tile, _)| *tile).collect();
        let stored = self.reader.tiles(&tiles).await?;
        for (tile, hashes) in wanted {
            let there = stored.get(&(tile.level(), tile.number()));
            let same = there.is_some_and(|there| {
                there.starts_with(&hashes) && (!settled || there.len() == hashes.len())
            });
            if !same {
                self.find(0, tile.number(), NO_TILE);
            }
        }
        Ok(())
    }

    /// The tree's own row, against what was signed last.
    fn tree_row(&mut self, trees: &Trees<'_>, extent: &Extent) {
        let origin = trees.origin();
        let sound = match (&extent.tree, &extent.last) {
            (None, last) => last.is_none() && extent.size == 0,
            (Some((_, size, _)), None) => *size == 0,
            (Some(tree), Some((size, root))) => {
                tree.0 == origin && tree.1 == *size && tree.2 == *root
            }
        };
        if !sound {
            let detail =
                "the tree's own row does not say what was signed last, or under which name";
            self.find(0, extent.size, detail);
        }
    }

    fn find(&mut self, chain_no: i32, seq: u64, detail: &'static str) {
        let class = FindingClass::Checkpoint;
        find(&mut self.findings, class, chain_no, seq, detail);
    }

    /// Has a connection for what is left to be asked.
    pub(super) async fn journal_findings(
        &mut self,
        held: &[i32],
    ) -> Result<Vec<String>, StoreError> {
        let journals = std::mem::take(&mut self.journals);
        journals
            .finish(&mut self.reader, held, self.purged, &mut self.findings)
            .await
    }
}

const NO_TILE: &str = "a stored tile of the tree is not that of its entries";

/// What the entry of a checkpoint says of the one before it.
fn told(row: &Row<'_>) -> Option<(u64, TreeHash)> {
    if row.kind != "chain.checkpoint" {
        return None;
    }
    let said: serde_json::Value = serde_json::from_str(row.metadata).ok()?;
    let text = |name| said.get(name).and_then(serde_json::Value::as_str);
    let size = text("previous_size")?.parse().ok()?;
    (size > 0).then_some((size, TreeHash::parse(text("previous_root")?)?))
}

/// How many tiles a tree of `size` leaves has, those that are not full included.
fn tiles_of(mut size: u64) -> u64 {
    let mut tiles = 0;
    while size > 0 {
        tiles += size.div_ceil(u64::from(TILE_WIDTH));
        size /= u64::from(TILE_WIDTH);
    }
    tiles
}
