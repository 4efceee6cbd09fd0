//! One round: children at work, one trouble, and then all of them are killed.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis::SessionId;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;

use crate::gates::people;
use crate::orders::{Orders, Role};
use crate::proxy::{Fault, Proxy};
use crate::said::{Heard, News, Tally, listen};
use crate::server::signal_to;
use crate::site::Site;
use crate::trouble::{Part, Trouble};

const CHILDREN: usize = 4;
/// How long anything may take; then the harness fails and says where it was.
const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct Round<'s> {
    site: &'s Site,
    trouble: Trouble,
    /// How many are killed in a relay before it ends.
    relay: usize,
    session: SessionId,
    heard: Arc<Heard>,
    running: Vec<Running>,
    /// What those said that were killed.
    lines: Vec<String>,
    kills: usize,
    /// How many of them had said something.
    at_work: usize,
}

struct Running {
    role: Role,
    child: Child,
    said: JoinHandle<Vec<String>>,
}

impl Running {
    fn start(orders: &Orders, heard: &Arc<Heard>) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .envs(orders.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = child.stdout.take().unwrap();
        let said = tokio::spawn(listen(said, Arc::clone(heard)));
        Self {
            role: orders.role,
            child,
            said,
        }
    }
}

/// A process that looks at the books while others write them.
pub(crate) struct Watching(Running);

impl Watching {
    pub(crate) fn start(site: &Site) -> Self {
        let orders = Orders {
            url: site.server.url(),
            session: SessionId::new(),
            journals: site.journals.clone(),
            role: Role::Watch,
            jump: 0,
            spooled: false,
            signed: false,
        };
        Self(Running::start(&orders, &Arc::default()))
    }

    pub(crate) async fn end(mut self, tally: &Mutex<Tally>) {
        self.0.child.start_kill().unwrap();
        let ended = self.0.child.wait().await.unwrap();
        assert_eq!(ended.code(), None, "the watching process ended by itself");
        let lines = self.0.said.await.unwrap();
        tally.lock().unwrap().hear(&lines);
    }
}

impl<'s> Round<'s> {
    pub(crate) fn new(site: &'s Site, trouble: Trouble, relay: usize) -> Self {
        Self {
            site,
            trouble,
            relay,
            session: SessionId::new(),
            heard: Arc::default(),
            running: Vec::new(),
            lines: Vec::new(),
            kills: 0,
            at_work: 0,
        }
    }

    pub(crate) async fn run(mut self, tally: &Mutex<Tally>) {
        let role = self.trouble.role();
        if role == Role::Drain {
            self.leave_journals().await;
        }
        if role == Role::Approve {
            self.have_calls_approved(tally).await;
        }
        let proxy = if self.trouble.takes_a_proxy() {
            Some(Proxy::before(&self.site.server.options()).await)
        } else {
            None
        };
        self.start(CHILDREN, role, proxy.as_ref());
        if role != Role::Drain {
            self.hear(CHILDREN as u64 * 8, News::Any).await;
        }
        let mut recovered = self.trouble(proxy.as_ref()).await;
        self.kill_all().await;
        if self.trouble.ends_by_a_successor() {
            drop(proxy);
            let over = Instant::now();
            let next = match self.trouble.part() {
                // Those who obey may all be halted.
                Some(Part::Halts) => Role::Order,
                Some(_) => role,
                None => Role::Work,
            };
            self.start(1, next, None);
            self.hear(1, News::Any).await;
            recovered = Some(over.elapsed());
            self.kill_all().await;
        }
        let mut tally = tally.lock().unwrap();
        let said = tally.take(self.trouble, self.session.as_str(), &self.lines);
        said.rounds += 1;
        said.kills += self.kills;
        said.at_work += self.at_work;
        said.recovered.extend(recovered);
    }

    /// Makes the trouble; says how long it took until an acknowledgement came again.
    async fn trouble(&mut self, proxy: Option<&Proxy>) -> Option<Duration> {
        match self.trouble {
            Trouble::Kill | Trouble::KillSpooled => return None,
            Trouble::KillDraining | Trouble::KillCheckpoint => {
                tokio::time::sleep(Duration::from_millis(random(150))).await;
                return None;
            }
            Trouble::Relay(_) => {
                self.relay(proxy).await;
                return None;
            }
            Trouble::Paused(part) => {
                self.pause_half(part.too_long()).await;
                self.hear(CHILDREN as u64 * 8, News::Any).await;
                return None;
            }
            Trouble::Hung(part) => self.site.server.hang(part.too_long()).await,
            Trouble::CutOff(part) => {
                let proxy = proxy.unwrap();
                if random(2) == 0 {
                    proxy.down();
                } else {
                    proxy.freeze(true);
                }
                tokio::time::sleep(part.too_long()).await;
                return None;
            }
            Trouble::KillOutage => {
                let proxy = proxy.unwrap();
                if random(2) == 0 {
                    // What was under way is committed, and journalled too.
                    proxy.inject(Fault::GoneAfterCommit);
                    until("the server goes", || proxy.spent()).await;
                }
                proxy.down();
                self.hear(40, News::Kept).await;
                return None;
            }
            Trouble::Before(point) | Trouble::After(point) => {
                let fault = match self.trouble {
                    Trouble::Before(_) => Fault::Hang,
                    _ => Fault::HangAfterCommit,
                };
                let proxy = proxy.unwrap();
                proxy.inject_into(point.statement(), fault);
                until("the point is reached", || proxy.hanging() > 0).await;
                // At once: none of them is to go on.
                self.kill_now().await;
                return None;
            }
            Trouble::StopFast => self.site.server.stop("INT").await,
            Trouble::StopImmediate => self.site.server.stop("QUIT").await,
            Trouble::Hang => self.site.server.hang(Duration::from_secs(1)).await,
            Trouble::CutAfterCommit => {
                let proxy = proxy.unwrap();
                for _ in 0..8 {
                    proxy.inject(Fault::CutAfterCommit);
                }
                until("the connections are cut", || proxy.spent()).await;
            }
            Trouble::ClockForward | Trouble::ClockBack => {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            Trouble::JournalDiskFull => {
                let proxy = proxy.unwrap();
                proxy.down();
                self.hear(20, News::Lost).await;
                self.kill_half().await;
                proxy.up();
            }
            Trouble::ServerDiskFull => {
                let full = self.site.fill();
                self.hear(20, News::Kept).await;
                self.kill_half().await;
                drop(full);
                self.site.server.answers().await;
            }
        }
        let over = Instant::now();
        let news = match self.trouble.part() {
            Some(_) => News::Any,
            None => News::Committed,
        };
        self.hear(1, news).await;
        Some(over.elapsed())
    }

    /// Processes that die in an outage, with their journals full.
    async fn leave_journals(&mut self) {
        let proxy = Proxy::before(&self.site.server.options()).await;
        self.start(CHILDREN, Role::Work, Some(&proxy));
        self.hear(CHILDREN as u64 * 8, News::Any).await;
        proxy.down();
        self.hear(400, News::Kept).await;
        self.kill_now().await;
    }

    async fn have_calls_approved(&self, tally: &Mutex<Tally>) {
        let gov = self.site.governance().await;
        let granted = people::grant(&gov, &self.session).await;
        gov.shutdown().await;
        tally.lock().unwrap().told.granted.extend(granted);
    }

    /// Kills one after the other, and has another one take its place.
    async fn relay(&mut self, proxy: Option<&Proxy>) {
        for _ in 0..self.relay {
            tokio::time::sleep(Duration::from_millis(random(100))).await;
            // Mostly the one that has been at it for longest.
            let victim = match random(4) {
                0 => usize::try_from(random(CHILDREN as u64)).unwrap(),
                _ => 0,
            };
            let mut killed = self.running.remove(victim);
            killed.child.start_kill().unwrap();
            self.bury(killed).await;
            self.start_as(self.running_role(), proxy);
            // They have to get on with it.
            self.hear(CHILDREN as u64 * 5, News::Any).await;
        }
    }

    /// What is missing among those that run.
    fn running_role(&self) -> Role {
        match self.trouble.role() {
            Role::Obey if self.running.iter().all(|one| one.role == Role::Obey) => Role::Order,
            role => role,
        }
    }

    async fn pause_half(&mut self, length: Duration) {
        let half = &self.running[..CHILDREN / 2];
        let pids: Vec<u32> = half.iter().filter_map(|one| one.child.id()).collect();
        signal_to("STOP", &pids);
        tokio::time::sleep(length).await;
        signal_to("CONT", &pids);
    }

    fn start(&mut self, children: usize, role: Role, proxy: Option<&Proxy>) {
        for n in 0..children {
            // Among those that obey, one gives orders.
            let role = match role {
                Role::Obey if n == CHILDREN - 1 => Role::Order,
                role => role,
            };
            self.start_as(role, proxy);
        }
    }

    fn start_as(&mut self, role: Role, proxy: Option<&Proxy>) {
        // Who gives orders is heard by those that are not cut off.
        let cut_off = matches!(self.trouble, Trouble::CutOff(_));
        let proxy = proxy.filter(|_| !(cut_off && role == Role::Order));
        let orders = Orders {
            url: proxy.map_or_else(|| self.site.server.url(), url_of),
            session: self.session.clone(),
            journals: self.site.journals.clone(),
            role,
            jump: self.trouble.jump(),
            spooled: self.trouble == Trouble::KillSpooled,
            signed: random(2) == 0,
        };
        self.running.push(Running::start(&orders, &self.heard));
    }

    /// One after the other, at moments of their own.
    async fn kill_all(&mut self) {
        for running in &mut self.running {
            tokio::time::sleep(Duration::from_millis(random(120))).await;
            running.child.start_kill().unwrap();
        }
        self.kill_now().await;
    }

    async fn kill_half(&mut self) {
        let rest = self.running.split_off(CHILDREN / 2);
        self.kill_now().await;
        self.running = rest;
    }

    async fn kill_now(&mut self) {
        for running in &mut self.running {
            running.child.start_kill().unwrap();
        }
        while let Some(running) = self.running.pop() {
            self.bury(running).await;
        }
    }

    async fn bury(&mut self, mut running: Running) {
        let ended = running.child.wait().await.unwrap();
        assert_eq!(ended.code(), None, "a child ended before it was killed");
        let said = running.said.await.unwrap();
        self.kills += 1;
        self.at_work += usize::from(!said.is_empty());
        self.lines.extend(said);
    }

    /// Waits until the children have had so much more news.
    async fn hear(&self, more: u64, news: News) {
        let goal = self.heard.of(news) + more;
        let what = format!("{more} more {news:?} in {:?}", self.trouble);
        until(&what, || self.heard.of(news) >= goal).await;
    }
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
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

pub(crate) fn random(below: u64) -> u64 {
    RandomState::new().build_hasher().finish() % below
}
