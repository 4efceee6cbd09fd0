//! Making a checkpoint: lock, read, check, sign, store, commit; only then is it given out.

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::links::{self, Links};
use super::maker::CheckpointEvery;
use super::{SignedCheckpoint, sql};
use crate::audit::anchor::Signed;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::row::GENESIS;
use crate::audit::store::verify::{self, ChainRow};
use crate::audit::verify::Keyring;
use crate::audit::{Audit, AuditError};
use crate::store::StoreError;
use crate::tlog::{Checkpoint, Growth, LogError, LogKey, Tile, TreeHash};

/// The most entries under one checkpoint that were not under the one before: what one transaction
/// reads, and what is kept in memory of its tiles (8 MiB).
const MOST_NEW: u64 = if cfg!(test) { 100 } else { 250_000 };
const OPERATION: &str = "make a checkpoint";

/// Makes the next checkpoint, or as many as it takes to come to what there is now. With `due`, only
/// if it is, once the lock is had: another process may have just made it.
pub(super) async fn next(
    audit: &Audit,
    key: &LogKey,
    due: Option<&CheckpointEvery>,
) -> Result<Option<SignedCheckpoint>, AuditError> {
    // A connection of its own: the entry is appended over the pool while the lock is held.
    let mut connection = verify::open(audit.store()).await?;
    let mut maker = Making {
        audit,
        key,
        due,
        recorded: false,
    };
    loop {
        let Some((made, more)) = maker.step(&mut connection).await? else {
            let _ = connection.close().await;
            return Ok(None);
        };
        if !more {
            let _ = connection.close().await;
            let newest = (&made.checkpoint, made.note.as_str());
            audit.publish_new(key.verifier(), newest).await;
            return Ok(Some(made));
        }
    }
}

struct Making<'m> {
    audit: &'m Audit,
    key: &'m LogKey,
    due: Option<&'m CheckpointEvery>,
    /// Whether the entry that says so is on record.
    recorded: bool,
}

impl Making<'_> {
    /// One checkpoint, and whether there is more to come; `None` if it is not due.
    async fn step(
        &mut self,
        connection: &mut PgConnection,
    ) -> Result<Option<(SignedCheckpoint, bool)>, AuditError> {
        let during = StoreError::during(OPERATION);
        let store = self.audit.store();
        let tenant = store.tenant();
        let mut transaction = connection.begin().await.map_err(&during)?;
        let empty = TreeHash::of_nothing();
        let before = sql::lock_tree(&mut transaction, tenant, self.key.origin(), &empty)
            .await
            .map_err(&during)?
            .filter(|tree| tree.origin == self.key.origin())
            .ok_or(LogError::Origin)?;
        if let Some(due) = self.due.filter(|_| !self.recorded) {
            let now = store.database_now();
            let backlog = sql::fetch_backlog(&mut *transaction, tenant, now).await;
            let (entries, age) = backlog.map_err(&during)?;
            if !due.is_due(entries, age) {
                return Ok(None);
            }
        }
        let (mut tree, note) = self.resume(&mut transaction, &before).await?;
        // Under the lock, so that nobody signs between what they say and what is signed.
        let (size, root) = (before.size, before.root);
        let looked = self
            .audit
            .look_at_anchors(self.key, Signed { size, root }, note.as_deref());
        looked.await?;
        if !self.recorded {
            let event = AuditEvent::system(None, Kind::ChainCheckpoint)
                .with("origin", self.key.origin())
                .with("previous_size", before.size.to_string())
                .with("previous_root", before.root.to_string());
            let mut events = self.audit.untold_publications();
            events.push(event);
            self.audit.append_all(events).await?;
            self.recorded = true;
        }
        let (ranges, tiles, more) = self.grow(&mut transaction, &mut tree).await?;
        let checkpoint = Checkpoint::new(self.key.origin(), tree.size(), tree.root())?;
        let made = sql::CheckpointRow {
            size: tree.size(),
            root: tree.root(),
            note: self.key.sign(&checkpoint)?.to_string(),
        };
        let growth = sql::Growth {
            tenant,
            before: &before,
            ranges: &ranges,
            tiles: &tiles,
            checkpoint: &made,
            made_at: store.database_now(),
        };
        let stored = sql::insert_checkpoint(&mut transaction, &growth).await;
        if !stored.map_err(&during)? {
            return Err(AuditError::Tree);
        }
        // If it is lost here, the note was signed and nobody has it, or it is stored: either way
        // no second note of this size is ever given out.
        transaction.commit().await.map_err(during)?;
        let note = made.note;
        Ok(Some((SignedCheckpoint { checkpoint, note }, more)))
    }

    /// The tree that was signed last, from its tiles, and its note. Refuses if they are not those of the root that
    /// was signed, by this key.
    async fn resume(
        &self,
        transaction: &mut PgConnection,
        before: &sql::TreeRow,
    ) -> Result<(Growth, Option<String>), AuditError> {
        let during = StoreError::during(OPERATION);
        let tenant = self.audit.store().tenant();
        let last = sql::fetch_last(&mut *transaction, tenant).await;
        let last = last.map_err(&during)?;
        let signed = match &last {
            None => before.size == 0,
            Some(last) => Checkpoint::open(&last.note, self.key.verifier()).is_ok_and(|signed| {
                (signed.size(), signed.root()) == (before.size, before.root)
                    && (last.size, last.root) == (before.size, before.root)
            }),
        };
        if !signed {
            return Err(AuditError::Tree);
        }
        let edge: Vec<_> = Growth::edge_of(before.size).collect();
        let stored = sql::list_tiles(&mut *transaction, tenant, &edge).await;
        let mut tiles = Vec::with_capacity(edge.len());
        for (level, number, hashes) in stored.map_err(during)? {
            let same = |tile: &&Tile| (tile.level(), tile.number()) == (level, number);
            if let Some(tile) = edge.iter().find(same) {
                tiles.push((*tile, hashes));
            }
        }
        let tree = Growth::resume(before.size, tiles).ok();
        let tree = tree.filter(|tree| tree.root() == before.root);
        Ok((tree.ok_or(AuditError::Tree)?, last.map(|last| last.note)))
    }

    /// Appends what is new to `tree`: the ranges, the tiles that changed, and whether there is more.
    async fn grow(
        &self,
        transaction: &mut PgConnection,
        tree: &mut Growth,
    ) -> Result<(Vec<sql::RangeRow>, Vec<Tiled>, bool), AuditError> {
        let during = StoreError::during(OPERATION);
        let store = self.audit.store();
        let keys = Keyring::new(self.audit.keys(), store.tenant());
        let covered = sql::list_last_ranges(transaction, store.tenant(), u64::MAX).await;
        let covered = covered.map_err(during)?;
        // Chains begin at 1 and ranges leave nothing out: together they are the tree.
        if covered.iter().map(|range| range.to_seq).sum::<u64>() != tree.size() {
            return Err(AuditError::Tree);
        }
        let chains = verify::list_chains(transaction, store.tenant(), store.database_now()).await?;
        for range in &covered {
            check_end(range, &chains)?;
        }
        let (mut ranges, mut tiles, mut more) = (Vec::new(), Vec::new(), false);
        let old_size = tree.size();
        for chain in &chains {
            let covered = covered
                .iter()
                .find(|range| range.chain_no == chain.chain_no);
            let (after, mac) = covered.map_or((0, GENESIS), |range| (range.to_seq, range.to_mac));
            let head = head_seq(chain).ok_or_else(|| tampered(chain.chain_no, after + 1))?;
            let room = MOST_NEW - (tree.size() - old_size);
            let to = head.min(after.saturating_add(room));
            more |= to < head;
            if to <= after {
                continue;
            }
            let first_leaf = tree.size();
            let mut links = Links::new(&keys, after, mac);
            let mut broken = None;
            links::read(
                transaction,
                store,
                chain.chain_no,
                &mut links,
                (after + 1, to),
                |link| {
                    let place = after + 1 + (tree.size() - first_leaf);
                    match link.filter(|link| link.sound && broken.is_none()) {
                        Some(link) => {
                            tree.push(link.leaf, |tile, hashes| {
                                tiles.push((tile, hashes.to_vec()));
                            });
                        }
                        None => {
                            broken.get_or_insert(place);
                        }
                    }
                },
            )
            .await?;
            let missing = (links.next() != to + 1).then(|| links.next());
            if let Some(seq) = broken.or(missing) {
                return Err(tampered(chain.chain_no, seq));
            }
            ranges.push(sql::RangeRow {
                first_leaf,
                chain_no: chain.chain_no,
                from_seq: after + 1,
                to_seq: to,
                to_mac: links.previous(),
            });
        }
        tiles.extend(
            tree.unfinished()
                .map(|(tile, hashes)| (tile, hashes.to_vec())),
        );
        Ok((ranges, tiles, more))
    }
}

type Tiled = (Tile, Vec<TreeHash>);

/// A chain that is under a checkpoint still ends where it did, or later.
fn check_end(range: &sql::RangeRow, chains: &[ChainRow]) -> Result<(), AuditError> {
    let chain = chains.iter().find(|chain| chain.chain_no == range.chain_no);
    let sound = chain.is_some_and(|chain| {
        let at_end = head_seq(chain) == Some(range.to_seq);
        let same = chain
            .head
            .is_some_and(|head| head.mac == Some(range.to_mac));
        head_seq(chain) > Some(range.to_seq) || (at_end && same)
    });
    if sound {
        Ok(())
    } else {
        Err(tampered(range.chain_no, range.to_seq))
    }
}

/// The last entry, as the head says and not past what is stored.
fn head_seq(chain: &ChainRow) -> Option<u64> {
    u64::try_from(chain.head?.next_seq.checked_sub(1)?).ok()
}

fn tampered(chain_no: i32, seq: u64) -> AuditError {
    tracing::error!(chain_no, seq, "no checkpoint is made over a broken chain");
    AuditError::Tampered {
        chain_no: chain_no.cast_unsigned(),
        seq,
    }
}
