//! Entries as leaves: verifying them with their tree, and proving one of very many.

use portcullis::audit::{Audit, AuditEvent, Verify};
use portcullis::tlog::{Checkpoint, Growth, LogKey, TILE_WIDTH, Tile, TreeHash};
use portcullis::{AgentId, Database, Principal, Secret};
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;
use tokio::time::Instant;

use crate::{CHAINS, Took, drain, measure, median, median_of, open};

/// How many tiles one statement stores.
const TILES: usize = 500;

pub(crate) fn log_key() -> LogKey {
    let seed = "5b1d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a";
    LogKey::new("audit.example/bench", &Secret::parse(seed).unwrap()).unwrap()
}

/// `verify/1M-leaves`
pub(crate) async fn verified(
    audit: &Audit,
    options: &PgConnectOptions,
    rows: u64,
    rounds: u64,
    postmaster: u32,
) {
    let key = log_key();
    let kept = audit.checkpoint(&key).await.unwrap();
    let what = || {
        Verify::everything()
            .log(key.verifier())
            .kept("bench", kept.note())
    };
    let all = async || {
        let report = audit.verify(what()).await.unwrap();
        assert!(report.is_clean(), "{report}");
        assert!(report.proved() >= rows);
    };
    let (mut drained, mut verified) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let bare = measure(postmaster, drain(options, CHAINS, rows)).await;
        let ours = measure(postmaster, all()).await;
        if round > 0 {
            drained.push(bare);
            verified.push(ours);
        }
        println!("round {round}: drain {bare:?} verify with leaves {ours:?}");
    }
    let n = rows as f64;
    let rate = |runs: &[Took]| n / median(runs, |took| took.seconds);
    let pairs = verified.iter().zip(&drained);
    println!(
        "figure verify/1M-leaves {:.0} rows/s ceiling {:.0} rows/s ratio {:.2}",
        rate(&verified),
        rate(&drained),
        median_of(pairs.map(|(v, d)| d.seconds / v.seconds).collect())
    );
    println!(
        "figure verify/1M-leaves/cpu client {:.2} us/row",
        1e6 * median(&verified, |took| took.client) / n
    );
    let peak = verified.iter().map(|took| took.peak_kib).max().unwrap();
    println!(
        "figure verify/1M-leaves/memory peak {:.1} MiB above the baseline",
        peak as f64 / 1024.0
    );
}

/// `proof/10M`
pub(crate) async fn proved(database: &Database, leaves: u64) {
    database.migrate().await.unwrap();
    let pool = database.connect_pool().await.unwrap();
    let audit = open(database).await;
    let me = Principal::agent(AgentId::parse("billing-agent").unwrap());
    let mut events = Vec::new();
    for n in 0..100 {
        let event = AuditEvent::new(&me, "app.invoice.read").with("n", n);
        events.push(event.id());
        audit.append(event).await.unwrap();
    }
    let key = log_key();
    let signed = audit.checkpoint(&key).await.unwrap();
    let small = signed.size();
    let real: Vec<u8> =
        sqlx::query_scalar("SELECT hashes FROM portcullis.tree_tiles WHERE level = 0")
            .fetch_one(&pool)
            .await
            .unwrap();
    grow(&pool, &key, &real, leaves.max(small)).await;
    let mut took = Vec::new();
    for id in events.iter().cycle().take(300) {
        let start = Instant::now();
        let proof = audit.prove(*id).await.unwrap();
        took.push(start.elapsed());
        let checked = proof.proof().verify(&proof.leaf(), key.verifier()).unwrap();
        assert_eq!(checked.size(), leaves.max(small));
    }
    took.sort();
    let at = |percent: usize| took[took.len() * percent / 100].as_secs_f64() * 1e3;
    println!(
        "figure proof/10M p50 {:.2} ms p99 {:.2} ms of {leaves} entries (wanted below 10 ms)",
        at(50),
        at(99)
    );
    audit.shutdown().await;
    pool.close().await;
}

/// Replaces the stored tree by one of `size` leaves that begins with the `real` ones.
async fn grow(pool: &PgPool, key: &LogKey, real: &[u8], size: u64) {
    let (mut tree, mut tiles) = (Growth::new(), Vec::new());
    for table in ["checkpoints", "tree_tiles"] {
        for sql in [
            format!("ALTER TABLE portcullis.{table} DISABLE TRIGGER USER"),
            format!("DELETE FROM portcullis.{table}"),
        ] {
            #[allow(clippy::disallowed_types, reason = "names of our own")]
            let sql = sqlx::AssertSqlSafe(sql);
            sqlx::query(sql).execute(pool).await.unwrap();
        }
    }
    for n in 0..size {
        let place = usize::try_from(n).unwrap() * 32;
        let leaf = match real.get(place..place + 32) {
            Some(leaf) => TreeHash::from_bytes(leaf.try_into().unwrap()),
            None => TreeHash::of_leaf(&n.to_be_bytes()),
        };
        tree.push(leaf, |tile, hashes| tiles.push(stored(tile, hashes)));
        if tiles.len() >= TILES {
            store(pool, &mut tiles).await;
        }
    }
    tiles.extend(tree.unfinished().map(|(tile, hashes)| stored(tile, hashes)));
    store(pool, &mut tiles).await;
    let checkpoint = Checkpoint::new(key.origin(), size, tree.root()).unwrap();
    sqlx::query(
        "INSERT INTO portcullis.checkpoints (tenant_id, size, root, note, made_at)
         VALUES ('default', $1, $2, $3, now())",
    )
    .bind(size.cast_signed())
    .bind(tree.root().as_bytes().as_slice())
    .bind(key.sign(&checkpoint).unwrap().to_string())
    .execute(pool)
    .await
    .unwrap();
    sqlx::query("ANALYZE portcullis.tree_tiles")
        .execute(pool)
        .await
        .unwrap();
    println!("a tree of {size} leaves, tiles of {TILE_WIDTH}");
}

type Stored = (i16, i64, Vec<u8>);

fn stored(tile: Tile, hashes: &[TreeHash]) -> Stored {
    let bytes = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
    (tile.level().into(), tile.number().cast_signed(), bytes)
}

async fn store(pool: &PgPool, tiles: &mut Vec<Stored>) {
    let (mut levels, mut numbers, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    for (level, number, bytes) in tiles.drain(..) {
        levels.push(level);
        numbers.push(number);
        hashes.push(bytes);
    }
    sqlx::query(
        "INSERT INTO portcullis.tree_tiles (tenant_id, level, tile_no, hashes)
         SELECT 'default', t.level, t.tile_no, t.hashes
           FROM unnest($1::smallint[], $2::bigint[], $3::bytea[]) AS t (level, tile_no, hashes)",
    )
    .bind(levels)
    .bind(numbers)
    .bind(hashes)
    .execute(pool)
    .await
    .unwrap();
}
