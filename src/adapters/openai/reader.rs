//! Reads a stream of events while it passes: bytes in, bytes out, and how the call ended.
//!
//! A value without network, clock or permit. What it says does not depend on where the network cut
//! the bytes.

use std::mem;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::meter::{End, Meter, Verdict};
use super::sse::{self, Piece, Splitter};

/// The longest event that is read; a longer one passes unread, so that its usage is missing.
const LONGEST_EVENT: usize = 16 << 20;

/// The reader of one stream.
#[derive(Debug)]
pub(super) struct Reader {
    splitter: Splitter,
    meter: Meter,
    /// The fate of the newest piece.
    verdict: Verdict,
    /// Of what the application has, up to the end of the event that closed the stream.
    seen: Sha256,
}

impl Reader {
    /// A reader of the response to a prompt of at most `input` tokens.
    pub(super) fn new(input: Option<u64>, withhold: bool) -> Self {
        Self {
            splitter: Splitter::new(LONGEST_EVENT),
            meter: Meter::new(input, withhold),
            verdict: Verdict::Pass,
            seen: Sha256::new(),
        }
    }

    /// Reads `bytes`, and gives back those that the application may have: whole events, held back until
    /// it is known what they are. Half of one could not be taken back if the stream is stopped there.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Bytes {
        let Self {
            splitter,
            meter,
            verdict,
            seen,
        } = self;
        let mut passed = Vec::new();
        splitter.push(bytes, |piece| {
            let open = !meter.is_closed();
            let piece = match piece {
                Piece::Event(event) => {
                    *verdict = match sse::data(&event) {
                        Some(data) => meter.event(&data),
                        None => Verdict::Pass,
                    };
                    event
                }
                Piece::Fragment(bytes) => {
                    *verdict = Verdict::Pass;
                    bytes
                }
                Piece::Tail => vec![b'\n'],
            };
            if *verdict == Verdict::Withhold {
                return;
            }
            if open {
                seen.update(&piece);
            }
            passed.extend(piece);
        });
        passed.into()
    }

    /// The stream has said that nothing follows, though the connection may not be over.
    pub(super) fn is_closed(&self) -> bool {
        self.meter.is_closed()
    }

    /// The bytes are over: gives back what was held back until now.
    //
    // An event that never ended is no event: it passes, and says nothing.
    pub(super) fn finish(&mut self) -> Option<Bytes> {
        let Some(Piece::Fragment(rest)) = self.splitter.finish() else {
            return None;
        };
        if !self.is_closed() {
            self.seen.update(&rest);
        }
        Some(rest.into())
    }

    /// How the call ends if nothing more is read.
    pub(super) fn end(&mut self) -> End {
        self.meter.end(mem::take(&mut self.seen).finalize().into())
    }
}
