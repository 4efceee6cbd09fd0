//! The table that the harness prints.

use std::fmt::Write as _;
use std::time::Duration;

use portcullis::Usd;

use crate::count::Counts;
use crate::gates::Books;
use crate::said::Tally;
use crate::trouble::Part;

/// What was said, and what is stored, of each server.
pub(crate) fn table(books: &[(Tally, Counts)]) -> String {
    let mut text = format!(
        "{:<40} {:>6} {:>6} {:>12} {:>9} {:>8} {:>10} {:>6} {:>20}\n",
        "trouble",
        "rounds",
        "kills",
        "acknowledged",
        "journal",
        "missing",
        "duplicated",
        "lost",
        "recovered p50/max ms"
    );
    let (mut kills, mut acknowledged) = (0, 0);
    for (tally, counts) in books {
        for (trouble, said) in &tally.troubles {
            kills += said.kills;
            acknowledged += said.acknowledged.len();
            let _ = writeln!(
                text,
                "{:<40} {:>6} {:>6} {:>12} {:>9} {:>8} {:>10} {:>6} {:>20}",
                trouble.name(),
                said.rounds,
                said.kills,
                said.acknowledged.len(),
                said.kept,
                counts.missing(said),
                counts.duplicated(said),
                said.lost,
                recovery(&said.recovered)
            );
        }
    }
    let sum = |of: &dyn Fn(&Counts) -> i64| books.iter().map(|(_, counts)| of(counts)).sum::<i64>();
    let count = |n: usize| i64::try_from(n).unwrap();
    let notes: usize = books.iter().map(|(tally, _)| tally.notes.len()).sum();
    let _ = write!(
        text,
        "\n{kills} kills, {acknowledged} acknowledged; {} entries: {} forks, {} unexplained gaps, {} other findings\n\
         journals: {} torn lines that nobody was told of, {} whole lines set aside\n\
         {notes} checkpoints given out: {} inconsistent\n\
         budgets: {} promises broken, {} windows that do not add up, {} sessions with money missing",
        sum(&|c| i64::try_from(c.entries).unwrap()),
        sum(&|c| count(c.forks)),
        sum(&|c| count(c.gaps)),
        sum(&|c| count(c.other)),
        sum(&|c| count(c.torn)),
        sum(&|c| count(c.set_aside)),
        sum(&|c| count(c.inconsistent)),
        sum(&|c| c.promises_broken),
        sum(&|c| c.wrong_windows),
        sum(&|c| count(c.money_missing)),
    );
    text
}

/// The same of gates.
pub(crate) fn of_gates((tally, counts, books): &(Tally, Counts, Books)) -> String {
    let mut text = format!(
        "{:<48} {:>6} {:>6} {:>8} {:>9} {:>20}\n",
        "gates", "rounds", "kills", "at work", "said", "recovered p50/max ms"
    );
    let (mut kills, mut of_leases, mut at_work) = (0, 0, 0);
    for (trouble, said) in &tally.troubles {
        kills += said.kills;
        if trouble.part() == Some(Part::Spending) {
            of_leases += said.kills;
            at_work += said.at_work;
        }
        let _ = writeln!(
            text,
            "{:<48} {:>6} {:>6} {:>8} {:>9} {:>20}",
            trouble.name(),
            said.rounds,
            said.kills,
            said.at_work,
            said.of_gates,
            recovery(&said.recovered)
        );
    }
    let told = &tally.told;
    let calls: u64 = told.effects.values().map(|effects| effects.calls).sum();
    let spent: i64 = told.effects.values().map(|effects| effects.cost).sum();
    let Books {
        promises_broken,
        beyond_limit,
        missing,
        missing_overrun,
        twice,
        overfull,
        stranded,
        held_for_ever,
        lost_slices,
        returned_slices,
        unknown,
        unknown_usd,
        used_twice,
        used_not_consumed,
        not_on_record,
        never_again,
        consumed_for_nothing,
        consumed,
        began_halted,
        lifted,
    } = books;
    let _ = write!(
        text,
        "\n{kills} kills, {of_leases} of them of processes that hold slices, {at_work} of these while they spent\n\
         budgets: {calls} calls took effect, for {}; {} were refused; {} looks meanwhile\n\
         budgets: {promises_broken} promises broken, {beyond_limit} sessions beyond their limit, {overfull} windows overfull, \
         {missing} + {missing_overrun} nano-dollars missing, {twice} windows charged twice, {} windows that do not add up\n\
         slices: {lost_slices} lost with their holders, {returned_slices} returned, {stranded} stranded; \
         {unknown} unknown outcomes of {} resolved, {held_for_ever} windows held for ever\n\
         approvals: {} granted, {} tries; {} used meanwhile, {consumed} in the end, {used_twice} twice, \
         {used_not_consumed} used and not used up, {not_on_record} not on record, {never_again} lost; \
         {consumed_for_nothing} used up by calls that died\n\
         halts: {} halts, {} calls begun, {began_halted} after a halt and its bound; {lifted} lifted by nobody\n\
         the trail of all this: {} entries, {} forks, {} gaps, {} other findings",
        Usd::nanos(spent),
        told.refused,
        told.looks,
        counts.wrong_windows,
        Usd::nanos(*unknown_usd),
        told.granted.len(),
        told.races,
        told.used_meanwhile,
        told.halts().map(|(_, halts)| halts.len()).sum::<usize>(),
        told.began(),
        counts.entries,
        counts.forks,
        counts.gaps,
        counts.other,
    );
    text
}

fn recovery(took: &[Duration]) -> String {
    let mut took: Vec<u128> = took.iter().map(Duration::as_millis).collect();
    took.sort_unstable();
    match took.last() {
        Some(max) => format!("{} / {max}", took[took.len() / 2]),
        None => "-".to_owned(),
    }
}
