//! The gates under kills: budgets that are leased and exact, approvals that are raced for, and halts.
//!
//! On a server of its own, beside the rounds about the trail. What children say took effect is held
//! against what the database has in the end, by a process that did none of it.

mod books;
pub(crate) mod halts;
pub(crate) mod people;
pub(crate) mod spend;
pub(crate) mod told;
pub(crate) mod watch;

pub(crate) use books::Books;

use crate::trouble::{Part, Point, Trouble};

/// How often each trouble happens, in the short form and in the full one.
pub(crate) const ROUNDS: &[(Trouble, usize, usize)] = &[
    // First, so that what the dead hold is free again when it is counted.
    (Trouble::Relay(Part::Approvals), 1, 3),
    (Trouble::Before(Point::Hold), 0, 3),
    (Trouble::After(Point::Hold), 1, 3),
    (Trouble::Before(Point::Consume), 0, 3),
    (Trouble::After(Point::Consume), 1, 3),
    (Trouble::Paused(Part::Approvals), 0, 2),
    (Trouble::Hung(Part::Approvals), 0, 2),
    (Trouble::Relay(Part::Halts), 1, 3),
    (Trouble::Paused(Part::Halts), 1, 4),
    (Trouble::Hung(Part::Halts), 0, 4),
    (Trouble::CutOff(Part::Halts), 0, 4),
    (Trouble::Before(Point::Halt), 0, 2),
    (Trouble::After(Point::Halt), 0, 2),
    (Trouble::Before(Point::Resume), 0, 2),
    (Trouble::After(Point::Resume), 1, 2),
    (Trouble::Relay(Part::Spending), 1, 28),
    (Trouble::Paused(Part::Spending), 1, 6),
    (Trouble::Hung(Part::Spending), 0, 4),
    (Trouble::CutOff(Part::Spending), 0, 4),
    (Trouble::Before(Point::Take), 0, 4),
    (Trouble::After(Point::Take), 1, 4),
    (Trouble::Before(Point::Report), 0, 4),
    (Trouble::After(Point::Report), 0, 4),
    (Trouble::Before(Point::GiveBack), 0, 4),
    (Trouble::After(Point::GiveBack), 1, 4),
    (Trouble::Before(Point::Close), 0, 4),
    (Trouble::After(Point::Close), 0, 4),
    (Trouble::Before(Point::Leave), 0, 4),
    (Trouble::After(Point::Leave), 0, 4),
    (Trouble::Before(Point::Sweep), 0, 4),
    (Trouble::After(Point::Sweep), 1, 4),
];
