//! Waiting for a decision: woken when it is made, with a poll behind it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::core::Core;
use super::engine::RequestState;
use super::error::GateError;
use super::policy::MAX_LIFE;
use super::request::ApprovalRequest;
use crate::ids::RequestId;
use crate::store::{StoreError, Topic, Wake};

/// How often to look, where changes are heard, and where they are not.
const POLL_BEHIND: Duration = Duration::from_secs(1);
const POLL_ALONE: Duration = Duration::from_millis(200);

impl Core {
    /// The request, once it is pending no more, or as it stands after `at_most`.
    pub(super) async fn wait(
        &self,
        id: RequestId,
        at_most: Duration,
    ) -> Result<ApprovalRequest, GateError> {
        // Nothing lives for longer; and a moment further off may be none.
        let until = Instant::now() + at_most.min(MAX_LIFE);
        let wanted = id.to_string();
        // Heard from before the first look on, so that nothing falls in between.
        let mut heard = self.store.store.subscribe(Topic::Approvals);
        let mut pending = None;
        loop {
            let look = timeout_at(until, self.read(id)).await;
            let outcome =
                look.unwrap_or_else(|_| Err(StoreError::timed_out("wait for a decision").into()));
            let now = Instant::now();
            match outcome {
                Ok(found) if found.state != RequestState::Pending || now >= until => {
                    return Ok(found);
                }
                Ok(found) => pending = Some(found),
                Err(GateError::NoRequest) => return Err(GateError::NoRequest),
                // There was no time left for another look: it is as the last one found it.
                Err(error) if now >= until => return pending.ok_or(error),
                // The database may be back before the time is up.
                Err(_) => {}
            }
            let poll = if self.store.store.hears_changes() {
                POLL_BEHIND
            } else {
                POLL_ALONE
            };
            let next = (now + poll).min(until);
            // Notices about others are no reason to look.
            loop {
                let left = next.saturating_duration_since(Instant::now());
                match heard.next(left).await {
                    Wake::Key(key) if *key != *wanted && !left.is_zero() => {}
                    _ => break,
                }
            }
        }
    }

    /// The request as it stands; one whose time is up is ended, whoever looks first.
    pub(super) async fn read(&self, id: RequestId) -> Result<ApprovalRequest, GateError> {
        let found = self.store.fetch_request(id).await?;
        let mut found = found.ok_or(GateError::NoRequest)?;
        if found.due && !found.held && !found.shown.state.is_final() {
            if self.expire(&found).await? {
                found.shown.state = RequestState::Expired;
            } else {
                let again = self.store.fetch_request(id).await?;
                found = again.ok_or(GateError::NoRequest)?;
            }
        }
        Ok(found.shown)
    }
}
