//! One marker through every error: nothing that a caller gave comes back in a message.

use std::fmt::{Debug, Display};
use std::time::Duration;

use portcullis::audit::{AuditEvent, AuditKeys, Metadata};
use portcullis::cost::Budget;
use portcullis::halt::Target;
use portcullis::scope::ScopePolicy;
use portcullis::store::{Migration, TestDatabase};
use portcullis::{
    AgentId, Call, Ceiling, Database, EventId, Governance, ModelName, OperatorId, Secret,
    Timestamp, Usd,
};
use serde_json::json;

use crate::common::{governance, keys, principal};

/// What no message may hold. Not a word that any of them uses by itself.
const MARKER: &str = "xq7marker";

fn hidden(error: &(impl Display + Debug)) {
    for text in [error.to_string(), format!("{error:#?}")] {
        assert!(!shows(&text), "{text}");
    }
    unseen(error);
}

fn unseen(value: &impl Debug) {
    let text = format!("{value:?}");
    assert!(!shows(&text), "{text}");
}

/// Whether the marker is in it, as text or as a list of bytes.
fn shows(text: &str) -> bool {
    let bytes = format!("{:?}", MARKER.as_bytes());
    text.to_lowercase().contains(MARKER) || text.contains(bytes.trim_matches(['[', ']']))
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one marker through everything, in order"
)]
async fn no_error_repeats_what_it_was_given() {
    let spoilt = format!("{MARKER} \u{0}\u{202e}");
    hidden(&AgentId::parse(&spoilt).unwrap_err());
    hidden(&EventId::parse(&spoilt).unwrap_err());
    hidden(&Timestamp::parse(&spoilt).unwrap_err());
    hidden(&spoilt.parse::<Usd>().unwrap_err());
    hidden(&Secret::parse(&spoilt).unwrap_err());
    hidden(&Secret::parse(&format!("{MARKER}changeme")).unwrap_err());
    hidden(&Metadata::parse(&format!("{{\"a\": {MARKER}")).unwrap_err());
    hidden(&Metadata::new(&json!({"a": format!("{MARKER}\u{0}")})).unwrap_err());
    let secret =
        Secret::from_bytes(format!("{MARKER}-0123456789abcdefghijklmnopqrstuvw").into_bytes())
            .unwrap();
    unseen(&secret);
    let keys_of_it = AuditKeys::single(secret);
    unseen(&keys_of_it);

    let url = format!("postgres://app:{MARKER}@127.0.0.1:1/{MARKER}");
    let database = Database::url(&url).acquire_timeout(Duration::from_millis(200));
    unseen(&database);
    hidden(&database.migrate().await.unwrap_err());
    hidden(
        &Governance::builder(database, keys())
            .connect()
            .await
            .unwrap_err(),
    );
    hidden(&Database::url(&spoilt).migrate().await.unwrap_err());

    let test = TestDatabase::fresh().await.unwrap();
    let database = test.database();
    hidden(
        &Migration::new(&database)
            .app_role(MARKER)
            .run()
            .await
            .unwrap_err(),
    );
    let gov = governance(&database).await.unwrap();
    unseen(&gov);
    let me = principal("agent");

    // Calls, whatever is wrong with them.
    let policy = ScopePolicy::new(me.agent_id().clone())
        .allow_tools(["pay"])
        .unwrap();
    gov.scope().register(policy).await.unwrap();
    let args = json!({"card": MARKER});
    for call in [
        Call::tool(&me, &spoilt).args(&args),
        Call::tool(&me, "pay").api(format!("https://{MARKER}@x.test/?{MARKER}")),
        Call::tool(&me, "pay")
            .args(&args)
            .ceiling(Ceiling::usd(Usd::cents(1))),
        Call::model(&me, "gpt-4o").args(&args),
    ] {
        unseen(&call);
        hidden(&gov.authorize(&call).await.unwrap_err());
    }
    hidden(
        &gov.scope()
            .check(&me, format!("{MARKER}\u{0}"))
            .await
            .unwrap_err(),
    );
    hidden(
        &gov.scope()
            .check_api(&me, &format!("https://{MARKER}.test/{MARKER}"))
            .await
            .unwrap_err(),
    );
    hidden(
        &ScopePolicy::new(me.agent_id().clone())
            .allow_tools([format!("{MARKER}*")])
            .unwrap_err(),
    );
    hidden(
        &ScopePolicy::new(me.agent_id().clone())
            .allow_apis([format!("ftp://{MARKER}")])
            .unwrap_err(),
    );

    // Budgets.
    gov.cost()
        .register(Budget::for_agent(me.agent_id().clone()).per_session(Usd::dollars(1)))
        .await
        .unwrap();
    let model = ModelName::parse(MARKER).unwrap();
    hidden(
        &gov.cost()
            .check_or_raise(&me, Ceiling::tokens(1).of_model(&model))
            .await
            .unwrap_err(),
    );

    // Events.
    for event in [
        AuditEvent::new(&me, format!("app.{MARKER} ")),
        AuditEvent::new(&me, MARKER),
        AuditEvent::new(&me, "app.x").with("a", format!("{MARKER}\u{0}")),
        AuditEvent::new(&me, "app.x").decision(MARKER.repeat(20)),
        AuditEvent::new(&me, "app.x").with("a", 1.5),
    ] {
        hidden(&gov.audit().append(event).await.unwrap_err());
    }

    // The halt switch: neither who nor why, whatever was given.
    let (target, by) = (Target::agent_of(&me), OperatorId::parse(MARKER).unwrap());
    let broken = format!("{MARKER}\u{0}");
    hidden(&gov.halt().halt(&target, &by, &broken).await.unwrap_err());
    gov.halt().halt(&target, &by, MARKER).await.unwrap();
    hidden(&gov.halt().check(&me).unwrap_err());
    hidden(&gov.scope().check(&me, "pay").await.unwrap_err());
    unseen(gov.halt());
    gov.halt().resume(&target, &by, MARKER).await.unwrap();
    let itself = OperatorId::parse(me.agent_id().as_str()).unwrap();
    hidden(
        &gov.halt()
            .resume(&target, &itself, MARKER)
            .await
            .unwrap_err(),
    );

    // A permit that was given, and what is shown of it.
    let permit = gov
        .authorize(&Call::tool(&me, "pay").args(&args))
        .await
        .unwrap();
    unseen(&permit);
    permit.release().await;
    gov.shutdown().await;
}
