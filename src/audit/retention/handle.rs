//! The handle: the policy, the holds, and the ways to the rest.

use std::path::Path;

use super::archive;
use super::check::{self, ArchiveCheck};
use super::error::RetentionError;
use super::hold::{LegalHold, OpenHold};
use super::model::{ArchiveProgress, ArchiveReport, Archiving};
use super::policy::{PolicyInForce, RetentionPolicy};
use crate::audit::Audit;
use crate::audit::kind::Kind;
use crate::audit::model::AuditEvent;
use crate::audit::store::retention::{self as sql, HoldRow};
use crate::ids::{AgentId, EventId, SessionId, UserId};
use crate::store::StoreError;
use crate::tlog::LogVerifier;

/// The longest reason, in bytes.
const MAX_REASON: usize = 1_024;

/// How long entries stay, for one tenant. Cheap to clone.
///
/// What it changes takes the archivist's database role ([`Migration::archivist_role`]); a legal hold
/// may also be set by the application's.
///
/// [`Migration::archivist_role`]: crate::store::Migration::archivist_role
#[derive(Clone, Debug)]
pub struct Retention {
    pub(super) audit: Audit,
}

impl Audit {
    /// How long entries stay, and what is archived.
    #[must_use]
    pub fn retention(&self) -> Retention {
        Retention {
            audit: self.clone(),
        }
    }
}

impl Retention {
    /// Sets the policy, and records who did and why (`retention.policy_set`).
    ///
    /// # Errors
    ///
    /// * [`RetentionError::Field`] if the reason is empty or too long.
    /// * [`RetentionError::Contended`] if somebody else sets one now.
    /// * [`RetentionError::Store`], [`RetentionError::Audit`] if the database did not take it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: it may have been set. Setting it again is safe.
    pub async fn set_policy(
        &self,
        policy: RetentionPolicy,
        by: &UserId,
        why: &str,
    ) -> Result<(), RetentionError> {
        const OPERATION: &str = "set the retention policy";
        let mut event = said(Kind::RetentionPolicySet, by, why)?;
        event = event.with("min_months", policy.min_months);
        if let Some(max) = policy.max_months {
            event = event.with("max_months", max);
        }
        let store = self.audit.store();
        let months = (policy.min_months, policy.max_months);
        let mut tx = store.begin().await.map_err(StoreError::during(OPERATION))?;
        let now = store.database_now();
        let set = sql::insert_policy_in_tx(&mut tx, store.tenant(), months, event.id(), now).await;
        set.map_err(archive::contended(OPERATION))?;
        self.audit.append_in_tx(&mut tx, event).await?;
        tx.commit().await.map_err(StoreError::during(OPERATION))?;
        self.audit.move_outbox().await?;
        Ok(())
    }

    /// The policy in force; `None` if there is none, and nothing can be archived.
    ///
    /// # Errors
    ///
    /// [`RetentionError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn policy(&self) -> Result<Option<PolicyInForce>, RetentionError> {
        let row = sql::fetch_policy(self.audit.store()).await?;
        Ok(row.map(|row| PolicyInForce {
            policy: RetentionPolicy {
                min_months: row.min_months,
                max_months: row.max_months,
            },
            since: row.set_at,
        }))
    }

    /// Sets a legal hold, and records who did and why (`legal_hold.set`). From when this answers,
    /// nothing that it is on is removed; a removal that is under way is waited for.
    ///
    /// # Errors
    ///
    /// * [`RetentionError::Field`] if the times are in the wrong order, or the reason is empty or too
    ///   long.
    /// * [`RetentionError::Store`], [`RetentionError::Audit`] if the database did not take it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: it may have been set.
    pub async fn hold(
        &self,
        hold: LegalHold,
        by: &UserId,
        why: &str,
    ) -> Result<EventId, RetentionError> {
        const OPERATION: &str = "set a legal hold";
        if let (Some(from), Some(to)) = (hold.from, hold.to)
            && to <= from
        {
            return Err(RetentionError::Field {
                field: "the end of a legal hold",
                problem: "must be after its beginning",
            });
        }
        let mut event = said(Kind::LegalHoldSet, by, why)?;
        for (name, text) in [
            ("session", hold.session.as_ref().map(SessionId::to_string)),
            ("agent", hold.agent.as_ref().map(AgentId::to_string)),
            ("from", hold.from.map(|from| from.to_string())),
            ("to", hold.to.map(|to| to.to_string())),
        ] {
            if let Some(text) = text {
                event = event.with(name, text);
            }
        }
        let store = self.audit.store();
        let row = HoldRow {
            id: event.id(),
            session: hold.session.map(|session| session.to_string()),
            agent: hold.agent.map(|agent| agent.to_string()),
            from: hold.from,
            to: hold.to,
            set_at: store.now(),
        };
        let during = StoreError::during(OPERATION);
        let mut tx = store.begin().await.map_err(&during)?;
        let now = store.database_now();
        let set = sql::insert_hold_in_tx(&mut tx, store.tenant(), &row, now).await;
        set.map_err(&during)?;
        self.audit.append_in_tx(&mut tx, event).await?;
        tx.commit().await.map_err(during)?;
        self.audit.move_outbox().await?;
        Ok(row.id)
    }

    /// Releases a legal hold, and records who did and why (`legal_hold.released`).
    ///
    /// # Errors
    ///
    /// * [`RetentionError::NoHold`] if it is not open.
    /// * [`RetentionError::Field`] if the reason is empty or too long.
    /// * [`RetentionError::Store`], [`RetentionError::Audit`] if the database did not take it.
    ///
    /// # Cancel safety
    ///
    /// Not cancel safe: it may have been released.
    pub async fn release(
        &self,
        hold: EventId,
        by: &UserId,
        why: &str,
    ) -> Result<(), RetentionError> {
        const OPERATION: &str = "release a legal hold";
        let event = said(Kind::LegalHoldReleased, by, why)?
            .caused_by(hold)
            .with("hold", hold.to_string());
        let store = self.audit.store();
        let during = StoreError::during(OPERATION);
        let mut tx = store.begin().await.map_err(&during)?;
        let now = store.database_now();
        let released = sql::try_release_in_tx(&mut tx, store.tenant(), hold, event.id(), now).await;
        if !released.map_err(&during)? {
            return Err(RetentionError::NoHold { hold });
        }
        self.audit.append_in_tx(&mut tx, event).await?;
        tx.commit().await.map_err(during)?;
        self.audit.move_outbox().await?;
        Ok(())
    }

    /// The legal holds that are set and not released, oldest first.
    ///
    /// # Errors
    ///
    /// [`RetentionError::Store`] if the database did not answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn holds(&self) -> Result<Vec<OpenHold>, RetentionError> {
        let malformed = || StoreError::malformed("read the legal holds");
        let open = |row: HoldRow| {
            let session = row.session.map(SessionId::parse).transpose();
            let agent = row.agent.map(AgentId::parse).transpose();
            Ok(OpenHold {
                id: row.id,
                hold: LegalHold {
                    session: session.map_err(|_| malformed())?,
                    agent: agent.map_err(|_| malformed())?,
                    from: row.from,
                    to: row.to,
                },
                set_at: row.set_at,
            })
        };
        let store = self.audit.store();
        let work = || async {
            let mut tx = store.begin().await?;
            let rows = sql::list_open_holds(&mut tx, store.tenant()).await?;
            tx.commit().await?;
            Ok(rows)
        };
        let rows = store.run_idempotent("read the legal holds", work).await?;
        rows.into_iter().map(open).collect()
    }

    /// Archives what is old enough, and removes it. What an earlier run left undone is finished
    /// first.
    ///
    /// # Errors
    ///
    /// * [`RetentionError::NoPolicy`], [`RetentionError::BelowPolicy`], [`RetentionError::NotAnchored`]:
    ///   what is missing, before anything is done.
    /// * [`RetentionError::AnchorMismatch`], [`RetentionError::Unsound`], or
    ///   [`AuditError::Tampered`](crate::audit::AuditError::Tampered) within: the trail is not the one that was signed. Nothing is removed.
    /// * [`RetentionError::File`] if the files cannot be written.
    /// * [`RetentionError::Store`], [`RetentionError::Audit`] if the database did not take it, or a
    ///   hold was set meanwhile. What was not removed is removed by the next run, if it then may be.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe, at any point, as is a kill: nothing is removed that is not in a verified file.
    pub async fn archive(&self, what: &Archiving) -> Result<ArchiveReport, RetentionError> {
        self.archive_with(what, |_| ()).await
    }

    /// As [`archive`](Self::archive), and reports how far it has come.
    ///
    /// # Errors
    ///
    /// As for [`archive`](Self::archive).
    ///
    /// # Cancel safety
    ///
    /// As for [`archive`](Self::archive).
    pub async fn archive_with(
        &self,
        what: &Archiving,
        progress: impl FnMut(ArchiveProgress) + Send,
    ) -> Result<ArchiveReport, RetentionError> {
        archive::run(&self.audit, what, progress).await
    }

    /// Verifies an archive's file: every entry against the tree that its checkpoint signs, and the
    /// file against what the database and the trail have on record of it.
    ///
    /// # Errors
    ///
    /// * [`RetentionError::Unsound`] if it does not begin as an archive of this tenant does.
    /// * [`RetentionError::Log`] if its checkpoint is not one of `log`.
    /// * [`RetentionError::File`] if it cannot be read, [`RetentionError::Audit`] if the database
    ///   did not answer. Findings are no error: they are in the answer.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it only reads.
    pub async fn verify_archive(
        &self,
        file: &Path,
        log: &LogVerifier,
    ) -> Result<ArchiveCheck, RetentionError> {
        let mut check = check::file(&self.audit, file, log).await?;
        check::against_record(&self.audit, &mut check).await?;
        Ok(check)
    }
}

/// An event that somebody did for a reason.
fn said(kind: Kind, by: &UserId, why: &str) -> Result<AuditEvent, RetentionError> {
    if why.trim().is_empty() || why.len() > MAX_REASON || why.contains('\0') {
        return Err(RetentionError::Field {
            field: "the reason",
            problem: "must have 1 to 1024 bytes and no NUL; say why, for who reads the trail",
        });
    }
    let mut event = AuditEvent::system(None, kind).with("why", why);
    event.user = Some(by.clone());
    Ok(event)
}
