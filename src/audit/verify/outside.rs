//! What the anchors said that they hold, against the trail that was verified.

use super::finding::{Finding, FindingClass, Findings};
use super::tree::{Kept, Trees};
use crate::audit::anchor::{AnchorError, AnchorReport, Held, KeptAt, Standing};
use crate::audit::store::anchor::fetch_first_missed;
use crate::audit::store::checkpoint::fetch_checkpoint;
use crate::audit::{Audit, AuditError};
use crate::tlog::{Checkpoint, LogVerifier};

/// The anchors, and how each of them stands.
#[derive(Debug, Default)]
pub(super) struct Outside {
    reports: Vec<AnchorReport>,
    /// What they hold and told the root of.
    notes: Vec<Kept>,
    /// The anchors that told no more than a size, by their place, and that size.
    sizes: Vec<(usize, u64)>,
    /// Those that compared the trees themselves, and found another of this size.
    refused: Vec<(usize, u64)>,
}

impl Outside {
    /// Asks the anchors. Before the trail is read: they may be given newer checkpoints meanwhile.
    pub(super) async fn ask(audit: &Audit, log: &LogVerifier) -> Result<Self, AuditError> {
        let mut outside = Self::default();
        for (place, kept) in audit.kept(log).await?.iter().enumerate() {
            outside.reports.push(AnchorReport::of(kept));
            if let Err(AnchorError::Mismatch { held }) = kept.found() {
                outside.refused.push((place, *held));
            }
            if let Some(held) = kept.held().filter(|held| held.size() > 0) {
                outside.take(place, kept, held, log)?;
            }
        }
        Ok(outside)
    }

    fn take(
        &mut self,
        place: usize,
        kept: &KeptAt,
        held: &Held,
        log: &LogVerifier,
    ) -> Result<(), AuditError> {
        match held.note() {
            Some(note) => self.notes.push(Kept {
                name: kept.anchor().to_owned(),
                checkpoint: Checkpoint::open(note, log)?,
            }),
            None => self.sizes.push((place, held.size())),
        }
        Ok(())
    }

    /// What the anchors hold, to be compared with the tree when that has come to its size.
    pub(super) fn take_notes(&mut self) -> Vec<Kept> {
        std::mem::take(&mut self.notes)
    }

    /// How each anchor stands to what was read.
    pub(super) async fn judge(
        mut self,
        audit: &Audit,
        log: &LogVerifier,
        trees: &Trees<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<AnchorReport>, AuditError> {
        let (size, newest) = (trees.size(), trees.signed().map_or(0, |(size, _)| *size));
        for finding in trees.contradictions() {
            let mut reports = self.reports.iter_mut();
            let about =
                |report: &&mut AnchorReport| Some(&report.anchor) == finding.anchor.as_ref();
            if let Some(report) = reports.find(about) {
                contradict(report, finding.clone());
            }
        }
        let mut unfits = Vec::new();
        for (place, held) in std::mem::take(&mut self.refused) {
            let detail = "an anchor holds another tree of this size";
            let finding = Finding::new(FindingClass::Fork, 0, (held, held), detail);
            unfits.push((place, finding));
        }
        for (place, held) in std::mem::take(&mut self.sizes) {
            let finding = unfit(audit, log, held, size).await?;
            unfits.extend(finding.map(|finding| (place, finding)));
        }
        for (place, mut finding) in unfits {
            if let Some(report) = self.reports.get_mut(place) {
                finding.anchor = Some(report.anchor.clone());
                findings.push(finding.clone());
                contradict(report, finding);
            }
        }
        for report in &mut self.reports {
            let held = report.held.unwrap_or(0);
            if report.standing == Standing::InStep && held < newest {
                let since = fetch_first_missed(audit.store(), held).await?;
                let late = since.map(|since| audit.store().now().since(since));
                lags(
                    report,
                    newest,
                    late > Some(audit.anchor_patience()),
                    findings,
                );
            }
        }
        self.silence(newest, findings);
        Ok(self.reports)
    }

    /// Where there are anchors and none of them answered, nothing outside speaks for the trail.
    fn silence(&mut self, newest: u64, findings: &mut Findings) {
        let silent = |report: &AnchorReport| report.standing == Standing::Silent;
        if self.reports.is_empty() || !self.reports.iter().all(silent) {
            return;
        }
        let detail = "none of the anchors said what it holds";
        let finding = Finding::new(FindingClass::Checkpoint, 0, (newest, newest), detail);
        findings.push(finding.clone());
        for report in &mut self.reports {
            report.finding = Some(finding.clone());
        }
    }
}

/// What is wrong if an anchor holds a tree of this size, of which it tells no more.
async fn unfit(
    audit: &Audit,
    log: &LogVerifier,
    held: u64,
    size: u64,
) -> Result<Option<Finding>, AuditError> {
    if held > size {
        return Ok(Some(Finding::beyond(size, held)));
    }
    let (store, tenant) = (audit.store(), audit.store().tenant());
    let work = || async {
        let mut tx = store.begin().await?;
        let row = fetch_checkpoint(&mut *tx, tenant, held).await?;
        tx.commit().await?;
        Ok(row)
    };
    let row = store.run_idempotent("read a checkpoint", work).await?;
    let signed = row.and_then(|row| Checkpoint::open(&row.note, log).ok());
    if signed.is_some_and(|signed| signed.size() == held) {
        return Ok(None);
    }
    let detail = "an anchor holds a tree of a size that no stored checkpoint signs";
    Ok(Some(Finding::new(
        FindingClass::Fork,
        0,
        (held, held),
        detail,
    )))
}

/// An anchor misses checkpoints, perhaps for too long.
fn lags(report: &mut AnchorReport, newest: u64, stale: bool, findings: &mut Findings) {
    report.standing = Standing::Behind;
    if !stale {
        return;
    }
    report.standing = Standing::Stale;
    let detail = "an anchor misses checkpoints for longer than it may: what it misses could be removed unnoticed";
    let from = report.held.unwrap_or(0) + 1;
    let mut finding = Finding::new(FindingClass::Checkpoint, 0, (from, newest), detail);
    finding.anchor = Some(report.anchor.clone());
    findings.push(finding.clone());
    report.finding = Some(finding);
}

fn contradict(report: &mut AnchorReport, finding: Finding) {
    report.standing = Standing::Contradicts;
    report.finding = Some(finding);
}
