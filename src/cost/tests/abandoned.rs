//! Callers that have gone.

use std::sync::Arc;

use crate::audit::AuditKeys;
use crate::call::Principal;
use crate::cost::combine::Waiting;
use crate::cost::reservation::Held;
use crate::cost::{Budget, Cost, CostSettings, settle};
use crate::ids::{AgentId, ReservationId, TenantId};
use crate::money::Usd;
use crate::secret::Secret;
use crate::store::TestDatabase;
use crate::time::{SystemClock, Timestamp};

#[tokio::test]
async fn f27_nothing_is_reserved_for_who_has_gone() {
    let test = TestDatabase::fresh().await.unwrap();
    let keys = AuditKeys::single(Secret::generate().unwrap());
    let cost = Cost::open(
        &test.database(),
        keys,
        TenantId::single(),
        Arc::new(SystemClock),
        CostSettings::default(),
    )
    .await
    .unwrap();
    let agent = AgentId::parse("billing-agent").unwrap();
    let who = Principal::agent(agent.clone());
    cost.register(Budget::for_agent(agent).per_day(Usd::dollars(1)))
        .await
        .unwrap();
    let demand = || {
        settle::demand(&Held {
            id: ReservationId::new(),
            who: who.clone(),
            model: None,
            provider: None,
            at: Timestamp::from_micros(0),
            usd: Some(Usd::cents(10)),
            tokens: 0,
            call: None,
            on_record: true,
        })
    };
    let (gone, nobody) = Waiting::new(demand());
    let (here, answered) = Waiting::new(demand());
    drop(nobody);
    let core = Arc::clone(&cost.handle.core);
    core.reserve(vec![gone, here]).await;
    assert!(answered.await.unwrap().unwrap().admitted);
    let snapshot = cost.snapshot(&who).await.unwrap();
    assert_eq!(snapshot.windows[0].usd.held, Usd::cents(10));
}
