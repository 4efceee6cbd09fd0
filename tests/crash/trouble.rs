//! What can happen to the processes, beside that they are killed in the end.

use crate::orders::Role;
use crate::proxy::Statement;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// Killed at any moment.
    Kill,
    /// The same, writing to their journals first.
    KillSpooled,
    /// Killed while the server is away and they write to their journals.
    KillOutage,
    /// Killed while they drain what others left.
    KillDraining,
    /// Killed while they make checkpoints.
    KillCheckpoint,
    /// Killed when a statement was sent, and the server has not seen it.
    Before(Point),
    /// Killed when a statement was committed, and nobody has heard of it.
    After(Point),
    StopFast,
    StopImmediate,
    Hang,
    CutAfterCommit,
    ClockForward,
    ClockBack,
    /// The journals' disk is full while the server is away.
    JournalDiskFull,
    ServerDiskFull,
}

/// A statement to be killed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Point {
    Append,
    Reserve,
    Settle,
    /// From the outbox into a chain.
    Move,
    /// From a journal into a chain.
    Drain,
    Checkpoint,
}

impl Point {
    pub(crate) const fn statement(self) -> Statement {
        match self {
            Self::Append | Self::Move | Self::Drain => Statement::Append,
            Self::Reserve => Statement::With("INSERT INTO portcullis.reservations"),
            Self::Settle => Statement::With("UPDATE portcullis.reservations"),
            Self::Checkpoint => Statement::With("INSERT INTO portcullis.checkpoints"),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Append => "an append",
            Self::Reserve => "a reservation",
            Self::Settle => "a settlement",
            Self::Move => "a move from the outbox",
            Self::Drain => "a drained batch",
            Self::Checkpoint => "a checkpoint",
        }
    }
}

impl Trouble {
    pub(crate) fn name(self) -> String {
        let name = match self {
            Self::Kill => "killed at random",
            Self::KillSpooled => "killed, journal first",
            Self::KillOutage => "killed in an outage",
            Self::KillDraining => "killed while draining",
            Self::KillCheckpoint => "killed while making checkpoints",
            Self::Before(point) => return format!("killed before {} arrives", point.name()),
            Self::After(point) => return format!("killed after {} commits", point.name()),
            Self::StopFast => "server stopped fast",
            Self::StopImmediate => "server stopped immediately",
            Self::Hang => "server hung",
            Self::CutAfterCommit => "cut before the acknowledgement",
            Self::ClockForward => "clock an hour ahead",
            Self::ClockBack => "clock an hour back",
            Self::JournalDiskFull => "journal's disk full",
            Self::ServerDiskFull => "server's disk full",
        };
        name.to_owned()
    }

    /// What the processes do when it happens.
    pub(crate) const fn role(self) -> Role {
        match self {
            Self::KillDraining | Self::Before(Point::Drain) | Self::After(Point::Drain) => {
                Role::Drain
            }
            Self::Before(Point::Move) | Self::After(Point::Move) => Role::Queue,
            Self::KillCheckpoint
            | Self::Before(Point::Checkpoint)
            | Self::After(Point::Checkpoint) => Role::Checkpoint,
            _ => Role::Work,
        }
    }

    pub(crate) const fn jump(self) -> i64 {
        match self {
            Self::ClockForward => 3_600,
            Self::ClockBack => -3_600,
            _ => 0,
        }
    }

    /// Whether something has to stand between the processes and the server.
    pub(crate) const fn takes_a_proxy(self) -> bool {
        matches!(
            self,
            Self::KillOutage
                | Self::Before(_)
                | Self::After(_)
                | Self::CutAfterCommit
                | Self::JournalDiskFull
        )
    }

    /// Whether the processes are killed in it, so that it is over when another one works.
    pub(crate) const fn ends_by_a_successor(self) -> bool {
        matches!(
            self,
            Self::Kill
                | Self::KillSpooled
                | Self::KillOutage
                | Self::KillDraining
                | Self::KillCheckpoint
                | Self::Before(_)
                | Self::After(_)
        )
    }
}
