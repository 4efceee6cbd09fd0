//! Taking entries out of a bundle: their lines go, their hashes stay in the tiles.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};

use super::error::BundleError;
use super::keys::is_key_entry;
use super::line::{EntryLine, Header, Line, SealLine, TileLine, hash};
use super::read::{Lines, Next};
use super::report::{Report, Trust};
use super::sink::{Sealed, Sink};
use super::text::Id;
use super::tree::{Tree, hashes_of};
use super::verify::{MAX_REDACTIONS, Verifier};
use crate::ids::{AgentId, EventId, SessionId, UserId};
use crate::tlog::{Growth, LogKey, Tile, TreeHash};

/// Which entries to take out: those that one of the conditions names.
///
/// Entries that say whose a key is stay, and with them the name of its agent.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct Redaction {
    events: BTreeSet<Id>,
    sessions: BTreeSet<String>,
    agents: BTreeSet<String>,
    users: BTreeSet<String>,
}

impl Redaction {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry of this event.
    pub fn event(mut self, id: EventId) -> Self {
        self.events.insert(Id(*id.as_bytes()));
        self
    }

    /// The entries of this session.
    pub fn session(mut self, session: &SessionId) -> Self {
        self.sessions.insert(session.as_str().to_owned());
        self
    }

    /// The entries of this agent.
    pub fn agent(mut self, agent: &AgentId) -> Self {
        self.agents.insert(agent.as_str().to_owned());
        self
    }

    /// The entries that name this user.
    pub fn user(mut self, user: &UserId) -> Self {
        self.users.insert(user.as_str().to_owned());
        self
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.unmet().is_none()
    }

    /// What of it no entry has met yet.
    fn unmet(&self) -> Option<String> {
        let id = self
            .events
            .first()
            .map(|id| format!("event {}", String::from(*id)));
        let name = |what: &str, names: &BTreeSet<String>| {
            names.first().map(|name| format!("{what} `{name}`"))
        };
        id.or_else(|| name("session", &self.sessions))
            .or_else(|| name("agent", &self.agents))
            .or_else(|| name("user", &self.users))
    }

    fn names(&self, entry: &EntryLine, unmet: &mut Self) -> Result<bool, BundleError> {
        let by_id = self.events.contains(&entry.event);
        if is_key_entry(&entry.kind) {
            return if by_id {
                let event = String::from(entry.event);
                Err(BundleError::KeyEntry { event })
            } else {
                Ok(false)
            };
        }
        unmet.events.remove(&entry.event);
        let mut named = by_id;
        for (wanted, unmet, has) in [
            (&self.sessions, &mut unmet.sessions, &entry.session),
            (&self.agents, &mut unmet.agents, &entry.agent),
            (&self.users, &mut unmet.users, &entry.user),
        ] {
            if let Some(has) = has.as_ref().filter(|has| wanted.contains(*has)) {
                unmet.remove(has);
                named = true;
            }
        }
        Ok(named)
    }
}

/// Copies the bundle without what `redaction` names, verifying it on the way.
pub(super) fn redact<R: BufRead, W: Write>(
    reader: R,
    redaction: &Redaction,
    signer: &LogKey,
    out: W,
) -> Result<(Sealed, Report), BundleError> {
    let trust = Trust::in_nobody();
    let mut verifier = Verifier::new(&trust);
    let mut lines = Lines::new(reader);
    let mut copy = Copy {
        redaction,
        unmet: redaction.clone(),
        signer,
        sink: Sink::new(out),
        tree: None,
        edge: Vec::new(),
        shown: None,
        tiles: BTreeMap::new(),
        formers: Vec::new(),
    };
    loop {
        match lines.next()? {
            Next::Line(bytes) => {
                let line = verifier.take(bytes);
                sound(verifier.report())?;
                if let Some(line) = line {
                    copy.take(line)?;
                }
            }
            Next::Broken(detail) => {
                verifier.broken(detail);
                break;
            }
            Next::End => break,
        }
    }
    let report = verifier.finish();
    sound(&report)?;
    Ok((copy.finish()?, report))
}

/// Whoever seals a bundle anew vouches for it.
fn sound(report: &Report) -> Result<(), BundleError> {
    match report.findings().first() {
        None => Ok(()),
        Some(first) => Err(BundleError::NotSound {
            line: first.line,
            detail: first.detail,
        }),
    }
}

/// The copy, which is made of lines that were verified.
struct Copy<'c, W> {
    redaction: &'c Redaction,
    unmet: Redaction,
    signer: &'c LogKey,
    sink: Sink<W>,
    /// The size and root of the tree, once the first line was read.
    tree: Option<(u64, TreeHash)>,
    edge: Vec<(Tile, Vec<TreeHash>)>,
    /// What the copy shows of the tree.
    shown: Option<Tree>,
    /// The last tile of each level that the bundle shows.
    tiles: BTreeMap<u8, (Tile, Vec<TreeHash>)>,
    formers: Vec<SealLine>,
}

impl<W: Write> Copy<'_, W> {
    fn take(&mut self, line: Line) -> Result<(), BundleError> {
        match line {
            Line::Bundle(header) => {
                self.tree = hash(&header.root).map(|root| (header.size, root));
                self.sink.header(Header {
                    signer: self.signer.verifier().to_string(),
                    ..*header
                })
            }
            Line::Tile(line) => self.tile(&line),
            Line::Entry(entry) => self.entry(*entry),
            // Said anew by what is not shown.
            Line::Withheld(_) => Ok(()),
            Line::Former(line) | Line::Seal(line) => {
                self.formers.push(line);
                Ok(())
            }
            line => self.sink.put(&line),
        }
    }

    fn tile(&mut self, line: &TileLine) -> Result<(), BundleError> {
        let read = Tile::parse(&line.path).ok().zip(hashes_of(&line.hashes.0));
        // INVARIANT: the verifier has read both before.
        let (Some((tile, hashes)), Some((size, root))) = (read, self.tree) else {
            return Ok(());
        };
        if self.shown.is_some() {
            self.tiles.insert(tile.level(), (tile, hashes));
            return Ok(());
        }
        self.sink.tile(tile, &hashes)?;
        self.edge.push((tile, hashes));
        if self.edge.len() == Growth::edge_of(size).count() {
            self.shown = Some(Tree::new(size, &root, std::mem::take(&mut self.edge))?);
        }
        Ok(())
    }

    fn entry(&mut self, entry: EntryLine) -> Result<(), BundleError> {
        if self.redaction.names(&entry, &mut self.unmet)? {
            return Ok(());
        }
        self.sink.withhold_to(entry.leaf)?;
        if let Some(shown) = &mut self.shown {
            for tile in shown.missing(entry.leaf) {
                if let Some((tile, hashes)) = self.tiles.get(&tile.level()) {
                    self.sink.tile(*tile, hashes)?;
                    shown.take(*tile, hashes.clone());
                }
            }
        }
        self.sink.entry(entry)
    }

    fn finish(mut self) -> Result<Sealed, BundleError> {
        if let Some(what) = self.unmet.unmet() {
            return Err(BundleError::NotThere { what });
        }
        if self.formers.len() > MAX_REDACTIONS {
            return Err(BundleError::TooOften);
        }
        // INVARIANT: a bundle that verified has a first line.
        let (size, root) = self.tree.unwrap_or((0, TreeHash::of_nothing()));
        self.sink.withhold_to(size)?;
        for former in self.formers {
            self.sink.put(&Line::Former(former))?;
        }
        self.sink.seal(size, root, self.signer)
    }
}
