//! An approval raises the limit once, by what was missing.

use std::sync::Arc;

use crate::audit::AuditKeys;
use crate::call::Principal;
use crate::cost::{Budget, Cost, CostError, CostSettings, OnLimit};
use crate::ids::{AgentId, TenantId};
use crate::money::Usd;
use crate::secret::Secret;
use crate::store::TestDatabase;
use crate::time::SystemClock;
use crate::usage::Ceiling;

#[tokio::test]
async fn an_approval_raises_the_limit_once_by_exactly_what_was_missing() {
    let test = TestDatabase::fresh().await.unwrap();
    let cost = Cost::open(
        &test.database(),
        AuditKeys::single(Secret::generate().unwrap()),
        TenantId::single(),
        Arc::new(SystemClock),
        CostSettings::default(),
    )
    .await
    .unwrap();
    let agent = AgentId::parse("a").unwrap();
    let budget = Budget::for_agent(agent.clone())
        .for_ever(Usd::dollars(1))
        .on_limit(OnLimit::Ask);
    cost.register(budget).await.unwrap();
    let me = Principal::agent(agent);
    let call = || Ceiling::usd(Usd::cents(70));
    std::mem::forget(cost.reserve(&me, call()).await.unwrap());
    let Err(CostError::NeedsApproval { raise, .. }) = cost.reserve(&me, call()).await else {
        panic!("forty cents are missing");
    };
    assert!(cost.raise_once(&raise, "approval-1").await.unwrap());
    assert!(!cost.raise_once(&raise, "approval-1").await.unwrap());
    std::mem::forget(cost.reserve(&me, call()).await.unwrap());
    let error = cost.reserve(&me, Ceiling::usd(Usd::nanos(1))).await;
    assert!(matches!(error, Err(CostError::NeedsApproval { .. })));
    let window = cost.snapshot(&me).await.unwrap().windows.remove(0);
    assert_eq!(window.usd.limit, Some(Usd::cents(140)));
}
