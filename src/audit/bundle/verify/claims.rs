//! What comes before the tree: the first line, checkpoints, anchors, keys.

use super::{Claimed, Class, Stage, Verifier};
use crate::audit::bundle::line::{self, AnchorLine, CheckpointLine, FORMAT, Header, KeyLine};
use crate::audit::bundle::stamp::{self, TimestampToken, TokenOutcome};
use crate::ids::TenantId;
use crate::time::Timestamp;
use crate::tlog::{Checkpoint, LogError, LogVerifier, Note, verify_consistency};

impl Verifier<'_> {
    pub(super) fn header(&mut self, header: &Header) {
        if self.stage != Stage::Start {
            self.find(Class::Format, "a second first line");
            return;
        }
        match self.claim(header) {
            Ok(claimed) => {
                self.report.tenant = Some(header.tenant.clone());
                self.report.origin = Some(claimed.log.origin().to_owned());
                self.report.log_named = self.trust.log.is_some();
                self.report.kept = self.trust.kept.as_ref().map(|_| false);
                if self
                    .trust
                    .kept
                    .as_ref()
                    .is_some_and(|kept| kept.size() > header.size)
                {
                    let detail = "the tree is smaller than the one of the checkpoint that was kept: an old bundle, or entries are gone";
                    self.find(Class::Checkpoint, detail);
                }
                self.report.size = header.size;
                self.report.root = Some(claimed.root);
                self.claimed = Some(claimed);
                self.stage = Stage::Checkpoints;
            }
            Err(detail) => {
                self.find(Class::Format, detail);
                self.stage = Stage::Hopeless;
            }
        }
    }

    fn claim(&mut self, header: &Header) -> Result<Claimed, &'static str> {
        if header.format != FORMAT {
            return Err("not a bundle of version 1");
        }
        if TenantId::parse(header.tenant.clone()).is_err() {
            return Err("the tenant has no name");
        }
        if header.size == 0 {
            return Err("the tree is empty");
        }
        let root = line::hash(&header.root).ok_or("the root is no hash")?;
        let own = LogVerifier::parse(&header.log).map_err(|_| "the log's key is none")?;
        let signer = LogVerifier::parse(&header.signer).map_err(|_| "the seal's key is none")?;
        let named = self.trust.log.clone();
        if named.as_ref().is_some_and(|named| *named != own) {
            let detail = "the bundle is of another log than the one that was named";
            self.find(Class::Claim, detail);
        }
        Ok(Claimed {
            header: header.clone(),
            root,
            signer,
            log: named.unwrap_or(own),
        })
    }

    pub(super) fn take_checkpoint(&mut self, line: &CheckpointLine) {
        let Some(claimed) = self
            .claimed
            .as_ref()
            .filter(|_| self.stage == Stage::Checkpoints)
        else {
            self.find(Class::Format, "a checkpoint stands where it must not");
            return;
        };
        let (size, root) = (claimed.header.size, claimed.root);
        let opened = match Checkpoint::open(&line.note, &claimed.log) {
            Ok(opened) => opened,
            Err(LogError::Unsigned | LogError::BadSignature) => {
                self.find(Class::Checkpoint, "the checkpoint is not signed by the log");
                return;
            }
            Err(_) => {
                self.find(Class::Checkpoint, "not a checkpoint of the log");
                return;
            }
        };
        if self
            .checkpoint
            .as_ref()
            .is_some_and(|last| last.0 >= opened.size())
        {
            self.find(Class::Format, "the checkpoints are not in their order");
            return;
        }
        let hashes: Option<Vec<_>> = line.consistency.iter().map(line::hash).collect();
        let consistent = hashes.is_some_and(|hashes| {
            verify_consistency(opened.size(), size, &opened.root(), &root, &hashes).is_ok()
        });
        if !consistent {
            let detail = "the tree of the checkpoint is not the beginning of the bundle's";
            self.find(Class::Checkpoint, detail);
        }
        self.report.checkpoints += u64::from(consistent);
        let kept = self.trust.kept.as_ref();
        if let Some(kept) = kept.filter(|kept| kept.size() == opened.size()) {
            if kept.root() == opened.root() {
                self.report.kept = Some(consistent);
            } else {
                let detail = "the log signed another tree of this size: the one that was kept";
                self.find(Class::Checkpoint, detail);
            }
        }
        if let Some(at) = self.witnessed(&line.note) {
            self.report.cosigned = Some((opened.size(), at));
        }
        self.checkpoint = Some((opened.size(), opened.root(), line.note.clone(), None));
    }

    pub(super) fn take_anchor(&mut self, line: &AnchorLine) {
        // They are shown on terminals.
        let plain = |text: &str| {
            (1..=256).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
        };
        if !plain(&line.anchor) || !plain(&line.kind) {
            self.find(Class::Anchor, "the anchor has no name, or is of no kind");
            return;
        }
        let of_tree = |size, root| (line.size, line::hash(&line.root)) == (size, Some(root));
        let note = match &mut self.checkpoint {
            Some((size, root, note, last)) if self.stage == Stage::Checkpoints => {
                let ordered = last.as_ref().is_none_or(|last| *last < line.anchor);
                *last = Some(line.anchor.clone());
                if ordered && of_tree(*size, *root) {
                    Ok(note.clone())
                } else if ordered {
                    Err("what the anchor took is another tree than the checkpoint before it")
                } else {
                    Err("the anchors are not in their order, or one stands twice")
                }
            }
            _ => Err("an anchor stands where it must not"),
        };
        let note = match note {
            Ok(note) => note,
            Err(detail) => {
                self.find(Class::Anchor, detail);
                return;
            }
        };
        // Cosignature lines go under the note. What is none of them is for others to check.
        if line.kind == stamp::KIND {
            self.take_token(line, &note);
        }
        let lines = std::str::from_utf8(&line.receipt.0).unwrap_or_default();
        let at = self.witnessed(&format!("{note}{lines}"));
        let Some(report) = self.report.anchor(&line.anchor, &line.kind) else {
            self.find(Class::Anchor, "more than a thousand anchors");
            return;
        };
        report.receipts += 1;
        report.size = line.size;
        report.witnessed = at.map(|at| (line.size, at)).or(report.witnessed);
    }

    /// A timestamp token, which is of the note as the log signed it.
    fn take_token(&mut self, line: &AnchorLine, note: &str) {
        let outcome = match &self.trust.timestamps {
            Some(timestamps) => timestamps.check(note, &line.receipt.0),
            None => TokenOutcome::NotChecked,
        };
        if let TokenOutcome::Invalid(problem) = outcome {
            self.find(Class::Anchor, problem);
        }
        self.report.stamps.take(TimestampToken {
            anchor: line.anchor.clone(),
            line: self.report.lines,
            size: line.size,
            outcome,
        });
    }

    /// When the first of the named witnesses that signed `note` did so. A wrong cosignature of one
    /// is a finding.
    fn witnessed(&mut self, note: &str) -> Option<Timestamp> {
        let note = Note::parse(note).ok()?;
        let mut first: Option<Timestamp> = None;
        let mut wrong = false;
        for witness in &self.trust.witnesses {
            match witness.verify(&note) {
                Ok(at) => first = Some(first.map_or(at, |first| first.min(at))),
                Err(LogError::Unsigned) => {}
                Err(_) => wrong = true,
            }
        }
        if wrong {
            self.find(Class::Anchor, "a witness's cosignature is wrong");
        }
        first
    }

    pub(super) fn take_key(&mut self, line: &KeyLine) {
        if !matches!(self.stage, Stage::Checkpoints | Stage::Keys) {
            self.find(Class::Format, "a key stands where it must not");
            return;
        }
        self.stage = Stage::Keys;
        if let Some(detail) = self.listed.take(line.clone()) {
            self.find(Class::Signature, detail);
        }
    }
}
