//! A witness of the tests' own (c2sp.org/tlog-witness), with its atomic rules.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use portcullis::tlog::{
    Checkpoint, LogVerifier, Note, TreeHash, WitnessKey, WitnessVerifier, verify_consistency,
};
use portcullis::{Clock as _, Secret, SystemClock};

use super::http::{Answer, serve};

pub(crate) struct Witness {
    pub(crate) url: String,
    pub(crate) state: Arc<State>,
}

pub(crate) struct State {
    key: WitnessKey,
    logs: Vec<LogVerifier>,
    /// The largest tree of each origin.
    seen: Mutex<BTreeMap<String, (u64, TreeHash)>>,
    /// How often each status was answered.
    pub(crate) answered: Mutex<BTreeMap<u16, u32>>,
    /// Answers this instead.
    pub(crate) instead: Mutex<Option<Answer>>,
    /// Signs with another key than it says.
    pub(crate) impostor: Mutex<Option<WitnessKey>>,
}

impl Witness {
    pub(crate) async fn of(logs: Vec<LogVerifier>) -> Self {
        let state = Arc::new(State {
            key: WitnessKey::new("witness.example/w1", &Secret::generate().unwrap()).unwrap(),
            logs,
            seen: Mutex::default(),
            answered: Mutex::default(),
            instead: Mutex::default(),
            impostor: Mutex::default(),
        });
        let serving = Arc::clone(&state);
        let url = serve(move |path, body| {
            let answer = serving.instead.lock().unwrap().clone();
            let answer = answer.unwrap_or_else(|| {
                assert_eq!(path, "/prefix/add-checkpoint");
                serving.add(&String::from_utf8(body).unwrap())
            });
            *serving
                .answered
                .lock()
                .unwrap()
                .entry(answer.0)
                .or_default() += 1;
            answer
        })
        .await;
        Self {
            url: format!("{url}/prefix"),
            state,
        }
    }

    pub(crate) fn verifier(&self) -> WitnessVerifier {
        self.state.key.verifier().clone()
    }

    pub(crate) fn seen(&self, origin: &str) -> Option<(u64, TreeHash)> {
        self.state.seen.lock().unwrap().get(origin).copied()
    }

    pub(crate) fn set(&self, origin: &str, size: u64, root: TreeHash) {
        let mut seen = self.state.seen.lock().unwrap();
        seen.insert(origin.to_owned(), (size, root));
    }

    pub(crate) fn count(&self, status: u16) -> u32 {
        let answered = self.state.answered.lock().unwrap();
        answered.get(&status).copied().unwrap_or(0)
    }
}

impl State {
    fn add(&self, body: &str) -> Answer {
        let plain = |status| (status, "text/plain", Vec::new());
        let (head, text) = body.split_once("\n\n").unwrap();
        let mut lines = head.lines();
        let old = lines.next().unwrap().strip_prefix("old ").unwrap();
        let old: u64 = old.parse().unwrap();
        let proof: Vec<_> = lines.map(|line| TreeHash::parse(line).unwrap()).collect();
        let origin = text.lines().next().unwrap();
        let Some(log) = self.logs.iter().find(|log| log.origin() == origin) else {
            return plain(404);
        };
        let Ok(checkpoint) = Checkpoint::open(text, log) else {
            return plain(403);
        };
        let (size, root) = (checkpoint.size(), checkpoint.root());
        if old > size {
            return plain(400);
        }
        // Looking and storing are one.
        let mut seen = self.seen.lock().unwrap();
        let last = seen.get(origin).copied();
        let held_size = last.map_or(0, |(size, _)| size);
        let conflict = (
            409,
            "text/x.tlog.size",
            format!("{held_size}\n").into_bytes(),
        );
        if old != held_size {
            return conflict;
        }
        if let Some((old, old_root)) = last.filter(|(size, _)| *size > 0) {
            if old == size && old_root != root {
                return conflict;
            }
            if verify_consistency(old, size, &old_root, &root, &proof).is_err() {
                return plain(422);
            }
        } else if !proof.is_empty() {
            return plain(422);
        }
        seen.insert(origin.to_owned(), (size, root));
        drop(seen);
        let mut note = Note::parse(text).unwrap();
        let impostor = self.impostor.lock().unwrap();
        let key = impostor.as_ref().unwrap_or(&self.key);
        key.cosign(&mut note, SystemClock::default().now()).unwrap();
        let note = note.to_string();
        let line = note.strip_prefix(text).unwrap();
        (200, "text/plain", line.as_bytes().to_vec())
    }
}
