//! Whether it can be shown that entries were kept for so many months (rule R-RET).

use std::fmt;

use super::archive::anchored;
use super::hold::LegalHold;
use super::model::KeptNote;
use super::policy::AT_LEAST;
use super::purged::records;
use super::record::{Purge, Record, Said};
use super::{Retention, RetentionError};
use crate::audit::store::archive::list_youngest;
use crate::audit::store::retention::fetch_beginning;
use crate::audit::verify::Keyring;
use crate::ids::EventId;
use crate::time::Timestamp;
use crate::tlog::LogVerifier;

/// How far it can be shown. Never "compliant": that is for a lawyer to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// All of it: the policy, a checkpoint that was anchored then, and nothing gone since.
    Evidenced,
    /// The trail, or its policy's window, is younger than that; nothing speaks against it so far.
    Accruing,
    /// There was a policy all the time, and nothing outside of the database shows what was there.
    PolicyOnly,
    /// It cannot be shown, or the opposite can.
    NotEvidenced,
    /// The trail is not as it was written, or an anchor holds another one: nothing can be said.
    Indeterminate,
}

impl Status {
    /// The status, as reports spell it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Evidenced => "evidenced",
            Self::Accruing => "partial(accruing)",
            Self::PolicyOnly => "partial(policy_only)",
            Self::NotEvidenced => "not_evidenced",
            Self::Indeterminate => "indeterminate",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What can be shown of retention, and why not more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "evidence that nobody looks at shows nothing"]
pub struct RetentionEvidence {
    /// How far it can be shown.
    pub status: Status,
    /// For how many calendar months it was asked.
    pub months: u32,
    /// The moment that it is about, by the clock of this host.
    pub as_of: Timestamp,
    /// When the trail began, as far as its entries say.
    pub began: Option<Timestamp>,
    /// The anchor that held a checkpoint at the beginning of the window, and since when.
    pub anchored: Option<(String, Timestamp)>,
    /// When it can be shown at the earliest, if nothing changes.
    pub provable_at: Option<Timestamp>,
    /// How many entries are archived and not in the trail any more.
    pub archived: u64,
    /// What speaks against more, in sentences for the report.
    pub reasons: Vec<&'static str>,
}

impl Retention {
    /// Whether it can be shown that entries were kept for `months` calendar months until now: the
    /// larger of six and what the sector's own law asks for.
    ///
    /// `kept` are checkpoints that anchors gave back, with since when they have them
    /// ([`KeptNote::since`]); give old ones too. Everything is verified for it, which reads the
    /// whole trail.
    ///
    /// # Errors
    ///
    /// * [`RetentionError::TooShort`] below six months.
    /// * [`RetentionError::Log`] if a note is none of `log`.
    /// * [`RetentionError::Audit`], [`RetentionError::Store`] if the trail could not be read to its
    ///   end.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn evidence(
        &self,
        log: &LogVerifier,
        kept: &[KeptNote],
        months: u32,
    ) -> Result<RetentionEvidence, RetentionError> {
        if months < AT_LEAST {
            return Err(RetentionError::TooShort { months });
        }
        let audit = &self.audit;
        let newest = match anchored(audit, kept, log).await {
            Ok((note, _)) => Some(note),
            Err(RetentionError::NotAnchored) => None,
            Err(RetentionError::AnchorMismatch { .. }) => {
                return Ok(self.indeterminate(
                    months,
                    "an anchor holds a checkpoint that is not of the stored tree",
                ));
            }
            Err(error) => return Err(error),
        };
        let chains = audit.verify_all().await?;
        let note = newest.as_ref().map(|note| note.note.as_str());
        let tree = audit.verify_checkpoints(log, note).await?;
        if chains.finding_count() > 0 || tree.finding_count() > 0 {
            let reason = "the trail is not as it was written; the verification says where";
            return Ok(self.indeterminate(months, reason));
        }
        let store = audit.store();
        let keys = Keyring::new(audit.keys(), store.tenant());
        let held = |note: &KeptNote| Some((note.anchor.clone(), note.since?));
        let facts = Facts {
            now: store.now(),
            months,
            began: fetch_beginning(store).await?,
            anchored: kept.iter().filter_map(held).min_by_key(|(_, since)| *since),
            records: records(audit, &keys).await?,
            youngest: list_youngest(store).await?,
        };
        let mut evidence = facts.decide();
        evidence.archived = chains.archived();
        Ok(evidence)
    }

    fn indeterminate(&self, months: u32, reason: &'static str) -> RetentionEvidence {
        RetentionEvidence {
            status: Status::Indeterminate,
            months,
            as_of: self.audit.store().now(),
            began: None,
            anchored: None,
            provable_at: None,
            archived: 0,
            reasons: vec![reason],
        }
    }
}

/// What is known, of a trail that is as it was written.
struct Facts {
    now: Timestamp,
    months: u32,
    began: Option<Timestamp>,
    /// The oldest checkpoint that an anchor holds.
    anchored: Option<(String, Timestamp)>,
    records: Vec<Record>,
    /// When the youngest entry was recorded that stayed of each archive's ranges: none that went was
    /// younger.
    youngest: Vec<(EventId, Timestamp)>,
}

impl Facts {
    fn decide(self) -> RetentionEvidence {
        let mut reasons = Vec::new();
        let violated = self.violations(&mut reasons);
        let current = self.policies().last().map(|(_, months)| months);
        let kept_all_along = self.policy_all_along();
        let anchored = self.anchored.clone().filter(|(_, at)| self.is_past(*at));
        let young = self.began.is_none_or(|began| !self.is_past(began));
        let enough = current.is_some_and(|months| months >= self.months);
        let status = if self.began.is_none() {
            reasons.push("there are no entries");
            Status::NotEvidenced
        } else if violated {
            Status::NotEvidenced
        } else if !enough {
            reasons.push("no retention policy of so many months is in force");
            Status::NotEvidenced
        } else if young {
            reasons.push("the trail is younger than that");
            Status::Accruing
        } else if !kept_all_along {
            reasons.push("no retention policy of so many months was in force all the time");
            Status::NotEvidenced
        } else if anchored.is_none() {
            reasons.push(
                "no checkpoint was given that an anchor has held since the beginning of that time",
            );
            Status::PolicyOnly
        } else {
            Status::Evidenced
        };
        let open = matches!(status, Status::Accruing | Status::PolicyOnly) || !kept_all_along;
        let provable_at = self.provable_at().filter(|_| open && enough && !violated);
        RetentionEvidence {
            status,
            months: self.months,
            as_of: self.now,
            began: self.began,
            anchored,
            provable_at,
            archived: 0,
            reasons,
        }
    }

    /// Whether a moment is so many months ago.
    fn is_past(&self, at: Timestamp) -> bool {
        at.plus_months(self.months) <= self.now
    }

    fn policies(&self) -> impl Iterator<Item = (Timestamp, u32)> {
        self.records.iter().filter_map(|record| match record.said {
            Said::Policy { min_months } => Some((record.at, min_months)),
            _ => None,
        })
    }

    /// The policy that held at the beginning of the window, and each one since, is long enough.
    fn policy_all_along(&self) -> bool {
        let first = self.policies().filter(|(at, _)| self.is_past(*at)).last();
        let since = self.policies().filter(|(at, _)| !self.is_past(*at));
        first.is_some()
            && first
                .into_iter()
                .chain(since)
                .all(|(_, n)| n >= self.months)
    }

    /// Once the policy and an anchored checkpoint are old enough.
    fn provable_at(&self) -> Option<Timestamp> {
        let long = |(_, months): &(Timestamp, u32)| *months >= self.months;
        let policies: Vec<_> = self.policies().collect();
        let policy = policies.iter().rev().take_while(|p| long(p)).last()?.0;
        let (_, anchored) = self.anchored.as_ref()?;
        Some(policy.max(*anchored).plus_months(self.months))
    }

    /// Whether a removal took what it must not have taken.
    fn violations(&self, reasons: &mut Vec<&'static str>) -> bool {
        let before = reasons.len();
        for (record, purge) in self.purges() {
            let policy = self
                .policies()
                .take_while(|(at, _)| *at <= record.at)
                .last();
            let youngest = self.youngest.iter().filter(|(id, _)| *id == record.id);
            let youngest = youngest.map(|(_, at)| *at).max();
            let youngest = youngest.map_or(purge.youngest, |at| at.max(purge.youngest));
            let old = policy.is_some_and(|(_, months)| youngest.plus_months(months) <= record.at);
            if !old {
                reasons.push("an archive has entries that were younger than the policy's minimum");
                break;
            }
        }
        let unreadable = |record: &Record| record.said == Said::Unreadable;
        if self.records.iter().any(unreadable) {
            reasons.push("an entry about retention does not say what it should");
        }
        if self.holds().any(|hold| self.is_crossed(&hold)) {
            reasons.push("an archive was made across a legal hold");
        }
        reasons.len() > before
    }

    fn purges(&self) -> impl Iterator<Item = (&Record, &Purge)> {
        self.records.iter().filter_map(|record| match &record.said {
            Said::Purged(purge) => Some((record, purge)),
            _ => None,
        })
    }

    fn holds(&self) -> impl Iterator<Item = Held<'_>> {
        self.records.iter().filter_map(|record| match &record.said {
            Said::HoldSet(hold) => {
                let release = self.records.iter().find(
                    |release| matches!(release.said, Said::HoldReleased(of) if of == record.id),
                );
                Some(Held {
                    id: record.id,
                    hold,
                    from: record.occurred,
                    to: release.map_or(Timestamp::MAX, |release| release.occurred),
                })
            }
            _ => None,
        })
    }

    /// An archive that was made under a hold must have looked at it, and a hold on everything leaves
    /// nothing to archive.
    fn is_crossed(&self, held: &Held<'_>) -> bool {
        self.purges().any(|(record, purge)| {
            let meanwhile = held.from <= record.occurred && record.occurred < held.to;
            let respected = *held.hold != LegalHold::everything() && purge.holds.contains(&held.id);
            meanwhile && !respected
        })
    }
}

struct Held<'h> {
    id: EventId,
    hold: &'h LegalHold,
    from: Timestamp,
    to: Timestamp,
}

#[cfg(test)]
mod tests;
