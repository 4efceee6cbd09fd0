//! Cuts a byte stream into server-sent events without changing a byte of it.
//!
//! The concatenation of all pieces that [`Splitter::push`] and [`Splitter::finish`] hand out is
//! exactly what went in, wherever the network cut it.

use std::mem;

/// The byte order mark that may open a stream; it is not part of the first field's name.
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// A piece of the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// A whole event: its lines, and the blank line that ends it.
    Event(Vec<u8>),
    /// Bytes of an event that is longer than the limit, or that never ended.
    Fragment(Vec<u8>),
    /// The line feed of a blank line whose carriage return ended the piece before: it shares the
    /// fate of that piece.
    Tail,
}

/// Where the next byte falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    InLine,
    /// At the start of a line, unless it is the line feed that belongs to a carriage return.
    AfterReturn,
    /// The same, and the carriage return ended an event.
    AfterEvent,
}

/// Finds the ends of events.
#[derive(Debug)]
pub(super) struct Splitter {
    event: Vec<u8>,
    limit: usize,
    /// The current event has passed the limit, and leaves in fragments.
    oversized: bool,
    place: Place,
}

impl Splitter {
    /// A splitter that holds back at most `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            event: Vec::new(),
            limit,
            oversized: false,
            place: Place::LineStart,
        }
    }

    /// Takes the next bytes, and hands every piece that they complete to `sink`.
    pub(super) fn push(&mut self, bytes: &[u8], mut sink: impl FnMut(Piece)) {
        for &byte in bytes {
            self.place = match (self.place, byte) {
                (Place::AfterReturn, b'\n') => {
                    self.event.push(byte);
                    Place::LineStart
                }
                (Place::AfterEvent, b'\n') => {
                    sink(Piece::Tail);
                    Place::LineStart
                }
                (place, b'\r' | b'\n') => {
                    self.event.push(byte);
                    let blank = place != Place::InLine;
                    if blank {
                        sink(self.end_event());
                    }
                    match byte {
                        b'\n' => Place::LineStart,
                        _ if blank => Place::AfterEvent,
                        _ => Place::AfterReturn,
                    }
                }
                _ => {
                    self.event.push(byte);
                    Place::InLine
                }
            };
        }
        self.oversized |= self.event.len() > self.limit;
        if self.oversized && !self.event.is_empty() {
            sink(Piece::Fragment(mem::take(&mut self.event)));
        }
    }

    /// What is left when the stream ends inside an event.
    pub(super) fn finish(&mut self) -> Option<Piece> {
        let rest = mem::take(&mut self.event);
        (!rest.is_empty()).then_some(Piece::Fragment(rest))
    }

    fn end_event(&mut self) -> Piece {
        let event = mem::take(&mut self.event);
        // INVARIANT: the answer must not depend on where the network cut the bytes, so an event
        // that is over the limit is a fragment even when it arrived at once.
        if mem::take(&mut self.oversized) || event.len() > self.limit {
            Piece::Fragment(event)
        } else {
            Piece::Event(event)
        }
    }
}

/// The `data` of an event: its `data:` lines joined by line feeds. `None` for an event without.
pub(super) fn data(event: &[u8]) -> Option<Vec<u8>> {
    let event = event.strip_prefix(BOM).unwrap_or(event);
    let mut data: Option<Vec<u8>> = None;
    for line in event.split(|byte| matches!(byte, b'\n' | b'\r')) {
        let Some(value) = line.strip_prefix(b"data") else {
            continue;
        };
        let value = match value.split_first() {
            Some((b':', value)) => value.strip_prefix(b" ").unwrap_or(value),
            None => value,
            Some(_) => continue, // another field, whose name begins like ours
        };
        match &mut data {
            Some(data) => {
                data.push(b'\n');
                data.extend_from_slice(value);
            }
            None => data = Some(value.to_vec()),
        }
    }
    data
}
