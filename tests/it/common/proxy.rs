//! A wire between the writer and Postgres that can be cut at a chosen moment.
//!
//! It reads the protocol's messages, so that "after the commit and before its acknowledgement" is
//! a place and not a matter of luck.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::{Notify, watch};

/// What to do when the next append passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Let the server commit, swallow its acknowledgement, and cut.
    CutAfterCommit,
    /// As [`CutAfterCommit`](Self::CutAfterCommit), and refuse all connections from then on.
    GoneAfterCommit,
    /// Cut before the server sees the statement.
    CutBeforeCommit,
    /// Swallow the statement and keep the connection open: the server hangs.
    Hang,
    /// Let the server commit, swallow its acknowledgement, and keep the connection open.
    HangAfterCommit,
}

/// The statements that a fault may wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// What writes a batch of entries, wherever they come from.
    Append,
    /// The one with this text in it.
    With(&'static str),
    /// The one with this text in it, where this parameter, counted from 1, is neither absent nor zero
    /// nor false.
    #[allow(dead_code, reason = "only the crash harness waits for these")]
    Saying(&'static str, usize),
}

impl Statement {
    fn is(self, text: &str, bind: &[u8]) -> bool {
        match self {
            Self::Saying(part, at) => {
                let says = |value: Option<&[u8]>| value.is_some_and(|v| v.iter().any(|b| *b != 0));
                text.contains(part) && says(parameter(bind, at))
            }
            Self::Append => {
                text.contains("UPDATE portcullis.chains")
                    && text.contains("INSERT INTO portcullis.entries")
            }
            Self::With(part) => text.contains(part),
        }
    }
}

#[derive(Default)]
struct Shared {
    refuse: AtomicBool,
    /// What happens to the statements to come, next first.
    faults: Mutex<Vec<(Statement, Fault)>>,
    /// How many connections hang by a fault.
    hanging: AtomicU32,
    /// How many appends were sent.
    appends: AtomicU32,
    cut_all: Notify,
    /// Whether nothing passes, in either direction: the server hangs for everybody.
    frozen: watch::Sender<bool>,
}

impl Shared {
    fn next_fault(&self, text: &str, bind: &[u8]) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let at = faults
            .iter()
            .position(|(statement, _)| statement.is(text, bind))?;
        Some(faults.remove(at).1)
    }

    /// Waits until things pass.
    async fn passes(&self) {
        let mut frozen = self.frozen.subscribe();
        let _ = frozen.wait_for(|frozen| !frozen).await;
    }

    fn hangs(&self) {
        self.hanging.fetch_add(1, Ordering::SeqCst);
    }
}

/// A proxy in front of the tests' server.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    options: PgConnectOptions,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.down();
    }
}

#[derive(Clone)]
enum Backend {
    Unix(PathBuf),
    Tcp(String, u16),
}

impl Proxy {
    /// A proxy in front of the server that `options` name.
    pub(crate) async fn before(options: &PgConnectOptions) -> Self {
        let port = options.get_port();
        let backend = match options.get_socket() {
            Some(directory) => Backend::Unix(directory.join(format!(".s.PGSQL.{port}"))),
            None if options.get_host().starts_with('/') => {
                Backend::Unix(PathBuf::from(options.get_host()).join(format!(".s.PGSQL.{port}")))
            }
            None => Backend::Tcp(options.get_host().to_owned(), port),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        tokio::spawn(listen(listener, backend, Arc::clone(&shared)));
        // Rebuilt, because a socket in the options would win over the host.
        let mut through = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port)
            .username(options.get_username())
            .ssl_mode(PgSslMode::Disable);
        if let Some(database) = options.get_database() {
            through = through.database(database);
        }
        Self {
            shared,
            options: through,
        }
    }

    /// How to connect through it.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Does `fault` to the next append that has none ahead of it.
    pub(crate) fn inject(&self, fault: Fault) {
        self.inject_into(Statement::Append, fault);
    }

    /// Does `fault` to the next such statement that has none ahead of it.
    pub(crate) fn inject_into(&self, statement: Statement, fault: Fault) {
        self.shared.faults.lock().unwrap().push((statement, fault));
    }

    /// How many connections hang by a fault: each is where the fault wanted it.
    pub(crate) fn hanging(&self) -> u32 {
        self.shared.hanging.load(Ordering::SeqCst)
    }

    /// Whether all injected faults have happened.
    pub(crate) fn spent(&self) -> bool {
        self.shared.faults.lock().unwrap().is_empty()
    }

    /// Cuts all connections and refuses new ones.
    pub(crate) fn down(&self) {
        self.shared.refuse.store(true, Ordering::SeqCst);
        self.shared.cut_all.notify_waiters();
    }

    /// Lets nothing pass from now on, in either direction, and keeps all connections open; or lets it.
    pub(crate) fn freeze(&self, on: bool) {
        self.shared.frozen.send_replace(on);
    }

    /// Lets connections through again.
    pub(crate) fn up(&self) {
        self.shared.refuse.store(false, Ordering::SeqCst);
    }

    pub(crate) fn appends(&self) -> u32 {
        self.shared.appends.load(Ordering::SeqCst)
    }
}

async fn listen(listener: TcpListener, backend: Backend, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.refuse.load(Ordering::SeqCst) {
            continue;
        }
        let (backend, shared) = (backend.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let cut = shared.cut_all.notified();
            tokio::pin!(cut);
            cut.as_mut().enable();
            match backend {
                Backend::Unix(path) => {
                    let Ok(server) = UnixStream::connect(path).await else {
                        return;
                    };
                    let (read, write) = server.into_split();
                    tokio::select! { () = pump(client, read, write, &shared) => {}, () = cut => {} }
                }
                Backend::Tcp(host, port) => {
                    let Ok(server) = TcpStream::connect((host, port)).await else {
                        return;
                    };
                    let (read, write) = server.into_split();
                    tokio::select! { () = pump(client, read, write, &shared) => {}, () = cut => {} }
                }
            }
        });
    }
}

/// Carries messages both ways until one side ends or a fault cuts.
async fn pump(
    client: TcpStream,
    mut from_server: impl AsyncRead + Unpin,
    mut to_server: impl AsyncWrite + Unpin,
    shared: &Shared,
) {
    client.set_nodelay(true).unwrap();
    let (mut from_client, mut to_client) = client.into_split();
    // The fault that waits for the commit of a statement.
    let after: Mutex<Option<Fault>> = Mutex::new(None);
    let up = async {
        let mut statements = HashMap::new();
        // The startup message has no type.
        let mut startup = message(&mut from_client, false).await?;
        loop {
            shared.passes().await;
            to_server.write_all(&startup).await.ok()?;
            let next = message(&mut from_client, true).await?;
            match next[0] {
                b'P' => {
                    let text = String::from_utf8_lossy(&next).into_owned();
                    statements.insert(name(&next[5..]).to_vec(), text);
                }
                b'B' => {
                    let portal = name(&next[5..]);
                    let statement = name(&next[5 + portal.len() + 1..]);
                    let text = statements.get(statement).map_or("", String::as_str);
                    if Statement::Append.is(text, &[]) {
                        shared.appends.fetch_add(1, Ordering::SeqCst);
                    }
                    match shared.next_fault(text, &next[5..]) {
                        Some(Fault::CutBeforeCommit) => return None,
                        Some(Fault::Hang) => {
                            shared.hangs();
                            // Until the client has gone.
                            while message(&mut from_client, true).await.is_some() {}
                            return None;
                        }
                        Some(fault) => *after.lock().unwrap() = Some(fault),
                        None => {}
                    }
                }
                _ => {}
            }
            startup = next;
        }
    };
    let down = async {
        let mut held = Vec::new();
        loop {
            let next = message(&mut from_server, true).await?;
            shared.passes().await;
            let fault = *after.lock().unwrap();
            let Some(fault) = fault else {
                to_client.write_all(&next).await.ok()?;
                continue;
            };
            // Ready for the next query: the statement has ended, and outside of a transaction (or
            // after one), the commit has happened.
            match (next[0], next.last()) {
                (b'Z', Some(b'I')) if fault == Fault::HangAfterCommit => {
                    shared.hangs();
                    std::future::pending::<()>().await;
                }
                (b'Z', Some(b'I')) => {
                    if fault == Fault::GoneAfterCommit {
                        shared.refuse.store(true, Ordering::SeqCst);
                    }
                    return None::<()>;
                }
                (b'Z', _) => {
                    held.extend_from_slice(&next);
                    to_client.write_all(&held).await.ok()?;
                    held.clear();
                }
                _ => held.extend_from_slice(&next),
            }
        }
    };
    let _: Option<()> = tokio::select! { end = up => end, end = down => end };
}

/// Reads one message, its header included.
async fn message(from: &mut (impl AsyncRead + Unpin), typed: bool) -> Option<Vec<u8>> {
    let mut bytes = vec![0; if typed { 5 } else { 4 }];
    from.read_exact(&mut bytes).await.ok()?;
    let header = bytes.len();
    let len = u32::from_be_bytes(bytes[header - 4..].try_into().unwrap()) as usize - 4;
    bytes.resize(header + len, 0);
    from.read_exact(&mut bytes[header..]).await.ok()?;
    Some(bytes)
}

/// One parameter of a `Bind`, counted from 1.
fn parameter(bind: &[u8], at: usize) -> Option<&[u8]> {
    let portal = name(bind).len() + 1;
    let statement = name(&bind[portal..]).len() + 1;
    let mut rest = &bind[portal + statement..];
    let formats = number(&mut rest, 2);
    rest = &rest[2 * formats..];
    let count = number(&mut rest, 2);
    let mut found = None;
    for _ in 0..at.min(count) {
        let length = number(&mut rest, 4);
        found = None;
        // Not absent.
        if length != 0xffff_ffff {
            let (value, more) = rest.split_at(length);
            (found, rest) = (Some(value), more);
        }
    }
    found.filter(|_| at <= count)
}

fn number(rest: &mut &[u8], bytes: usize) -> usize {
    let (number, more) = rest.split_at(bytes);
    *rest = more;
    number
        .iter()
        .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
}

fn name(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap()
}
