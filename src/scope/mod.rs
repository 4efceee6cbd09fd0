//! What each agent may use: tools, APIs and models, by allow-list.
//!
//! What is not listed is denied: an unknown tool, an unknown agent, a URL that can be read in two
//! ways. Hidden tools do not exist for the agent: they are taken out of what the model is shown, and
//! denied like an unknown one when called. Decisions are made from memory, from what was loaded;
//! they take no lock, wait for nothing and, when they allow, allocate nothing. Refusals are audited
//! in the background, which neither slows nor changes them.
//!
//! | The store is | [`Scope::check`] | [`Scope::register`], [`Scope::remove`] | [`Scope::reload`] |
//! |---|---|---|---|
//! | reachable | decides from what is loaded | stored, then in force | reads all policies |
//! | unreachable | decides from what is loaded | fails; what was in force stays | fails; what was in force stays |
//! | holding a broken policy | denies its agent | replaces it | denies its agent, loads the others, says so in the log and in [`Scope::status`] |
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
mod index;
mod model;
mod pattern;
mod store;
mod tools;
mod url;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use tokio::sync::Mutex;

pub(crate) use engine::Target;
pub use error::{InvalidPolicy, ScopeError};
pub use model::ScopePolicy;
pub use pattern::PatternProblem;
pub use tools::NamedTool;
pub use url::UrlProblem;

use self::engine::{Compiled, Known};
use self::index::Index;
use self::store::{Row, ScopeStore};
use crate::audit::{Audit, AuditKeys};
use crate::call::Principal;
use crate::halt::{Halt, HaltSettings};
use crate::ids::{AgentId, TenantId};
use crate::store::{Database, Store, StoreError, StoreFault};
use crate::time::{SystemClock, Timestamp};

/// The scope gate of one tenant. Cheap to clone; every clone is the same gate.
#[derive(Clone, Debug)]
pub struct Scope {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    store: ScopeStore,
    clock: Store,
    audit: Audit,
    halt: Halt,
    index: Index,
    loaded_at: ArcSwapOption<Timestamp>,
    /// Held while policies are written and taken into force, so that memory and database have
    /// them in the same order. Checks never wait for it.
    writing: Mutex<()>,
}

impl Scope {
    /// A gate over `store`, which denies everything until it has loaded.
    pub(crate) fn new(store: Store, audit: Audit, halt: Halt) -> Self {
        Self {
            shared: Arc::new(Shared {
                store: ScopeStore::new(store.clone()),
                clock: store,
                audit,
                halt,
                index: Index::new(),
                loaded_at: ArcSwapOption::empty(),
                writing: Mutex::new(()),
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
        let scope = Self::new(store, audit, halt);
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
    /// name. The order stays.
    #[must_use]
    pub fn filter_tools<T: NamedTool>(&self, who: &Principal, tools: Vec<T>) -> Vec<T> {
        let mut tools = tools;
        let mut hidden = Vec::new();
        self.shared.index.with(who.agent_id(), |known| {
            tools.retain(|tool| {
                let name = tool.tool_name();
                if matches!(known, Some(Known::Policy(policy)) if policy.hides(name)) {
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

    /// Sets the policy of its agent, replacing the one it had: stored, in force, on record.
    ///
    /// # Errors
    ///
    /// * [`ScopeError::Policy`] if the policy is too long to be stored.
    /// * [`ScopeError::Store`] if it may not have been stored. What was in force still is; register
    ///   the policy again.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background, so that no policy is stored and
    /// not in force.
    pub async fn register(&self, policy: ScopePolicy) -> Result<(), ScopeError> {
        self.register_all([policy]).await
    }

    /// Sets the policies of many agents in one transaction: all, or none. Of two for one agent the
    /// later one counts.
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
        let mut last = BTreeMap::new();
        for policy in policies {
            last.insert(policy.agent().clone(), policy);
        }
        let mut texts = Vec::with_capacity(last.len());
        let mut changes = Vec::with_capacity(last.len());
        for (agent, policy) in last {
            texts.push((agent.clone(), policy.document()?));
            let known = Known::Policy(Compiled::new(&policy));
            changes.push((agent, Some(known)));
        }
        let scope = self.clone();
        detached(async move {
            let writing = scope.shared.writing.lock().await;
            scope.shared.store.upsert_all(&texts).await?;
            scope.shared.index.change(changes);
            drop(writing);
            evidence::record_registered(&scope.shared.audit, &texts).await;
            Ok(())
        })
        .await
    }

    /// Takes the policy of `agent` away, so that it may do nothing; says whether it had one.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if it may not have been removed. It is then still in force.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: once begun it is finished in the background.
    pub async fn remove(&self, agent: &AgentId) -> Result<bool, ScopeError> {
        let agent = agent.clone();
        let scope = self.clone();
        detached(async move {
            let writing = scope.shared.writing.lock().await;
            let found = scope.shared.store.delete(&agent).await?;
            scope.shared.index.change(vec![(agent.clone(), None)]);
            drop(writing);
            if found {
                evidence::record_removed(&scope.shared.audit, &agent).await;
            }
            Ok(found)
        })
        .await
    }

    /// The stored policies, in the order of their agents. Broken ones are left out; they are named
    /// by [`status`](Self::status).
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if they could not be read.
    pub async fn policies(&self) -> Result<Vec<ScopePolicy>, ScopeError> {
        let mut policies = Vec::new();
        self.each_stored(|_, read| policies.extend(read.ok()))
            .await?;
        Ok(policies)
    }

    /// Reads all policies again, those of other programs too.
    ///
    /// # Errors
    ///
    /// [`ScopeError::Store`] if they could not be read. What was in force still is.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: the new policies come into force together at the end.
    pub async fn reload(&self) -> Result<(), ScopeError> {
        self.load().await
    }

    /// What is in force.
    #[must_use]
    pub fn status(&self) -> ScopeStatus {
        ScopeStatus {
            agents: self.shared.index.len(),
            broken: self.shared.index.broken(),
            loaded_at: self.shared.loaded_at.load().as_deref().copied(),
        }
    }

    /// Reads all policies and brings them into force.
    pub(crate) async fn load(&self) -> Result<(), ScopeError> {
        let writing = self.shared.writing.lock().await;
        let mut all = Vec::new();
        self.each_stored(|agent, read| {
            let known = match read {
                Ok(policy) => Known::Policy(Compiled::new(&policy)),
                Err(_) => Known::Broken,
            };
            all.push((agent, known));
        })
        .await?;
        self.shared.index.replace(all);
        let now = self.shared.clock.now();
        self.shared.loaded_at.store(Some(Arc::new(now)));
        drop(writing);
        Ok(())
    }

    /// Reads the stored policies one after the other; says loudly which ones cannot be.
    async fn each_stored(
        &self,
        mut each: impl FnMut(AgentId, Result<ScopePolicy, InvalidPolicy>),
    ) -> Result<(), ScopeError> {
        let mut after = String::new();
        loop {
            let page: Vec<Row> = self.shared.store.list_after(&after).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after.clone_from(last);
            for (agent, text) in page {
                let Ok(agent) = AgentId::parse(&agent) else {
                    // No principal can have this id, so nothing has to be denied.
                    tracing::error!("a stored scope policy has an agent id that is none");
                    continue;
                };
                let read = ScopePolicy::from_document(&agent, &text);
                if let Err(error) = &read {
                    tracing::error!(%agent, %error, "a stored scope policy cannot be read: the agent is denied everything");
                }
                each(agent, read);
            }
        }
    }

    fn hides(&self, who: &Principal, target: Target<'_>) -> bool {
        self.shared
            .index
            .with(who.agent_id(), |known| match (known, target) {
                (Some(Known::Policy(policy)), Target::Tool(name)) => policy.hides(name),
                _ => false,
            })
    }
}

/// Does `work` to its end even if the caller stops waiting for it.
async fn detached<T: Send + 'static>(
    work: impl Future<Output = Result<T, ScopeError>> + Send + 'static,
) -> Result<T, ScopeError> {
    match tokio::spawn(work).await {
        Ok(answer) => answer,
        // The runtime is shutting down.
        Err(_) => Err(StoreError::new("change a scope policy", StoreFault::Unreachable).into()),
    }
}

/// Proof that the scope gate allowed one use. It has no public constructor.
#[derive(Debug, PartialEq, Eq)]
pub struct Allowed(());

/// What is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScopeStatus {
    /// How many agents have a policy.
    pub agents: usize,
    /// The agents whose stored policies cannot be read. They are denied everything.
    pub broken: Vec<AgentId>,
    /// When all policies were last read; `None` if they never were, and everything is denied.
    pub loaded_at: Option<Timestamp>,
}
