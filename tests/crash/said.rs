//! What the children said.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::ChildStdout;
use uuid::Uuid;

use crate::gates::told::Told;
use crate::trouble::Trouble;

/// All that was said, by trouble.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) troubles: BTreeMap<Trouble, Said>,
    /// What each session was told that it has spent, in nano-dollars.
    pub(crate) spent: HashMap<String, i64>,
    /// Every checkpoint that was given out.
    pub(crate) notes: Vec<String>,
    /// What was said of gates.
    pub(crate) told: Told,
}

#[derive(Default)]
pub(crate) struct Said {
    pub(crate) rounds: usize,
    pub(crate) kills: usize,
    /// How many of the killed had said something before.
    pub(crate) at_work: usize,
    pub(crate) acknowledged: Vec<Uuid>,
    /// How many of them were in a journal and not yet in the trail.
    pub(crate) kept: usize,
    /// What was said of gates.
    pub(crate) of_gates: usize,
    /// Said to be lost, which is honest: nothing was acknowledged.
    pub(crate) lost: usize,
    /// From the end of the trouble to the next acknowledgement.
    pub(crate) recovered: Vec<Duration>,
}

impl Tally {
    /// What was said by a process that nothing happens to.
    pub(crate) fn hear(&mut self, lines: &[String]) {
        for line in lines {
            let (word, what) = line.split_once(' ').unwrap();
            assert!(self.told.take("", word, what), "it said {line}");
        }
    }

    pub(crate) fn take(&mut self, trouble: Trouble, session: &str, lines: &[String]) -> &mut Said {
        let said = self.troubles.entry(trouble).or_default();
        for line in lines {
            let (word, what) = line.split_once(' ').unwrap();
            match word {
                "committed" | "queued" => said.acknowledged.push(what.parse().unwrap()),
                "kept" => {
                    said.acknowledged.push(what.parse().unwrap());
                    said.kept += 1;
                }
                "lost" => said.lost += 1,
                "spent" => {
                    let spent: i64 = what.parse().unwrap();
                    *self.spent.entry(session.to_owned()).or_default() += spent;
                }
                "note" => {
                    let note = hex::decode(what).unwrap();
                    self.notes.push(String::from_utf8(note).unwrap());
                }
                "drained" => {}
                other => {
                    assert!(self.told.take(session, other, what), "a child said {line}");
                    said.of_gates += 1;
                }
            }
        }
        said
    }
}

/// How often the children of a round said each thing so far.
#[derive(Default)]
pub(crate) struct Heard {
    /// Anything that is good news.
    any: AtomicU64,
    committed: AtomicU64,
    kept: AtomicU64,
    lost: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum News {
    Any,
    Committed,
    Kept,
    Lost,
}

impl Heard {
    pub(crate) fn of(&self, news: News) -> u64 {
        let count = match news {
            News::Any => &self.any,
            News::Committed => &self.committed,
            News::Kept => &self.kept,
            News::Lost => &self.lost,
        };
        count.load(Ordering::SeqCst)
    }

    fn hear(&self, line: &str) {
        let more = |count: &AtomicU64| count.fetch_add(1, Ordering::SeqCst);
        if line.starts_with("lost") {
            more(&self.lost);
            return;
        }
        if line.starts_with("committed") {
            more(&self.committed);
        }
        if line.starts_with("kept") {
            more(&self.kept);
        }
        more(&self.any);
    }
}

/// Collects what a child says. Its last line may be cut off by its death; that one was not said.
pub(crate) async fn listen(said: ChildStdout, heard: Arc<Heard>) -> Vec<String> {
    let mut said = BufReader::new(said);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if said.read_line(&mut line).await.unwrap() == 0 || !line.ends_with('\n') {
            return lines;
        }
        heard.hear(&line);
        lines.push(line.trim_end().to_owned());
    }
}
