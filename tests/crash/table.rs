//! The table that the harness prints.

use std::fmt::Write as _;
use std::time::Duration;

use crate::count::Counts;
use crate::said::Tally;

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

fn recovery(took: &[Duration]) -> String {
    let mut took: Vec<u128> = took.iter().map(Duration::as_millis).collect();
    took.sort_unstable();
    match took.last() {
        Some(max) => format!("{} / {max}", took[took.len() / 2]),
        None => "-".to_owned(),
    }
}
