//! A response body that reads itself while the application does.
//!
//! The permit is settled when the stream says that it is over, or when it is dropped. It does not
//! wait for the end of the body: the client stops reading at `[DONE]`.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};

use super::meter::End;
use super::reader::Reader;
use crate::Permit;

/// A body on its way to the application, with the permit of its call.
pub(super) struct Metered {
    inner: reqwest::Body,
    /// What has been read and not yet been handed on.
    queue: VecDeque<Result<Frame<Bytes>, reqwest::Error>>,
    reading: Option<Reading>,
    inner_ended: bool,
}

/// A reader, with the permit that waits for what it says.
struct Reading {
    reader: Reader,
    /// `None` once settled.
    permit: Option<Permit>,
}

impl Metered {
    /// A stream of events.
    pub(super) fn stream(inner: reqwest::Body, permit: Permit, reader: Reader) -> Self {
        Self {
            inner,
            queue: VecDeque::new(),
            reading: Some(Reading {
                reader,
                permit: Some(permit),
            }),
            inner_ended: false,
        }
    }

    /// A body whose beginning was read already, and whose rest is of no interest.
    pub(super) fn rest(beginning: Vec<u8>, inner: reqwest::Body) -> Self {
        Self {
            inner,
            queue: VecDeque::from([Ok(Frame::data(beginning.into()))]),
            reading: None,
            inner_ended: false,
        }
    }

    fn accept(&mut self, frame: Result<Frame<Bytes>, reqwest::Error>) {
        let Some(reading) = &mut self.reading else {
            self.queue.push_back(frame);
            return;
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => {
                let bytes = reading.reader.read(bytes);
                if reading.reader.is_closed() {
                    reading.settle();
                }
                if !bytes.is_empty() {
                    self.queue.push_back(Ok(Frame::data(bytes)));
                }
            }
            Ok(Err(trailers)) => {
                self.end();
                self.queue.push_back(Ok(trailers));
            }
            Err(error) => {
                self.end();
                self.queue.push_back(Err(error));
            }
        }
    }

    /// Hands on what was held back, and lets go of the permit.
    fn end(&mut self) {
        if let Some(mut reading) = self.reading.take()
            && let Some(rest) = reading.reader.finish()
        {
            self.queue.push_back(Ok(Frame::data(rest)));
        }
    }
}

impl Reading {
    fn settle(&mut self) {
        let Some(permit) = self.permit.take() else {
            return;
        };
        match self.reader.end() {
            End::Reported(report) => permit.settle_detached(report.into()),
            // Without the provider's last word the call is unknown: a permit that is dropped is
            // charged the larger of what was seen and what was reserved.
            End::Unknown(seen) => {
                if let Some(seen) = seen {
                    permit.observe(&seen);
                }
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = reqwest::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, reqwest::Error>>> {
        let this = self.get_mut();
        loop {
            if let Some(frame) = this.queue.pop_front() {
                return Poll::Ready(Some(frame));
            }
            if this.inner_ended {
                return Poll::Ready(None);
            }
            if let Some(frame) = ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                this.accept(frame);
            } else {
                this.inner_ended = true;
                this.end();
            }
        }
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}
