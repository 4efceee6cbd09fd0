//! Counting what became of gates: what children told, against what the database holds.

use std::collections::HashMap;
use std::time::Duration;

use portcullis::cost::Resolution;
use portcullis::gates::RequestState;
use portcullis::{AgentId, Governance, Principal, RequestId, ReservationId, SessionId, Usd};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::people;
use super::spend::PURSES;
use super::told::{Effects, Told};
use super::watch::BROKEN;
use crate::count::bring_home;
use crate::site::Site;

/// How many outcomes are resolved at once.
const AT_ONCE: usize = 16;

/// How often, and how many times, it is looked whether all of the dead has run out.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const PATIENCE: u32 = 500;

/// What was counted. Whatever is not said to be allowed must be zero.
#[derive(Default)]
pub(crate) struct Books {
    // --- budgets
    /// Windows with more than their limit, at the end and at any moment that was looked at.
    pub(crate) promises_broken: u64,
    /// Sessions that took effect beyond their limit.
    pub(crate) beyond_limit: u64,
    /// Nano-dollars that took effect and that the books do not hold.
    pub(crate) missing: i64,
    /// Nano-dollars that were settled, beyond a call's ceiling, and that the books do not hold.
    pub(crate) missing_overrun: i64,
    /// Windows that have settled more than was ever spent.
    pub(crate) twice: u64,
    /// Windows that hold more than their limit and what calls cost beyond their ceilings.
    pub(crate) overfull: u64,
    /// Slices of the dead that nobody took away.
    pub(crate) stranded: i64,
    /// Windows that hold something although every outcome is known.
    pub(crate) held_for_ever: i64,
    /// Allowed: slices that ran out, and what is charged for them and other unknown outcomes.
    pub(crate) lost_slices: i64,
    pub(crate) returned_slices: i64,
    pub(crate) unknown: i64,
    pub(crate) unknown_usd: i64,
    // --- approvals
    pub(crate) used_twice: usize,
    pub(crate) used_not_consumed: usize,
    pub(crate) not_on_record: i64,
    pub(crate) never_again: usize,
    /// Allowed: used up, and the call was never made.
    pub(crate) consumed_for_nothing: usize,
    pub(crate) consumed: usize,
    // --- halts
    pub(crate) began_halted: usize,
    pub(crate) lifted: usize,
}

/// A window's limit, and what is settled and held of it.
type Window = (i64, i64, i64);

impl Books {
    /// Counts what is on the server of `site`, whose processes have all ended.
    pub(crate) async fn take(site: &Site, told: &mut Told) -> Self {
        bring_home(site).await;
        let gov = site.governance().await;
        let mut connection = site.server.options().connect().await.unwrap();
        let mut books = Self::default();
        books.sweep(&gov, &mut connection).await;
        books.count_windows(&mut connection, told).await;
        books.resolve(&gov, &mut connection).await;
        books.count_approvals(&gov, &mut connection, told).await;
        books.count_halts(&gov, &mut connection, told).await;
        connection.close().await.unwrap();
        gov.shutdown().await;
        books
    }

    pub(crate) const fn is_fine(&self) -> bool {
        self.promises_broken == 0
            && self.beyond_limit == 0
            && self.missing == 0
            && self.missing_overrun == 0
            && self.twice == 0
            && self.overfull == 0
            && self.stranded == 0
            && self.held_for_ever == 0
            && self.used_twice == 0
            && self.used_not_consumed == 0
            && self.not_on_record == 0
            && self.never_again == 0
            && self.began_halted == 0
            && self.lifted == 0
    }

    /// Waits until everything of the dead has run out, and takes their slices away.
    async fn sweep(&mut self, gov: &Governance, connection: &mut PgConnection) {
        let mut patience = PATIENCE;
        let open = "SELECT (SELECT count(*) FROM portcullis.budget_leases
                             WHERE state = 'live' AND lease_until >= now())
                         + (SELECT count(*) FROM portcullis.reservations
                             WHERE state = 'held' AND lease_until >= now())
                         + (SELECT count(*) FROM portcullis.approval_requests
                             WHERE state = 'granted' AND held_until >= now())";
        // What is longer in coming is counted as never.
        while patience > 0 && number(connection, open).await > 0 {
            tokio::time::sleep(LOOK_EVERY).await;
            patience -= 1;
        }
        // What is not swept is counted.
        if let Err(error) = gov.cost().sweep().await {
            println!("{error}");
        }
        let stranded = "SELECT count(*) FROM portcullis.budget_leases l
                         WHERE l.state = 'live'
                            OR (l.state = 'returned'
                                AND (l.taken_usd, l.taken_calls) <> (l.spent_usd, l.spent_calls))
                            OR (l.state = 'lost' AND l.taken_usd > l.spent_usd
                                AND NOT EXISTS (SELECT FROM portcullis.reservations r
                                                 WHERE r.reservation_id = l.lease_id))";
        self.stranded = number(connection, stranded).await;
        let of = |state: &str| {
            format!("SELECT count(*) FROM portcullis.budget_leases WHERE state = '{state}'")
        };
        self.lost_slices = number(connection, &of("lost")).await;
        self.returned_slices = number(connection, &of("returned")).await;
    }

    async fn count_windows(&mut self, connection: &mut PgConnection, told: &Told) {
        let broken: Vec<String> = sqlx::query_scalar(BROKEN)
            .fetch_all(&mut *connection)
            .await
            .unwrap();
        self.promises_broken = broken.len() as u64 + told.broken_seen;
        let windows: Vec<(String, String, i64, i64, i64)> = sqlx::query_as(
            "SELECT budget, window_key, usd_limit, settled_usd, held_usd
               FROM portcullis.budget_windows WHERE period = 'session'",
        )
        .fetch_all(connection)
        .await
        .unwrap();
        let windows: HashMap<(&str, &str), Window> = windows
            .iter()
            .map(|(budget, key, limit, settled, held)| {
                ((budget.as_str(), key.as_str()), (*limit, *settled, *held))
            })
            .collect();
        for ((agent, session), effects) in &told.effects {
            let purse = PURSES.iter().find(|purse| purse.agent == agent).unwrap();
            self.beyond_limit += u64::from(effects.within > purse.limit);
            for budget in purse.budgets {
                match windows.get(&(*budget, session.as_str())) {
                    Some(window) => self.count_window(*window, effects),
                    None => self.missing += effects.within,
                }
            }
        }
    }

    fn count_window(&mut self, (limit, settled, held): Window, effects: &Effects) {
        let taken = settled + held;
        let over = effects.cost - effects.within;
        self.missing += (effects.within - taken).max(0);
        let told = effects.within + effects.settled_over;
        if taken >= effects.within {
            self.missing_overrun += (told - taken).max(0);
        }
        self.twice += u64::from(settled > effects.cost);
        self.overfull += u64::from(taken > limit + over);
    }

    /// Says of every unknown outcome that it was what it is charged at: then nothing is held.
    async fn resolve(&mut self, gov: &Governance, connection: &mut PgConnection) {
        let unknown: Vec<(Uuid, i64)> = sqlx::query_as(
            "SELECT reservation_id, charged_usd[1] FROM portcullis.reservations WHERE state = 'unknown'",
        )
        .fetch_all(&mut *connection)
        .await
        .unwrap();
        self.unknown = i64::try_from(unknown.len()).unwrap();
        self.unknown_usd = unknown.iter().map(|(_, usd)| usd).sum();
        let mut resolving = JoinSet::new();
        for (id, usd) in unknown {
            if resolving.len() >= AT_ONCE {
                resolving.join_next().await.unwrap().unwrap();
            }
            let cost = gov.cost().clone();
            resolving.spawn(async move {
                let charge = Resolution::Charge(Usd::nanos(usd).into());
                let id = ReservationId::parse(id.to_string()).unwrap();
                // What is not resolved is held, and counted.
                if let Err(error) = cost.resolve(id, charge).await {
                    println!("{id}: {error}");
                }
            });
        }
        while let Some(resolved) = resolving.join_next().await {
            resolved.unwrap();
        }
        let held = "SELECT count(*) FROM portcullis.budget_windows
                     WHERE (held_usd, held_tokens, held_calls) <> (0, 0, 0)";
        self.held_for_ever = number(connection, held).await;
    }

    async fn count_approvals(
        &mut self,
        gov: &Governance,
        connection: &mut PgConnection,
        told: &mut Told,
    ) {
        for ((session, n), id) in &told.granted {
            let used = told.used.entry((session.clone(), *n)).or_default();
            let state = state(gov, *id).await;
            self.used_not_consumed += usize::from(*used > 0 && state != RequestState::Consumed);
            let session = SessionId::parse(session).unwrap();
            if state == RequestState::Consumed {
                self.consumed_for_nothing += usize::from(*used == 0);
            } else {
                let works = people::use_one(gov, &session, *n).await;
                self.never_again += usize::from(!works);
                *used += u32::from(works);
            }
            // Whatever became of it, it is not good for another call.
            *used += u32::from(people::use_one(gov, &session, *n).await);
            self.used_twice += usize::from(*used > 1);
        }
        gov.audit().move_outbox().await.unwrap();
        let consumed = "SELECT count(*) FROM portcullis.approval_requests WHERE state = 'consumed'";
        let consumed = number(connection, consumed).await;
        let recorded = "SELECT count(*) FROM portcullis.entries WHERE kind = 'gate.consumed'";
        self.consumed = usize::try_from(consumed).unwrap();
        self.not_on_record = (consumed - number(connection, recorded).await).abs();
    }

    async fn count_halts(&mut self, gov: &Governance, connection: &mut PgConnection, told: &Told) {
        self.began_halted = told.began_halted();
        let rows: Vec<(String, i64, bool)> = sqlx::query_as(
            "SELECT h.agent_id, h.epoch,
                    EXISTS (SELECT FROM portcullis.halt_resumptions r
                             WHERE r.tenant_id = h.tenant_id AND r.halt_epoch = h.epoch)
               FROM portcullis.halts h",
        )
        .fetch_all(connection)
        .await
        .unwrap();
        let resumed: HashMap<(&str, i64), bool> = rows
            .iter()
            .map(|(agent, epoch, resumed)| ((agent.as_str(), *epoch), *resumed))
            .collect();
        for (agent, halts) in told.halts() {
            let me = Principal::agent(AgentId::parse(agent).unwrap());
            for halt in halts {
                let stored = resumed.get(&(agent, halt.epoch)).copied();
                let lifted = match stored {
                    None => true,
                    Some(true) => !halt.may_be_lifted(),
                    Some(false) => gov.halt().check(&me).is_ok(),
                };
                self.lifted += usize::from(lifted);
            }
        }
    }
}

async fn state(gov: &Governance, id: RequestId) -> RequestState {
    gov.gates().find(id).await.unwrap().state
}

async fn number(connection: &mut PgConnection, sql: &str) -> i64 {
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql.to_owned()))
        .fetch_one(connection)
        .await
        .unwrap()
}
