//! The modules of one tenant, put together.

use std::sync::Arc;

use crate::audit::{Anchors, Audit, AuditEvent, AuditKeys, AuditOptions, Kind, Signing};
use crate::builder::ConnectError;
use crate::contracts::{Around, Check, Contracts};
use crate::cost::{Cost, CostSettings};
use crate::coverage::{Coverage, CoverageSettings};
use crate::error::{Module, Switches};
use crate::gates::{ApprovalNotifier, Gates};
use crate::halt::{Halt, HaltSettings, Target};
use crate::ids::{OperatorId, TenantId};
use crate::loops::Loops;
use crate::presence::{Presence, PresenceSettings};
use crate::scope::{Scope, ScopePolicy};
use crate::store::Store;
use crate::tlog::LogError;

/// Who has halted an agent that goes round in circles.
const LOOP_GATE: &str = "portcullis:loops";

/// What the builder decides for the modules.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) audit: AuditOptions,
    pub(crate) signing: Signing,
    pub(crate) halt: HaltSettings,
    pub(crate) cost: CostSettings,
    pub(crate) presence: PresenceSettings,
    pub(crate) switches: Switches,
    /// Scope policies of the program's own.
    pub(crate) pins: Vec<ScopePolicy>,
    pub(crate) coverage: CoverageSettings,
    pub(crate) notifiers: Vec<Arc<dyn ApprovalNotifier>>,
    /// Checks that stored contracts can name.
    pub(crate) checks: Vec<Check>,
}

impl Options {
    /// The same for another tenant, whose tree has a name of its own.
    pub(crate) fn for_tenant(&self, tenant: &TenantId) -> Result<Self, LogError> {
        Ok(Self {
            audit: self.audit.for_tenant(tenant)?,
            // Another tenant's agent of the same name is another agent.
            pins: Vec::new(),
            ..self.clone()
        })
    }
}

/// The modules of one tenant.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) audit: Audit,
    pub(crate) halt: Halt,
    pub(crate) scope: Scope,
    pub(crate) loops: Loops,
    pub(crate) gates: Gates,
    pub(crate) cost: Cost,
    pub(crate) presence: Presence,
    pub(crate) coverage: Coverage,
    pub(crate) contracts: Contracts,
    pub(crate) options: Options,
}

impl Parts {
    pub(crate) async fn open(
        store: &Store,
        keys: &AuditKeys,
        options: Options,
    ) -> Result<Self, ConnectError> {
        Anchors::check(&options.audit.anchors)?;
        options.halt.check()?;
        options.presence.check()?;
        let audit = Audit::start(store.clone(), keys.clone(), &options.audit);
        let audit = if options.signing.is_none() {
            audit
        } else {
            audit.sign_with(&options.signing)
        };
        audit.learn_key().await?;
        audit.prepare().await?;

        let halt = Halt::new(store.clone(), audit.clone(), &options.halt);
        halt.load().await?;
        let around = || (store.clone(), audit.clone(), halt.clone());

        let (at, on, under) = around();
        let off = options.switches.disabled(Module::Scope);
        let scope = Scope::new(at, on, under, off);
        scope.load().await?;
        for pin in &options.pins {
            scope.pin(pin.clone()).await?;
        }
        let (at, on, under) = around();
        let off = options.switches.disabled(Module::Cost);
        let cost = Cost::new(at, on, under, options.cost.clone()).switched(off);
        let (at, on, under) = around();
        let off = options.switches.disabled(Module::Loops);
        let loops = Loops::new(at, on, under).switched(off);
        loops.load().await?;
        let (at, on, under) = around();
        let off = options.switches.disabled(Module::Gates);
        let gates = Gates::new(at, on, under).switched(off);
        for notifier in &options.notifiers {
            gates.tell(Arc::clone(notifier));
        }
        let pins = scope.clone();
        gates.agents_by(move || pins.status().pinned);
        gates.load().await?;
        let (at, on, under) = around();
        let off = options.switches.disabled(Module::Presence);
        let presence = Presence::new(at, on, under, &options.presence).switched(off);
        presence.load().await?;
        let coverage = Coverage::new(store.clone(), audit.clone(), options.coverage);
        coverage.load().await;
        let contracts = Contracts::new(
            store.clone(),
            Around {
                audit: audit.clone(),
                halt: halt.clone(),
                scope: scope.clone(),
                cost: cost.clone(),
            },
        )
        .switched(options.switches.disabled(Module::Contracts));
        if contracts.is_on() {
            for check in &options.checks {
                contracts.define_check(check)?;
            }
        }
        let asked = gates.clone();
        contracts.approved_by(move |who, digest| {
            let asked = asked.clone();
            async move {
                let used = asked.use_granted(&who, digest).await;
                used.map_err(|error| error.kind())
            }
        });
        let switch = halt.clone();
        loops.stop_with(move |who, why| {
            // Both are the gate's own, and well formed.
            if let Ok(by) = OperatorId::parse(LOOP_GATE) {
                let _ = switch.halt_detached(&Target::agent_of(who), &by, why);
            }
        });
        contracts.load().await?;
        let off: Vec<&str> = options.switches.off().map(Module::as_str).collect();
        if !off.is_empty() {
            // On record before anything can go by without it.
            tracing::warn!(?off, "these modules are switched off");
            let event = AuditEvent::system(None, Kind::ConfigSnapshot).with("switched_off", off);
            audit.append(event).await?;
        }
        Ok(Self {
            audit,
            halt,
            scope,
            loops,
            gates,
            cost,
            presence,
            coverage,
            contracts,
            options,
        })
    }

    /// Completes what was handed to the background; the trail last, because all write to it.
    pub(crate) async fn shutdown(&self) {
        self.scope.shutdown();
        self.contracts.shutdown();
        self.loops.shutdown().await;
        self.gates.shutdown().await;
        self.cost.shutdown().await;
        self.presence.shutdown().await;
        self.coverage.shutdown().await;
        self.halt.shutdown().await;
        self.audit.shutdown().await;
    }
}
