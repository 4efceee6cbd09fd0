//! What the child processes do until they are killed: record, spend, and say what was acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::audit::{AuditEvent, Evidence, Receipt};
use portcullis::{
    AgentId, AuditKeys, Ceiling, Clock, Database, Governance, Principal, Secret, SessionId,
    SystemClock, Timestamp, Usd,
};

use crate::SECRET;

pub(crate) const AGENT: &str = "worker";
const URL: &str = "PORTCULLIS_CRASH_CHILD_URL";
const SESSION: &str = "PORTCULLIS_CRASH_CHILD_SESSION";
const JUMP: &str = "PORTCULLIS_CRASH_CHILD_JUMP";
const SPOOLED: &str = "PORTCULLIS_CRASH_CHILD_SPOOLED";
const WRITERS: usize = 6;
const SPENDERS: usize = 3;

/// What one child is to do.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) url: String,
    pub(crate) session: SessionId,
    /// By how many seconds its clock jumps soon after it has begun.
    pub(crate) jump: i64,
    /// Whether it writes to its journal first.
    pub(crate) spooled: bool,
}

impl Orders {
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            (URL, self.url.clone()),
            (SESSION, self.session.as_str().to_owned()),
            (JUMP, self.jump.to_string()),
            (SPOOLED, self.spooled.to_string()),
        ]
    }
}

/// The orders of this process, if it is a child.
pub(crate) fn orders() -> Option<Orders> {
    Some(Orders {
        url: std::env::var(URL).ok()?,
        session: SessionId::parse(std::env::var(SESSION).ok()?).unwrap(),
        jump: std::env::var(JUMP).ok()?.parse().unwrap(),
        spooled: std::env::var(SPOOLED).ok()?.parse().unwrap(),
    })
}

/// A clock that is right for a moment and then is not.
#[derive(Debug)]
struct Jumpy {
    began: Instant,
    seconds: i64,
}

impl Clock for Jumpy {
    fn now(&self) -> Timestamp {
        let now = SystemClock::default().now();
        if self.began.elapsed() < Duration::from_millis(100) {
            return now;
        }
        Timestamp::from_micros(now.as_micros() + self.seconds * 1_000_000)
    }
}

pub(crate) async fn run(orders: Orders) {
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    let clock = Jumpy {
        began: Instant::now(),
        seconds: orders.jump,
    };
    let evidence = if orders.spooled {
        Evidence::Spooled
    } else {
        Evidence::Durable
    };
    let gov = loop {
        let connecting = Governance::builder(Database::url(&orders.url), keys.clone())
            .shared_clock(Arc::new(Jumpy { ..clock }))
            .evidence(evidence)
            .connect()
            .await;
        match connecting {
            Ok(gov) => break gov,
            // Begun while the server was away.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let me = Principal::agent(AgentId::parse(AGENT).unwrap()).session(orders.session);
    let writers = (0..WRITERS).map(|n| tokio::spawn(record(gov.clone(), me.clone(), n)));
    let writers: Vec<_> = writers.collect();
    let spenders = (0..SPENDERS).map(|_| tokio::spawn(spend(gov.clone(), me.clone())));
    for task in writers.into_iter().chain(spenders) {
        task.await.unwrap();
    }
}

/// Each line is one write to the pipe, which takes it whole or not at all.
async fn record(gov: Governance, me: Principal, writer: usize) {
    loop {
        let event = AuditEvent::new(&me, "app.work.done").with("writer", writer);
        match gov.audit().log(event).await {
            Receipt::Committed(committed) => println!("committed {}", committed.id),
            Receipt::Lost { id, .. } => println!("lost {id}"),
            other => println!("kept {}", other.id()),
        }
    }
}

async fn spend(gov: Governance, me: Principal) {
    loop {
        let held = gov
            .cost()
            .check_or_raise(&me, Ceiling::usd(Usd::cents(1)))
            .await;
        let Ok(held) = held else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let cost = Usd::nanos(3_000_000);
        if held.settle(cost).await.is_ok() {
            println!("spent {}", cost.as_nanos());
        }
    }
}
