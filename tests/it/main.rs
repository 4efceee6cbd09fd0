//! Everything that touches Postgres, in one binary: it links once.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::similar_names,
    clippy::allow_attributes,
    reason = "tests"
)]

mod anchors;
mod anchors_http;
mod audit_append;
mod audit_faults;
mod audit_processes;
mod audit_read;
mod audit_tamper;
mod audit_verify;
mod blocking;
mod bundle;
mod bundle_cli;
mod bundle_timestamps;
mod checkpoints;
mod cli;
mod cli_operate;
#[cfg(test)]
mod common;
mod contracts;
mod contracts_stored;
mod cost;
mod cost_kill;
mod cost_lease;
mod coverage;
mod frozen;
#[cfg(test)]
mod gates;
mod halt;
mod heads;
mod identity;
mod journal;
mod journal_files;
mod journal_processes;
mod keys;
mod loops;
mod mutations;
#[cfg(test)]
mod openai;
#[cfg(test)]
mod openai_halt;
#[cfg(test)]
mod openai_retry;
#[cfg(test)]
mod openai_stream;
mod outbox;
mod permit;
mod permit_gates;
mod pgbouncer;
mod presence;
mod reload;
mod retention;
mod retention_kill;
mod retention_roles;
mod roles;
mod scope;
mod secrecy;
mod signed_ways;
mod statements;
mod store;
mod switches;
mod trail;
mod verify_pace;
mod verify_report;
