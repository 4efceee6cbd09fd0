//! The list of mutations, run: each is done to one prepared trail, found, in its class and at its
//! place, and undone. The clean trail has no finding, before and after.

mod forge;
mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use portcullis::audit::FindingClass::{Checkpoint, Rollback};
use portcullis::audit::{
    Assurance, Audit, AuditEvent, Rotation, SignPolicy, Signing, Verification, Verify,
};
use portcullis::tlog::LogKey;
use portcullis::{AgentId, EventId, Principal, Secret, TenantId};

use self::table::{Found, How, MUTATIONS, Mutation, OPERATIONAL};
use crate::common::journal::Directory;
use crate::common::trail::Trail;
use crate::journal_files::{events, left_behind, report};
use crate::keys::{SECRETS, ring};
use crate::trail::{found, rich, who};

const SEED: &str = "5b1d0f3a7c9e2846d0b4f8a1c35e7924a9b8c7d6e5f4031221304f5e6d7c8b9a";
/// Everything that a verification or a writer must not believe.
const EVIDENCE: [&str; 8] = [
    "entries",
    "chains",
    "keyring",
    "outbox",
    "checkpoints",
    "checkpoint_ranges",
    "tree_tiles",
    "trees",
];
const PAGE: &str = "src/manual/mutations.md";

fn log_key() -> LogKey {
    LogKey::new("audit.example/mutations", &Secret::parse(SEED).unwrap()).unwrap()
}

/// A trail with everything in it: an outage that was journalled and drained, an agent's key and
/// entries signed with it, a rotation, two checkpoints of which the second is kept elsewhere, and
/// entries after it.
struct Prepared {
    trail: Trail,
    kept: String,
}

impl Prepared {
    async fn new() -> Self {
        let directory = Directory::fresh();
        let mut trail = left_behind(&directory, &events(6)).await;
        let drained = report(&mut trail, &directory).await;
        assert!(drained.is_clean(), "{drained}");
        trail.audit.shutdown().await;
        let database = trail.test.database();
        let open = || async {
            let audit = Audit::open(&database, ring(&[1, 2]), TenantId::single()).await;
            audit.unwrap()
        };
        // Chain 1 goes on: the key of an agent (10) and what it signed (11).
        let signing = Signing::new(SignPolicy::All).key(crate::identity::key());
        let first = open().await.sign_with(&signing);
        let agent = || Principal::agent(AgentId::parse("billing-agent").unwrap());
        let signed = || AuditEvent::new(&agent(), "app.step").with("n", 9_007_199_254_740_991_u64);
        first.append(signed()).await.unwrap();
        // Chains 2 and 3: from 2 to 12.
        let (second, third) = (open().await, open().await);
        for (audit, session) in [(&second, "s-2"), (&third, "s-3")] {
            for n in 2..=12 {
                let parent = EventId::new();
                let event = rich(&who("a-1", session), n, Some(parent));
                audit.append(event).await.unwrap();
            }
        }
        let _ = first.checkpoint(&log_key()).await.unwrap();
        for sql in ["CREATE SCHEMA older", "CREATE SCHEMA backup"] {
            trail.run(sql).await;
        }
        let prepared = Self {
            trail,
            kept: String::new(),
        };
        prepared.copy_to("older").await;
        first.rotate(2, Rotation::Planned).await.unwrap();
        for audit in [&first, &second, &third] {
            audit.shutdown().await;
        }
        // Each takes the first chain that nobody holds.
        let first = open().await.sign_with(&signing);
        first.append(signed()).await.unwrap();
        let (second, third) = (open().await, open().await);
        for (audit, session) in [(&second, "s-2"), (&third, "s-3")] {
            let event = rich(&who("a-1", session), 13, None);
            audit.append(event).await.unwrap();
        }
        let kept = first.checkpoint(&log_key()).await.unwrap();
        first.append(signed()).await.unwrap();
        let event = rich(&who("a-1", "s-2"), 14, None);
        second.append(event).await.unwrap();
        for audit in [&first, &second, &third] {
            audit.shutdown().await;
        }
        let prepared = Self {
            kept: kept.note().to_owned(),
            ..prepared
        };
        prepared.queue().await;
        prepared.copy_to("backup").await;
        prepared.disarm().await;
        prepared
    }

    /// One event that waits in the outbox, and is kept for later.
    async fn queue(&self) {
        let audit = self.audit().await;
        let mut transaction = self.trail.pool.begin().await.unwrap();
        let event = rich(&who("a-1", "s-4"), 1, Some(EventId::new()));
        audit.append_in_tx(&mut transaction, event).await.unwrap();
        for sql in [
            "CREATE TABLE backup.waiting AS SELECT * FROM portcullis.outbox",
            "DELETE FROM portcullis.outbox",
        ] {
            sqlx::query(sql).execute(&mut *transaction).await.unwrap();
        }
        transaction.commit().await.unwrap();
        audit.shutdown().await;
    }

    async fn sql(&self, text: &str) -> u64 {
        let text = sqlx::AssertSqlSafe(text.to_owned());
        let done = sqlx::raw_sql(text).execute(&self.trail.pool).await;
        done.unwrap().rows_affected()
    }

    async fn copy_to(&self, schema: &str) {
        for table in EVIDENCE {
            let from = format!("CREATE TABLE {schema}.{table} AS TABLE portcullis.{table}");
            self.sql(&from).await;
        }
    }

    async fn restore_from(&self, schema: &str) {
        for table in EVIDENCE {
            self.sql(&format!(
                "DELETE FROM portcullis.{table}; INSERT INTO portcullis.{table} TABLE {schema}.{table}"
            ))
            .await;
        }
    }

    /// What a superuser does first.
    async fn disarm(&self) {
        for table in EVIDENCE {
            self.sql(&format!(
                "ALTER TABLE portcullis.{table} DISABLE TRIGGER ALL"
            ))
            .await;
        }
        self.sql(
            "DO $$ DECLARE c record; BEGIN
               FOR c IN SELECT conrelid::regclass AS t, conname FROM pg_constraint
                         WHERE connamespace = 'portcullis'::regnamespace
                           AND (contype = 'c' OR conrelid = 'portcullis.entries'::regclass)
               LOOP EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', c.t, c.conname); END LOOP;
               ALTER TABLE portcullis.entries ALTER COLUMN metadata DROP NOT NULL;
             END $$",
        )
        .await;
    }

    async fn audit(&self) -> Audit {
        let database = self.trail.test.database();
        let audit = Audit::open(&database, ring(&[1, 2]), TenantId::single()).await;
        audit.unwrap()
    }

    async fn verify(&self) -> Verification {
        let what = Verify::everything().log(log_key().verifier());
        let what = what.kept("worm", &self.kept);
        self.audit().await.verify(what).await.unwrap()
    }

    /// Does it, and says what was found; the undoing is the caller's.
    async fn found_after(&self, how: How) -> Vec<Found> {
        match how {
            How::Column(column, value, place) => {
                let (table, name) = column.split_once('.').unwrap();
                let text = format!("UPDATE portcullis.{table} SET {name} = {value} WHERE {place}");
                assert!(self.sql(&text).await > 0, "{text}");
                found(&self.verify().await)
            }
            How::Sql("SELECT 'older'") => {
                self.restore_from("older").await;
                found(&self.verify().await)
            }
            How::Sql(text) => {
                self.sql(text).await;
                found(&self.verify().await)
            }
            How::Thief(text, chain_no, from) => {
                assert!(self.sql(text).await > 0, "{text}");
                forge::rechain(&self.trail.pool, &SECRETS, chain_no, from).await;
                found(&self.verify().await)
            }
            How::Outbox(column, value) => {
                let (_, name) = column.split_once('.').unwrap();
                self.sql("INSERT INTO portcullis.outbox TABLE backup.waiting")
                    .await;
                let text = format!("UPDATE portcullis.outbox SET {name} = {value}");
                assert_eq!(self.sql(&text).await, 1, "{text}");
                let audit = self.audit().await;
                audit.move_outbox().await.unwrap();
                assert_eq!(audit.stats().outbox_refused, 1, "{text}");
                audit.shutdown().await;
                // It is not in the trail, and waits to be looked at.
                let waiting = "SELECT FROM portcullis.outbox";
                let rows = sqlx::query(waiting).fetch_all(&self.trail.pool).await;
                assert_eq!(rows.unwrap().len(), 1, "{text}");
                found(&self.verify().await)
            }
            How::Keyring(_, text) => {
                assert!(self.sql(text).await > 0, "{text}");
                let audit = self.audit().await;
                let refused = audit
                    .append(AuditEvent::new(&who("a-1", "s-5"), "app.x"))
                    .await;
                assert!(refused.is_err(), "{text}: {refused:?}");
                audit.shutdown().await;
                found(&self.verify().await)
            }
            How::Lines(name, change) => lines(name, change).await,
        }
    }
}

/// Drains a journal whose lines were changed.
async fn lines(name: &str, change: fn(&mut Vec<String>)) -> Vec<Found> {
    let directory = Directory::fresh();
    let mut trail = left_behind(&directory, &events(8)).await;
    let mut lines = directory.lines();
    change(&mut lines);
    directory.write_lines(&lines);
    let drained = report(&mut trail, &directory).await;
    assert!(!drained.is_clean() || drained.already_present > 0, "{name}");
    let findings = drained.findings().iter();
    findings.map(|f| (f.class, 0, f.line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mutation_of_the_list_is_found_in_its_class_and_at_its_place() {
    let prepared = Prepared::new().await;
    let clean = prepared.verify().await;
    assert!(clean.is_clean(), "{clean}");
    assert!(clean.count(Assurance::Anchored) > 0, "{clean}");
    let mut wrong = String::new();
    for mutation in MUTATIONS {
        let mut places = prepared.found_after(mutation.how).await;
        places.sort();
        let mut expected = mutation.found.to_vec();
        expected.sort();
        let all = expected.iter().all(|place| places.contains(place));
        // What a torn tree says besides is about the tree, and accuses no entry's MAC.
        let about_the_tree = |place: &&Found| matches!(place.0, Checkpoint | Rollback);
        let besides = mutation.more && places.iter().all(|place| about_the_tree(&place));
        if places != expected && !(all && besides) {
            let _ = writeln!(
                wrong,
                "{:?}\n  found    {places:?}\n  expected {expected:?}",
                mutation.how
            );
        }
        prepared.restore_from("backup").await;
    }
    assert!(wrong.is_empty(), "{wrong}");
    let clean = prepared.verify().await;
    assert!(clean.is_clean(), "{clean}");
    println!("{}", page());
}

/// Every column of every table is on the list, or is said to be no evidence.
#[tokio::test]
async fn the_list_of_mutations_leaves_no_column_out() {
    let trail = crate::common::trail::trail().await;
    let columns: Vec<(String,)> = sqlx::query_as(
        "SELECT table_name || '.' || column_name FROM information_schema.columns
          WHERE table_schema = 'portcullis' AND table_name = ANY ($1)",
    )
    .bind(EVIDENCE.map(str::to_owned).to_vec())
    .fetch_all(&trail.pool)
    .await
    .unwrap();
    let changed = |mutation: &Mutation| match mutation.how {
        How::Column(name, ..) | How::Outbox(name, _) | How::Keyring(name, _) => Some(name),
        _ => None,
    };
    let listed: BTreeSet<&str> = MUTATIONS.iter().filter_map(changed).collect();
    for (column,) in &columns {
        let known = listed.contains(column.as_str()) || OPERATIONAL.contains(&column.as_str());
        assert!(known, "{column}");
    }
    assert!(columns.len() > 70);
}

/// The page of the manual, from the data.
fn page() -> String {
    let mut page = String::from(
        "# What was changed, and what was found\n\n\
         Each line was done to a trail of three chains, with a journalled outage, signed entries, a rotation and two\n\
         checkpoints, of which the second is kept elsewhere; all of it was found, at its place, and nothing else;\n\
         where the stored tree no longer holds together, more is said of the tree, and no MAC is called wrong. The\n\
         trail as it was written has no finding. The test that does it (`it::mutations`) writes this page.\n\n\
         | what | how | found (class, chain, place) |\n|---|---|---|\n",
    );
    for mutation in MUTATIONS {
        let (how, instead) = match mutation.how {
            How::Column(column, value, _) => {
                (format!("{column} = {value}"), "nothing: it is no evidence")
            }
            How::Sql("SELECT 'older'") => (
                "everything as it was at the first checkpoint".to_owned(),
                "",
            ),
            How::Sql(text) => (text.to_owned(), ""),
            How::Thief(text, ..) => (format!("{text}; the chain written anew with its keys"), ""),
            How::Outbox(column, value) => (
                format!("{column} = {value}"),
                "refused by the writer, counted, and left where it is",
            ),
            How::Keyring(_, text) => (text.to_owned(), "writers refuse to write"),
            How::Lines(name, _) => (
                name.to_owned(),
                "drained; only the line that repeats it is counted",
            ),
        };
        let places: Vec<String> = mutation
            .found
            .iter()
            .map(|(class, chain, place)| match mutation.how {
                How::Lines(..) => format!("{class} line {place}"),
                _ => format!("{class} {chain} {place}"),
            })
            .collect();
        let places = if places.is_empty() {
            instead.to_owned()
        } else {
            let more = if mutation.more {
                "; and more of the tree"
            } else {
                ""
            };
            format!("{}{more}", places.join("; "))
        };
        let how = how.replace("portcullis.", "").replace('|', "\\|");
        let _ = writeln!(page, "| {} | `{how}` | {places} |", mutation.group);
    }
    page
}

/// Run with `PORTCULLIS_WRITE_MANUAL=1` to write it.
#[test]
fn the_page_of_mutations_is_that_of_the_list() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    if std::env::var_os("PORTCULLIS_WRITE_MANUAL").is_some() {
        std::fs::write(&path, page()).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == page(),
        "run this test with PORTCULLIS_WRITE_MANUAL=1"
    );
}
