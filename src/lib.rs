#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod call;
mod canon;
mod error;
mod ids;
mod money;
mod secret;
mod time;
mod usage;

pub mod audit;
pub mod store;

// The public interface.
pub use call::{Action, Call, InvalidCall, Principal};
pub use error::{ErrorKind, Gate, Refusal};
pub use ids::{
    AgentId, BudgetName, CallId, EventId, Id, IdKind, InvalidId, InvalidUuid, MAX_ID_LEN,
    ModelName, OperatorId, ReservationId, SessionId, TenantId, ToolName, UserId, kind,
};
pub use money::{InvalidUsd, Usd};
pub use secret::{MIN_SECRET_BYTES, Secret, WeakSecret};
pub use store::Database;
pub use time::{Clock, InvalidTimestamp, ManualClock, SystemClock, Timestamp, UtcDay};
pub use usage::{Ceiling, Tier, Usage};
