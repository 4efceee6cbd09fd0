//! Verifying the trail against its checkpoints: every entry under them is read again.
//!
//! Two trees are grown side by side, one of the leaves that the entries have now, one of the leaves
//! that are stored in the tiles. Where they differ, the root that was signed says which is right:
//! an entry that was changed is named by its place, and is not confused with a tile that was.

use std::collections::BTreeMap;

use sqlx::postgres::PgConnection;

use super::links::{self, Link, Links};
use super::sql::{self, CheckpointRow, RangeRow};
use crate::audit::keys::Tag;
use crate::audit::row::GENESIS;
use crate::audit::store::verify;
use crate::audit::verify::{Findings, Keyring};
use crate::audit::{Audit, AuditError, ChainReport, Finding, FindingClass, Verification};
use crate::store::StoreError;
use crate::tlog::{
    Checkpoint, Frontier, Growth, LogError, LogVerifier, TILE_WIDTH, Tile, TreeHash,
};

/// How many entries are held in memory at once; a multiple of a tile's width.
const CHUNK: u64 = 16_384;
/// The most suspicions that are kept until a signed root decides them.
const MAX_SUSPECTS: usize = 1_000;

const NEWER: &str = "anything about entries after the last checkpoint; verify everything";
const KEPT: &str =
    "that nothing was removed together with its checkpoints; give one that was kept elsewhere";

impl Audit {
    /// Verifies every entry under a checkpoint, as a link of its chain and as a leaf of the signed
    /// tree, and every checkpoint that is stored. `kept` is the note of a checkpoint that was kept
    /// outside of the database: only it shows that entries are gone together with their
    /// checkpoints, or that an old backup was restored.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Log`] if `kept` is not a checkpoint of `log`, or of an empty tree.
    /// * [`AuditError::Store`] if the trail could not be read to its end. Findings are no error.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify_checkpoints(
        &self,
        log: &LogVerifier,
        kept: Option<&str>,
    ) -> Result<Verification, AuditError> {
        let kept = kept.map(|note| Checkpoint::open(note, log)).transpose()?;
        if kept.as_ref().is_some_and(|kept| kept.size() == 0) {
            return Err(LogError::EmptyAnchor.into());
        }
        let keys = Keyring::new(self.keys(), self.store().tenant());
        let mut replay = Replay {
            audit: self,
            keys: &keys,
            log,
            kept: kept.as_ref(),
            connection: verify::open(self.store()).await?,
            ends: BTreeMap::new(),
            entries: Frontier::new(),
            tree: Growth::new(),
            finished: Vec::new(),
            suspects: Vec::new(),
            faulty: false,
            reports: BTreeMap::new(),
            findings: Findings::default(),
        };
        replay.run().await?;
        let limits: &[&str] = if kept.is_some() {
            &[NEWER]
        } else {
            &[NEWER, KEPT]
        };
        let chains = replay.reports.into_values().collect();
        let verification = Verification::new(replay.findings, chains, limits);
        if verification.finding_count() > 0 {
            tracing::error!(
                findings = verification.finding_count(),
                "the audit trail is not the one that was signed"
            );
        }
        Ok(verification)
    }
}

/// An entry whose leaf is not the stored one, until a root decides which is right.
struct Suspect {
    chain_no: i32,
    seq: u64,
}

struct Replay<'r> {
    audit: &'r Audit,
    keys: &'r Keyring,
    log: &'r LogVerifier,
    kept: Option<&'r Checkpoint>,
    connection: PgConnection,
    /// Where each chain was read to: the last entry, and its MAC as it was checkpointed.
    ends: BTreeMap<i32, (u64, Tag)>,
    /// The tree of what the entries are now.
    entries: Frontier,
    /// The tree of the stored leaves.
    tree: Growth,
    /// Tiles above the leaves that were finished and not compared yet.
    finished: Vec<(Tile, Vec<TreeHash>)>,
    suspects: Vec<Suspect>,
    /// Whether the last entry that was read is gone or changed, and the next one cannot follow it.
    faulty: bool,
    reports: BTreeMap<i32, ChainReport>,
    findings: Findings,
}

impl Replay<'_> {
    async fn run(&mut self) -> Result<(), AuditError> {
        let tenant = self.audit.store().tenant().clone();
        let (mut checkpoints, mut from, mut more) = (0, 0, true);
        while more {
            let page = sql::list_ranges(&mut self.connection, &tenant, from).await?;
            more = page.len() == sql::PAGE;
            for (range, checkpoint) in page {
                self.range(&range).await?;
                if let Some(checkpoint) = checkpoint {
                    checkpoints += 1;
                    self.checkpoint(&checkpoint);
                }
                from = range.first_leaf.saturating_add(1);
            }
        }
        if !self.suspects.is_empty() {
            self.accuse("the entry is not the one in the tree, and no checkpoint decides");
        }
        let size = self.tree.size();
        let total = sql::count_checkpoints(&mut self.connection, &tenant).await?;
        if total != checkpoints {
            let detail = "a stored checkpoint is of a size that the stored ranges do not come to";
            self.find(FindingClass::Checkpoint, 0, size, detail);
        }
        let edge = self.tree.unfinished();
        let edge = edge.map(|(tile, hashes)| (tile, hashes.to_vec())).collect();
        self.compare(edge).await?;
        self.look_for_what_was_kept(size);
        Ok(())
    }

    /// Whether the tree has come as far as the checkpoint that was kept elsewhere.
    fn look_for_what_was_kept(&mut self, size: u64) {
        let Some(kept) = self.kept.filter(|kept| kept.size() > size) else {
            return;
        };
        let (class, detail) = if size == 0 {
            let detail = "nothing is left of the tree that a checkpoint kept elsewhere signs";
            (FindingClass::Truncated, detail)
        } else {
            let detail = "the tree is smaller than a checkpoint kept elsewhere: entries were removed, or a backup restored";
            (FindingClass::Rollback, detail)
        };
        self.findings.push(Finding {
            class,
            chain_no: 0,
            seq: size + 1,
            through: kept.size(),
            detail,
        });
    }

    /// Replays one range, in chunks.
    async fn range(&mut self, range: &RangeRow) -> Result<(), AuditError> {
        let chain_no = range.chain_no;
        let (last, mac) = *self.ends.entry(chain_no).or_insert((0, GENESIS));
        if range.first_leaf != self.tree.size() || range.from_seq != last + 1 {
            let detail = "a stored range does not go on where the one before it ended";
            self.find(FindingClass::Checkpoint, chain_no, range.from_seq, detail);
        }
        let report = ChainReport::new(chain_no.cast_unsigned(), 1, range.to_seq, None);
        let known = self.reports.entry(chain_no).or_insert(report);
        known.to = known.to.max(range.to_seq);
        let mut links = Links::new(self.keys, range.from_seq.saturating_sub(1), mac);
        let mut from = range.from_seq;
        self.faulty = false;
        while from <= range.to_seq {
            let to = range.to_seq.min(from.saturating_add(CHUNK - 1));
            if !self.chunk(&mut links, chain_no, from, to).await? {
                // Whatever length the stored range claims to have.
                self.findings.push(Finding {
                    class: FindingClass::Checkpoint,
                    chain_no: chain_no.cast_unsigned(),
                    seq: from,
                    through: range.to_seq,
                    detail: "the entries of a stored range are gone, and their hashes too",
                });
                self.faulty = true;
                break;
            }
            from = to + 1;
        }
        self.ends.insert(chain_no, (range.to_seq, range.to_mac));
        if !self.faulty && links.previous() != range.to_mac {
            let detail = "the entry has not the MAC that the stored range ends with";
            self.find(FindingClass::Checkpoint, chain_no, range.to_seq, detail);
        }
        Ok(())
    }

    /// `false` if there is nothing of it at all.
    async fn chunk(
        &mut self,
        links: &mut Links<'_>,
        chain_no: i32,
        from: u64,
        to: u64,
    ) -> Result<bool, AuditError> {
        let store = self.audit.store();
        let mut found: BTreeMap<u64, Link> = BTreeMap::new();
        let mut doubled = Vec::new();
        links::read(
            &mut self.connection,
            store,
            chain_no,
            links,
            (from, to),
            |link| {
                // Two at one place are never right.
                if let Some(link) = link
                    && found.insert(link.seq, link).is_some()
                {
                    doubled.push(link.seq);
                }
            },
        )
        .await?;
        for seq in doubled {
            let detail = "two entries stand at one place";
            self.find(FindingClass::Fork, chain_no, seq, detail);
        }
        let stored = self.leaves(self.tree.size(), to - from + 1).await?;
        if found.is_empty() && stored.iter().all(Option::is_none) {
            return Ok(false);
        }
        for (seq, stored) in (from..=to).zip(stored) {
            self.leaf(chain_no, seq, found.get(&seq), stored);
        }
        if !self.finished.is_empty() {
            let finished = std::mem::take(&mut self.finished);
            self.compare(finished).await?;
        }
        Ok(true)
    }

    /// Takes one place of the tree: what stands there now, and what is stored as its leaf.
    fn leaf(&mut self, chain_no: i32, seq: u64, link: Option<&Link>, stored: Option<TreeHash>) {
        let now = link.map(|link| link.leaf);
        if let Some(link) = link {
            let same = stored == Some(link.leaf);
            if !same && self.suspects.len() < MAX_SUSPECTS {
                self.suspects.push(Suspect { chain_no, seq });
            }
            if same && !link.sound && !self.faulty {
                let detail = "the entry does not follow the one that is stored before it";
                self.find(FindingClass::BadMac, chain_no, seq, detail);
            }
            self.faulty = !same;
            if let Some(report) = self.reports.get_mut(&chain_no) {
                report.entries += 1;
                if same && link.sound {
                    report.prove(link.key_id);
                }
            }
        } else {
            self.faulty = true;
            let detail = "an entry under a checkpoint is gone";
            self.find(FindingClass::Checkpoint, chain_no, seq, detail);
        }
        // Where one of them is missing, the other stands in, so that what follows can be compared.
        let nothing = TreeHash::of_nothing();
        self.entries.push(now.or(stored).unwrap_or(nothing));
        let finished = &mut self.finished;
        let leaf = stored.or(now).unwrap_or(nothing);
        self.tree.push(leaf, |tile, hashes| {
            if tile.level() > 0 {
                finished.push((tile, hashes.to_vec()));
            }
        });
        if let Some(kept) = self.kept.filter(|kept| kept.size() == self.tree.size())
            && kept.root() != self.tree.root()
            && kept.root() != self.entries.root()
        {
            let detail = "the history is another than a checkpoint kept elsewhere signs";
            self.find(FindingClass::Fork, 0, kept.size(), detail);
        }
    }

    /// A checkpoint that is stored: signed, and over this tree?
    fn checkpoint(&mut self, row: &CheckpointRow) {
        let size = self.tree.size();
        let signed = Checkpoint::open(&row.note, self.log).ok();
        let signed = signed.filter(|signed| {
            (signed.size(), signed.root()) == (row.size, row.root) && row.size == size
        });
        let Some(signed) = signed else {
            let detail = "a stored checkpoint is not signed by the log, or not over this tree";
            self.find(FindingClass::Checkpoint, 0, row.size, detail);
            return;
        };
        let (tree, entries) = (self.tree.root(), self.entries.root());
        if signed.root() == tree {
            self.accuse("the entry is not the one that was signed");
        } else if signed.root() == entries {
            self.accuse("the stored hash of the entry is not the one that was signed");
        } else {
            self.accuse("the entry, or its stored hash, or both are not what was signed");
            let detail = "what is stored does not lead to the root that was signed";
            self.find(FindingClass::Checkpoint, 0, size, detail);
        }
        // The signed tree goes on; what was wrong before it has been said.
        if signed.root() == tree && entries != tree {
            self.entries = self.tree.frontier().clone();
        }
    }

    fn accuse(&mut self, detail: &'static str) {
        for suspect in std::mem::take(&mut self.suspects) {
            let (chain_no, seq) = (suspect.chain_no, suspect.seq);
            self.find(FindingClass::Checkpoint, chain_no, seq, detail);
        }
    }

    /// The stored leaves from `first` on, `None` where there is none.
    async fn leaves(
        &mut self,
        first: u64,
        count: u64,
    ) -> Result<Vec<Option<TreeHash>>, AuditError> {
        let wide = u64::from(TILE_WIDTH);
        let numbers = first / wide..(first + count).div_ceil(wide);
        let tiles = numbers
            .map(|number| Tile::new(0, number, TILE_WIDTH))
            .collect::<Result<Vec<_>, _>>()?;
        let stored = self.tiles(&tiles).await?;
        let at = |leaf: u64| {
            let place = usize::try_from(leaf % wide).ok()?;
            stored.get(&(0, leaf / wide))?.get(place).copied()
        };
        Ok((first..first + count).map(at).collect())
    }

    async fn tiles(&mut self, tiles: &[Tile]) -> Result<Tiles, AuditError> {
        let tenant = self.audit.store().tenant();
        let stored = sql::list_tiles(&mut self.connection, tenant, tiles).await;
        let stored = stored.map_err(StoreError::during("read the tree"))?;
        let keyed = |(level, number, hashes)| ((level, number), hashes);
        Ok(stored.into_iter().map(keyed).collect())
    }

    /// Compares tiles as they should be with what is stored.
    async fn compare(&mut self, wanted: Vec<(Tile, Vec<TreeHash>)>) -> Result<(), AuditError> {
        let tiles: Vec<Tile> = wanted.iter().map(|(tile, _)| *tile).collect();
        let stored = self.tiles(&tiles).await?;
        for (tile, hashes) in wanted {
            let there = stored.get(&(tile.level(), tile.number()));
            if !there.is_some_and(|there| there.starts_with(&hashes)) {
                let detail = "a stored tile of the tree is not that of its entries";
                self.find(FindingClass::Checkpoint, 0, tile.number(), detail);
            }
        }
        Ok(())
    }

    fn find(&mut self, class: FindingClass, chain_no: i32, seq: u64, detail: &'static str) {
        self.findings.push(Finding {
            class,
            chain_no: chain_no.cast_unsigned(),
            seq,
            through: seq,
            detail,
        });
    }
}

type Tiles = BTreeMap<(u8, u64), Vec<TreeHash>>;
