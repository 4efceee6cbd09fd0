//! What a child process is to do, handed over in its environment.

use std::path::PathBuf;

use portcullis::SessionId;

const ORDERS: &str = "PORTCULLIS_CRASH_CHILD";

/// Which of its tasks a child runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// All that a host does: it records, queues, spends and makes checkpoints.
    Work,
    /// It only records in transactions of its own, so that each append is a move from the outbox.
    Queue,
    /// It makes checkpoints, one after the other, of a trail that grows.
    Checkpoint,
    /// It brings home what dead processes left in journals.
    Drain,
    /// It spends, from leased budgets and from others.
    Spend,
    /// It races to use what a person agreed to.
    Approve,
    /// It works until it is halted.
    Obey,
    /// It halts and resumes.
    Order,
    /// It looks whether promises are broken.
    Watch,
}

/// What one child is to do.
#[derive(Clone, Debug)]
pub(crate) struct Orders {
    pub(crate) url: String,
    pub(crate) session: SessionId,
    pub(crate) journals: PathBuf,
    pub(crate) role: Role,
    /// By how many seconds its clock jumps soon after it has begun.
    pub(crate) jump: i64,
    /// Whether it writes to its journal first.
    pub(crate) spooled: bool,
    /// Whether it signs what it records, with a key of its own.
    pub(crate) signed: bool,
}

impl Orders {
    pub(crate) fn environment(&self) -> [(&'static str, String); 1] {
        let (jump, spooled, signed) = (self.jump, self.spooled, self.signed);
        let (role, session) = (self.role, self.session.as_str());
        let journals = self.journals.display();
        let text = format!(
            "{role:?} {session} {jump} {spooled} {signed} {}\n{journals}",
            self.url
        );
        [(ORDERS, text)]
    }

    /// The orders of this process, if it is a child.
    pub(crate) fn received() -> Option<Self> {
        let text = std::env::var(ORDERS).ok()?;
        let (words, journals) = text.split_once('\n').unwrap();
        let words: Vec<&str> = words.splitn(6, ' ').collect();
        Some(Self {
            role: match words[0] {
                "Work" => Role::Work,
                "Queue" => Role::Queue,
                "Checkpoint" => Role::Checkpoint,
                "Drain" => Role::Drain,
                "Spend" => Role::Spend,
                "Approve" => Role::Approve,
                "Obey" => Role::Obey,
                "Order" => Role::Order,
                "Watch" => Role::Watch,
                other => panic!("no such role: {other}"),
            },
            session: SessionId::parse(words[1]).unwrap(),
            jump: words[2].parse().unwrap(),
            spooled: words[3].parse().unwrap(),
            signed: words[4].parse().unwrap(),
            url: words[5].to_owned(),
            journals: PathBuf::from(journals),
        })
    }
}
