//! Being told that something changed: `LISTEN`, and a poll behind it.
//!
//! A notice is a hint, never the truth: whoever gets one reads the rows. Where nothing can be heard
//! (a pooler without a direct URL, a connection that is down) the poll still finds every change, later.
//! `NOTIFY` takes a lock of the whole server at commit: it is sent for halts, approvals and policies,
//! never for appends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::ids::TenantId;
use crate::task;

/// The one channel; statements that notify name it as text.
const CHANNEL: &str = "portcullis";
/// Stands for every tenant of the installation; no tenant can be named so.
pub(crate) const EVERY_TENANT: &str = "*";
/// How many notices may wait for a slow reader, who is then told that anything may have changed.
const BACKLOG: usize = 1_024;
/// How long the connection may take to be closed.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// How long to wait before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Halts and resumptions.
    Halts,
    /// Requests for approval and decisions; the key is the request's id.
    Approvals,
    /// Policies; the key is the module's name.
    Policies,
    /// A slice of a leased budget is asked back; the key is the budget's name.
    Leases,
}

impl Topic {
    const ALL: [Self; 4] = [Self::Halts, Self::Approvals, Self::Policies, Self::Leases];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Halts => "halts",
            Self::Approvals => "approvals",
            Self::Policies => "policies",
            Self::Leases => "leases",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|topic| topic.as_str() == text)
    }

    /// What `pg_notify('portcullis', ..)` is given: the topic, the tenant, the key. None of the three
    /// has a space in it.
    pub(crate) fn payload(self, tenant: &TenantId, key: &str) -> String {
        format!("{} {tenant} {key}", self.as_str())
    }

    /// The same, for every tenant to hear.
    pub(crate) fn payload_for_all(self, key: &str) -> String {
        format!("{} {EVERY_TENANT} {key}", self.as_str())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Notice {
    One {
        topic: Topic,
        tenant: Arc<str>,
        key: Arc<str>,
    },
    /// The connection was made anew: what happened before was not heard.
    Anything,
}

impl Notice {
    fn parse(payload: &str) -> Option<Self> {
        let mut words = payload.splitn(3, ' ');
        Some(Self::One {
            topic: Topic::parse(words.next()?)?,
            tenant: words.next()?.into(),
            key: words.next()?.into(),
        })
    }
}

/// Why a [`Subscription`] woke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    /// This changed.
    Key(Arc<str>),
    /// Anything of the topic may have changed.
    Anything,
    /// The time is up; nothing was heard.
    Poll,
}

/// The listener of one database: one connection of its own, shared by all modules and tenants.
#[derive(Debug)]
pub(super) struct Notices {
    heard: broadcast::Sender<Notice>,
    connected: Arc<AtomicBool>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Notices {
    /// Listens with `options`; `None` where nothing can be heard. Must be called within a runtime.
    pub(super) fn start(options: Option<PgConnectOptions>) -> Self {
        let (heard, _) = broadcast::channel(BACKLOG);
        let connected = Arc::new(AtomicBool::new(false));
        let (stop, stopped) = watch::channel(false);
        let listening = listen(options, heard.clone(), Arc::clone(&connected), stopped);
        Self {
            heard,
            connected,
            stop,
            task: task::spawn(listening),
        }
    }

    /// Gives the connection back. What changes from now on is found by polling.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        // The task has the only receiver.
        let _ = tokio::time::timeout(CLOSE_WITHIN, self.stop.closed()).await;
    }

    pub(super) fn subscribe(&self, topic: Topic, tenant: &TenantId) -> Subscription {
        Subscription {
            heard: self.heard.subscribe(),
            topic,
            tenant: tenant.as_str().into(),
        }
    }

    /// Whether changes are heard, and not only found by polling.
    pub(super) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(
    options: Option<PgConnectOptions>,
    heard: broadcast::Sender<Notice>,
    connected: Arc<AtomicBool>,
    mut stopped: watch::Receiver<bool>,
) {
    let Some(options) = options else { return };
    let mut pause = FIRST_PAUSE;
    while !*stopped.borrow() {
        // Nobody hears it if there is no subscriber; it then reads everything when it comes.
        match hear(&options, &heard, &connected, &mut stopped).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(_) => pause = (pause * 2).min(LONGEST_PAUSE),
        }
        connected.store(false, Ordering::Relaxed);
        tracing::debug!("changes are not heard now; they are found by polling");
        tokio::select! {
            () = sleep(pause) => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    }
}

/// Listens over one connection until it is lost; `Ok` if it could be made at all.
async fn hear(
    options: &PgConnectOptions,
    heard: &broadcast::Sender<Notice>,
    connected: &AtomicBool,
    stopped: &mut watch::Receiver<bool>,
) -> Result<(), sqlx::Error> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect_lazy_with(options.clone());
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    connected.store(true, Ordering::Relaxed);
    let _ = heard.send(Notice::Anything);
    loop {
        let heard_one = tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => break,
            heard_one = listener.try_recv() => heard_one,
        };
        let Ok(Some(notification)) = heard_one else {
            break;
        };
        // Whatever else is said on the channel is none of ours.
        if let Some(notice) = Notice::parse(notification.payload()) {
            drop(heard.send(notice));
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(CLOSE_WITHIN, pool.close()).await;
    Ok(())
}

/// What one reader hears of one topic and tenant.
#[derive(Debug)]
pub(crate) struct Subscription {
    heard: broadcast::Receiver<Notice>,
    topic: Topic,
    tenant: Arc<str>,
}

impl Subscription {
    /// Waits until something of the topic changed, or for `at_most`.
    ///
    /// Cancel safe: what was heard and not returned is heard the next time.
    pub(crate) async fn next(&mut self, at_most: Duration) -> Wake {
        let until = Instant::now() + at_most;
        loop {
            match timeout_at(until, self.heard.recv()).await {
                Err(_) => return Wake::Poll,
                Ok(Ok(Notice::Anything) | Err(broadcast::error::RecvError::Lagged(_))) => {
                    return Wake::Anything;
                }
                Ok(Ok(Notice::One { topic, tenant, key })) => {
                    let ours = tenant == self.tenant || &*tenant == EVERY_TENANT;
                    if topic == self.topic && ours {
                        return Wake::Key(key);
                    }
                }
                // The listener is gone with its store; the poll is left.
                Ok(Err(broadcast::error::RecvError::Closed)) => {
                    tokio::time::sleep_until(until).await;
                    return Wake::Poll;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notice_is_read_back_as_it_was_sent_and_others_are_left() {
        let tenant = TenantId::parse("acme").unwrap();
        for topic in Topic::ALL {
            let read = Notice::parse(&topic.payload(&tenant, "k/1 with spaces"));
            let wanted = Notice::One {
                topic,
                tenant: "acme".into(),
                key: "k/1 with spaces".into(),
            };
            assert_eq!(read, Some(wanted));
        }
        for foreign in ["", "halts", "halts acme", "jobs acme 1"] {
            assert_eq!(Notice::parse(foreign), None, "{foreign}");
        }
    }
}
