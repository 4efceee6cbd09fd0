//! The trail, as a table.

use portcullis::audit::{AuditError, Query};
use portcullis::{Governance, Principal};

/// Prints every entry of the session.
pub(crate) async fn print(gov: &Governance, me: &Principal) -> Result<(), AuditError> {
    println!(
        "{:>5} {:>4}  {:<15} {:<20} {:<10} about",
        "chain", "seq", "time", "kind", "decision"
    );
    let mut query = Query::all().session(me.session_id());
    loop {
        let page = gov.audit().events(&query).await?;
        for entry in &page.entries {
            let metadata = entry.metadata.to_value();
            let tool = metadata["tool"].as_str();
            let about = tool
                .or(entry.model.as_ref().map(AsRef::as_ref))
                .unwrap_or_default();
            let time = entry.recorded_at.to_string();
            println!(
                "{:>5} {:>4}  {:<15} {:<20} {:<10} {about}",
                entry.chain_no,
                entry.seq,
                time.get(11..26).unwrap_or(&time),
                entry.kind,
                entry.decision.as_deref().unwrap_or("-"),
            );
        }
        match page.next {
            Some(cursor) => query = query.after(cursor),
            None => return Ok(()),
        }
    }
}
