//! Many at once: one winner each, and everybody on record.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn f41_of_racing_grants_one_wins_and_every_vote_is_on_record() {
    let gate = Gate::new().await;
    let people: Vec<String> = (0..20).map(|n| format!("user:p{n}")).collect();
    gate.gates()
        .register(policy().approvers(&people).unwrap())
        .await
        .unwrap();
    let id = gate.ask(&refund(900)).await.id;
    let others = gate.another().await;
    let racing: Vec<_> = people
        .iter()
        .enumerate()
        .map(|(n, who)| {
            let gates = if n % 2 == 0 {
                gate.gates()
            } else {
                others.gates()
            }
            .clone();
            let who = ApproverRef::parse(who).unwrap();
            tokio::spawn(async move { gates.decide(id, &who, Decision::grant()).await })
        })
        .collect();
    let (mut won, mut late) = (0, 0);
    for vote in racing {
        match vote.await.unwrap() {
            Ok(decided) => {
                assert_eq!(decided.state, RequestState::Granted);
                won += 1;
            }
            Err(error) => {
                assert_eq!(
                    error,
                    GateError::NotPending {
                        state: RequestState::Granted
                    }
                );
                late += 1;
            }
        }
    }
    assert_eq!((won, late), (1, 19));
    others.shutdown().await;
    let granted = gate.entries("gate.granted").await;
    let voted = gate.entries("gate.voted").await;
    assert_eq!((granted.len(), voted.len()), (1, 19));
    let mut named: Vec<_> = granted
        .iter()
        .chain(&voted)
        .map(|entry| entry["approver"].as_str().unwrap().to_owned())
        .collect();
    named.sort_unstable();
    named.dedup();
    assert_eq!(named.len(), 20);
    assert!(gate.gov.audit().verify_all().await.unwrap().is_clean());
}

#[tokio::test(flavor = "multi_thread")]
async fn f41_of_racing_people_exactly_the_quorum_counts() {
    let gate = Gate::new().await;
    let people: Vec<String> = (0..12).map(|n| format!("user:p{n}")).collect();
    gate.gates()
        .register(policy().approvers(&people).unwrap().quorum(5))
        .await
        .unwrap();
    for round in 0..8 {
        let id = gate.ask(&refund(round)).await.id;
        let racing: Vec<_> = people
            .iter()
            .map(|who| {
                let gates = gate.gates().clone();
                let who = ApproverRef::parse(who).unwrap();
                tokio::spawn(async move { gates.decide(id, &who, Decision::grant()).await })
            })
            .collect();
        let mut votes = Vec::new();
        for vote in racing {
            if let Ok(decided) = vote.await.unwrap() {
                votes.push((decided.votes, decided.state == RequestState::Granted));
            }
        }
        votes.sort_unstable();
        assert_eq!(
            votes,
            [(1, false), (2, false), (3, false), (4, false), (5, true)]
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f38_of_thousands_that_race_for_an_approval_one_gets_it() {
    let gate = Gate::with_policy().await;
    let other = gate.another().await;
    for round in 0..12 {
        let id = gate.ask(&refund(round)).await.id;
        gate.grant(id).await;
        let racing: Vec<_> = (0..250)
            .map(|n| {
                let gates = if n % 2 == 0 {
                    gate.gates()
                } else {
                    other.gates()
                }
                .clone();
                tokio::spawn(async move {
                    match gates.redeem(&refund(round), Ask::policy()).await {
                        Ok(approval) => {
                            // Some are slow, some give up, and somebody else may then have it.
                            if n % 5 == 0 {
                                approval.give_back().await;
                                return 0;
                            }
                            approval
                                .use_up()
                                .await
                                .map_or(0, |used| u32::from(used.request == Some(id)))
                        }
                        Err(GateError::NotHeld | GateError::Pending { .. }) => 0,
                        Err(error) => panic!("{error:?}"),
                    }
                })
            })
            .collect();
        let mut used = 0;
        for racer in racing {
            used += racer.await.unwrap();
        }
        // If the last to hold it gave it back, nobody used it yet.
        if used == 0 {
            gate.redeem(&refund(round))
                .await
                .unwrap()
                .use_up()
                .await
                .unwrap();
            used += 1;
        }
        assert_eq!(used, 1, "round {round}");
        assert_eq!(gate.state(id).await, RequestState::Consumed);
    }
    assert_eq!(gate.entries("gate.consumed").await.len(), 12);
}

#[test]
fn f54_threads_without_a_runtime_of_their_own_share_one_handle() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let gate = runtime.block_on(Gate::with_policy());
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (handle, gate) = (runtime.handle().clone(), &gate);
                scope.spawn(move || {
                    handle.block_on(async {
                        let id = gate.ask(&refund(n)).await.id;
                        gate.grant(id).await;
                        gate.redeem(&refund(n))
                            .await
                            .unwrap()
                            .use_up()
                            .await
                            .unwrap();
                    });
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
    let used = runtime.block_on(gate.entries("gate.consumed"));
    assert_eq!(used.len(), 4, "of four calls, four");
}
