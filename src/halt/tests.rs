//! The decision and the rules around it, without a database.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::engine::Known;
use super::model::{self, HaltSettings, Order, Target, Why};
use crate::call::Principal;
use crate::error::ErrorKind;
use crate::ids::{AgentId, OperatorId, SessionId};
use crate::time::Timestamp;

fn agent(n: u8) -> AgentId {
    AgentId::parse(format!("agent-{n}")).unwrap()
}

fn session(n: u8) -> SessionId {
    SessionId::parse(format!("session-{n}")).unwrap()
}

fn order(target: Target) -> Arc<Order> {
    Arc::new(Order {
        target,
        by: OperatorId::parse("user:anna").unwrap(),
        why: "a secret reason".into(),
        since: Timestamp::from_micros(7),
        epoch: Some(3),
    })
}

fn target() -> impl Strategy<Value = Target> {
    prop_oneof![
        1 => Just(Target::Everything),
        1 => Just(Target::Tenant),
        8 => (0_u8..5).prop_map(|a| Target::Agent(agent(a))),
        8 => (0_u8..5, 0_u8..3).prop_map(|(a, s)| Target::Session(agent(a), session(s))),
    ]
}

/// A principal and those that started it, the youngest first.
fn family() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((0_u8..5, 0_u8..3), 1..4)
}

fn principal(family: &[(u8, u8)]) -> Principal {
    let mut oldest_first = family.iter().rev();
    let (a, s) = *oldest_first.next().unwrap();
    let first = Principal::agent(agent(a)).session(session(s));
    oldest_first.fold(first, |parent, (a, s)| {
        Principal::agent(agent(*a))
            .session(session(*s))
            .child_of(&parent)
    })
}

proptest! {
    /// The look-up says what a list of all orders would.
    #[test]
    fn who_is_halted_is_who_a_plain_list_says(
        targets in prop::collection::vec(target(), 0..6),
        family in family(),
    ) {
        let orders: Vec<_> = targets.iter().cloned().map(order).collect();
        let known = Known::new(orders.iter());
        let hit = |(a, s): &(u8, u8)| targets.iter().any(|target| match target {
            Target::Everything | Target::Tenant => true,
            Target::Agent(agent_id) => *agent_id == agent(*a),
            Target::Session(agent_id, session_id) => {
                *agent_id == agent(*a) && *session_id == session(*s)
            }
        });
        let decided = known.decide(&principal(&family));
        prop_assert_eq!(decided.is_err(), family.iter().any(hit));
        if let Err(halted) = decided {
            prop_assert_eq!(halted.is_inherited(), !hit(&family[0]));
        }
        prop_assert_eq!(known.is_empty(), targets.is_empty());
    }

    /// Halting and resuming in any order: what is in force is what a set says.
    #[test]
    fn a_target_is_in_force_from_its_halt_to_its_resumption(
        steps in prop::collection::vec((target(), any::<bool>()), 0..24),
    ) {
        let mut model: Vec<Target> = Vec::new();
        let mut stored: Vec<Arc<Order>> = Vec::new();
        for (target, halts) in steps {
            model.retain(|other| *other != target);
            stored.retain(|other| other.target != target);
            if halts {
                model.push(target.clone());
                stored.push(order(target));
            }
            let known = Known::new(stored.iter());
            prop_assert_eq!(known.orders().count(), model.len());
            for order in known.orders() {
                prop_assert!(model.contains(&order.target));
            }
        }
    }
}

#[test]
fn what_a_model_is_told_holds_neither_who_nor_why() {
    for (target, reason) in [
        (Target::Everything, "all agents are halted"),
        (Target::Tenant, "all agents are halted"),
        (Target::Agent(agent(1)), "the agent is halted"),
        (
            Target::Session(agent(1), session(1)),
            "the session is halted",
        ),
    ] {
        let known = Known::new([order(target.clone())].iter());
        let who = Principal::agent(agent(1)).session(session(1));
        let halted = known.decide(&who).unwrap_err();
        assert_eq!(halted.reason(), reason);
        assert_eq!(halted.kind(), ErrorKind::Denied);
        assert!(!halted.to_string().contains("anna"), "{halted}");
        assert!(!halted.to_string().contains("secret"), "{halted}");
        assert_eq!(halted.target(), Some(&target));
        assert_eq!(halted.why(), Some("a secret reason"));
        assert_eq!(halted.by().unwrap().as_str(), "user:anna");
        assert_eq!(halted.epoch(), Some(3));
        assert_eq!(halted.since(), Some(Timestamp::from_micros(7)));
    }
}

#[test]
fn a_reason_is_a_line_that_says_something() {
    for bad in ["", "  ", "a\nb", "a\u{0}", &"x".repeat(1_025)] {
        assert!(Why::parse(bad).is_err());
    }
    assert_eq!(Why::parse(" loops ").unwrap().as_str(), "loops");
    assert!(Why::parse(&"x".repeat(1_024)).is_ok());
}

#[test]
fn f53_an_agents_name_is_no_operators_however_it_is_spelt() {
    let agent = AgentId::parse("Billing-Agent").unwrap();
    for name in [
        "Billing-Agent",
        "billing-agent",
        "agent:BILLING-AGENT",
        "user:billing-agent",
        "Operator:Billing-agent",
    ] {
        let operator = OperatorId::parse(name).unwrap();
        assert!(model::names_the_agent(&operator, &agent), "{name}");
    }
    for name in ["anna", "user:anna", "billing-agent-2", "x:billing-agent"] {
        let operator = OperatorId::parse(name).unwrap();
        assert!(!model::names_the_agent(&operator, &agent), "{name}");
    }
}

#[test]
fn settings_that_would_bound_nothing_are_refused() {
    let settings = HaltSettings::default;
    assert!(settings().check().is_ok());
    for bad in [
        settings().poll_every(Duration::ZERO),
        settings().poll_every(Duration::from_secs(61)),
        settings().stale_after(Duration::from_millis(1_999)),
        settings().stale_after(Duration::from_hours(2)),
    ] {
        assert!(bad.check().is_err(), "{bad:?}");
    }
}
