//! Whether the database is as it must be: proved, not assumed.

use sqlx::PgConnection;

use super::{Store, StoreError, schema};
use crate::time::Timestamp;
use std::time::Duration;

/// Every table that the schema must have.
const TABLES: &[&str] = &[
    "schema_migrations",
    "roles",
    "chains",
    "entries",
    "outbox",
    "keyring",
    "policies",
    "policy_revisions",
    "policy_history",
    "budgets",
    "budget_windows",
    "reservations",
    "budget_leases",
    "budget_revisions",
    "budget_raises",
    "checkpoint_ranges",
    "tree_tiles",
    "checkpoints",
    "trees",
    "head_signatures",
    "anchor_receipts",
    "retention_policies",
    "legal_holds",
    "retention_guards",
    "archives",
    "archive_ranges",
    "archive_links",
    "halts",
    "halt_resumptions",
    "halt_epochs",
    "presence",
    "coverage_clients",
    "coverage_calls",
    "coverage_writers",
    "loop_windows",
    "approval_requests",
    "approval_teams",
    "approval_tokens",
    "approval_tokens_issued",
    "approval_grants",
];

/// Every trigger that must be there and enabled.
const TRIGGERS: &[&str] = &[
    "entries_append_only",
    "entries_no_truncate",
    "chains_no_delete",
    "chains_no_truncate",
    "keyring_no_delete",
    "keyring_no_truncate",
    "checkpoints_append_only",
    "checkpoints_no_truncate",
    "checkpoint_ranges_append_only",
    "checkpoint_ranges_no_truncate",
    "tree_tiles_only_grow",
    "tree_tiles_no_delete",
    "tree_tiles_no_truncate",
    "trees_only_grow",
    "trees_no_delete",
    "trees_no_truncate",
    "head_signatures_append_only",
    "head_signatures_no_truncate",
    "anchor_receipts_append_only",
    "anchor_receipts_no_truncate",
    "entries_prune_only",
    "retention_policies_guarded",
    "retention_policies_append_only",
    "retention_policies_no_truncate",
    "legal_holds_a_release_only",
    "legal_holds_guarded",
    "legal_holds_no_delete",
    "legal_holds_no_truncate",
    "archives_guarded",
    "archives_append_only",
    "archives_no_truncate",
    "archive_ranges_append_only",
    "archive_ranges_no_truncate",
    "archive_links_append_only",
    "archive_links_no_truncate",
    "halts_in_order",
    "halts_append_only",
    "halts_no_truncate",
    "halt_resumptions_in_order",
    "halt_resumptions_append_only",
    "halt_resumptions_no_truncate",
    "halt_epochs_only_grow",
    "halt_epochs_no_delete",
    "halt_epochs_no_truncate",
    "presence_steps_only",
    "presence_no_delete",
    "presence_no_truncate",
    "approval_requests_step_by_step",
    "approval_requests_no_delete",
    "approval_requests_no_truncate",
    "approval_tokens_append_only",
    "approval_tokens_no_truncate",
    "approval_tokens_issued_append_only",
    "approval_tokens_issued_no_truncate",
    "approval_grants_fixed",
    "approval_grants_no_delete",
    "approval_grants_no_truncate",
    "budget_raises_agreed_to",
    "budget_windows_limited",
    "policies_revised_on_insert",
    "policies_revised_on_update",
    "policies_keep_history",
    "policies_only_grow",
    "policies_no_delete",
    "policies_no_truncate",
    "policy_revisions_only_grow",
    "policy_revisions_no_delete",
    "policy_revisions_no_truncate",
    "policy_history_append_only",
    "policy_history_no_truncate",
];

/// How far apart the two clocks may be.
const SKEW_ALLOWED: Duration = Duration::from_secs(5);

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// Whether it is as it must be.
    pub ok: bool,
    /// What was found, and what to do if it is not well.
    pub detail: String,
}

/// The state of the database, looked at a moment ago.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreHealth {
    /// What was looked at.
    pub checks: Vec<Check>,
    /// This machine's clock minus the database's, in microseconds.
    pub clock_skew_micros: i64,
    /// Connections of the pool.
    pub pool_size: u32,
    /// Connections that are free.
    pub pool_idle: u32,
}

impl StoreHealth {
    /// Whether all is well.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.checks.iter().all(|check| check.ok)
    }
}

impl Store {
    /// Looks at tables, triggers, grants, the clock and the pool.
    pub(crate) async fn health(&self) -> Result<StoreHealth, StoreError> {
        let pool = self.pool();
        let now = self.now();
        let (tables, triggers, grants, functions, clock) = self
            .run_idempotent("look at the database's health", || async move {
                let mut tx = self.begin().await?;
                let found = (
                    present_tables(&mut tx).await?,
                    enabled_triggers(&mut tx).await?,
                    excess_grants(&mut tx).await?,
                    open_functions(&mut tx).await?,
                    database_clock(&mut tx).await?,
                );
                tx.commit().await?;
                Ok(found)
            })
            .await?;
        let skew = now.as_micros().saturating_sub(clock.as_micros());
        let skewed = u128::from(skew.unsigned_abs()) > SKEW_ALLOWED.as_micros();
        let schema = schema::check(pool).await;
        let checks = vec![
            Check {
                name: "schema",
                ok: schema.is_ok(),
                detail: match schema {
                    Ok(()) => format!("version {}", schema::newest()),
                    Err(error) => error.to_string(),
                },
            },
            missing("tables", TABLES, &tables),
            missing("triggers", TRIGGERS, &triggers),
            Check {
                name: "grants",
                ok: grants.is_empty(),
                detail: if grants.is_empty() {
                    "entries cannot be changed by this role".to_owned()
                } else {
                    format!(
                        "this role may {} entries; only triggers stop it: use an application role",
                        grants.join(", ")
                    )
                },
            },
            Check {
                name: "functions",
                ok: functions.is_empty(),
                detail: if functions.is_empty() {
                    "only our own triggers run them".to_owned()
                } else {
                    format!(
                        "anybody may run {}, some as the owner; run the migrations",
                        functions.join(", ")
                    )
                },
            },
            Check {
                name: "clock",
                ok: !skewed,
                detail: format!(
                    "{} ms {} the database's",
                    skew.unsigned_abs() / 1_000,
                    if skew < 0 { "behind" } else { "ahead of" }
                ),
            },
        ];
        Ok(StoreHealth {
            checks,
            clock_skew_micros: skew,
            pool_size: pool.size(),
            pool_idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
        })
    }
}

fn missing(name: &'static str, wanted: &[&str], found: &[String]) -> Check {
    let missing: Vec<&str> = wanted
        .iter()
        .copied()
        .filter(|wanted| !found.iter().any(|found| found == wanted))
        .collect();
    Check {
        name,
        ok: missing.is_empty(),
        detail: if missing.is_empty() {
            format!("all {} present", wanted.len())
        } else {
            format!(
                "missing or disabled: {}; run the migrations",
                missing.join(", ")
            )
        },
    }
}

async fn present_tables(tx: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT c.relname::text
           FROM pg_catalog.pg_class c
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'portcullis' AND c.relkind IN ('r', 'p')",
    )
    .persistent(false)
    .fetch_all(tx)
    .await
}

async fn enabled_triggers(tx: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT t.tgname::text
           FROM pg_catalog.pg_trigger t
           JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
           JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
          WHERE n.nspname = 'portcullis' AND t.tgenabled IN ('O', 'A') AND NOT t.tgisinternal",
    )
    .persistent(false)
    .fetch_all(tx)
    .await
}

/// What the role may do to entries and should not.
async fn excess_grants(tx: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT p.name
           FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE']) AS p(name)
          WHERE has_table_privilege('portcullis.entries', p.name)",
    )
    .persistent(false)
    .fetch_all(tx)
    .await
}

/// Functions of ours that every role may execute, and so attach to tables of its own.
async fn open_functions(tx: &mut PgConnection) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT p.proname::text
           FROM pg_catalog.pg_proc p
           JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname = 'portcullis' AND has_function_privilege('public', p.oid, 'EXECUTE')
          ORDER BY p.proname",
    )
    .persistent(false)
    .fetch_all(tx)
    .await
}

async fn database_clock(tx: &mut PgConnection) -> Result<Timestamp, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_timestamp()")
        .persistent(false)
        .fetch_one(tx)
        .await
}
