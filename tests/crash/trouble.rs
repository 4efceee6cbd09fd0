//! What can happen to the processes, beside that they are killed in the end.

use std::time::Duration;

use crate::orders::Role;
use crate::proxy::Statement;

/// What only renewals of slices say.
const RENEWAL: &str = "SET epoch = l.epoch + 1";

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
    /// One after the other is killed, and another one takes its place.
    Relay(Part),
    /// Half of them are stopped for longer than they may, and go on.
    Paused(Part),
    /// The server hangs for longer than what they know is good for.
    Hung(Part),
    /// Killed while they cannot reach the server.
    CutOff(Part),
}

/// What is done meanwhile, where gates are what is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    Spending,
    Approvals,
    Halts,
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
    /// A slice of a budget is taken, or more of it.
    Take,
    /// What was spent of a slice is reported.
    Report,
    /// What is free of a slice is given back.
    GiveBack,
    /// All of it is.
    Close,
    /// A call of unknown outcome leaves its slice.
    Leave,
    /// The slices of the dead are taken away.
    Sweep,
    /// An approval is held.
    Hold,
    /// It is used.
    Consume,
    Halt,
    Resume,
}

impl Point {
    const fn part(self) -> Option<Part> {
        match self {
            Self::Take
            | Self::Report
            | Self::GiveBack
            | Self::Close
            | Self::Leave
            | Self::Sweep => Some(Part::Spending),
            Self::Hold | Self::Consume => Some(Part::Approvals),
            Self::Halt | Self::Resume => Some(Part::Halts),
            _ => None,
        }
    }

    pub(crate) const fn statement(self) -> Statement {
        match self {
            Self::Append | Self::Move | Self::Drain => Statement::Append,
            Self::Reserve => Statement::With("INSERT INTO portcullis.reservations"),
            Self::Settle => Statement::With("UPDATE portcullis.reservations"),
            Self::Checkpoint => Statement::With("INSERT INTO portcullis.checkpoints"),
            // By its parameters: whether more is wanted, what was spent, what is given back, whether
            // nothing is left.
            Self::Take => Statement::Saying(RENEWAL, 17),
            Self::Report => Statement::Saying(RENEWAL, 5),
            Self::GiveBack => Statement::Saying(RENEWAL, 11),
            Self::Close => Statement::Saying(RENEWAL, 18),
            Self::Leave => Statement::With("AS a(lease_id, usd, own_usd"),
            Self::Sweep => Statement::With("SET state = 'lost'"),
            Self::Hold => Statement::With("SET held_by = $4"),
            Self::Consume => Statement::With("SET state = 'consumed'"),
            Self::Halt => Statement::With("INSERT INTO portcullis.halts"),
            Self::Resume => Statement::With("INSERT INTO portcullis.halt_resumptions"),
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
            Self::Take => "a slice",
            Self::Report => "a report",
            Self::GiveBack => "a return",
            Self::Close => "a last return",
            Self::Leave => "an unknown outcome",
            Self::Sweep => "a sweep",
            Self::Hold => "a hold",
            Self::Consume => "a use",
            Self::Halt => "a halt",
            Self::Resume => "a resumption",
        }
    }
}

impl Point {
    fn prefix(self) -> String {
        self.part()
            .map(|part| format!("{}: ", part.name()))
            .unwrap_or_default()
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
            Self::Before(point) => {
                return format!("{}killed before {} arrives", point.prefix(), point.name());
            }
            Self::After(point) => {
                return format!("{}killed after {} commits", point.prefix(), point.name());
            }
            Self::StopFast => "server stopped fast",
            Self::StopImmediate => "server stopped immediately",
            Self::Hang => "server hung",
            Self::CutAfterCommit => "cut before the acknowledgement",
            Self::ClockForward => "clock an hour ahead",
            Self::ClockBack => "clock an hour back",
            Self::JournalDiskFull => "journal's disk full",
            Self::ServerDiskFull => "server's disk full",
            Self::Relay(part) => return format!("{}: killed at random", part.name()),
            Self::Paused(part) => return format!("{}: stopped for too long", part.name()),
            Self::Hung(part) => return format!("{}: server hung", part.name()),
            Self::CutOff(part) => return format!("{}: killed in an outage", part.name()),
        };
        name.to_owned()
    }

    /// Which gates it is about.
    pub(crate) const fn part(self) -> Option<Part> {
        match self {
            Self::Relay(part) | Self::Paused(part) | Self::Hung(part) | Self::CutOff(part) => {
                Some(part)
            }
            Self::Before(point) | Self::After(point) => point.part(),
            _ => None,
        }
    }

    /// What the processes do when it happens.
    pub(crate) const fn role(self) -> Role {
        if let Some(part) = self.part() {
            return part.role();
        }
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
                | Self::CutOff(_)
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
                | Self::CutOff(_)
                | Self::Before(_)
                | Self::After(_)
        )
    }
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Spending => "spending",
            Self::Approvals => "approvals",
            Self::Halts => "halts",
        }
    }

    const fn role(self) -> Role {
        match self {
            Self::Spending => Role::Spend,
            Self::Approvals => Role::Approve,
            Self::Halts => Role::Obey,
        }
    }

    /// A moment longer than what they know, or hold, is good for.
    pub(crate) const fn too_long(self) -> Duration {
        match self {
            Self::Spending => Duration::from_millis(2_300),
            Self::Approvals => Duration::from_secs(1),
            Self::Halts => Duration::from_millis(2_500),
        }
    }
}
