//! Counting, when all is over: what was acknowledged, against what is stored.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::Duration;

use portcullis::audit::{Audit, FindingClass, Verdict, Verification};
use portcullis::tlog::Checkpoint;
use sqlx::{ConnectOptions as _, Connection as _};
use uuid::Uuid;

use crate::ledger::WRONG_WINDOWS;
use crate::log_key;
use crate::said::{Said, Tally};
use crate::site::Site;

/// What is stored on one server, past all of our own code but the verification.
#[derive(Default)]
pub(crate) struct Counts {
    stored: HashSet<Uuid>,
    /// Events that are there more than once.
    twice: HashSet<Uuid>,
    pub(crate) entries: u64,
    pub(crate) forks: usize,
    pub(crate) gaps: usize,
    pub(crate) other: usize,
    pub(crate) promises_broken: i64,
    /// Windows of budgets that do not add up to their reservations.
    pub(crate) wrong_windows: i64,
    /// Sessions that were told to have spent more than is on record.
    pub(crate) money_missing: usize,
    /// Checkpoints that were given out and are not the beginning of the last one.
    pub(crate) inconsistent: usize,
    /// Lines that were set aside: those that a crash has torn, and others.
    pub(crate) torn: usize,
    pub(crate) set_aside: usize,
}

impl Counts {
    /// Brings home what is in the journals of `sites`, which share a server, and counts.
    pub(crate) async fn take(sites: &[&Site], tally: &Tally) -> Self {
        let mut counts = Self::default();
        for site in sites {
            bring_home(site).await;
            counts.look_aside(site);
        }
        let site = sites[0];
        counts.read(site, tally).await;
        let gov = site.governance().await;
        counts.check_notes(gov.audit(), tally).await;
        let report = gov.audit().verify_all().await.unwrap();
        assert!(report.verdict() != Verdict::Nothing, "nothing was recorded");
        counts.entries = report.entries();
        counts.judge(&report);
        gov.shutdown().await;
        counts
    }

    pub(crate) fn missing(&self, said: &Said) -> usize {
        let missing = |id: &&Uuid| !self.stored.contains(*id);
        said.acknowledged.iter().filter(missing).count()
    }

    pub(crate) fn duplicated(&self, said: &Said) -> usize {
        let twice = |id: &&Uuid| self.twice.contains(*id);
        said.acknowledged.iter().filter(twice).count()
    }

    pub(crate) fn is_fine(&self, tally: &Tally) -> bool {
        tally.troubles.values().all(|said| self.missing(said) == 0)
            && self.twice.is_empty()
            && (self.forks, self.gaps, self.other, self.set_aside) == (0, 0, 0, 0)
            && self.inconsistent == 0
            && (self.promises_broken, self.wrong_windows, self.money_missing) == (0, 0, 0)
    }

    async fn read(&mut self, site: &Site, tally: &Tally) {
        let mut connection = site.server.options().connect().await.unwrap();
        let stored: Vec<Uuid> = sqlx::query_scalar("SELECT event_id FROM portcullis.entries")
            .fetch_all(&mut connection)
            .await
            .unwrap();
        for id in stored {
            if !self.stored.insert(id) {
                self.twice.insert(id);
            }
        }
        self.promises_broken = sqlx::query_scalar(
            "SELECT count(*) FROM portcullis.budget_windows
              WHERE budget = 'agent:worker'
                AND (settled_usd + held_usd > usd_limit OR settled_usd < 0 OR held_usd < 0)",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        self.wrong_windows = sqlx::query_scalar(WRONG_WINDOWS)
            .fetch_one(&mut connection)
            .await
            .unwrap();
        let settled: Vec<(String, i64)> =
            sqlx::query_as("SELECT window_key, settled_usd FROM portcullis.budget_windows")
                .fetch_all(&mut connection)
                .await
                .unwrap();
        connection.close().await.unwrap();
        let settled: HashMap<String, i64> = settled.into_iter().collect();
        let short = |(session, told): &(&String, &i64)| {
            settled.get(*session).copied().unwrap_or(0) < **told
        };
        self.money_missing = tally.spent.iter().filter(short).count();
    }

    /// Whether each checkpoint that was given out is the beginning of the last one, and that one is
    /// of what is stored.
    async fn check_notes(&mut self, audit: &Audit, tally: &Tally) {
        let key = log_key();
        let last = audit.checkpoint(&key).await.unwrap();
        let report = audit
            .verify_checkpoints(key.verifier(), Some(last.note()))
            .await
            .unwrap();
        self.judge(&report);
        for note in &tally.notes {
            let kept = Checkpoint::open(note, key.verifier()).unwrap();
            let proof = audit.prove_consistency(kept.size()).await;
            let holds = proof.is_ok_and(|proof| proof.verify(&kept, key.verifier()).is_ok());
            self.inconsistent += usize::from(!holds);
        }
    }

    /// A line that was not acknowledged may be torn; on a full disk, just before its end. One that is
    /// whole was kept from the trail.
    fn look_aside(&mut self, site: &Site) {
        for file in fs::read_dir(&site.journals).into_iter().flatten() {
            let path = file.unwrap().path();
            if path.extension().is_none_or(|e| e != "quarantine") {
                continue;
            }
            for line in fs::read(&path).unwrap().split(|byte| *byte == b'\n') {
                if line.ends_with(b"}") && !site.journals_are_small {
                    println!("{}: {}", path.display(), String::from_utf8_lossy(line));
                    self.set_aside += 1;
                } else if !line.is_empty() {
                    self.torn += 1;
                }
            }
        }
    }

    fn judge(&mut self, report: &Verification) {
        for finding in report.findings() {
            println!("{finding}");
            match finding.class {
                FindingClass::Fork => self.forks += 1,
                FindingClass::Gap => self.gaps += 1,
                _ => self.other += 1,
            }
        }
    }
}

/// What children kept in journals or left in the outbox comes into the trail.
pub(crate) async fn bring_home(site: &Site) {
    let gov = site.governance().await;
    loop {
        let drained = gov.audit().drain().await.unwrap();
        println!("{}: {drained}", site.journals.display());
        if drained.in_use == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let moved = gov.audit().move_outbox().await.unwrap();
    println!("the outbox: {moved:?}");
    gov.shutdown().await;
}
