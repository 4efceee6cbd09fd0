//! What holds of a journal's lines whatever bytes they are: for the fuzz target, and for tests.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a fuzz target says it by a panic"
)]

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::runtime::Builder;

use super::line::{Context, FIRST, Header, Line, Saying};
use super::note::Note;
use super::read::{Chunk, Item, Reader};
use crate::audit::keys::AuditKeys;
use crate::canon::{Fields, Metadata};
use crate::ids::{EventId, JournalId, TenantId};
use crate::secret::Secret;
use crate::store::Store;
use crate::time::{SystemClock, Timestamp};

const SECRET: &str = "8f3a1c5e7b9d2f4068ac0e1357bd9f24a1b2c3d4e5f60718293a4b5c6d7e8f90";
const AT: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// A context of fixed names. Nothing is connected.
pub(super) fn context(database: &str, tenant: &str) -> Context {
    let options = PgConnectOptions::new_without_pgpass().database(database);
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    let tenant = TenantId::parse(tenant).unwrap();
    let store = Store::new(pool, tenant, Arc::new(SystemClock), Duration::from_secs(1));
    let keys = AuditKeys::single(Secret::parse(SECRET).unwrap());
    let journal = JournalId::parse("01987654-3210-7abc-8def-0123456789ab").unwrap();
    Context::new(&store, &keys).for_journal(journal)
}

/// Takes `bytes` as a line, as what stands between genuine lines, and as what a holder of the key
/// wants to say.
///
/// # Panics
///
/// If something that must hold does not.
pub fn journal_line(bytes: &[u8]) {
    let genuine = genuine();
    let context = &genuine.context;
    let mut fields = Fields::default();
    let known = genuine.lines.iter().any(|line| line == bytes);
    if let Some(line) = Line::read(context, bytes, &mut fields) {
        assert!(
            genuine.macs.contains(&line.mac),
            "a line that nobody wrote was read"
        );
    } else {
        assert!(
            !known || bytes == genuine.lines[0],
            "a genuine line was not read"
        );
    }
    let other = Header::under_another_key(context, bytes);
    assert!(other.is_none(), "a key that we do not have");
    if let Some((line, text)) = Line::rewritten(context, bytes) {
        let one = text
            .strip_suffix(b"\n")
            .filter(|text| !text.contains(&b'\n'));
        let back = one.and_then(|text| Line::read(context, text, &mut fields));
        let Some(back) = back else {
            panic!("what was written is not read");
        };
        assert_eq!(format!("{back:?}"), format!("{line:?}"));
    }
    file(genuine, bytes);
}

/// Lines of ours.
struct Genuine {
    context: Arc<Context>,
    /// The header, then the lines, without their ends.
    lines: Vec<Vec<u8>>,
    macs: Vec<[u8; 32]>,
}

fn genuine() -> &'static Genuine {
    static GENUINE: OnceLock<Genuine> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let runtime = Builder::new_current_thread().build().unwrap();
        let _entered = runtime.enter();
        let context = context("golden", "acme");
        let (mut lines, mut macs) = (vec![Vec::new()], vec![FIRST]);
        Header::write(&context, 1, 1, &FIRST, &mut lines[0]);
        for seq in 1..=3 {
            let note = Note {
                id: EventId::parse("01987654-3210-7abc-8def-000000000001").unwrap(),
                module: "cost".to_owned(),
                payload: Metadata::empty(),
            };
            let (mut fields, mut out) = (Fields::default(), Vec::new());
            let previous = *macs.last().unwrap();
            let said = Saying::Note(&note);
            let mac = Line::write(&context, said, (seq, AT), &previous, &mut fields, &mut out);
            macs.push(mac);
            lines.push(out);
        }
        for line in &mut lines {
            line.pop();
        }
        Genuine {
            context: Arc::new(context),
            lines,
            macs,
        }
    })
}

/// Reads a file with `bytes` in it, where each `ff` is the next genuine line.
fn file(genuine: &Genuine, bytes: &[u8]) {
    let mut text = Vec::new();
    let mut lines = genuine.lines.iter().cycle();
    for (n, part) in bytes.split(|byte| *byte == 0xff).enumerate() {
        if n > 0 {
            text.extend_from_slice(lines.next().map_or(&[], Vec::as_slice));
        }
        text.extend_from_slice(part);
    }
    let mut reader = Reader::new(Arc::clone(&genuine.context), true);
    let (mut found, mut aside, mut offset) = (Vec::new(), 0, 0);
    while offset < text.len() {
        let mut chunk = Chunk::default();
        reader.lines(&text[offset..], true, true, &mut chunk);
        let next = usize::try_from(reader.offset).unwrap_or(usize::MAX);
        assert!(
            offset < next && next <= text.len(),
            "nothing is read twice or passed over"
        );
        offset = next;
        for item in chunk.items {
            match item {
                Item::Line(_, text) => found.push(text),
                Item::Bad { .. } => aside += 1,
                Item::Hole { from, through } => assert!(from <= through),
                Item::Stray { .. } => {}
            }
        }
    }
    let genuine_line = |line: &&[u8]| genuine.lines[1..].iter().any(|ours| ours == line);
    let there: Vec<&[u8]> = text
        .split_inclusive(|byte| *byte == b'\n')
        .skip(1)
        .filter_map(|line| line.strip_suffix(b"\n"))
        .filter(genuine_line)
        .collect();
    let intact = found.iter().map(Vec::as_slice).filter(genuine_line);
    assert!(intact.eq(there), "what is intact is read, in its order");
    // Each other line is set aside; the first one is a header or nothing.
    let mut all = text.split_inclusive(|byte| *byte == b'\n');
    let header = all
        .clone()
        .next()
        .and_then(|line| Header::read(&genuine.context, line.strip_suffix(b"\n")?));
    let expected = found.len() + aside + usize::from(header.is_some());
    assert_eq!(expected, all.by_ref().count());
}
