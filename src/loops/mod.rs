//! Loop detection: agents that go round in circles.
//!
//! A call is looked at together with the last 128 calls of the same agent in the same session: does it
//! come back too often, or is it the next step of a round that was gone before? What is compared is a
//! keyed fingerprint of the tool, its arguments and what came of it; nothing else is kept. Twenty
//! calls at once of one tool with different arguments are no loop, and neither is a declared
//! [`Poller`]. A [`LoopPolicy`] says what counts and what is done about it; an agent that has none,
//! where none is [for any agent](LoopPolicy::for_any_agent), is not looked at.
//!
//! It decides from memory. Only where sessions move between processes ([`LoopPolicy::shared`]) does
//! the first call of a session that this process has not seen wait, for a second at most, for what
//! others saw of it.
//!
//! | The store is | [`Loops::check`] | the same, sessions shared | [`Loops::observe`] |
//! |---|---|---|---|
//! | reachable | decides from memory | the same; the first call of a session reads what others saw of it | remembers |
//! | unreachable or hung | as before | sessions that are known as before; a new one is refused within a second, or goes on alone, on record and in [`Loops::status`]: [`WhenAway`] | as before |
//!
//! ```no_run
//! # async fn example(loops: portcullis::loops::Loops, me: portcullis::Principal) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::loops::{LoopPolicy, Poller};
//! use serde_json::json;
//!
//! loops.register(LoopPolicy::for_any_agent().poller("get_status", Poller::WhileChanging)).await?;
//!
//! let args = json!({"invoice": "inv_381"});
//! let clear = loops.check(&me, "read_invoice", &args).await?;
//! if let Some(warning) = clear.warning() {
//!     println!("for the model: {warning}");
//! }
//! loops.observe(&me, "read_invoice", &args, b"what came of it");
//! # Ok(())
//! # }
//! ```

mod engine;
mod error;
mod evidence;
mod fingerprint;
mod model;
mod registry;
mod ring;
mod rules;
mod sharing;
mod store;
mod windows;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

pub use engine::Pattern;
pub use error::{InvalidLoopPolicy, LoopError};
pub use model::{LoopAction, LoopPolicy, Poller, WhenAway};
pub use registry::LoopStatus;
pub(crate) use windows::Mark;

use self::fingerprint::Fingerprint;
use self::rules::Rules;
use self::sharing::Sharing;
use self::store::LoopStore;
use self::windows::{CAPACITY, Verdict, Windows};
use crate::audit::{Audit, sha256};
use crate::call::{Action, Call, Parts, Principal};
use crate::canon::canonical_arguments;
use crate::error::Disabled;
use crate::halt::Halt;
use crate::ids::ToolName;
use crate::store::{Policies, PolicyWatch, Store, StoreError};
use crate::time::Timestamp;

/// Loop detection: agents that go round in circles. Cheap to clone; every clone is the same.
#[derive(Clone, Debug)]
pub struct Loops {
    shared: Arc<Shared>,
    /// What every call is answered, if the host switched the gate off.
    off: Option<Disabled>,
}

#[derive(Debug)]
struct Shared {
    store: Store,
    audit: Audit,
    halt: Halt,
    rules: Arc<Rules>,
    windows: Arc<Windows>,
    sharing: Arc<Sharing>,
    stop: OnceLock<Stop>,
    stored: PolicyWatch<rules::Read>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.sharing.close();
    }
}

/// Asks the halt switch to stop an agent, in the background.
pub(crate) type StopAgent = dyn Fn(&Principal, &'static str) + Send + Sync;

struct Stop(Box<StopAgent>);

impl fmt::Debug for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stop(..)")
    }
}

impl Loops {
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt) -> Self {
        Self::with_capacity(store, audit, halt, CAPACITY)
    }

    fn with_capacity(store: Store, audit: Audit, halt: Halt, capacity: usize) -> Self {
        let sharing = Sharing::new(LoopStore::new(store.clone()), audit.clone());
        let rules: Arc<Rules> = Arc::default();
        let applied = Arc::clone(&rules);
        let stored = Policies::new(store.clone(), "loops");
        let stored = stored.watch(rules::read, move |changes| applied.apply(changes));
        Self {
            shared: Arc::new(Shared {
                store,
                audit,
                halt,
                rules,
                stored,
                windows: Arc::new(Windows::new(capacity)),
                sharing: Arc::new(sharing),
                stop: OnceLock::new(),
            }),
            off: None,
        }
    }

    /// The same gate, switched off or not.
    pub(crate) fn switched(self, off: Option<Disabled>) -> Self {
        Self { off, ..self }
    }

    /// Whether the gate is asked at all.
    pub(crate) const fn is_on(&self) -> bool {
        self.off.is_none()
    }

    fn on(&self) -> Result<&Shared, Disabled> {
        self.off.map_or(Ok(&self.shared), Err)
    }

    /// How an agent is stopped whose policy says so. It must not wait: it is called under a check.
    pub(crate) fn stop_with(
        &self,
        stop: impl Fn(&Principal, &'static str) + Send + Sync + 'static,
    ) {
        // The first one counts: the wiring is done once.
        let _ = self.shared.stop.set(Stop(Box::new(stop)));
    }

    /// Reads what is stored, and begins to hear of changes.
    pub(crate) async fn load(&self) -> Result<(), StoreError> {
        self.shared.stored.start().await
    }

    /// Completes what was handed to the background: what was seen of shared sessions is written.
    pub(crate) async fn shutdown(&self) {
        let Shared {
            rules,
            windows,
            sharing,
            ..
        } = &*self.shared;
        if let Err(error) = sharing.flush(windows, rules).await {
            tracing::warn!(%error, "what was seen of sessions is not written: another process begins anew");
        }
        sharing.close();
    }

    /// Lets `who` call `tool` with `args`, or not; and remembers that it was asked.
    ///
    /// A refused call counts, too: the state clears when it has not been tried for the window.
    ///
    /// # Errors
    ///
    /// * [`LoopError::Looping`] if it goes round in circles and the policy does not let it. It says
    ///   when the same call is possible again.
    /// * [`LoopError::Halted`] if the agent is halted.
    /// * [`LoopError::Unavailable`] if what others saw of a shared session cannot be read, and the
    ///   policy says [`WhenAway::Refuse`].
    /// * [`LoopError::Tool`], [`LoopError::Arguments`] if the call is not well formed.
    /// * [`LoopError::Disabled`] if the host switched the gate off.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is remembered, or was not.
    pub async fn check(
        &self,
        who: &Principal,
        tool: impl AsRef<str>,
        args: &impl Serialize,
    ) -> Result<Clear, LoopError> {
        self.on()?;
        let action = Action::Tool(ToolName::parse(tool).map_err(|_| LoopError::Tool)?);
        let args = canonical_arguments(args).map_err(LoopError::Arguments)?;
        self.decide(&parts(who, &action, &args)).await
    }

    /// As [`check`](Self::check), for a call as [`authorize`](crate::Governance::authorize) takes it:
    /// its resource and URL count too. A model's call counts if it has arguments.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    pub async fn check_call(&self, call: &Call) -> Result<Clear, LoopError> {
        self.on()?;
        let parts = call.parts().map_err(|_| LoopError::Tool)?;
        self.decide(&parts).await
    }

    /// Says what came of a call that was checked; or, of one that was not, that it happened. Never
    /// fails: a loop that is found so is on record as observed, and halts the agent if its policy
    /// says so. Only a fingerprint of `result` is kept.
    ///
    /// Say it once for each call. Of several like it that are under way, the first is meant.
    pub fn observe(
        &self,
        who: &Principal,
        tool: impl AsRef<str>,
        args: &impl Serialize,
        result: &[u8],
    ) {
        let shared = match self.on() {
            Ok(shared) => shared,
            Err(disabled) => return disabled.say_once(),
        };
        let (Ok(tool), Ok(args)) = (ToolName::parse(tool), canonical_arguments(args)) else {
            tracing::warn!("a call was observed that is none: its name or arguments are invalid");
            return;
        };
        let action = Action::Tool(tool);
        let parts = parts(who, &action, &args);
        let Some(call) = fingerprint::of_call(&shared.audit, &parts) else {
            return;
        };
        let result = fingerprint::of_result(&shared.audit, &sha256(result));
        if !self.resolved(who, shared.windows.mark(who, call.call), result)
            && let Some(verdict) = self.record(who, call, result)
        {
            self.tell(who, call.tool, &verdict, true);
        }
    }

    /// Says what came of a call that was let through.
    pub(crate) fn observe_result(&self, who: &Principal, clear: Mark, sha256: &[u8; 32]) {
        let result = fingerprint::of_result(&self.shared.audit, sha256);
        self.resolved(who, clear, result);
    }

    fn resolved(&self, who: &Principal, mark: Mark, result: u64) -> bool {
        let Shared {
            rules,
            windows,
            sharing,
            ..
        } = &*self.shared;
        let known = windows.resolve(mark, result);
        if known && rules.shared(who.agent_id()).is_some() {
            sharing.touch(windows, rules, of(who));
        }
        known
    }

    /// The decision itself; what every check and the enforcement point ask. Waits for nothing, unless
    /// the session is shared and this process has not seen it.
    pub(crate) async fn decide(&self, parts: &Parts<'_>) -> Result<Clear, LoopError> {
        let Shared {
            audit,
            halt,
            rules,
            windows,
            sharing,
            ..
        } = self.on()?;
        let who = parts.principal;
        halt.check(who)?;
        let Some(how_shared) = rules.applies(who.agent_id()) else {
            return Ok(Clear::unseen());
        };
        let Some(call) = fingerprint::of_call(audit, parts) else {
            return Ok(Clear::unseen());
        };
        if let Some(how) = how_shared {
            let met = sharing.meet(windows, &of(who), how).await;
            met.map_err(LoopError::Unavailable)?;
        }
        let Some(verdict) = self.record(who, call, 0) else {
            return Ok(Clear::unseen());
        };
        self.tell(who, call.tool, &verdict, false);
        match verdict.found {
            None => Ok(Clear::of(verdict.mark, None)),
            Some((LoopAction::Warn, found)) => {
                Ok(Clear::of(verdict.mark, Some(Warning(found.pattern))))
            }
            Some((action, found)) => Err(LoopError::Looping {
                pattern: found.pattern,
                retry_after: Timestamp::from_micros(found.clears_at).since(self.shared.store.now()),
                halts: action == LoopAction::Halt,
            }),
        }
    }

    /// Remembers a call and judges it; `None` if no policy applies.
    fn record(&self, who: &Principal, call: Fingerprint<'_>, result: u64) -> Option<Verdict> {
        let Shared {
            store,
            rules,
            windows,
            sharing,
            ..
        } = &*self.shared;
        let now = store.now().as_micros();
        let (verdict, is_shared) = rules.with(who.agent_id(), |both| {
            let applies = both.iter().flatten().next().is_some();
            let verdict = applies.then(|| windows.record(who, call, result, both, now));
            let is_shared = both.iter().flatten().any(|rule| rule.shared.is_some());
            (verdict, is_shared)
        });
        if is_shared {
            sharing.touch(windows, rules, of(who));
        }
        verdict
    }

    /// Puts a loop on record, once, and stops the agent if that is to be done.
    fn tell(&self, who: &Principal, tool: &str, verdict: &Verdict, observed: bool) {
        let Some((action, found)) = verdict.found else {
            return;
        };
        if verdict.is_new {
            let event = evidence::detected(who, tool, action, found, observed);
            self.shared.audit.log_detached(event);
        }
        if action == LoopAction::Halt {
            if let Some(stop) = self.shared.stop.get() {
                (stop.0)(who, found.pattern.reason());
            } else {
                tracing::error!(
                    "an agent is to be halted for a loop, and nothing halts it; its calls are refused"
                );
            }
        }
    }
}

fn parts<'c>(who: &'c Principal, action: &'c Action, args: &'c str) -> Parts<'c> {
    Parts {
        principal: who,
        action,
        resource: None,
        api: None,
        args: Some(args),
        provider: None,
    }
}

fn of(who: &Principal) -> store::Of {
    (who.agent_id().clone(), who.session_id().clone())
}

/// Proof that the loop gate let a call through, perhaps with a warning. It has no public constructor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clear {
    mark: Option<Mark>,
    warning: Option<Warning>,
}

impl Clear {
    const fn of(mark: Mark, warning: Option<Warning>) -> Self {
        Self {
            mark: Some(mark),
            warning,
        }
    }

    /// Of a call that nobody wants looked at.
    const fn unseen() -> Self {
        Self {
            mark: None,
            warning: None,
        }
    }

    /// What to hand to the model, if it goes round in circles and is let through all the same.
    #[must_use]
    pub const fn warning(&self) -> Option<Warning> {
        self.warning
    }

    /// Where the call was remembered, for [`observe_result`](Loops::observe_result).
    pub(crate) const fn mark(&self) -> Option<Mark> {
        self.mark
    }
}

/// A loop that was let through: its text is for the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Warning(Pattern);

impl Warning {
    /// What was found.
    #[must_use]
    pub const fn pattern(&self) -> Pattern {
        self.0
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.0.reason(), self.0.remedy())
    }
}
