//! Counting, when all is over: what was acknowledged, against what is stored.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;

use portcullis::Database;
use portcullis::audit::{FindingClass, Verdict};
use sqlx::ConnectOptions as _;
use uuid::Uuid;

use crate::governance;
use crate::round::{Said, Tally};
use crate::server::Server;

/// What is stored, past all of our own code but the verification.
pub(crate) struct Counts {
    stored: HashSet<Uuid>,
    twice: i64,
    entries: u64,
    forks: usize,
    gaps: usize,
    other: usize,
    promises_broken: i64,
    /// Sessions that were told to have spent more than is on record.
    money_missing: usize,
}

impl Counts {
    pub(crate) async fn take(server: &Server, tally: &Tally) -> Self {
        // What children kept in journals comes home first.
        let gov = governance(&Database::options(server.options())).await;
        let drained = gov.audit().drain().await.unwrap();
        println!("journals: {drained}\n");
        let mut connection = server.options().connect().await.unwrap();
        let stored: Vec<Uuid> = sqlx::query_scalar("SELECT event_id FROM portcullis.entries")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        let twice = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT event_id FROM portcullis.entries GROUP BY event_id HAVING count(*) > 1) AS t",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        let promises_broken = sqlx::query_scalar(
            "SELECT count(*) FROM portcullis.budget_windows
              WHERE settled_usd + held_usd > usd_limit OR settled_usd < 0 OR held_usd < 0",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        let settled: Vec<(String, i64)> =
            sqlx::query_as("SELECT window_key, settled_usd FROM portcullis.budget_windows")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        let settled: HashMap<String, i64> = settled.into_iter().collect();
        let short = |(session, told): &(&String, &i64)| {
            settled.get(*session).copied().unwrap_or(0) < **told
        };
        let money_missing = tally.spent.iter().filter(short).count();

        let report = gov.audit().verify_all().await.unwrap();
        gov.shutdown().await;
        assert!(report.verdict() != Verdict::Nothing, "nothing was recorded");
        let class = |class: FindingClass| {
            report
                .findings()
                .iter()
                .filter(|f| f.class == class)
                .count()
        };
        let (forks, gaps) = (class(FindingClass::Fork), class(FindingClass::Gap));
        for finding in report.findings() {
            println!("{finding}");
        }
        Self {
            stored: stored.into_iter().collect(),
            twice,
            entries: report.entries(),
            forks,
            gaps,
            other: report.findings().len() - forks - gaps,
            promises_broken,
            money_missing,
        }
    }

    fn missing(&self, said: &Said) -> usize {
        said.acknowledged
            .iter()
            .filter(|id| !self.stored.contains(id))
            .count()
    }

    pub(crate) fn is_fine(&self, tally: &Tally) -> bool {
        tally.troubles.values().all(|said| self.missing(said) == 0)
            && (self.twice, self.forks, self.gaps, self.other) == (0, 0, 0, 0)
            && (self.promises_broken, self.money_missing) == (0, 0)
    }
}

pub(crate) fn table(tally: &Tally, counts: &Counts) -> String {
    let mut text = format!(
        "{:<32} {:>6} {:>6} {:>12} {:>8} {:>6} {:>22}\n",
        "trouble", "rounds", "kills", "acknowledged", "missing", "lost", "recovered ms p50 / max"
    );
    let (mut kills, mut acknowledged) = (0, 0);
    for (trouble, said) in &tally.troubles {
        kills += said.kills;
        acknowledged += said.acknowledged.len();
        let _ = writeln!(
            text,
            "{:<32} {:>6} {:>6} {:>12} {:>8} {:>6} {:>22}",
            trouble.name(),
            said.rounds,
            said.kills,
            said.acknowledged.len(),
            counts.missing(said),
            said.lost,
            recovery(&said.recovered)
        );
    }
    let _ = write!(
        text,
        "\n{kills} kills, {acknowledged} acknowledged, {} entries: {} twice, {} forks, {} gaps, {} other findings, {} budget promises broken, {} sessions with money missing",
        counts.entries,
        counts.twice,
        counts.forks,
        counts.gaps,
        counts.other,
        counts.promises_broken,
        counts.money_missing
    );
    text
}

fn recovery(took: &[Duration]) -> String {
    let mut took: Vec<u128> = took.iter().map(Duration::as_millis).collect();
    took.sort_unstable();
    match took.last() {
        Some(max) => format!("{} / {max}", took[took.len() / 2]),
        None => "-".to_owned(),
    }
}
