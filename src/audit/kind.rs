//! The closed vocabulary of entries, and the callers' own kinds.

use std::fmt;

/// The longest kind, in bytes.
const MAX_LEN: usize = 64;

macro_rules! kinds {
    ($($variant:ident = $text:literal),* $(,)?) => {
        /// What an entry says happened. The system's kinds are closed and each is written by one
        /// module; a caller writes kinds under `app.` only, so that nobody can forge `gate.granted`.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $(#[doc = concat!("`", $text, "`")] $variant,)*
            /// A caller's kind, under `app.`.
            App(AppKind),
        }

        impl Kind {
            /// The kind as the trail spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::App(kind) => kind.as_str(),
                }
            }

            /// Reads a kind as the trail spells it; `None` if it is not one.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text {
                    $($text => Some(Self::$variant),)*
                    other => AppKind::parse(other).ok().map(Self::App),
                }
            }

            /// Every system kind.
            pub const SYSTEM: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}

kinds! {
    ChainGenesis = "chain.genesis", ChainCheckpoint = "chain.checkpoint",
    ChainAnchored = "chain.anchored", ChainAnchorFailed = "chain.anchor_failed",
    ChainVerified = "chain.verified", ChainVerifyFailed = "chain.verify_failed",
    ChainForkDetected = "chain.fork_detected", ChainKeyRotated = "chain.key_rotated",
    ChainDegradedStart = "chain.degraded_start", ChainDegradedEnd = "chain.degraded_end",
    ExportGenerated = "export.generated", ReportGenerated = "report.generated",
    RetentionPolicySet = "retention.policy_set", RetentionPurged = "retention.purged",
    LegalHoldSet = "legal_hold.set", LegalHoldReleased = "legal_hold.released",
    SessionStarted = "session.started", SessionEnded = "session.ended",
    LlmCallStarted = "llm.call.started", LlmCallCompleted = "llm.call.completed",
    LlmCallFailed = "llm.call.failed", ModelChanged = "model.changed",
    ToolCallStarted = "tool.call.started", ToolCallCompleted = "tool.call.completed",
    ToolCallFailed = "tool.call.failed", CodeExecRequested = "code.exec_requested",
    CodeExecBlocked = "code.exec_blocked",
    ScopePolicyRegistered = "scope.policy_registered", ScopeViolation = "scope.violation",
    ToolHidden = "tool.hidden",
    BudgetPolicyRegistered = "budget.policy_registered", BudgetExceeded = "budget.exceeded",
    BudgetCheckFailed = "budget.check_failed", BudgetWarned = "budget.warned",
    BudgetToppedUp = "budget.topped_up", BudgetLeased = "budget.leased",
    CostRecorded = "cost.recorded", RoutingAdvised = "routing.advised",
    GateRequested = "gate.requested", GateGranted = "gate.granted", GateDenied = "gate.denied",
    GateExpired = "gate.expired", GateTokenConsumed = "gate.token_consumed",
    GateTokenReplayBlocked = "gate.token_replay_blocked",
    GateEscalated = "gate.escalated", GateWithdrawn = "gate.withdrawn",
    GateConsumed = "gate.consumed", GatePolicyRegistered = "gate.policy_registered",
    GateSelfApprovalBlocked = "gate.self_approval_blocked", GateVoted = "gate.voted",
    GateRevoked = "gate.revoked", GateStandingGranted = "gate.standing_granted",
    OverrideRecorded = "override.recorded",
    LoopDetected = "loop.detected", LoopStateUnavailable = "loop.state_unavailable", LoopPolicyRegistered = "loop.policy_registered",
    AgentRegistered = "agent.registered", AgentDecommissioned = "agent.decommissioned",
    AgentHalted = "agent.halted", AgentResumed = "agent.resumed",
    AgentHaltBlockedCall = "agent.halt_blocked_call", HaltStateStale = "halt.state_stale",
    PresenceUnresponsive = "presence.unresponsive",
    ContractPolicyRegistered = "contract.policy_registered",
    ContractViolated = "contract.violated", ContractPassed = "contract.passed",
    OutputBlocked = "output.blocked",
    IdentityKeyRegistered = "identity.key_registered", IdentityKeyRotated = "identity.key_rotated",
    IdentityKeyRevoked = "identity.key_revoked",
    IdentitySignatureFailed = "identity.signature_failed",
    IdentityUnsignedLocalFailure = "identity.unsigned_local_failure",
    PolicyChanged = "policy.changed", PolicyRolledBack = "policy.rolled_back",
    PolicyDecision = "policy.decision", PolicyApproved = "policy.approved",
    ConfigSnapshot = "config.snapshot",
    CoverageSnapshot = "coverage.snapshot", CoverageBypassDetected = "coverage.bypass_detected",
    VaultCredentialCreated = "vault.credential_created",
    VaultCredentialRotated = "vault.credential_rotated", VaultKekRotated = "vault.kek_rotated",
    VaultRefIssued = "vault.ref_issued", VaultRefResolved = "vault.ref_resolved",
    VaultRefDenied = "vault.ref_denied", VaultRefRevoked = "vault.ref_revoked",
    VaultRefExpired = "vault.ref_expired",
    InjectionFlagged = "injection.flagged", InjectionBlocked = "injection.blocked",
    PiiRedacted = "pii.redacted", MemoryWrite = "memory.write",
    MemoryWriteRejected = "memory.write_rejected", A2aSent = "a2a.sent",
    A2aReceived = "a2a.received", A2aRejected = "a2a.rejected", SupplyPinned = "supply.pinned",
    SupplyMismatch = "supply.mismatch",
    ConsoleLogin = "console.login", ConsoleLoginFailed = "console.login_failed",
    ConsoleLoginLocked = "console.login_locked", ConsoleUserAdded = "console.user_added",
    ConsoleUserDisabled = "console.user_disabled", RoleGranted = "role.granted",
    RoleRevoked = "role.revoked", ReviewCompleted = "review.completed",
    IncidentOpened = "incident.opened", IncidentContained = "incident.contained",
    IncidentClosed = "incident.closed", IncidentNotified = "incident.notified",
    RiskFlagged = "risk.flagged", FeedbackRecorded = "feedback.recorded",
    DrillExecuted = "drill.executed", EvalResult = "eval.result",
    ClockSkewDetected = "clock.skew_detected",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A caller's kind: `app.` and then lower-case words, digits and `_`, joined by points.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AppKind(String);

impl AppKind {
    /// Parses `text`.
    ///
    /// # Errors
    ///
    /// [`InvalidKind`] if it is a system kind, or no kind at all.
    pub fn parse(text: &str) -> Result<Self, InvalidKind> {
        Self::check(text).map(|()| Self(text.to_owned()))
    }

    /// What [`parse`](Self::parse) would say, without keeping the text.
    pub(crate) fn check(text: &str) -> Result<(), InvalidKind> {
        let Some(rest) = text.strip_prefix("app.") else {
            return Err(InvalidKind::Reserved);
        };
        let word = |word: &str| {
            let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
            !word.is_empty() && word.bytes().all(allowed)
        };
        if text.len() > MAX_LEN || !rest.split('.').all(word) {
            return Err(InvalidKind::Form);
        }
        Ok(())
    }

    /// The kind, `app.` included.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A kind that a caller may not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKind {
    /// Not under `app.`.
    #[error("an event kind of yours must begin with `app.`; all others belong to the system")]
    Reserved,
    /// Under `app.`, but not in the right form.
    #[error(
        "invalid event kind; write app. and then at most 60 of a-z 0-9 _ in words joined by points"
    )]
    Form,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back_and_none_is_the_callers() {
        assert_eq!(Kind::SYSTEM.len(), 114);
        for kind in Kind::SYSTEM {
            assert_eq!(Kind::parse(kind.as_str()).as_ref(), Some(kind));
            assert_eq!(AppKind::parse(kind.as_str()), Err(InvalidKind::Reserved));
        }
    }

    #[test]
    fn callers_kinds() {
        assert!(AppKind::parse("app.invoice.read_2").is_ok());
        for bad in [
            "app", "app.", "app..x", "app.X", "app.x ", "app.x-y", "App.x", "app.ä",
        ] {
            assert!(AppKind::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            AppKind::parse(&format!("app.{}", "x".repeat(61))),
            Err(InvalidKind::Form)
        );
    }
}
