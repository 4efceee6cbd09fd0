//! The gates as the tests of the adapter see them. All that knows how the core keeps its records is
//! in this file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use portcullis::cost::{Budget, Tokens};
use portcullis::scope::ScopePolicy;
use portcullis::store::TestDatabase;
use portcullis::{Governance, Principal, Usage, Usd};
use sqlx::{Executor, PgConnection};

use super::openai_server::Server;
use super::{connect, governance, principal};

/// The gates over one database, for agents of which each has a policy and a budget of its own.
pub(crate) struct Gates {
    test: Arc<TestDatabase>,
    gov: Governance,
    agents: AtomicU32,
}

/// The gates as one agent meets them, which makes one call.
pub(crate) struct Gate {
    pub(crate) gov: Governance,
    pub(crate) me: Principal,
    test: Arc<TestDatabase>,
}

/// How the trail says that a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Completed,
    Failed(String),
    Unknown,
    /// It never began.
    Released,
}

/// What a call was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Charge {
    /// What the provider reported, in input and output tokens.
    Used(u64, u64),
    /// What was reserved, because nobody knows what was used.
    Reserved,
    /// Tokens that were seen, more than were reserved.
    Seen(u64),
    Nothing,
}

/// A call in the books.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Booked {
    pub(crate) state: String,
    pub(crate) model: Option<String>,
    pub(crate) provider: Option<String>,
    /// Tokens, input and output together.
    pub(crate) reserved: u64,
    pub(crate) charged: u64,
    pub(crate) reserved_usd: Usd,
    pub(crate) charged_usd: Usd,
    /// Without its tier and what is not kept; `None` before it is settled.
    pub(crate) usage: Option<Usage>,
}

/// The last entry of a call.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    pub(crate) end: End,
    pub(crate) model: Option<String>,
    pub(crate) output_hash: Option<Vec<u8>>,
}

impl Gates {
    pub(crate) async fn start() -> Self {
        // As an application would that chooses a TLS provider itself.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let test = TestDatabase::fresh().await.expect("a database");
        let gov = governance(&test.database()).await.expect("a handle");
        Self {
            test: Arc::new(test),
            gov,
            agents: AtomicU32::new(0),
        }
    }

    /// For an agent that may call all of `server`, and has enough money.
    pub(crate) async fn open(&self, server: &Server) -> Gate {
        self.at(&server.base()).await
    }

    /// For an agent that may call all under `base`, and has enough money.
    pub(crate) async fn at(&self, base: &str) -> Gate {
        self.agent(Some(&format!("{base}/*")), 10_000_000).await
    }

    /// For an agent that may call nothing but chat completions.
    pub(crate) async fn narrow(&self, server: &Server) -> Gate {
        let chat = format!("{}/chat/completions", server.base());
        self.agent(Some(&chat), 10_000_000).await
    }

    /// For an agent whose budget is too small for any call.
    pub(crate) async fn poor(&self, server: &Server) -> Gate {
        self.agent(Some(&format!("{}/*", server.base())), 10).await
    }

    /// For an agent without a policy.
    pub(crate) async fn closed(&self) -> Gate {
        self.agent(None, 10_000_000).await
    }

    async fn agent(&self, api: Option<&str>, tokens: u64) -> Gate {
        let number = self.agents.fetch_add(1, Ordering::Relaxed);
        let me = principal(&format!("agent-{number}"));
        if let Some(api) = api {
            let policy = ScopePolicy::new(me.agent_id().clone()).allow_any_model();
            let policy = policy.allow_apis([api]).expect("a policy");
            self.gov.scope().register(policy).await.expect("registered");
        }
        let budget = Budget::for_agent(me.agent_id().clone())
            .per_session(Usd::dollars(1_000))
            .per_session(Tokens(tokens));
        self.gov.cost().register(budget).await.expect("registered");
        Gate {
            gov: self.gov.clone(),
            me,
            test: Arc::clone(&self.test),
        }
    }
}

impl Gate {
    /// Gates of its own for an agent that may call all of `server`.
    pub(crate) async fn open(server: &Server) -> Self {
        Gates::start().await.open(server).await
    }

    /// How many calls were admitted.
    pub(crate) async fn calls(&self) -> usize {
        let started = self.entries("llm.call.started").await;
        let reserved = self.reservations().await;
        assert_eq!(started.len(), reserved.len(), "on record and in the books");
        started.len()
    }

    /// The only call, in the books.
    pub(crate) async fn booked(&self) -> Booked {
        let [call] = self.reservations().await.try_into().expect("one call");
        call
    }

    /// The only call, once it has ended. Waits: a stream is settled in the background.
    pub(crate) async fn ended(&self) -> Ended {
        for _ in 0..1_000 {
            let ended = self.entries("llm.call.%ed").await;
            let ended: Vec<_> = ended.into_iter().filter_map(Entry::ended).collect();
            if !ended.is_empty() {
                let [ended] = ended.try_into().expect("one end of one call");
                return ended;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the call was never ended");
    }

    /// How the only call ended.
    pub(crate) async fn end(&self) -> End {
        self.ended().await.end
    }

    /// The usage that the only call was settled with.
    pub(crate) async fn usage(&self) -> Usage {
        self.ended().await;
        self.booked().await.usage.expect("settled with a usage")
    }

    /// What the only call was charged. The trail and the books must agree on how it ended.
    pub(crate) async fn charge(&self) -> Charge {
        let (end, call) = (self.end().await, self.booked().await);
        match (end, call.state.as_str()) {
            (End::Completed | End::Failed(_), "settled") => {
                let usage = call.usage.expect("settled with a usage");
                assert_eq!(call.charged, usage.total_tokens());
                Charge::Used(usage.input_tokens, usage.output_tokens)
            }
            (End::Released, "released") => {
                assert_eq!((call.charged, call.charged_usd), (0, Usd::ZERO));
                Charge::Nothing
            }
            (End::Unknown, "unknown") if call.charged == call.reserved => {
                assert_eq!(call.charged_usd, call.reserved_usd);
                Charge::Reserved
            }
            (End::Unknown, "unknown") => {
                assert!(call.charged > call.reserved, "never less");
                Charge::Seen(call.charged)
            }
            (end, state) => panic!("the trail says {end:?}, the books say {state}"),
        }
    }

    /// The reasons and gates of the refusals on record. Waits for the first.
    pub(crate) async fn refused_by(&self) -> Vec<String> {
        for _ in 0..1_000 {
            let entries = self.entries("policy.decision").await;
            let denied = entries.into_iter().filter(|entry| entry.decision == "deny");
            let gates: Vec<_> = denied
                .map(|entry| entry.text("gate").expect("a gate"))
                .collect();
            if !gates.is_empty() {
                return gates;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no refusal is on record");
    }

    async fn connection(&self) -> PgConnection {
        connect(&self.test.options()).await
    }

    async fn entries(&self, kind: &str) -> Vec<Entry> {
        type Row = (String, Option<String>, Option<Vec<u8>>, String);
        let query = sqlx::query_as(
            "SELECT coalesce(decision, ''), model, output_hash, metadata FROM portcullis.entries
             WHERE session_id = $1 AND kind LIKE $2 ORDER BY recorded_at, chain_no, seq",
        );
        let session = self.me.session_id().to_string();
        let rows: Vec<Row> = query
            .bind(session)
            .bind(kind)
            .fetch_all(&mut self.connection().await)
            .await
            .expect("entries");
        rows.into_iter()
            .map(|(decision, model, output_hash, metadata)| Entry {
                decision,
                model,
                output_hash,
                metadata: serde_json::from_str(&metadata).expect("metadata"),
            })
            .collect()
    }

    async fn reservations(&self) -> Vec<Booked> {
        let query = sqlx::query(
            "SELECT state, model, provider,
                    ARRAY[reserved_tokens, charged_tokens],
                    ARRAY[input_tokens, cached_tokens, output_tokens, reasoning_tokens],
                    ARRAY[reserved_usd[1], charged_usd[1]]
             FROM portcullis.reservations WHERE session_id = $1",
        );
        let session = self.me.session_id().to_string();
        let mut connection = self.connection().await;
        let rows = connection.fetch_all(query.bind(session)).await;
        let rows = rows.expect("reservations").into_iter();
        rows.map(|row| {
            use sqlx::Row as _;
            let (tokens, usd): (Vec<i64>, Vec<i64>) = (row.get(3), row.get(5));
            let counts: Vec<Option<i64>> = row.get(4);
            let count = |at: usize| counts[at].map(|tokens| u64::try_from(tokens).unwrap());
            Booked {
                state: row.get(0),
                model: row.get(1),
                provider: row.get(2),
                reserved: tokens[0].try_into().unwrap(),
                charged: tokens[1].try_into().unwrap(),
                reserved_usd: Usd::nanos(usd[0]),
                charged_usd: Usd::nanos(usd[1]),
                usage: count(0).map(|input| {
                    let mut usage = Usage::tokens(input, count(2).unwrap());
                    usage.cached_input_tokens = count(1).unwrap_or(0);
                    usage.reasoning_tokens = count(3).unwrap_or(0);
                    usage
                }),
            }
        })
        .collect()
    }
}

/// An entry of the trail.
struct Entry {
    decision: String,
    model: Option<String>,
    output_hash: Option<Vec<u8>>,
    metadata: serde_json::Value,
}

impl Entry {
    fn text(&self, key: &str) -> Option<String> {
        Some(self.metadata.get(key)?.as_str()?.to_owned())
    }

    fn ended(self) -> Option<Ended> {
        let code = self.text("code");
        let end = match (self.decision.as_str(), code.as_deref()) {
            ("completed", _) => End::Completed,
            ("unknown", _) => End::Unknown,
            ("failed", Some("not_started")) => End::Released,
            ("failed", Some(code)) => End::Failed(code.to_owned()),
            _ => return None, // llm.call.started
        };
        Some(Ended {
            end,
            model: self.model,
            output_hash: self.output_hash,
        })
    }
}
