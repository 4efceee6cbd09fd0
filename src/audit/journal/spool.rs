//! Writing: one owner of the file at a time, one write and one sync for all who wait.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::JournalError;
use super::ledger::{Ledger, Segment};
use super::line::{Context, FIRST, Header, Line, Saying};
use super::settings::JournalSettings;
use super::{Answer, Content, Directory, Mode, Order};
use crate::audit::error::AuditError;
use crate::audit::keys::Tag;
use crate::audit::model::{Journalled, Sealed};
use crate::audit::writer::Taken;
use crate::canon::Fields;
use crate::time::Timestamp;

/// About how many bytes are written at once.
const BURST: usize = 256 << 10;
/// The most lines that a caller writes itself.
const FEW: usize = 16;
/// A write that took longer leaves the next ones to the thread, for so long.
const SLOW: Duration = Duration::from_millis(2);
const REST: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) enum Request {
    Write(Order),
    /// Close the file if it is this one and ends here.
    Close {
        segment: u32,
        len: u64,
        answer: oneshot::Sender<bool>,
    },
    /// Sync what was written.
    Flush(oneshot::Sender<()>),
}

/// The file being written.
#[derive(Debug)]
struct Active {
    no: u32,
    file: Arc<File>,
    len: u64,
    /// What of it is on the disk for certain.
    synced: u64,
}

pub(super) struct Spool {
    context: Arc<Context>,
    directory: Directory,
    segment: u64,
    limit: u64,
    ledger: Arc<Ledger>,
    /// The next line, and what it follows.
    seq: u64,
    mac: Tag,
    next_segment: u32,
    active: Option<Active>,
    /// A caller's line may stand at the end of the file in part.
    torn: bool,
    /// Until when callers do not write themselves.
    slow: Option<Instant>,
    /// Starts of outages that could not be written.
    owed: Vec<Order>,
    buffer: Vec<u8>,
    fields: Fields,
}

impl Spool {
    pub(super) fn new(
        context: Arc<Context>,
        directory: Directory,
        settings: &JournalSettings,
        ledger: Arc<Ledger>,
    ) -> Self {
        Self {
            context,
            directory,
            segment: settings.segment_bytes(),
            limit: settings.limit_bytes(),
            ledger,
            seq: 1,
            mac: FIRST,
            next_segment: 1,
            active: None,
            torn: false,
            slow: None,
            owed: Vec::new(),
            buffer: Vec::new(),
            fields: Fields::default(),
        }
    }

    /// Writes `events` ahead of their commit if that takes no more than a write; answers with the number
    /// of the first line. If not, nothing was written that stands for them, and the thread is to do it.
    pub(super) fn try_ahead(&mut self, events: &Sealed) -> Option<u64> {
        let room = self.active.as_ref().is_some_and(|a| a.len < self.segment);
        if !room || self.torn || !self.owed.is_empty() || events.len() > FEW {
            return None;
        }
        let began = Instant::now();
        if self.slow.is_some_and(|slow| began < slow) {
            return None;
        }
        let before = (self.seq, self.mac);
        self.buffer.clear();
        let at = self.context.store.now();
        for draft in events.iter() {
            self.line(Saying::Event(draft), at);
        }
        let bytes = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        let active = self.active.as_mut()?;
        if self.ledger.bytes().saturating_add(bytes) > self.limit {
            (self.seq, self.mac) = before;
            return None;
        }
        if (&*active.file).write_all(&self.buffer).is_err() {
            // Some of it may be there: the numbers are spent, and nothing follows in this file.
            self.torn = true;
            return None;
        }
        active.len = active.len.saturating_add(bytes);
        let lines = u64::try_from(events.len()).unwrap_or(u64::MAX);
        self.ledger.extend(active.len, (lines, 0), at);
        if began.elapsed() > SLOW {
            self.slow = Some(Instant::now() + REST);
        }
        Some(before.0)
    }

    pub(super) fn manage(&mut self, request: Request) {
        match request {
            Request::Write(order) => self.serve(vec![order]),
            Request::Close {
                segment,
                len,
                answer,
            } => {
                let there = |active: &Active| active.no == segment && active.len == len;
                let closes = self.active.as_ref().is_none_or(there);
                if closes {
                    self.abandon();
                }
                let _ = answer.send(closes);
            }
            Request::Flush(answer) => {
                self.sync();
                let _ = answer.send(());
            }
        }
    }

    pub(super) fn serve(&mut self, orders: Vec<Order>) {
        if orders.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.owed);
        all.extend(orders);
        let mut all = all.into_iter().peekable();
        while all.peek().is_some() {
            let mut burst = Vec::new();
            self.buffer.clear();
            let before = (self.seq, self.mac);
            let at = self.context.store.now();
            while self.buffer.len() < BURST
                && let Some(order) = all.next()
            {
                let first = self.seq;
                self.encode(&order.content, at);
                burst.push((order, first));
            }
            match self.write(before, &burst, at) {
                Ok(()) => {
                    for (order, first) in burst {
                        self.acknowledge(order, first);
                    }
                    // Behind the callers' backs: it wakes somebody, which takes as long as a line.
                    self.ledger.written.notify_one();
                }
                Err((error, begun)) => {
                    if !begun {
                        // Nothing of it is in a file: the numbers are free.
                        (self.seq, self.mac) = before;
                    }
                    for (order, _) in burst {
                        if order.mode == Mode::Marker {
                            self.owed.push(order);
                        } else {
                            refuse(order, error, &self.ledger);
                        }
                    }
                }
            }
        }
    }

    fn encode(&mut self, content: &Content, at: Timestamp) {
        match content {
            Content::Events(events) => {
                for draft in events.iter() {
                    self.line(Saying::Event(draft), at);
                }
            }
            Content::Note(note) => self.line(Saying::Note(note), at),
        }
    }

    fn line(&mut self, said: Saying<'_>, at: Timestamp) {
        self.mac = Line::write(
            &self.context,
            said,
            (self.seq, at),
            &self.mac,
            &mut self.fields,
            &mut self.buffer,
        );
        self.seq = self.seq.saturating_add(1);
    }

    /// Brings the buffer into a file; an error says whether some of it may be there.
    fn write(
        &mut self,
        before: (u64, Tag),
        burst: &[(Order, u64)],
        at: Timestamp,
    ) -> Result<(), (JournalError, bool)> {
        let bytes = u64::try_from(self.buffer.len()).unwrap_or(u64::MAX);
        if self.ledger.bytes().saturating_add(bytes) > self.limit {
            return Err((JournalError::Full, false));
        }
        if self.torn || self.active.as_ref().is_some_and(|a| a.len >= self.segment) {
            self.abandon();
        }
        if self.active.is_none() {
            self.begin(before).map_err(|error| (error, false))?;
        }
        let Some(active) = self.active.as_mut() else {
            return Err((JournalError::Closed, false));
        };
        let sync = burst.iter().any(|(order, _)| order.mode != Mode::Ahead);
        let done = (&*active.file).write_all(&self.buffer).and_then(|()| {
            active.len = active.len.saturating_add(bytes);
            if sync {
                active.file.sync_data()?;
                active.synced = active.len;
            }
            Ok(())
        });
        if let Err(error) = done {
            // Whatever stands at its end is not followed by anything, and nothing is cut off: lines
            // that made it are drained, and a torn one is set aside.
            self.abandon();
            return Err((error.into(), true));
        }
        let (mut ahead, mut fallback) = (0, 0);
        for (order, _) in burst {
            let lines = order.content.lines();
            match order.mode {
                Mode::Ahead => ahead += lines,
                Mode::Fallback | Mode::Marker => fallback += lines,
            }
        }
        self.ledger.extend(active.len, (ahead, fallback), at);
        Ok(())
    }

    /// Begins a file, whose first line says what it is.
    fn begin(&mut self, (first, previous): (u64, Tag)) -> Result<(), JournalError> {
        let no = self.next_segment;
        self.next_segment = self.next_segment.saturating_add(1);
        let (path, file) = self.directory.create(self.context.journal, no)?;
        let mut header = Vec::new();
        Header::write(&self.context, no, first, &previous, &mut header);
        if let Err(error) = (&file).write_all(&header) {
            // There is nothing in it yet.
            let _ = self.directory.remove(&path);
            return Err(error.into());
        }
        let len = u64::try_from(header.len()).unwrap_or(0);
        let file = Arc::new(file);
        self.ledger.begin(Segment {
            no,
            path,
            file: Arc::clone(&file),
            len,
            closed: false,
        });
        self.active = Some(Active {
            no,
            file,
            len,
            synced: 0,
        });
        Ok(())
    }

    /// Adds nothing more to the file.
    fn abandon(&mut self) {
        self.sync();
        self.active = None;
        self.torn = false;
        self.ledger.close();
    }

    pub(super) fn sync(&mut self) {
        let Some(active) = self.active.as_mut().filter(|a| a.synced < a.len) else {
            return;
        };
        match active.file.sync_data() {
            Ok(()) => active.synced = active.len,
            Err(error) => {
                let error = JournalError::from(io::Error::from(error.kind()));
                tracing::error!(%error, "the audit journal could not be synced");
            }
        }
    }

    fn acknowledge(&self, order: Order, first: u64) {
        let Order {
            content, answer, ..
        } = order;
        let line = |(at, id)| Journalled {
            id,
            journal: self.context.journal,
            line: first.saturating_add(at),
        };
        let lines = || (0..).zip(content.ids()).map(line).collect();
        match answer {
            Answer::Nobody => {}
            // Who stopped waiting does not need it.
            Answer::Writer(caller) => drop(caller.send(Ok(lines()))),
            Answer::Queue(caller) => drop(caller.send(Ok(Taken::Journalled(lines())))),
        }
    }
}

/// Says that an order was not written.
pub(super) fn refuse(order: Order, error: JournalError, ledger: &Ledger) {
    let events = order.content.lines();
    if order.mode == Mode::Fallback && matches!(order.content, Content::Events(_)) {
        ledger.lose(events);
        tracing::error!(events, %error, "audit events are lost: neither the database nor the journal took them");
    }
    let error = AuditError::Journal(error);
    match order.answer {
        Answer::Nobody => {}
        Answer::Writer(caller) => drop(caller.send(Err(error))),
        Answer::Queue(caller) => drop(caller.send(Err(error))),
    }
}
