#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(
    not(feature = "evidence"),
    expect(
        dead_code,
        unreachable_pub,
        unused_imports,
        reason = "what only bundles and archives use is not taken apart for builds without them"
    )
)]

mod builder;
mod call;
mod canon;
mod error;
mod governance;
mod health;
mod ids;
mod money;
mod parts;
mod permit;
mod posture;
mod random;
mod secret;
mod task;
mod time;
mod usage;

pub mod adapters;
pub mod audit;
#[cfg(feature = "blocking")]
pub mod blocking;
pub mod contracts;
pub mod cost;
pub mod coverage;
pub mod gates;
pub mod halt;
pub mod loops;
pub mod manual;
pub mod presence;
pub mod scope;
pub mod store;
pub mod tlog;

// The public interface.
pub use audit::AuditKeys;
pub use builder::{ConnectError, GovernanceBuilder};
pub use call::{Action, Call, InvalidCall, Principal};
pub use error::{Disabled, ErrorKind, Gate, Module, Refusal};
pub use governance::Governance;
pub use health::Health;
pub use ids::{
    AgentId, BudgetName, CallId, EventId, GrantId, Id, IdKind, InvalidId, InvalidUuid, JournalId,
    MAX_ID_LEN, ModelName, OperatorId, RequestId, ReservationId, SessionId, TenantId, ToolName,
    UserId, kind,
};
pub use money::{InvalidUsd, Usd};
pub use permit::{Outcome, Permit, RunError, Settlement};
pub use posture::{
    Freshness, GatePosture, GrantsPosture, Loaded, Posture, StoreAway, TrailPosture, Unprotected,
};
pub use secret::{MIN_SECRET_BYTES, Secret, WeakSecret};
pub use store::Database;
pub use time::{Clock, InvalidTimestamp, ManualClock, SystemClock, Timestamp, UtcDay};
pub use usage::{Ceiling, Tier, Usage};
