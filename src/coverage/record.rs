//! What the registry writes into the trail.

use serde_json::json;

use super::model::{Client, Comparison};
use crate::audit::{AuditEvent, Kind};

/// How many clients an entry names: their lines stay well below what an entry may hold.
const NAMED: usize = 200;
/// How much of a digest tells hosts apart in a log.
const SHORT: usize = 12;

/// Every client that is known, at one moment. A line of five values for each: kind, host, calls, first
/// and last seen. Keys of their own would soon be more than an entry may have.
pub(super) fn snapshot(clients: &[Client]) -> AuditEvent {
    let lines: Vec<_> = clients
        .iter()
        .take(NAMED)
        .map(|client| {
            json!([
                client.kind,
                client.host.to_string(),
                client.calls,
                client.first_seen.to_string(),
                client.last_seen.to_string(),
            ])
        })
        .collect();
    AuditEvent::system(None, Kind::CoverageSnapshot)
        .with("count", clients.len())
        .with("clients", lines)
}

/// Calls that the provider saw and no gate did.
pub(super) fn bypass(found: &Comparison) -> AuditEvent {
    AuditEvent::system(None, Kind::CoverageBypassDetected)
        .decision("bypassed")
        .with("client", &found.kind)
        .with("host", found.host.to_string())
        .with("from", found.window.from().to_string())
        .with("to", found.window.to().to_string())
        .with("governed", number(found.governed))
        .with("reported", number(found.reported))
        .with("difference", found.difference().to_string())
}

// A count from outside can be larger than what metadata takes as a number.
fn number(count: u64) -> String {
    count.to_string()
}

/// The clients, in one line for a log.
pub(super) fn names(clients: &[Client]) -> String {
    let name = |client: &Client| {
        let host: String = client.host.to_string().chars().take(SHORT).collect();
        format!("{}@{host}", client.kind)
    };
    let names: Vec<String> = clients.iter().take(NAMED).map(name).collect();
    names.join(", ")
}
