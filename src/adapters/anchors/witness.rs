//! A witness (c2sp.org/tlog-witness).

use std::fmt::Write as _;
use std::time::Duration;

use super::http::{Answer, Server};
use crate::Timestamp;
use crate::audit::anchor::{
    Anchor, AnchorError, AnchorFuture, Inquiry, Kept, Publication, Receipt,
};
use crate::tlog::{Note, TreeHash, WitnessVerifier, verify_consistency};

/// Room for the 64 signatures that a note may have.
const LONGEST: usize = 64 * 1024;
/// How often a witness may say that it holds another size: others may publish at the same time.
const TRIES: usize = 4;

/// A server that cosigns what goes on from the largest tree that it saw.
///
/// It keeps a size and a root for each log that it knows, so tell its operator the log's public key
/// first. It needs no proof of ours to be believed: it is a third party, and its cosignature is
/// checked with `key` and kept as the receipt.
///
/// If it holds a size that our own record has no signed root for, or refuses a proof that holds,
/// the log has signed two histories, or the database is not the one that was published from:
/// [`AnchorError::Mismatch`].
#[derive(Clone, Debug)]
pub struct WitnessAnchor {
    name: String,
    server: Server,
    key: WitnessVerifier,
}

impl WitnessAnchor {
    /// The witness with `key` whose submission prefix is `url`, as the anchor `name`.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if the URL is none of `http` or `https`, or holds a password.
    pub fn new(
        name: impl Into<String>,
        url: &str,
        key: WitnessVerifier,
    ) -> Result<Self, AnchorError> {
        Ok(Self {
            name: name.into(),
            server: Server::at(url)?.below("add-checkpoint")?,
            key,
        })
    }

    /// Another HTTP client: for a proxy, or certificates that the machine does not trust. Switch its
    /// redirects off.
    #[must_use]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.server.set_client(client);
        self
    }

    /// How long one request may take (8 s). What is asked before signing is given up after 3 s.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.server.set_deadline(deadline);
        self
    }

    async fn add(&self, old: u64, proof: &[TreeHash], note: &str) -> Result<Said, AnchorError> {
        let mut body = format!("old {old}\n");
        for hash in proof {
            // Writing to a string cannot fail.
            let _ = writeln!(body, "{hash}");
        }
        body.push('\n');
        body.push_str(note);
        let Answer { status, body } = self
            .server
            .post("text/plain; charset=utf-8", body.into_bytes(), LONGEST)
            .await?;
        match status {
            200 => self.check(note, &body),
            409 => Ok(Said::Holds(size(&body)?)),
            422 => Ok(Said::Disproved),
            400 => Err(AnchorError::Refused("the witness does not understand it")),
            403 => Err(AnchorError::Refused(
                "the witness does not trust the log's key; tell its operator the right one",
            )),
            404 => Err(AnchorError::Refused(
                "the witness does not know this log; tell its operator the log's key",
            )),
            429 | 500.. => Err(AnchorError::Away("the witness cannot answer now")),
            _ => Err(AnchorError::Invalid(
                "a status that no witness answers with",
            )),
        }
    }

    /// Checks the cosignatures of this witness; others are passed over.
    fn check(&self, note: &str, lines: &[u8]) -> Result<Said, AnchorError> {
        let bad = AnchorError::Invalid("it is no list of signature lines");
        let lines = std::str::from_utf8(lines).map_err(|_| bad.clone())?;
        let cosigned = Note::parse(&format!("{note}{lines}")).map_err(|_| bad)?;
        let at = self
            .key
            .verify(&cosigned)
            .map_err(|_| AnchorError::Invalid("the witness's cosignature is missing or wrong"))?;
        let ours = format!("\u{2014} {} ", self.key.name());
        let lines = lines.split_inclusive('\n');
        let lines = lines.filter(|line| line.starts_with(&ours)).collect();
        Ok(Said::Cosigned { lines, at })
    }
}

/// What a witness said.
enum Said {
    Cosigned {
        lines: String,
        at: Timestamp,
    },
    /// It holds another size than was said.
    Holds(u64),
    /// The proof does not lead from what it holds.
    Disproved,
}

impl Anchor for WitnessAnchor {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "witness"
    }

    // A witness has no call for it. To say that it holds what we have changes nothing there: if it
    // does, it signs that again; if not, it says what it holds.
    fn latest<'a>(&'a self, inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        Box::pin(async {
            let (checkpoint, note) = inquiry.newest().ok_or(AnchorError::Away(
                "a witness answers only to who has a signed checkpoint, and there is none",
            ))?;
            let size = checkpoint.size();
            Ok(match self.add(size, &[], note).await? {
                Said::Cosigned { .. } | Said::Holds(0) if size == 0 => None,
                Said::Cosigned { at, .. } => Some(Kept::note(note).at(at)),
                Said::Holds(0) => None,
                // Of that size it holds another tree.
                Said::Holds(held) if held == size => return Err(AnchorError::Mismatch { held }),
                Said::Holds(held) => Some(Kept::size(held)),
                Said::Disproved => return Err(AnchorError::Mismatch { held: size }),
            })
        })
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        Box::pin(async {
            let checkpoint = publication.checkpoint();
            let (size, root) = (checkpoint.size(), checkpoint.root());
            let mut old = publication
                .previous()
                .filter(|old| *old <= size)
                .unwrap_or(0);
            for _ in 0..TRIES {
                let proof = publication.proof_from(old).await?;
                if 0 < old && old < size {
                    // The 409 rule: only from a tree that we know to have signed.
                    let signed = publication.signed_at(old).await?;
                    let signed = signed.ok_or(AnchorError::Mismatch { held: old })?;
                    verify_consistency(old, size, &signed, &root, &proof)
                        .map_err(|_| AnchorError::Away("the stored tree does not prove itself"))?;
                }
                old = match self.add(old, &proof, publication.note()).await? {
                    Said::Cosigned { lines, .. } => return Ok(Receipt::new("witness", lines)),
                    Said::Holds(held) if held > size => return Err(AnchorError::Ahead { held }),
                    // It was asked about this one.
                    Said::Holds(held) if held == old => return Err(AnchorError::Mismatch { held }),
                    Said::Holds(held) => held,
                    Said::Disproved => return Err(AnchorError::Mismatch { held: old }),
                };
            }
            Err(AnchorError::Away(
                "the witness names another size each time",
            ))
        })
    }
}

/// A size in its one spelling, on a line.
fn size(body: &[u8]) -> Result<u64, AnchorError> {
    let text = std::str::from_utf8(body).ok();
    let line = text.and_then(|text| text.strip_suffix('\n'));
    let number: Option<u64> = line.and_then(|line| line.parse().ok());
    number
        .filter(|number| Some(number.to_string().as_str()) == line)
        .ok_or(AnchorError::Invalid(
            "a conflict without the size that it holds",
        ))
}
