//! The connection of one verification.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

use super::copy::Decoder;
use super::finding::Findings;
use super::scope::Scope;
use super::walk::{Head, Part};
use super::{find_missing_chains, seq_of_sql};
use crate::audit::store::checkpoint as checkpoints;
use crate::audit::store::tree::{self, Extent};
use crate::audit::store::verify::{self as sql, ChainRow};
use crate::audit::stored::{Stored, Torn};
use crate::ids::TenantId;
use crate::store::{Store, StoreError};
use crate::time::Timestamp;
use crate::tlog::{Tile, TreeHash};

pub(super) const OPERATION: &str = "read the audit trail to verify it";

pub(super) type Tiles = BTreeMap<(u8, u64), Vec<TreeHash>>;

/// What there was when the verification began.
#[derive(Debug)]
pub(super) struct Survey {
    /// The parts of chains that were asked for, and whether a writer holds the chain.
    pub(super) parts: Vec<(i32, Part, bool)>,
    pub(super) extent: Option<Extent>,
    /// How many entries the heads of all chains come to.
    pub(super) heads: u64,
}

#[derive(Debug)]
pub(super) struct Reader {
    pub(super) connection: PgConnection,
    pub(super) tenant: TenantId,
    patience: Duration,
    /// What to bind where SQL says `coalesce($n, now())`.
    now: Option<Timestamp>,
}

impl Reader {
    pub(super) async fn open(store: &Store) -> Result<Self, StoreError> {
        Ok(Self {
            connection: sql::open(store).await?,
            tenant: store.tenant().clone(),
            patience: store.deadline(),
            now: store.database_now(),
        })
    }

    /// The parts of chains that `scope` asks for, with what the heads say; and how far the tree
    /// goes, if that is asked for.
    //
    // The tree first: what is under it then is in the chains that are read after it.
    pub(super) async fn survey(
        &mut self,
        scope: &Scope,
        with_tree: bool,
        findings: &mut Findings,
    ) -> Result<Survey, StoreError> {
        let during = StoreError::during(OPERATION);
        let mut transaction = self.connection.begin().await.map_err(&during)?;
        sql::unhurry(&mut transaction).await.map_err(&during)?;
        let extent = if with_tree {
            Some(tree::fetch_extent(&mut transaction, &self.tenant).await?)
        } else {
            None
        };
        let chains = sql::list_chains(&mut transaction, &self.tenant, self.now).await?;
        let wanted = match scope {
            Scope::All => {
                find_missing_chains(&chains, findings);
                None
            }
            Scope::Session(session) => {
                Some(sql::list_session_ranges(&mut transaction, &self.tenant, session).await?)
            }
            Scope::Chain { chain_no } => Some(vec![(chain_no.cast_signed(), 1, i64::MAX)]),
            Scope::Range { chain_no, from, to } => Some(vec![(
                chain_no.cast_signed(),
                seq_of_sql((*from).max(1)),
                seq_of_sql(*to),
            )]),
        };
        transaction.commit().await.map_err(during)?;
        let next = |chain: &ChainRow| {
            chain
                .head
                .map_or(0, |head| head.next_seq.max(0).cast_unsigned())
        };
        let heads = chains.iter().map(next).fold(0, u64::saturating_add);
        let of = |wanted: &[(i32, i64, i64)], chain: &ChainRow| {
            let (_, from, to) = wanted.iter().find(|(no, ..)| *no == chain.chain_no)?;
            Some((from.cast_unsigned(), to.cast_unsigned()))
        };
        let parts = chains.iter().filter_map(|chain| {
            let (from, to) = match &wanted {
                Some(wanted) => of(wanted, chain)?,
                None => (1, u64::MAX),
            };
            Some((chain.chain_no, part(chain, from, to), chain.held))
        });
        Ok(Survey {
            parts: parts.collect(),
            extent,
            heads,
        })
    }

    /// Streams the entries of a chain after one place up to another, at most `most` and 250,000, to
    /// `each`; the last place that was read, `None` if there was no more.
    pub(super) async fn read(
        &mut self,
        chain_no: i32,
        (after, to): (i64, u64),
        most: u64,
        mut each: impl FnMut(Result<&Stored<'_>, &Torn<'_>>),
    ) -> Result<Option<i64>, StoreError> {
        let during = StoreError::during(OPERATION);
        let mut transaction = self.connection.begin().await.map_err(&during)?;
        sql::unhurry(&mut transaction).await.map_err(&during)?;
        sql::set_range(
            &mut transaction,
            &self.tenant,
            chain_no,
            (after, seq_of_sql(to)),
            most,
        )
        .await
        .map_err(&during)?;
        let tenant = self.tenant.as_str();
        let (mut decoder, mut count, mut last) = (Decoder::default(), 0_u64, None);
        sql::copy_range(&mut transaction, self.patience, |message| {
            decoder
                .feed(message, |raw| {
                    count += 1;
                    match Stored::decode(tenant, raw) {
                        Ok(stored) => {
                            last = Some(stored.row.seq.cast_signed());
                            each(Ok(&stored));
                        }
                        Err(torn) => {
                            last = torn.seq.or(last);
                            each(Err(&torn));
                        }
                    }
                })
                .map_err(|_| StoreError::malformed(OPERATION))
        })
        .await?;
        if !decoder.is_complete() {
            return Err(StoreError::malformed(OPERATION));
        }
        transaction.commit().await.map_err(during)?;
        Ok(last.filter(|_| count >= most.min(sql::RANGE)))
    }

    /// How many entries the chains say that they have now.
    pub(super) async fn heads(&mut self) -> Result<u64, StoreError> {
        let during = StoreError::during(OPERATION);
        let mut transaction = self.connection.begin().await.map_err(&during)?;
        let heads = sql::count_heads(&mut transaction, &self.tenant).await?;
        transaction.commit().await.map_err(during)?;
        Ok(heads)
    }

    /// What is stored of these tiles.
    pub(super) async fn tiles(&mut self, tiles: &[Tile]) -> Result<Tiles, StoreError> {
        let stored = checkpoints::list_tiles(&mut self.connection, &self.tenant, tiles).await;
        let stored = stored.map_err(StoreError::during("read the tree"))?;
        let keyed = |(level, number, hashes)| ((level, number), hashes);
        Ok(stored.into_iter().map(keyed).collect())
    }
}

fn part(chain: &ChainRow, from: u64, to: u64) -> Part {
    let head = chain.head.map(|head| Head {
        next_seq: head.next_seq.max(1).cast_unsigned(),
        mac: head.mac,
        key_id: head.key_id,
        recorded_us: head.recorded_at.as_micros(),
    });
    let max_seq = chain.max_seq.unwrap_or(0).max(0).cast_unsigned();
    let whole = Part::whole(chain.chain_no.cast_unsigned(), head, max_seq);
    Part {
        from,
        to: to.min(whole.to),
        ..whole
    }
}
