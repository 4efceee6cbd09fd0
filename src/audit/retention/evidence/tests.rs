use super::*;
use crate::ids::AgentId;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(&format!("{text}T00:00:00Z")).unwrap()
}

fn record(day: &str, said: Said) -> Record {
    Record {
        id: EventId::new(),
        at: at(day),
        occurred: at(day),
        said,
    }
}

fn policy(day: &str, min_months: u32) -> Record {
    record(day, Said::Policy { min_months })
}

fn purge(day: &str, youngest: &str, holds: &[EventId]) -> Record {
    let purge = Purge {
        sha256: [0; 32],
        removed: 9,
        leaves: vec![(0, 9)],
        youngest: at(youngest),
        holds: holds.to_vec(),
    };
    record(day, Said::Purged(purge))
}

/// A trail of two years, with a policy and an anchor from its beginning.
fn facts(now: &str) -> Facts {
    Facts {
        now: at(now),
        months: 6,
        began: Some(at("2025-01-01")),
        anchored: Some(("worm".to_owned(), at("2025-01-02"))),
        records: vec![policy("2025-01-01", 6)],
        youngest: Vec::new(),
    }
}

fn status(facts: Facts) -> Status {
    facts.decide().status
}

#[test]
fn six_months_are_shown_from_the_day_on_and_not_before_it() {
    for (anchored, now, expected) in [
        ("2026-08-28", "2027-02-27", Status::PolicyOnly),
        ("2026-08-28", "2027-02-28", Status::Evidenced),
        ("2026-08-29", "2027-02-28", Status::Evidenced),
        ("2026-08-30", "2027-02-28", Status::Evidenced),
        ("2026-08-31", "2027-02-27", Status::PolicyOnly),
        ("2026-08-31", "2027-02-28", Status::Evidenced),
        // 180 days are not six months.
        ("2026-03-01", "2026-08-28", Status::PolicyOnly),
        ("2026-03-01", "2026-09-01", Status::Evidenced),
    ] {
        let mut facts = facts(now);
        facts.anchored = Some(("worm".to_owned(), at(anchored)));
        assert_eq!(status(facts), expected, "{anchored} {now}");
    }
}

#[test]
fn what_is_missing_is_said_in_the_words_of_the_rule() {
    let evidenced = facts("2026-08-01").decide();
    assert_eq!(evidenced.status.as_str(), "evidenced");
    assert_eq!((evidenced.reasons.len(), evidenced.provable_at), (0, None));

    let mut young = facts("2025-04-01");
    young.records = vec![policy("2025-01-03", 6)];
    let young = young.decide();
    assert_eq!(young.status.as_str(), "partial(accruing)");
    assert_eq!(young.provable_at, Some(at("2025-07-03")));

    let mut unanchored = facts("2026-08-01");
    unanchored.anchored = None;
    let unanchored = unanchored.decide();
    assert_eq!(unanchored.status.as_str(), "partial(policy_only)");
    assert_eq!(unanchored.provable_at, None);

    let mut none = facts("2026-08-01");
    none.records.clear();
    assert_eq!(status(none), Status::NotEvidenced);
    let mut empty = facts("2026-08-01");
    empty.began = None;
    assert_eq!(status(empty), Status::NotEvidenced);
    let mut longer = facts("2026-08-01");
    longer.months = 7;
    assert_eq!(status(longer), Status::NotEvidenced);
}

#[test]
fn the_policy_must_have_held_all_the_time() {
    let mut late = facts("2026-08-01");
    late.records = vec![policy("2026-05-01", 6)];
    let late = late.decide();
    assert_eq!(late.status, Status::NotEvidenced);
    assert_eq!(late.provable_at, Some(at("2026-11-01")));

    // For twelve months: it was shorter in between, or before.
    for (records, expected) in [
        (vec![policy("2025-01-01", 12)], Status::Evidenced),
        (
            vec![policy("2025-01-01", 12), policy("2026-01-01", 24)],
            Status::Evidenced,
        ),
        (
            vec![
                policy("2025-01-01", 12),
                policy("2026-01-01", 6),
                policy("2026-02-01", 12),
            ],
            Status::NotEvidenced,
        ),
        (
            vec![policy("2025-01-01", 6), policy("2026-01-01", 12)],
            Status::NotEvidenced,
        ),
        (
            vec![policy("2025-01-01", 12), policy("2026-01-01", 6)],
            Status::NotEvidenced,
        ),
    ] {
        let mut facts = facts("2026-08-01");
        facts.months = 12;
        facts.records = records;
        assert_eq!(status(facts), expected);
    }
}

#[test]
fn a_removal_of_what_was_too_young_shows() {
    for (purged, youngest, stayed, expected) in [
        ("2026-03-01", "2025-09-01", "2025-09-01", Status::Evidenced),
        (
            "2026-03-01",
            "2025-09-02",
            "2025-09-01",
            Status::NotEvidenced,
        ),
        // Whatever the entry itself says: what stayed of the ranges is younger.
        (
            "2026-03-01",
            "2025-06-01",
            "2025-09-02",
            Status::NotEvidenced,
        ),
    ] {
        let mut facts = facts("2026-08-01");
        let purge = purge(purged, youngest, &[]);
        facts.youngest = vec![(purge.id, at(stayed))];
        facts.records.push(purge);
        assert_eq!(status(facts), expected, "{purged} {youngest} {stayed}");
    }
    // Before any policy.
    let mut facts = facts("2026-08-01");
    facts
        .records
        .insert(0, purge("2024-12-01", "2020-01-01", &[]));
    assert_eq!(status(facts), Status::NotEvidenced);
}

#[test]
fn a_removal_across_a_hold_shows() {
    let of_agent = || LegalHold::everything().agent(AgentId::parse("a").unwrap());
    let cases: [(LegalHold, Option<&str>, &str, bool, Status); 6] = [
        // On everything, while it was open, whatever the archive says.
        (
            LegalHold::everything(),
            None,
            "2026-03-01",
            true,
            Status::NotEvidenced,
        ),
        (
            LegalHold::everything(),
            Some("2026-02-01"),
            "2026-03-01",
            false,
            Status::Evidenced,
        ),
        (
            LegalHold::everything(),
            Some("2026-04-01"),
            "2026-03-01",
            true,
            Status::NotEvidenced,
        ),
        // Before it was set.
        (
            LegalHold::everything(),
            None,
            "2025-12-01",
            false,
            Status::Evidenced,
        ),
        // On some entries: the archive has looked at it, or not.
        (of_agent(), None, "2026-03-01", true, Status::Evidenced),
        (of_agent(), None, "2026-03-01", false, Status::NotEvidenced),
    ];
    for (hold, released, purged, looked, expected) in cases {
        let mut facts = facts("2026-08-01");
        let set = record("2026-01-01", Said::HoldSet(hold.clone()));
        let holds: Vec<_> = looked.then_some(set.id).into_iter().collect();
        if let Some(day) = released {
            facts.records.push(record(day, Said::HoldReleased(set.id)));
        }
        facts.records.push(set);
        facts.records.push(purge(purged, "2025-05-01", &holds));
        assert_eq!(status(facts), expected, "{hold:?} {released:?} {purged}");
    }
}

#[test]
fn an_entry_that_says_nothing_is_no_evidence() {
    let mut facts = facts("2026-08-01");
    facts.records.push(record("2026-01-01", Said::Unreadable));
    assert_eq!(status(facts), Status::NotEvidenced);
}
