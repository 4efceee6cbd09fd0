//! What each agent may use: tools, APIs and models, by allow-list.
//!
//! What is not listed is denied: an unknown tool, an unknown agent, a URL that can be read in two
//! ways. Hidden tools do not exist for the agent: they are taken out of what the model is shown, and
//! denied like an unknown one when called. Decisions are made from memory, from what was loaded;
//! they take no lock, wait for nothing and, when they allow, allocate nothing. Refusals are audited
//! in the background, which neither slows nor changes them.
//!
//! What one program [registers](Scope::register) is in force in all of them within a second, all of
//! one call together; so is a removal. A policy that a program [pins](Scope::pin) is its own: never
//! stored, never dropped by a reload. Where an agent has both, **both apply: what either denies is
//! denied**.
//!
//! | The store is | [`Scope::check`] | [`Scope::register`], [`Scope::remove`] | changes of others |
//! |---|---|---|---|
//! | reachable | decides from what is loaded | stored, then in force | in force within a second: heard, or found by looking |
//! | unreachable | decides from what is loaded | fails; what was in force stays | not seen; [`Scope::status`] knows since when |
//! | holding a broken policy | goes by the last good one that the program has seen; denies if there is none | replaces it | the others are in force; the log, [`Scope::status`] and health say which is broken |
//!
//! ```no_run
//! # async fn example(scope: portcullis::scope::Scope) -> Result<(), Box<dyn std::error::Error>> {
//! use portcullis::{AgentId, Principal, scope::ScopePolicy};
//!
//! let agent = AgentId::parse("billing-agent")?;
//! scope
//!     .register(ScopePolicy::new(agent.clone()).allow_tools(["read_invoice", "send_email"])?)
//!     .await?;
//!
//! let me = Principal::agent(agent);
//! scope.check(&me, "read_invoice").await?;
//! assert!(scope.check(&me, "delete_invoice").await.is_err());
//! assert_eq!(scope.filter_tools(&me, vec!["send_email", "shell"]), ["send_email"]);
//! # Ok(())
//! # }
//! ```

mod engine;
mod error;
mod evidence;
mod follow;
mod index;
mod model;
mod pattern;
mod status;
mod tools;
mod url;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

pub(crate) use engine::Target;
pub use error::{InvalidPolicy, ScopeError};
pub use model::ScopePolicy;
pub use pattern::PatternProblem;
pub use status::ScopeStatus;
pub use tools::NamedTool;
pub use url::UrlProblem;

use self::follow::Read;
use self::index::Index;
use crate::audit::{Audit, AuditKeys};
use crate::call::Principal;
use crate::error::{Disabled, Module};
use crate::halt::{Halt, HaltSettings};
use crate::ids::{AgentId, TenantId};
use crate::store::{Database, Policies, PolicyWatch, Store, StoreError, StoreFault};
use crate::task;
use crate::time::SystemClock;

/// The scope gate of one tenant. Cheap to clone; every clone is the same gate.
#[derive(Clone, Debug)]
pub struct Scope {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    index: Arc<Index>,
    /// Keeps the index in step with what is stored.
    watch: PolicyWatch<Option<Read>>,
    audit: Audit,
    halt: Halt,
    off: Option<Disabled>,
}

impl Scope {
    /// A gate over `store`, which denies everything until it has loaded, or, if it is switched `off`,
    /// answers nothing else.
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt, off: Option<Disabled>) -> Self {
        let index = Arc::new(Index::new());
        let followed = Arc::clone(&index);
        let watch = Policies::new(store, Module::Scope.as_str()).watch(
            |row| follow::read(&row),
            move |changes| followed.apply(changes),
        );
        Self {
            shared: Arc::new(Shared {
                index,
                watch,
                audit,
                halt,
                off,
            }),
        }
    }

    /// The scope gate alone, for a host that wants no other: over `database`, with an audit writer
    /// of its own under `keys`, and with the policies of `tenant` loaded.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::Database`] if the database cannot be opened.
    /// * [`ScopeError::Store`] if the policies cannot be read; run the migrations first.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: nothing is written.
    pub async fn open(
        database: &Database,
        keys: AuditKeys,
        tenant: TenantId,
    ) -> Result<Self, ScopeError> {
        let store = Store::open(database, tenant, Arc::new(SystemClock))
            .await
            .map_err(|_| ScopeError::Database)?;
        let audit = Audit::start(store.clone(), keys, &crate::audit::AuditOptions::default());
        let halt = Halt::new(store.clone(), audit.clone(), &HaltSettings::default());
        halt.load().await?;
        let scope = Self::new(store, audit, halt, None);
        scope.load().await?;
        Ok(scope)
    }

    /// Lets `who` call the tool `name`, or not.
    ///
    /// Decides at once, from memory: the future never waits.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::Halted`] if the agent is halted.
    /// * [`ScopeError::ToolDenied`] if the tool is not on the agent's list, or is hidden from it.
    /// * [`ScopeError::UnknownAgent`] if the agent has no policy.
    /// * [`ScopeError::BrokenPolicy`] if the agent's stored policy cannot be read.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: a refusal is audited in the background.
    #[expect(
        clippy::unused_async,
        reason = "all gates are asked in the same way, and some must wait"
    )]
    pub async fn check(
        &self,
        who: &Principal,
        name: impl AsRef<str>,
    ) -> Result<Allowed, ScopeError> {
        self.decide(who, Target::Tool(name.as_ref()))
    }

    /// Lets `who` call the API at `url`, or not. The query is not looked at.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::ApiDenied`] if the API is not on the agent's list.
    /// * [`ScopeError::InvalidUrl`] if the URL can be read in more than one way.
    /// * [`ScopeError::UnknownAgent`] and [`ScopeError::BrokenPolicy`] as in [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    #[expect(
        clippy::unused_async,
        reason = "all gates are asked in the same way, and some must wait"
    )]
    pub async fn check_api(&self, who: &Principal, url: &str) -> Result<Allowed, ScopeError> {
        self.decide(who, Target::Api(url))
    }

    /// Lets `who` call the model `name`, or not.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::ModelDenied`] if the model is not on the agent's list. An agent without a
    ///   list of models may call none.
    /// * [`ScopeError::UnknownAgent`] and [`ScopeError::BrokenPolicy`] as in [`check`](Self::check).
    ///
    /// # Cancel safety
    ///
    /// As [`check`](Self::check).
    #[expect(
        clippy::unused_async,
        reason = "all gates are asked in the same way, and some must wait"
    )]
    pub async fn check_model(&self, who: &Principal, name: &str) -> Result<Allowed, ScopeError> {
        self.decide(who, Target::Model(name))
    }

    /// The decision itself; what every check and the enforcement point ask.
    pub(crate) fn decide(
        &self,
        who: &Principal,
        target: Target<'_>,
    ) -> Result<Allowed, ScopeError> {
        let index = &self.shared.index;
        self.on()?;
        self.shared.halt.check(who)?;
        match index.with(who.agent_id(), |known| engine::decide(known, target)) {
            Ok(()) => Ok(Allowed(())),
            Err(error) => {
                let hidden = self.hides(who, target);
                let event = evidence::violation(who, target, &error, hidden);
                self.shared.audit.log_detached(event);
                Err(error)
            }
        }
    }

    /// What of `tools` to show to the model of `who`: those that it may call.
    ///
    /// Hidden and unlisted tools are taken out, and so is every description without a recognisable
    /// name. The order stays. Of a gate that is switched off nothing is left.
    #[must_use]
    pub fn filter_tools<T: NamedTool>(&self, who: &Principal, tools: Vec<T>) -> Vec<T> {
        if let Err(disabled) = self.on() {
            tracing::error!(%disabled, "no tool is shown");
            return Vec::new();
        }
        let mut tools = tools;
        let mut hidden = Vec::new();
        self.shared.index.with(who.agent_id(), |known| {
            tools.retain(|tool| {
                let name = tool.tool_name();
                if known.hides(name) {
                    hidden.push(name.to_owned());
                }
                engine::decide(known, Target::Tool(name)).is_ok()
            });
        });
        if !hidden.is_empty() {
            let event = evidence::withheld(who, &hidden);
            self.shared.audit.log_detached(event);
        }
        tools
    }

    /// Sets the stored policy of its agent, for every program, replacing the one it had: stored, in
    /// force, on record.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::Policy`] if the policy is too long to be stored.
    /// * [`ScopeError::Store`] if it may not have been stored. If it was, it comes into force with the
    ///   next look; register it again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background, so that no policy is stored and
    /// not in force.
    pub async fn register(&self, policy: ScopePolicy) -> Result<(), ScopeError> {
        self.register_all([policy]).await
    }

    /// Sets the stored policies of many agents in one transaction: all, or none. Of two for one agent
    /// the later one counts. Every program takes them into force together.
    ///
    /// # Errors
    ///
    /// As [`register`](Self::register).
    ///
    /// # Cancel safety
    ///
    /// As [`register`](Self::register).
    pub async fn register_all(
        &self,
        policies: impl IntoIterator<Item = ScopePolicy>,
    ) -> Result<(), ScopeError> {
        self.on()?;
        let mut last = BTreeMap::new();
        for policy in policies {
            last.insert(policy.agent().clone(), policy);
        }
        let mut documents = Vec::with_capacity(last.len());
        let mut hashes = Vec::with_capacity(last.len());
        for (agent, policy) in last {
            let document = policy.document()?;
            documents.push((agent.as_str().to_owned(), document.text));
            hashes.push((agent, document.hash));
        }
        let scope = self.clone();
        detached(async move {
            scope.shared.watch.upsert_all(documents).await?;
            evidence::record_registered(&scope.shared.audit, &hashes).await;
            Ok(())
        })
        .await
    }

    /// Takes the stored policy of `agent` away; says whether it had one. Unless the program pinned
    /// one, it may then do nothing.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if it may not have been removed. It is then still in force.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn remove(&self, agent: &AgentId) -> Result<bool, ScopeError> {
        self.on()?;
        let agent = agent.clone();
        let scope = self.clone();
        detached(async move {
            let name = agent.as_str().to_owned();
            let found = scope.shared.watch.delete(name).await?;
            if found {
                evidence::record_removed(&scope.shared.audit, &agent).await;
            }
            Ok(found)
        })
        .await
    }

    /// Puts a policy in force that belongs to this program: it is not stored, no reload drops it, and
    /// no other program knows it. It replaces what was pinned for its agent before.
    ///
    /// Where a policy is stored, too, both apply: what either denies is denied. So what is stored can
    /// narrow what the program pins, and never widen it.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Policy`] if the policy is longer than one that is stored may be.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: it is in force at once, and put on record in the background.
    pub async fn pin(&self, policy: ScopePolicy) -> Result<(), ScopeError> {
        self.on()?;
        let (agent, hash) = (policy.agent().clone(), policy.document()?.hash);
        self.shared.index.pin(policy, hash);
        let scope = self.clone();
        detached(async move {
            evidence::record_pinned(&scope.shared.audit, &agent, &hash).await;
            Ok(())
        })
        .await
    }

    /// The policies that this program pinned, in the order of their agents.
    #[must_use]
    pub fn pinned(&self) -> Vec<ScopePolicy> {
        self.shared.index.pinned()
    }

    /// The stored policies, in the order of their agents. Broken ones are left out; they are named
    /// by [`status`](Self::status).
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if they could not be read.
    pub async fn policies(&self) -> Result<Vec<ScopePolicy>, ScopeError> {
        self.on()?;
        let stored = self.shared.watch.policies();
        let mut policies = BTreeMap::new();
        let (mut revision, mut after) = (0, String::new());
        loop {
            let page = stored.list_since(revision, &after).await?;
            let Some(last) = page.last() else {
                return Ok(policies.into_values().collect());
            };
            revision = last.revision;
            after.clone_from(&last.name);
            for row in page {
                let Ok(agent) = AgentId::parse(&row.name) else {
                    continue;
                };
                let text = row.document.as_deref();
                match text.map(|text| ScopePolicy::from_document(&agent, text)) {
                    Some(Ok(policy)) => policies.insert(agent, policy),
                    _ => policies.remove(&agent),
                };
            }
        }
    }

    /// Reads all stored policies again. There is no need to: what others change comes into force by
    /// itself.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if they could not be read. What was in force still is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: what was read comes into force together at the end.
    pub async fn reload(&self) -> Result<(), ScopeError> {
        self.on()?;
        Ok(self.shared.watch.reread().await?)
    }

    /// Reads all policies, brings them into force, and follows their changes.
    pub(crate) async fn load(&self) -> Result<(), ScopeError> {
        if self.is_on() {
            self.shared.watch.start().await?;
        }
        Ok(())
    }

    /// Stops following changes. What is in force stays.
    pub(crate) fn shutdown(&self) {
        self.shared.watch.stop();
    }

    /// Whether the host left the gate on.
    pub(crate) fn is_on(&self) -> bool {
        self.shared.off.is_none()
    }

    fn on(&self) -> Result<(), Disabled> {
        self.shared.off.map_or(Ok(()), Err)
    }

    fn hides(&self, who: &Principal, target: Target<'_>) -> bool {
        self.shared
            .index
            .with(who.agent_id(), |known| match target {
                Target::Tool(name) => known.hides(name),
                _ => false,
            })
    }
}

/// Does `work` to its end even if the caller stops waiting for it.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ScopeError>> + Send + 'static,
) -> Result<T, ScopeError> {
    match task::spawn(work).await {
        Ok(answer) => answer,
        // The runtime is shutting down.
        Err(_) => Err(StoreError::new("change a scope policy", StoreFault::Unreachable).into()),
    }
}

/// Proof that the scope gate allowed one use. It has no public constructor.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed(());
