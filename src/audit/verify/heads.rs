//! Signed heads: does each signature hold, and how far do they reach?

use sqlx::postgres::PgConnection;

use super::assurance::ChainReport;
use super::finding::{Finding, FindingClass, Findings};
use super::seq_of_sql;
use crate::audit::identity::{AgentKeyId, Registry, SignedHead};
use crate::audit::retention::{Gap, Purged};
use crate::audit::store::heads::{PAGE, fetch_first_since, list_heads};
use crate::ids::TenantId;
use crate::store::StoreError;
use crate::time::Timestamp;

/// Checks the signed heads of what was walked, and enters in its report how far they reach.
///
/// What is signed is the MAC that is stored; that the entries are those of the MAC is the walk's to
/// say.
pub(super) async fn check(
    connection: &mut PgConnection,
    tenant: &TenantId,
    (registry, purged): (&Registry, &Purged),
    report: &mut ChainReport,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let Some((since, required)) = registry.heads_signed() else {
        // No key of a process is on record, so that no signature can hold.
        return strangers(connection, tenant, report, findings).await;
    };
    let chain_no = report.chain_no.cast_signed();
    let to = seq_of_sql(report.to);
    let mut after = seq_of_sql(report.from) - 1;
    loop {
        let page = list_heads(connection, tenant, chain_no, after, to).await?;
        for row in &page {
            after = row.seq;
            let seq = row.seq.max(0).cast_unsigned();
            let fault = match &row.last {
                None if purged.gap(chain_no, seq, seq) == Gap::Archived => continue,
                None => Some("the signed head's last entry is not there"),
                Some((mac, recorded)) => {
                    let head = SignedHead {
                        tenant,
                        chain_no: report.chain_no,
                        seq,
                        mac,
                    };
                    registry.head_fault(&head, *recorded, &row.key, &row.signature)
                }
            };
            match (fault, AgentKeyId::stored(&row.key)) {
                (None, Some(key)) => report.sign(key, seq),
                (fault, _) => {
                    let detail = fault.unwrap_or("the signed head names no key");
                    findings.push(finding(report.chain_no, seq, seq, detail));
                }
            }
        }
        if page.len() < PAGE {
            break;
        }
    }
    // Where it was not walked to the end, what follows may be signed.
    if report.head.is_some_and(|head| report.to < head) {
        return Ok(());
    }
    // The first entry of a chain says nothing; it is followed at once.
    let covered = seq_of_sql(report.signed_through().unwrap_or(report.from - 1).max(1));
    let since = Timestamp::from_micros(since);
    let first = fetch_first_since(connection, tenant, chain_no, (covered, to), since).await?;
    if let Some(first) = first.and_then(|first| u64::try_from(first).ok()) {
        if required {
            let detail = "no signed head covers the entries; it is on record that all are signed";
            findings.push(finding(report.chain_no, first, report.to, detail));
        } else {
            report.unsigned_tail = Some((first, report.to));
        }
    }
    Ok(())
}

/// Signed heads where it is not on record that there are any.
async fn strangers(
    connection: &mut PgConnection,
    tenant: &TenantId,
    report: &ChainReport,
    findings: &mut Findings,
) -> Result<(), StoreError> {
    let (after, to) = (seq_of_sql(report.from) - 1, seq_of_sql(report.to));
    let chain_no = report.chain_no.cast_signed();
    let page = list_heads(connection, tenant, chain_no, after, to).await?;
    if let Some(first) = page.first() {
        let seq = first.seq.max(0).cast_unsigned();
        let detail = "heads are signed, and no key of a process is on record";
        findings.push(finding(report.chain_no, seq, seq, detail));
    }
    Ok(())
}

const fn finding(chain_no: u32, seq: u64, through: u64, detail: &'static str) -> Finding {
    Finding::new(FindingClass::Signature, chain_no, (seq, through), detail)
}
