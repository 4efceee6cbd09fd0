//! Agreeing in advance: to so many calls of one agent, until a moment, and to nothing more.

use std::time::Duration;

use super::approver::{ApproverRef, fold};
use super::book::Known;
use super::core::Core;
use super::error::GateError;
use super::policy::{InvalidApprovalPolicy, is_life};
use super::record;
use super::request::short;
use super::store::{GateStore, NewGrant, StandingRow};
use crate::audit::{AuditEvent, Kind};
use crate::call::{Action, Call};
use crate::ids::{AgentId, GrantId, OperatorId, ToolName};
use crate::time::Timestamp;

/// What somebody agrees to in advance: one agent's calls of some tools, or one exact call.
///
/// The agent's policy must [allow it](super::ApprovalPolicy::allow_standing); a change of the policy
/// ends it, as the time and the last use do.
#[derive(Clone, Debug)]
#[must_use = "nothing is agreed to before grant_standing"]
pub struct StandingGrant {
    agent: AgentId,
    tools: Vec<ToolName>,
    /// The one call, whoever of the agent's sessions makes it.
    call: Option<Call>,
    uses: u32,
    life: Duration,
    reason: Option<String>,
}

impl StandingGrant {
    /// To `uses` calls of `tools`, by their whole names, with any arguments.
    pub const fn of_tools(agent: AgentId, tools: Vec<ToolName>, uses: u32, life: Duration) -> Self {
        Self {
            agent,
            tools,
            call: None,
            uses,
            life,
            reason: None,
        }
    }

    /// To `uses` calls that are `call`: its tool, on what it acts, its arguments. Only who makes it,
    /// in which session, is left open, within its agent.
    pub fn of_call(call: &Call, uses: u32, life: Duration) -> Self {
        Self {
            agent: call.principal().agent_id().clone(),
            tools: Vec::new(),
            call: Some(call.clone()),
            uses,
            life,
            reason: None,
        }
    }

    /// Why, for the record.
    pub fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(short(reason.into()));
        self
    }
}

/// What is agreed to in advance, and in force.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StandingApproval {
    /// Its name.
    pub id: GrantId,
    /// Whose calls.
    pub agent: AgentId,
    /// Which tools.
    pub tools: Vec<String>,
    /// Whether it is one call, with its arguments.
    pub exact: bool,
    /// Who agreed.
    pub granted_by: String,
    /// To how many calls.
    pub uses: u32,
    /// How many are left.
    pub uses_left: u32,
    /// When it was agreed to.
    pub granted_at: Timestamp,
    /// Until when it holds, by the database's clock.
    pub expires_at: Timestamp,
}

impl StandingApproval {
    fn read(row: StandingRow) -> Option<Self> {
        let (id, agent, tools, exact, granted_by, uses, uses_left, granted_at, expires_at) = row;
        Some(Self {
            id: GrantId::from_uuid(id),
            agent: AgentId::parse(agent).ok()?,
            tools,
            exact,
            granted_by,
            uses: u32::try_from(uses).ok()?,
            uses_left: u32::try_from(uses_left).ok()?,
            granted_at,
            expires_at,
        })
    }
}

impl Core {
    pub(super) async fn grant_standing(
        &self,
        grant: &StandingGrant,
        by: &ApproverRef,
    ) -> Result<GrantId, GateError> {
        let agent = &grant.agent;
        let found = match self.book.find(agent) {
            Some(Known::Policy(found)) => found,
            Some(Known::Broken) => return Err(GateError::BrokenPolicy),
            None => return Err(GateError::NoStanding),
        };
        let (mut tools, mut what) = (grant.tools.clone(), None);
        if let Some(call) = &grant.call {
            let parts = call.parts().map_err(Clone::clone)?;
            let Action::Tool(tool) = parts.action else {
                return Err(GateError::NoStanding);
            };
            tools.push(tool.clone());
            what = Some(self.audit.what_digest(&parts));
        }
        let bounds = found.policy.standing().ok_or(GateError::NoStanding)?;
        let covered = |tool: &ToolName| found.policy.requires(&Action::Tool(tool.clone()));
        let within = grant.uses > 0 && grant.uses <= bounds.uses && grant.life <= bounds.life;
        if !within || tools.is_empty() || tools.len() > 64 || !tools.iter().all(covered) {
            return Err(GateError::NoStanding);
        }
        if !is_life(grant.life) {
            return Err(InvalidApprovalPolicy::Life.into());
        }
        let may = self.may_grant(agent, by, found.policy.who().iter());
        self.within("agree in advance", may).await?;

        let id = GrantId::new();
        let names: Vec<String> = tools.iter().map(ToString::to_string).collect();
        let (granted_by, voter) = (by.to_string(), fold(by.id()));
        let new = NewGrant {
            id,
            agent: agent.as_str(),
            tools: &names,
            what,
            policy_hash: &found.hash,
            granted_by: &granted_by,
            voter: &voter,
            uses: grant.uses,
            life_micros: i64::try_from(grant.life.as_micros()).unwrap_or(i64::MAX),
        };
        let work = async {
            let mut tx = self.store.begin().await?;
            let expires_at = self.store.insert_grant_in_tx(&mut tx, &new).await?;
            let event = record::standing(agent, id, Kind::GateStandingGranted)
                .decision("grant")
                .with("approver", &granted_by)
                .with("tools", &names)
                .with("exact", what.is_some())
                .with("uses", grant.uses)
                .with("policy_hash", &found.hash)
                .with("expires_at", expires_at.to_string());
            let event = record::because(event, grant.reason.as_deref());
            self.audit.append_in_tx(&mut tx, event).await?;
            Ok(GateStore::commit(tx).await?)
        };
        self.within("agree in advance", work).await?;
        Ok(id)
    }

    /// Whether `by` is one of the policy's approvers and no agent. Who operates the agent is looked
    /// at when the grant is used: nobody's own agreement is ever used for him.
    async fn may_grant(
        &self,
        agent: &AgentId,
        by: &ApproverRef,
        mut approvers: impl Iterator<Item = &ApproverRef> + Clone,
    ) -> Result<(), GateError> {
        if !by.is_person() {
            return Err(GateError::TeamCannotDecide);
        }
        if self.is_agent(&fold(by.id())).await? {
            let event = AuditEvent::system(None, Kind::GateSelfApprovalBlocked)
                .decision("deny")
                .with("agent_id", agent.as_str())
                .with("approver", by.to_string());
            self.audit.log_detached(event);
            return Err(GateError::SelfApproval);
        }
        let teams: Vec<String> = approvers
            .clone()
            .filter(|approver| !approver.is_person())
            .map(|team| team.id().to_owned())
            .collect();
        if approvers.any(|approver| approver == by)
            || (!teams.is_empty() && self.store.is_member(&teams, by.id()).await?)
        {
            return Ok(());
        }
        Err(GateError::NotApprover)
    }

    pub(super) async fn revoke_standing(
        &self,
        id: GrantId,
        by: &OperatorId,
    ) -> Result<bool, GateError> {
        let work = async {
            let mut tx = self.store.begin().await?;
            let Some(agent) = self.store.try_revoke_grant_in_tx(&mut tx, id).await? else {
                return Ok(false);
            };
            let event = AuditEvent::system(None, Kind::GateRevoked)
                .with("agent_id", agent)
                .with("grant_id", id.to_string())
                .with("by", by.as_str());
            self.audit.append_in_tx(&mut tx, event).await?;
            GateStore::commit(tx).await?;
            Ok(true)
        };
        self.within("take a grant back", work).await
    }

    pub(super) async fn list_standing(
        &self,
        agent: &AgentId,
    ) -> Result<Vec<StandingApproval>, GateError> {
        let rows = self.store.list_grants(agent.as_str()).await?;
        Ok(rows
            .into_iter()
            .filter_map(StandingApproval::read)
            .collect())
    }
}
