//! Verification: is every entry as it was written, and are all of them there?
//!
//! The heads are read first, in one snapshot; then each chain is streamed by binary COPY, in
//! ranges of at most 250,000 entries with a transaction each, never past the head that was read. One
//! pass, constant memory, while the trail goes on growing; while others write, it keeps out of their
//! way ([`Pace`]). With the log's public key the entries
//! under checkpoints come first, in the order of the tree's leaves: each is read once, and checked as
//! a link of its chain and as a leaf of the signed tree.
//!
//! The report says of each range of entries what stands behind it, and what is exposed:
//!
//! | [`Assurance`] | who can have written something else there unnoticed |
//! |---|---|
//! | `Anchored` | nobody, since the checkpoint that is kept outside of the database was made |
//! | `Signed` | who holds a chain's key and the log's key, and writes the database |
//! | `Keyed` | who holds a chain's key and writes the database; who writes the database can cut it off, head and all |
//! | `Unproved` | anybody |
//! | `Resumed` | not read: what the verification said that this one goes on from |
//!
//! What a keyed chain alone cannot show, and [`Verification::limits`] says so each time: a chain
//! that was removed with its head, where no later chain is left; a tail removed together with a
//! head set back to match; the whole trail removed; an old backup restored. These take a checkpoint
//! kept elsewhere: [`Verify::kept`]. The operational columns of a head (holder, epoch, lease) are not
//! evidence and not covered; its `next_seq`, `head_mac`, `key_id` and `recorded_at` are compared with
//! the entries.
//!
//! | The store is | [`Audit::verify`] |
//! |---|---|
//! | reachable | answers with a [`Verification`] |
//! | unreachable, or silent for longer than the deadline | an error of kind `Unavailable`, never "clean" |
//!
//! ```no_run
//! # async fn example(audit: portcullis::audit::Audit, log: portcullis::tlog::LogVerifier) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::audit::{Assurance, Verify};
//!
//! let kept = std::fs::read_to_string("/mnt/worm/acme.checkpoint")?;
//! let report = audit.verify(Verify::everything().log(&log).kept("worm", kept)).await?;
//! println!("{report}");
//! assert!(report.is_clean() && report.count(Assurance::Anchored) > 0);
//! # Ok(())
//! # }
//! ```

mod assurance;
mod canonical;
mod copy;
mod doubt;
mod finding;
mod going_on;
mod heads;
mod journals;
mod keyring;
mod lines;
mod outside;
mod pace;
mod pass;
mod reader;
mod report;
mod resume;
mod scope;
mod spans;
mod strange;
mod tree;
mod walk;
mod window;

use sqlx::Connection as _;

pub use self::assurance::{Assurance, AssuredRange, ChainReport, Exposure};
#[cfg(any(test, fuzzing))]
pub(in crate::audit) use self::canonical::is_canonical;
pub(in crate::audit) use self::copy::Decoder;
pub(in crate::audit) use self::finding::Findings;
pub use self::finding::{Finding, FindingClass};
pub(in crate::audit) use self::keyring::Keyring;
pub use self::pace::Pace;
pub use self::report::{CompromisedKey, Verdict, Verification};
pub use self::scope::{Progress, Scope, Verify};

use self::assurance::Marks;
use self::outside::Outside;
use self::pace::Breath;
use self::pass::Pass;
use self::reader::{OPERATION, Reader, Survey};
use self::tree::{Kept, Trees};
use super::identity::Registry;
use super::read::is_sound;
use super::retention::Purged;
use super::rotate::Marker;
use super::store::identity::list_key_entries;
use super::store::verify::ChainRow;
use super::{Audit, AuditError};
use crate::store::StoreError;
use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogError, LogVerifier};

const NO_TREE: &str =
    "that nothing was removed together with its head; that takes a checkpoint kept elsewhere";
const NOTHING_KEPT: &str =
    "that nothing was removed together with its checkpoints; give one that was kept elsewhere";
const RESUMED: &str =
    "that entries under the checkpoint it goes on from are still what they were; verify everything";
/// By which findings call the checkpoint that is gone on from.
const TOKEN: &str = "the verification that this one goes on from";

impl Audit {
    /// Verifies what is asked for: a [`Scope`], or everything against what [`Verify`] names.
    ///
    /// # Errors
    ///
    /// * [`AuditError::Store`] if the trail could not be read to its end. Findings are no error: they
    ///   are in the answer; see [`Verification::into_result`].
    /// * [`AuditError::Log`] if a note that was kept is no checkpoint of the log, or of an empty tree.
    /// * [`AuditError::Resume`] if the token to go on from is none of this trail under these keys.
    /// * [`AuditError::NoLog`] if one of these was given without the log's key.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify(&self, what: impl Into<Verify>) -> Result<Verification, AuditError> {
        self.verify_with(what, |_| ()).await
    }

    /// As [`verify`](Self::verify), and reports after each range of entries.
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify_with(
        &self,
        what: impl Into<Verify>,
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Verification, AuditError> {
        let what = what.into();
        let kept = self.what_was_kept(&what)?;
        let keys = Keyring::new(self.keys(), self.store().tenant());
        loop {
            let (purged, marked) = Purged::load(self, &keys).await?;
            let verified = self
                .verify_once(&what, kept.clone(), (&keys, &purged, marked), &mut progress)
                .await?;
            if verified.is_clean() {
                return Ok(verified);
            }
            // What is archived meanwhile is not missing: look again, knowing of it.
            if purged.is_outdated(self).await? {
                continue;
            }
            if verified.finding_count() > 0 {
                tracing::error!(
                    findings = verified.finding_count(),
                    "the audit trail is not as it was written"
                );
            }
            return Ok(verified);
        }
    }

    async fn verify_once(
        &self,
        what: &Verify,
        mut kept: Vec<Kept>,
        (keys, purged, marked): (&Keyring, &Purged, Vec<Finding>),
        mut progress: impl FnMut(Progress) + Send,
    ) -> Result<Verification, AuditError> {
        let mut outside = match &what.log {
            Some(log) => Outside::ask(self, log).await?,
            None => Outside::default(),
        };
        kept.extend(outside.take_notes());
        let mut findings = Findings::default();
        let mut reader = Reader::open(self.store()).await?;
        let survey = reader.survey(&what.scope, what.log.is_some(), &mut findings);
        let survey = survey.await?;
        if what.scope == Scope::All {
            for finding in marked {
                findings.push(finding);
            }
        }
        // After the heads: what was signed before them is signed by a key of before them.
        let (registry, doubtful) = self.registry(keys).await?;
        let parts = survey.parts.iter().map(|(no, part, _)| (*no, *part));
        let known = (&registry, purged);
        let breath = Breath::new(what.pace, survey.heads);
        let mut pass = Pass::new(reader, keys, known, parts, findings, breath);
        let mut trees = what.log.as_ref().map(|log| Trees::new(log, purged, kept));
        let mut earlier = None;
        if let (Some(trees), Some(extent)) = (&mut trees, &survey.extent) {
            if let (Some(log), Some(token)) = (&what.log, &what.resume) {
                let point = resume::read(self.keys_of_tenant(), log, token)?;
                earlier = self.go_on(point, &mut pass, trees).await?;
            }
            pass.under_checkpoints(trees, extent, &mut progress).await?;
        }
        pass.rest(&mut progress).await?;
        let outages = pass.journals.open();
        let mut limits: Vec<String> = limits(what, trees.as_ref(), earlier.is_some());
        if what.scope == Scope::All {
            let held = survey.parts.iter().filter(|(_, _, held)| *held);
            let held: Vec<i32> = held.map(|(no, ..)| *no).collect();
            limits.extend(pass.journal_findings(&held).await?);
        }
        let mut reports = pass.finish();
        for (_, report) in &mut reports {
            pass.signed_heads(report).await?;
        }
        let chains = ranked(reports, trees.as_ref());
        let mut findings = pass.findings;
        let anchors = match (&what.log, &trees) {
            (Some(log), Some(trees)) => outside.judge(self, log, trees, &mut findings).await?,
            _ => Vec::new(),
        };
        let (size, rotations) = earlier.unzip();
        let rotations = rotations.unwrap_or_default();
        if what.scope == Scope::All {
            find_left_behind(&chains, &rotations, &mut findings);
        }
        // Where the walk came by, it has said so.
        let unseen = |finding: &Finding| {
            let walked = |chain: &ChainReport| {
                chain.chain_no == finding.chain_no && (chain.from..=chain.to).contains(&finding.seq)
            };
            !chains.iter().any(walked)
        };
        doubtful
            .into_iter()
            .filter(unseen)
            .for_each(|finding| findings.push(finding));
        // Politely; what was read stands whatever the server says to it.
        let _ = pass.reader.connection.close().await;
        let mut verification = Verification::new(findings, chains, limits);
        verification.set_resumed(size, rotations);
        verification.set_anchors(anchors);
        if what.scope == Scope::All {
            let until = self.store().now();
            verification.set_exposure(exposure(&survey, trees.as_ref(), until));
        }
        if let Some((_, note)) = trees.as_ref().and_then(Trees::signed)
            && verification.is_clean()
        {
            let rotations = verification.rotations();
            let token = resume::write(self.keys_of_tenant(), note, rotations, &outages);
            verification.set_token(token);
        }
        Ok(verification)
    }

    /// Verifies everything against the checkpoints of `log`, and against the note of one that was
    /// kept outside of the database: [`verify`](Self::verify) of [`Verify::everything`].
    ///
    /// # Errors
    ///
    /// As for [`verify`](Self::verify).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads, over a connection of its own.
    pub async fn verify_checkpoints(
        &self,
        log: &LogVerifier,
        kept: Option<&str>,
    ) -> Result<Verification, AuditError> {
        let mut what = Verify::everything().log(log);
        if let Some(note) = kept {
            what = what.kept("kept", note);
        }
        self.verify(what).await
    }

    /// What was kept elsewhere, read; the checkpoint to go on from is one of them.
    fn what_was_kept(&self, what: &Verify) -> Result<Vec<Kept>, AuditError> {
        let Some(log) = &what.log else {
            return match (&what.resume, what.kept.first()) {
                (Some(_), _) => Err(AuditError::NoLog { what: "a token" }),
                (None, Some(_)) => Err(AuditError::NoLog {
                    what: "a checkpoint that was kept",
                }),
                (None, None) => Ok(Vec::new()),
            };
        };
        let mut kept = Vec::with_capacity(what.kept.len() + 1);
        for (name, note) in &what.kept {
            kept.push(Kept {
                name: name.clone(),
                checkpoint: Checkpoint::open(note, log)?,
            });
        }
        if let Some(token) = &what.resume {
            kept.push(Kept {
                name: TOKEN.to_owned(),
                checkpoint: resume::read(self.keys_of_tenant(), log, token)?.checkpoint,
            });
        }
        if kept.iter().any(|kept| kept.checkpoint.size() == 0) {
            return Err(LogError::EmptyAnchor.into());
        }
        Ok(kept)
    }

    /// The agents' keys that are on record, by entries whose MACs are right; and the entries whose
    /// MACs are not, which may have said something else.
    async fn registry(&self, keys: &Keyring) -> Result<(Registry, Vec<Finding>), StoreError> {
        let malformed = |_| StoreError::malformed(OPERATION);
        let (mut registry, mut doubtful) = (Registry::default(), Vec::new());
        for fetched in list_key_entries(self.store()).await? {
            let stored = fetched.stored(self.store().tenant()).map_err(malformed)?;
            let place = match stored {
                Ok(stored) if is_sound(keys, &stored, &fetched).map_err(malformed)? => {
                    registry.take(&stored);
                    continue;
                }
                Ok(stored) => (stored.row.chain_no, stored.row.seq),
                Err(torn) => (
                    torn.chain_no.unwrap_or(0),
                    torn.seq.and_then(|seq| seq.try_into().ok()).unwrap_or(0),
                ),
            };
            let detail = "the entry, which says whose a signing key is, is not proved after the one before it";
            let (class, seq) = (FindingClass::BadMac, place.1);
            doubtful.push(Finding::new(class, place.0, (seq, seq), detail));
        }
        Ok((registry, doubtful))
    }
}

/// What was verified of each chain, with what stands behind it.
fn ranked(chains: Vec<(i32, ChainReport)>, trees: Option<&Trees<'_>>) -> Vec<ChainReport> {
    let rank = |(chain_no, mut report): (i32, ChainReport)| {
        let accused = trees.into_iter().flat_map(Trees::accused);
        for (_, from, to) in accused.filter(|(no, ..)| *no == chain_no) {
            report.contradict(from, to);
        }
        report.rank(trees.map_or(Marks::default(), |trees| trees.marks_of(chain_no)));
        report
    };
    chains.into_iter().map(rank).collect()
}

fn limits(what: &Verify, trees: Option<&Trees<'_>>, resumed: bool) -> Vec<String> {
    let of_trees = match trees {
        None => Some(NO_TREE),
        Some(trees) => trees.anchor().is_none().then_some(NOTHING_KEPT),
    };
    let limits = [what.scope.limit(), of_trees, resumed.then_some(RESUMED)];
    limits.into_iter().flatten().map(str::to_owned).collect()
}

/// What lies after the newest checkpoint that was kept elsewhere.
fn exposure(survey: &Survey, trees: Option<&Trees<'_>>, until: Timestamp) -> Exposure {
    let anchor = trees.and_then(Trees::anchor);
    let entries = survey.parts.iter().map(|(chain_no, part, _)| {
        let anchored = trees.map_or(0, |trees| trees.marks_of(*chain_no).anchored);
        part.last().saturating_sub(anchored)
    });
    Exposure {
        anchor: anchor.map(|(name, ..)| name.clone()),
        size: anchor.map_or(0, |(_, size, _)| *size),
        entries: entries.fold(0, u64::saturating_add),
        since: anchor.and_then(|(.., at)| at.map(Timestamp::from_micros)),
        until,
    }
}

/// Chains are numbered from 1 without a hole, and none is ever removed: where a number is missing,
/// a chain was.
fn find_missing_chains(chains: &[ChainRow], findings: &mut Findings) {
    let mut next = 1_i64;
    for chain in chains {
        let number = i64::from(chain.chain_no);
        if number > next {
            let chain_no = u32::try_from(next).unwrap_or(0);
            let detail = "a chain is gone with its head, or several: later ones are there";
            let class = FindingClass::Truncated;
            findings.push(Finding::new(class, chain_no, (1, 1), detail));
        }
        next = next.max(number + 1);
    }
}

/// A rotation hands on every chain that is not stopped: one that is still under an older key was
/// begun, or gone on with, by somebody who has that key and no newer one.
fn find_left_behind(chains: &[ChainReport], earlier: &[Marker], findings: &mut Findings) {
    let Some(newest) = chains.iter().filter_map(|chain| chain.last_key).max() else {
        return;
    };
    for chain in chains {
        let Some(key) = chain.last_key.filter(|key| *key < newest) else {
            continue;
        };
        let handed_on = chains.iter().flat_map(|chain| &chain.rotations);
        let stopped = handed_on
            .chain(earlier)
            .filter(|rotation| rotation.from == key)
            .flat_map(|rotation| &rotation.stopped)
            .find(|(chain_no, _)| *chain_no == chain.chain_no);
        let last = chain.head.unwrap_or(chain.to);
        let (class, seq, detail) = match stopped {
            Some((_, next)) if last < *next => continue,
            Some((_, next)) => (
                FindingClass::KeyWindow,
                *next,
                "entries under an old key, in a chain that was stopped before the rotation",
            ),
            None => (
                FindingClass::Rotation,
                last,
                "the chain ends under an old key; no rotation left it there",
            ),
        };
        let place = (seq, last.max(seq));
        findings.push(Finding::new(class, chain.chain_no, place, detail));
    }
}

/// As Postgres counts; past its largest number there is nothing.
fn seq_of_sql(seq: u64) -> i64 {
    i64::try_from(seq).unwrap_or(i64::MAX)
}
