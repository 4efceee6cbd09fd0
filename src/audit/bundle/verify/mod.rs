//! Verifying: one pass, constant memory, no database and no secret.

mod body;
mod claims;

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use sha2::{Digest as _, Sha256};

use self::body::ChainEnd;
use super::keys::Listed;
use super::line::{Header, Line, SealLine};
use super::read::{Lines, Next};
use super::report::{Class, Finding, Redacted, Report, Trust};
use super::seal::Seal;
use super::tree::Tree;
use crate::canon::Fields;
use crate::tlog::{LogVerifier, Note, Tile, TreeHash};

/// How often a bundle may be redacted.
pub(super) const MAX_REDACTIONS: usize = 16;

/// Verifies what `reader` gives.
pub(super) fn verify<R: BufRead>(reader: R, trust: &Trust) -> io::Result<Report> {
    let mut verifier = Verifier::new(trust);
    let mut lines = Lines::new(reader);
    loop {
        match lines.next()? {
            Next::Line(line) => drop(verifier.take(line)),
            Next::Broken(detail) => {
                verifier.broken(detail);
                break;
            }
            Next::End => break,
        }
    }
    Ok(verifier.finish())
}

/// How far the file has come. The order is that of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Start,
    Checkpoints,
    Keys,
    Edge,
    Body,
    Formers,
    Sealed,
    /// The first line is none: nothing of the rest can be judged.
    Hopeless,
}

/// What the first line says, once it could be read.
#[derive(Debug)]
struct Claimed {
    header: Header,
    root: TreeHash,
    signer: LogVerifier,
    /// The log's key: the auditor's, or, without one, the bundle's own.
    log: LogVerifier,
}

/// The state between two lines.
#[derive(Debug)]
pub(super) struct Verifier<'t> {
    trust: &'t Trust,
    stage: Stage,
    hasher: Sha256,
    claimed: Option<Claimed>,
    report: Report,
    /// The last checkpoint: its size, root, note and the last anchor's name.
    checkpoint: Option<(u64, TreeHash, String, Option<String>)>,
    listed: Listed,
    edge: Vec<(Tile, Vec<TreeHash>)>,
    tree: Option<Tree>,
    /// The seals of before.
    formers: Vec<String>,
    /// The next leaf that something is said of.
    next: u64,
    /// Whether a line could not be read, so that what is missing need not be said again.
    lost: bool,
    /// Whether the last line of the body was of withheld leaves, or a tile.
    after_withheld: bool,
    after_tile: bool,
    chains: BTreeMap<u32, ChainEnd>,
    encoded: Fields,
}

impl<'t> Verifier<'t> {
    pub(super) fn new(trust: &'t Trust) -> Self {
        Self {
            trust,
            stage: Stage::Start,
            hasher: Sha256::new(),
            claimed: None,
            report: Report::default(),
            checkpoint: None,
            listed: Listed::default(),
            edge: Vec::new(),
            tree: None,
            formers: Vec::new(),
            next: 0,
            lost: false,
            after_withheld: false,
            after_tile: false,
            chains: BTreeMap::new(),
            encoded: Fields::default(),
        }
    }

    /// Takes the next line, without its newline, and hands it back as it was read.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<Line> {
        self.report.lines += 1;
        let line = Line::read(bytes);
        if !matches!(line, Some(Line::Seal(_))) {
            self.hasher.update(bytes);
            self.hasher.update(b"\n");
        }
        if self.stage == Stage::Hopeless {
            return line;
        }
        match &line {
            None if self.stage == Stage::Start => {
                self.find(Class::Format, "not the first line of a bundle of version 1");
                self.stage = Stage::Hopeless;
            }
            None => {
                self.lost = true;
                self.find(
                    Class::Format,
                    "the line is none of a bundle, or not in its one spelling",
                );
            }
            Some(_) if self.stage == Stage::Sealed => {
                self.find(Class::Format, "something stands after the seal");
            }
            Some(Line::Bundle(header)) => self.header(header),
            Some(_) if self.stage == Stage::Start => {
                self.find(Class::Format, "the first line does not say what it is");
                self.stage = Stage::Hopeless;
            }
            Some(Line::Checkpoint(line)) => self.take_checkpoint(line),
            Some(Line::Anchor(line)) => self.take_anchor(line),
            Some(Line::Key(line)) => self.take_key(line),
            Some(Line::Tile(line)) => self.take_tile(line),
            Some(Line::Entry(line)) => self.take_entry(line),
            Some(Line::Withheld(line)) => self.take_withheld(line),
            Some(Line::Former(line)) => self.take_former(line),
            Some(Line::Seal(line)) => self.take_seal(line),
        }
        line
    }

    /// Says that the file cannot be read further.
    pub(super) fn broken(&mut self, detail: &'static str) {
        self.report.lines += 1;
        self.find(Class::Truncated, detail);
    }

    pub(super) const fn report(&self) -> &Report {
        &self.report
    }

    /// What it all comes to, at the end of the file.
    pub(super) fn finish(mut self) -> Report {
        if self.stage == Stage::Start {
            self.report.lines += 1;
            self.find(Class::Truncated, "the file is empty");
        } else if self.stage < Stage::Sealed {
            self.report.lines += 1;
            self.find(Class::Truncated, "the file ends before its seal");
        }
        self.report.keys = u64::try_from(self.listed.len()).unwrap_or(u64::MAX);
        self.report
    }

    fn take_former(&mut self, line: &SealLine) {
        if self.stage < Stage::Body || self.formers.len() >= MAX_REDACTIONS {
            let detail = "a seal from before stands where it must not, or is one too many";
            self.find(Class::Format, detail);
            return;
        }
        self.stage = Stage::Formers;
        self.formers.push(line.note.clone());
    }

    fn take_seal(&mut self, line: &SealLine) {
        let before = std::mem::replace(&mut self.stage, Stage::Sealed);
        if before < Stage::Body {
            self.find(Class::Truncated, "the seal stands before the tree is shown");
        }
        let Some(claimed) = self.claimed.take() else {
            return;
        };
        if self.next != claimed.header.size && !self.lost {
            self.find_at(
                self.next,
                Class::Truncated,
                "the seal stands before the last leaf",
            );
        }
        if self.after_tile {
            self.find(Class::Format, "a tile is shown, and no entry of it");
        }
        let of_this = |size: u64| size == claimed.header.size;
        if self.checkpoint.as_ref().is_none_or(|last| !of_this(last.0)) {
            self.find(
                Class::Checkpoint,
                "the log's signature of the bundle's own tree is not among the checkpoints",
            );
        }
        if !self.listed.all_borne_out() {
            let detail = "a listed key is not borne out by an entry that is shown";
            self.find(Class::Signature, detail);
        }
        self.judge_seal(&claimed, line);
    }

    fn judge_seal(&mut self, claimed: &Claimed, line: &SealLine) {
        let note = Note::parse(&line.note).ok();
        let one = note.filter(|note| note.signatures().len() == 1 && note.to_string() == line.note);
        let seal = one.as_ref().and_then(|note| Seal::parse(note.text()));
        let (Some(note), Some(seal)) = (one, seal) else {
            self.find(Class::Seal, "the seal is none");
            return;
        };
        if claimed.signer.verify(&note).is_err() {
            let detail = "the seal is not signed by the key that the first line names";
            self.find(Class::Seal, detail);
        }
        let believed = self.trust.believes(&claimed.signer);
        if !believed && !self.trust.sealers.is_empty() {
            self.find(
                Class::Seal,
                "the bundle is sealed by a key that was not named",
            );
        }
        self.report.sealed_by = Some(claimed.signer.to_string());
        self.report.sealer_believed = believed;
        let seen = Seal {
            sha256: self.hasher.clone().finalize().into(),
            size: claimed.header.size,
            root: claimed.root,
            entries: self.report.entries,
            withheld: self.report.withheld,
        };
        if seal.sha256 != seen.sha256 {
            self.find(Class::Seal, "the file is not the one that was sealed");
        } else if seal != seen {
            self.find(
                Class::Seal,
                "the seal's counts, size or root are not the file's",
            );
        }
        self.judge_redactions(claimed, seen);
    }

    /// The seals of before: of the same tree, with as many entries or more.
    fn judge_redactions(&mut self, claimed: &Claimed, seen: Seal) {
        let mut earlier = Vec::new();
        for text in &std::mem::take(&mut self.formers) {
            let note = Note::parse(text).ok();
            let seal = note.as_ref().and_then(|note| Seal::parse(note.text()));
            let same = |seal: &Seal| (seal.size, seal.root) == (seen.size, seen.root);
            let (Some(note), Some(seal)) = (note, seal.filter(same)) else {
                self.find(
                    Class::Claim,
                    "a seal from before is none, or of another tree",
                );
                return;
            };
            let keys = self.trust.sealers.iter().chain(&self.trust.log);
            let believed = keys.clone().any(|key| key.verify(&note).is_ok());
            earlier.push((seal, believed));
        }
        let after = earlier.iter().skip(1).map(|(seal, _)| *seal).chain([seen]);
        let counted: Vec<_> = earlier.iter().zip(after).collect();
        for ((before, believed), after) in counted {
            let Some(entries) = before.entries.checked_sub(after.entries) else {
                self.find(
                    Class::Claim,
                    "there are more entries than before some were taken out",
                );
                return;
            };
            self.report.redacted.push(Redacted {
                entries,
                believed: *believed,
            });
        }
        let first = earlier.first().map_or(seen, |(seal, _)| *seal);
        if claimed.header.selection.is_all() && first.withheld > 0 {
            let detail = "the bundle says that it is of every entry, and withholds some";
            self.find(Class::Claim, detail);
        }
    }

    fn find(&mut self, class: Class, detail: &'static str) {
        self.report.find(Finding {
            class,
            line: self.report.lines,
            leaf: None,
            detail,
        });
    }

    fn find_at(&mut self, leaf: u64, class: Class, detail: &'static str) {
        self.report.find(Finding {
            class,
            line: self.report.lines,
            leaf: Some(leaf),
            detail,
        });
    }
}
