//! What to verify, and against what.

use super::pace::Pace;
use crate::ids::SessionId;
use crate::tlog::LogVerifier;

/// Which entries to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scope {
    /// Every chain of the tenant, as far as it went when the verification began.
    All,
    /// Every entry between the first and the last of a session, in each chain that it touches.
    Session(SessionId),
    /// One chain.
    Chain {
        /// Its number.
        chain_no: u32,
    },
    /// Some entries of one chain.
    Range {
        /// The chain's number.
        chain_no: u32,
        /// The first entry, from 1.
        from: u64,
        /// The last entry; where the chain is shorter, its end.
        to: u64,
    },
}

impl Scope {
    /// What its verification does not prove, checkpoints apart.
    pub(super) const fn limit(&self) -> Option<&'static str> {
        match self {
            Self::All => None,
            Self::Session(_) => Some(
                "that the session has no entries before its first and after its last, or in other chains, or that the key of its first ones held then; verify everything",
            ),
            Self::Chain { .. } => Some("anything about other chains"),
            Self::Range { .. } => Some(
                "anything about entries outside the range; its first entry is proved to follow the one stored before it, whose key is taken for the one that held then",
            ),
        }
    }
}

/// What to verify, and against what.
///
/// ```
/// # fn example(log: &portcullis::tlog::LogVerifier, kept: &str) {
/// use portcullis::audit::Verify;
///
/// // Each entry as a link of its chain and as a leaf of the signed tree, and that none is gone:
/// let what = Verify::everything().log(log).kept("worm", kept);
/// # let _ = what;
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "this says what to verify; hand it to Audit::verify"]
pub struct Verify {
    pub(super) scope: Scope,
    pub(super) log: Option<LogVerifier>,
    pub(super) kept: Vec<(String, String)>,
    pub(super) resume: Option<String>,
    pub(super) pace: Pace,
}

impl From<Scope> for Verify {
    fn from(scope: Scope) -> Self {
        Self {
            scope,
            log: None,
            kept: Vec::new(),
            resume: None,
            pace: Pace::default(),
        }
    }
}

impl Verify {
    /// Every entry of the tenant.
    pub fn everything() -> Self {
        Self::from(Scope::All)
    }

    /// Also against the checkpoints of this log: each entry under one is read once, and checked as a
    /// link of its chain and as a leaf of the signed tree. Checkpoints are of everything, so this
    /// makes the scope [`Scope::All`].
    pub fn log(mut self, log: &LogVerifier) -> Self {
        self.scope = Scope::All;
        self.log = Some(log.clone());
        self
    }

    /// Also against the signed note of a checkpoint that was kept outside of the database, under the
    /// name by which findings and the report call the place. Only such a note shows that entries
    /// are gone together with their checkpoints, or that an old backup was restored. Takes as many
    /// as there are; it takes [`log`](Self::log) to read them.
    pub fn kept(mut self, name: impl Into<String>, note: impl Into<String>) -> Self {
        self.scope = Scope::All;
        self.kept.push((name.into(), note.into()));
        self
    }

    /// Goes on from an earlier verification, by its
    /// [`resume_token`](super::Verification::resume_token): the entries under that checkpoint are
    /// not read again, and the report says so.
    ///
    /// The token holds the signed note of that checkpoint. The stored tree must be the one of that
    /// note, and the last entry of each chain under it must be a leaf of it; where they are not,
    /// everything is read again, to say what is wrong. A token that was not made under these keys
    /// is refused. What was changed under the checkpoint since then is found by the next
    /// verification of everything: run one now and then.
    pub fn resume(mut self, token: impl Into<String>) -> Self {
        self.scope = Scope::All;
        self.resume = Some(token.into());
        self
    }

    /// How it shares the machine with the appends: by default it is [`Pace::Yielding`].
    pub fn pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }
}

/// How far a verification has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The chain that is being read.
    pub chain_no: u32,
    /// The last entry of it that was read.
    pub seq: u64,
    /// How many entries were read in all.
    pub entries: u64,
    /// How many findings there are so far.
    pub findings: u64,
    /// How often it rested so far, because the trail was being written to.
    pub rests: u64,
}
