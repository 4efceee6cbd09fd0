//! What the child processes do until they are killed: record, spend, drain, make checkpoints, and say
//! what was acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis::audit::{
    AgentKey, AuditEvent, Evidence, JournalSettings, Receipt, SignPolicy, Signing,
};
use portcullis::{
    AgentId, Ceiling, Clock, Database, Governance, Principal, SystemClock, Timestamp, Usd,
};
use tokio::task::JoinSet;

use crate::gates::{halts, people, spend, watch};
use crate::orders::{Orders, Role};
use crate::{keys, log_key};

pub(crate) const AGENT: &str = "worker";
const WRITERS: usize = 6;
const SPENDERS: usize = 3;
/// Files are closed early, so that a journal is several.
const SEGMENT: u64 = 32 << 10;

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
    if orders.role == Role::Watch {
        return watch::watch(&orders).await;
    }
    let session = orders.session.clone();
    let gov = connect(&orders).await;
    let me = Principal::agent(agent()).session(session.clone());
    let mut tasks = JoinSet::new();
    match orders.role {
        Role::Work => {
            for writer in 0..WRITERS {
                tasks.spawn(record(gov.clone(), me.clone(), writer));
            }
            for _ in 0..SPENDERS {
                tasks.spawn(spend(gov.clone(), me.clone()));
            }
            tasks.spawn(queue(gov.clone(), me));
            tasks.spawn(make_checkpoints(gov));
        }
        Role::Queue => {
            for _ in 0..WRITERS {
                tasks.spawn(queue(gov.clone(), me.clone()));
            }
        }
        Role::Checkpoint => {
            tasks.spawn(queue(gov.clone(), me));
            tasks.spawn(make_checkpoints(gov));
        }
        Role::Drain => {
            tasks.spawn(drain(gov));
        }
        Role::Spend => spend::start(&mut tasks, &gov, &session),
        Role::Approve => people::start(&mut tasks, &gov, &session),
        Role::Obey => halts::obey(&mut tasks, &gov, &session),
        Role::Order => halts::order(&mut tasks, &gov, &session),
        Role::Watch => {}
    }
    // None of them ends.
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
}

fn agent() -> AgentId {
    AgentId::parse(AGENT).unwrap()
}

async fn connect(orders: &Orders) -> Governance {
    let journal = JournalSettings::in_directory(&orders.journals).segment(SEGMENT);
    let journal = match orders.role {
        Role::Drain => journal.on_request(),
        _ => journal,
    };
    let evidence = if orders.spooled {
        Evidence::Spooled
    } else {
        Evidence::Durable
    };
    let signing = if orders.signed {
        Signing::new(SignPolicy::All).key(AgentKey::ephemeral(agent()).unwrap())
    } else {
        Signing::default()
    };
    let clock = Arc::new(Jumpy {
        began: Instant::now(),
        seconds: orders.jump,
    });
    loop {
        let connecting = Governance::builder(Database::url(&orders.url), keys())
            .shared_clock(clock.clone())
            .journal(journal.clone())
            .evidence(evidence)
            .sign(signing.clone())
            .budget_leases(spend::leases())
            .reservation_lease(spend::RESERVATION)
            .halt(halts::settings())
            .connect()
            .await;
        match connecting {
            Ok(gov) => return gov,
            // Begun while the server was away.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// Each line is one write to the pipe, which takes it whole or not at all.
async fn record(gov: Governance, me: Principal, writer: usize) {
    loop {
        let event = AuditEvent::new(&me, "app.work.done").with("writer", writer);
        match gov.audit().log(event).await {
            Receipt::Committed(committed) => println!("committed {}", committed.id),
            Receipt::Lost { id, .. } => {
                println!("lost {id}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => println!("kept {}", other.id()),
        }
    }
}

/// Records in transactions of its own; what is committed waits in the outbox.
async fn queue(gov: Governance, me: Principal) {
    let pool = gov.database().connect_pool().await.unwrap();
    loop {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let Ok(mut tx) = pool.begin().await else {
            continue;
        };
        let event = AuditEvent::new(&me, "app.work.queued");
        if let Ok(id) = gov.audit().append_in_tx(&mut tx, event).await
            && tx.commit().await.is_ok()
        {
            println!("queued {id}");
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

async fn make_checkpoints(gov: Governance) {
    let key = log_key();
    loop {
        if let Ok(checkpoint) = gov.audit().checkpoint(&key).await {
            println!("note {}", hex::encode(checkpoint.note()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn drain(gov: Governance) {
    loop {
        match gov.audit().drain().await {
            Ok(report) if report.drained + report.already_present > 0 => {
                println!("drained {}", report.drained);
            }
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
