//! One round: children at work, one trouble, and then all of them are killed.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use portcullis::SessionId;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::child::Orders;
use crate::proxy::{Fault, Proxy};
use crate::server::Server;

const CHILDREN: usize = 4;

/// What happens to the processes, beside that they are killed in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    Kill,
    KillSpooled,
    StopFast,
    StopImmediate,
    Hang,
    CutAfterCommit,
    ClockForward,
    ClockBack,
}

impl Trouble {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill -9",
            Self::KillSpooled => "kill -9, journal first",
            Self::StopFast => "server stopped fast",
            Self::StopImmediate => "server stopped immediately",
            Self::Hang => "server hung",
            Self::CutAfterCommit => "cut before the acknowledgement",
            Self::ClockForward => "clock an hour ahead",
            Self::ClockBack => "clock an hour back",
        }
    }
}

/// What the children said, by trouble.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) troubles: BTreeMap<Trouble, Said>,
    /// What each session was told that it has spent, in nano-dollars.
    pub(crate) spent: HashMap<String, i64>,
}

#[derive(Default)]
pub(crate) struct Said {
    pub(crate) rounds: usize,
    pub(crate) kills: usize,
    pub(crate) acknowledged: Vec<Uuid>,
    /// Said to be lost, which is honest: nothing was acknowledged.
    pub(crate) lost: usize,
    /// From the end of the trouble to the next acknowledgement.
    pub(crate) recovered: Vec<Duration>,
}

pub(crate) struct Round<'s> {
    server: &'s Server,
    trouble: Trouble,
    session: SessionId,
    /// Acknowledgements of this round so far.
    heard: Arc<AtomicU64>,
}

impl<'s> Round<'s> {
    pub(crate) fn new(server: &'s Server, trouble: Trouble) -> Self {
        Self {
            server,
            trouble,
            session: SessionId::new(),
            heard: Arc::default(),
        }
    }

    pub(crate) async fn run(self, tally: &mut Tally) {
        let proxy = match self.trouble {
            Trouble::CutAfterCommit => Some(Proxy::before(&self.server.options()).await),
            _ => None,
        };
        let url = proxy.as_ref().map_or_else(|| self.server.url(), url_of);
        let mut children: Vec<(Child, JoinHandle<Vec<String>>)> =
            (0..CHILDREN).map(|_| self.start(&url)).collect();
        self.hear(CHILDREN as u64 * 8).await;
        let recovered = self.trouble(proxy.as_ref()).await;
        let mut lines = Vec::new();
        for (child, _) in &mut children {
            tokio::time::sleep(Duration::from_millis(random(120))).await;
            child.start_kill().unwrap();
        }
        for (mut child, said) in children {
            child.wait().await.unwrap();
            lines.extend(said.await.unwrap());
        }
        let said = tally.troubles.entry(self.trouble).or_default();
        said.rounds += 1;
        said.kills += CHILDREN;
        said.recovered.extend(recovered);
        for line in lines {
            let (word, what) = line.split_once(' ').unwrap();
            match word {
                "committed" | "kept" => said.acknowledged.push(what.parse().unwrap()),
                "lost" => said.lost += 1,
                "spent" => {
                    let session = self.session.as_str().to_owned();
                    *tally.spent.entry(session).or_default() += what.parse::<i64>().unwrap();
                }
                other => panic!("a child said {other}"),
            }
        }
    }

    fn start(&self, url: &str) -> (Child, JoinHandle<Vec<String>>) {
        let orders = Orders {
            url: url.to_owned(),
            session: self.session.clone(),
            jump: match self.trouble {
                Trouble::ClockForward => 3_600,
                Trouble::ClockBack => -3_600,
                _ => 0,
            },
            spooled: self.trouble == Trouble::KillSpooled,
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .envs(orders.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = child.stdout.take().unwrap();
        (child, tokio::spawn(listen(said, Arc::clone(&self.heard))))
    }

    /// Waits until the children have had so many more acknowledgements.
    async fn hear(&self, more: u64) {
        let goal = self.heard.load(Ordering::SeqCst) + more;
        while self.heard.load(Ordering::SeqCst) < goal {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Makes the trouble; says how long it took until an acknowledgement came again.
    async fn trouble(&self, proxy: Option<&Proxy>) -> Option<Duration> {
        match self.trouble {
            Trouble::Kill | Trouble::KillSpooled => return None,
            Trouble::StopFast => self.server.stop("INT").await,
            Trouble::StopImmediate => self.server.stop("QUIT").await,
            Trouble::Hang => self.server.hang(Duration::from_secs(1)).await,
            Trouble::CutAfterCommit => {
                let proxy = proxy.unwrap();
                for _ in 0..8 {
                    proxy.inject(Fault::CutAfterCommit);
                }
                while !proxy.spent() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
            Trouble::ClockForward | Trouble::ClockBack => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        let over = Instant::now();
        self.hear(1).await;
        Some(over.elapsed())
    }
}

/// Collects what a child says. Its last line may be cut off by its death; that one was not said.
async fn listen(said: ChildStdout, heard: Arc<AtomicU64>) -> Vec<String> {
    let mut said = BufReader::new(said);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if said.read_line(&mut line).await.unwrap() == 0 || !line.ends_with('\n') {
            return lines;
        }
        if !line.starts_with("lost") {
            heard.fetch_add(1, Ordering::SeqCst);
        }
        lines.push(line.trim_end().to_owned());
    }
}

fn url_of(proxy: &Proxy) -> String {
    let options = proxy.options();
    format!(
        "postgres://{}@{}:{}/{}?sslmode=disable",
        options.get_username(),
        options.get_host(),
        options.get_port(),
        options.get_database().unwrap()
    )
}

fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}
