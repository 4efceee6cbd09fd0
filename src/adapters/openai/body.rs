//! A response body that reads itself while the application does.
//!
//! The permit is settled when the stream says that it is over, or when it is dropped. It does not
//! wait for the end of the body: the client stops reading at `[DONE]`. When the agent is halted, the
//! connection is closed and the permit dropped at once, and the body ends with the refusal.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::task::AbortHandle;

use super::halted::{Switch, last_event};
use super::meter::End;
use super::reader::Reader;
use crate::{Permit, Refusal};

/// A body on its way to the application, with the permit of its call.
pub(super) struct Metered {
    shared: Arc<Shared>,
    /// Stops it, whether the application reads or not.
    watcher: AbortHandle,
}

struct Shared {
    switch: Switch,
    state: Mutex<State>,
}

type Next = Result<Frame<Bytes>, Box<dyn Error + Send + Sync>>;

struct State {
    /// `None` once nothing more is read of it.
    inner: Option<reqwest::Body>,
    /// What has been read and not yet been handed on.
    queue: VecDeque<Next>,
    reading: Option<Reading>,
    /// Whether a last event can be written into it.
    is_events: bool,
    /// The agent was halted: nothing follows but the refusal.
    stopped: bool,
    waits: Option<Waker>,
}

/// A reader, with the permit that waits for what it says.
struct Reading {
    reader: Reader,
    /// `None` once settled.
    permit: Option<Permit>,
}

impl Metered {
    /// A stream of events, `legible` if it is one as it is.
    pub(super) fn stream(
        inner: reqwest::Body,
        permit: Permit,
        reader: Reader,
        legible: bool,
        switch: Switch,
    ) -> Self {
        let reading = Reading {
            reader,
            permit: Some(permit),
        };
        let mut state = State::new(inner);
        state.reading = Some(reading);
        state.is_events = legible;
        Self::new(state, switch)
    }

    /// A body whose beginning was read already, and whose rest is of no interest.
    pub(super) fn rest(beginning: Vec<u8>, inner: reqwest::Body, switch: Switch) -> Self {
        let mut state = State::new(inner);
        state.queue.push_back(Ok(Frame::data(beginning.into())));
        Self::new(state, switch)
    }

    fn new(state: State, switch: Switch) -> Self {
        let shared = Arc::new(Shared {
            switch: switch.clone(),
            state: Mutex::new(state),
        });
        let stopped = watch(Arc::downgrade(&shared), switch);
        let watcher = tokio::spawn(stopped).abort_handle();
        Self { shared, watcher }
    }
}

/// Stops the body when the agent is halted.
async fn watch(body: Weak<Shared>, switch: Switch) {
    let refusal = switch.thrown().await;
    if let Some(body) = body.upgrade() {
        body.state().stop(refusal);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(inner: reqwest::Body) -> Self {
        Self {
            inner: Some(inner),
            queue: VecDeque::new(),
            reading: None,
            is_events: false,
            stopped: false,
            waits: None,
        }
    }

    fn accept(&mut self, frame: Result<Frame<Bytes>, reqwest::Error>) {
        let Some(reading) = &mut self.reading else {
            self.queue.push_back(frame.map_err(Into::into));
            return;
        };
        match frame.map(Frame::into_data) {
            Ok(Ok(bytes)) => {
                let bytes = reading.reader.read(&bytes);
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
                self.queue.push_back(Err(error.into()));
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

    /// Lets go of the connection and of the permit, and hands on nothing but `refusal`.
    fn stop(&mut self, refusal: Refusal) {
        if self.stopped || self.is_over() {
            return;
        }
        self.stopped = true;
        self.inner = None;
        self.reading = None;
        self.queue.clear();
        if self.is_events
            && let Some(event) = last_event(&refusal)
        {
            self.queue.push_back(Ok(Frame::data(event)));
        }
        self.queue.push_back(Err(refusal.into()));
        if let Some(waits) = self.waits.take() {
            waits.wake();
        }
    }

    /// Whether the application has all of it.
    fn is_over(&self) -> bool {
        self.inner.is_none() && self.queue.is_empty()
    }

    fn poll(&mut self, context: &mut Context<'_>, switch: &Switch) -> Poll<Option<Next>> {
        loop {
            if self.is_over() {
                return Poll::Ready(None);
            }
            // Asked for every frame: what is known when it is handed on counts.
            if !self.stopped
                && let Err(refusal) = switch.check()
            {
                self.stop(refusal);
            }
            if let Some(frame) = self.queue.pop_front() {
                return Poll::Ready(Some(frame));
            }
            let Some(inner) = &mut self.inner else {
                continue;
            };
            match Pin::new(inner).poll_frame(context) {
                Poll::Ready(Some(frame)) => self.accept(frame),
                Poll::Ready(None) => {
                    self.inner = None;
                    self.end();
                }
                Poll::Pending => {
                    self.waits = Some(context.waker().clone());
                    return Poll::Pending;
                }
            }
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

impl Drop for Metered {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl Body for Metered {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Next>> {
        let shared = &self.get_mut().shared;
        shared.state().poll(context, &shared.switch)
    }
}

impl fmt::Debug for Metered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metered").finish_non_exhaustive()
    }
}
