//! The house rules, as tests: layers, sizes, where SQL may stand, what the manual promises.
//!
//! No database, milliseconds. Each rule is a function over text; next to the test that applies it to
//! the crate stands one that shows it bad samples.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::allow_attributes,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};

/// The layers, lowest first. A module may use itself and the layers below, never its neighbours
/// (save in layer 0, which is one room) and never a layer above.
const LAYERS: &[(&str, &[&str])] = &[
    (
        "L0",
        &[
            "ids", "random", "task", "time", "money", "secret", "canon", "call", "error", "usage",
            "tlog",
        ],
    ),
    ("L1", &["store"]),
    ("L2a", &["audit"]),
    ("L2b", &["halt"]),
    (
        "L3",
        &[
            "scope",
            "cost",
            "gates",
            "loops",
            "presence",
            "coverage",
            "policy",
            "identity",
            "registry",
            "declarations",
            "tenancy",
            "credentials",
            "detection",
        ],
    ),
    ("L4", &["contracts", "compliance", "analytics", "notify"]),
    (
        "L4b",
        &[
            "governance",
            "builder",
            "health",
            "parts",
            "permit",
            "posture",
        ],
    ),
    ("L5", &["adapters", "console", "bin", "blocking"]),
];
/// Modules without code.
const MANUAL: &str = "manual";
/// In these layers neighbours know each other: types without I/O, and the wiring.
const ONE_ROOM: &[&str] = &["L0", "L4b"];
/// These use what any host could use, and nothing else.
const EDGES: &str = "L5";

/// The longest a source file may be, in lines.
const LONGEST: usize = 500;

/// The checksums of the migrations that were released, which never change again. At a release, add
/// the lines of the new ones (`sha256sum migrations/*.sql`).
const RELEASED: &[(&str, &str)] = &[];

type Files = BTreeMap<String, String>;

// --- the rules, applied to this crate

#[test]
fn a_module_uses_only_lower_layers() {
    assert_none(&layer_faults(&rust_files("src")));
}

#[test]
fn every_source_file_is_short_and_says_what_it_is_for() {
    assert_none(&form_faults(&rust_files("src")));
}

#[test]
fn sql_stands_in_stores_and_says_what_it_reads_and_whose_clock_it_takes() {
    assert_none(&sql_faults(&rust_files("src")));
}

#[test]
fn every_guarantee_names_a_test_that_runs() {
    let mut sources = rust_files("src");
    sources.extend(rust_files("tests"));
    let path = Path::new("src/manual/guarantees.md");
    let manual = fs::read_to_string(path).expect("src/manual/guarantees.md");
    assert!(!promises(&manual).is_empty(), "the manual promises nothing");
    assert_none(&guarantee_faults(&manual, &sources));
}

#[test]
fn nothing_is_left_undone_or_left_out() {
    let mut sources = rust_files("src");
    for directory in ["tests", "benches", "examples"] {
        sources.extend(rust_files(directory));
    }
    assert_none(&undone_faults(&sources));
}

#[test]
fn every_migration_is_registered_and_no_released_one_changes() {
    let migrations = files("migrations", "sql");
    let registry = fs::read_to_string("src/store/migrate.rs").expect("the migrations' list");
    assert_none(&migration_faults(&migrations, &registry, RELEASED));
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

// --- layers

fn layer_of(module: &str) -> Option<usize> {
    LAYERS
        .iter()
        .position(|(_, modules)| modules.contains(&module))
}

fn layer_faults(sources: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    let root = sources
        .get("src/lib.rs")
        .map(|text| tokens(text))
        .unwrap_or_default();
    for (path, text) in sources {
        let place = module_path(path);
        let Some(module) = place.first() else {
            continue;
        };
        // A program of its own: it sees the library as any host does, and `crate` is itself.
        if module == MANUAL || module == "bin" {
            continue;
        }
        let Some(layer) = layer_of(module) else {
            faults.push(format!(
                "{path}: `{module}` has no layer; place it in LAYERS"
            ));
            continue;
        };
        for used in crate_paths(&tokens(text), place.len()) {
            let first = used.first().map_or("", String::as_str);
            // A name that is no module is the public interface of the crate's root.
            let other = layer_of(first);
            let fine = match other {
                _ if first == module => true,
                _ if LAYERS[layer].0 == EDGES => is_public(&used, &root, sources),
                Some(other) => {
                    other < layer || (other == layer && ONE_ROOM.contains(&LAYERS[layer].0))
                }
                None => false,
            };
            if !fine {
                let why = match other {
                    Some(other) if LAYERS[layer].0 != EDGES => {
                        format!("it is of {}", LAYERS[other].0)
                    }
                    _ if LAYERS[layer].0 == EDGES => "it is not public".to_owned(),
                    _ => "name the module that it is defined in".to_owned(),
                };
                let used = used.join("::");
                faults.push(format!(
                    "{path}: `{module}` may not use `crate::{used}`: {why}"
                ));
            }
        }
    }
    faults
}

/// Whether the first two steps of a path are public: the first in the crate's root, the second in
/// the module that the first one names.
fn is_public(used: &[String], root: &[Token], sources: &Files) -> bool {
    let Some(first) = used.first() else {
        return false;
    };
    if !public_names(root).contains(first) {
        return false;
    }
    let file = sources
        .get(&format!("src/{first}/mod.rs"))
        .or_else(|| sources.get(&format!("src/{first}.rs")));
    match (file, used.get(1)) {
        (Some(text), Some(second)) => public_names(&tokens(text)).contains(second),
        _ => true,
    }
}

/// The names that a file makes public: `pub mod x`, `pub struct X`, `pub use a::{B, C as D}`.
fn public_names(tokens: &[Token]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (i, token) in tokens.iter().enumerate() {
        if token.ident() != Some("pub") || tokens.get(i + 1).is_some_and(|t| t.is('(')) {
            continue;
        }
        let mut rest = tokens[i + 1..].iter().take_while(|t| !t.is(';')).peekable();
        if rest.peek().and_then(|t| t.ident()) == Some("use") {
            // Of `a::b as c` the last name counts; so does every name before `,` or `}`.
            let mut last = None;
            for token in rest {
                match token.ident() {
                    Some(name) => last = Some(name),
                    None if token.is(':') || token.is('{') => last = None,
                    None => names.extend(last.take().map(str::to_owned)),
                }
            }
            names.extend(last.map(str::to_owned));
        } else {
            let word = |name: &str| ["async", "const", "unsafe", "extern"].contains(&name);
            let mut idents = rest.filter_map(Token::ident).filter(|name| !word(name));
            if let (Some(_kind), Some(name)) = (idents.next(), idents.next()) {
                names.insert(name.to_owned());
            }
        }
    }
    names
}

/// What a file uses from the root of the crate: `crate::a::b`, groups of `use`, and `super` chains
/// that climb as far as the root. `depth` is how deep the file's module lies.
fn crate_paths(tokens: &[Token], depth: usize) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut braces = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let token = &tokens[i];
        let inner = braces.iter().filter(|is_module| **is_module).count();
        let continues = i > 0 && tokens[i - 1].is(':');
        let mut next = i + 1;
        if token.is('{') {
            braces.push(i >= 2 && tokens[i - 2].ident() == Some("mod"));
        } else if token.is('}') {
            braces.pop();
        } else if token.ident() == Some("crate") && !continues {
            if separator(tokens, i + 1) {
                collect(tokens, i + 3, &mut Vec::new(), &mut found);
            } else if tokens.get(i + 1).and_then(Token::ident) == Some("as") {
                // The crate under another name could be used unseen.
                found.push(vec!["crate as".to_owned()]);
            }
        } else if matches!(token.ident(), Some("super" | "self")) && !continues {
            let mut climbed = 0;
            let mut at = i;
            while matches!(
                tokens.get(at).and_then(Token::ident),
                Some("super" | "self")
            ) && separator(tokens, at + 1)
            {
                climbed += usize::from(tokens[at].ident() == Some("super"));
                at += 3;
            }
            if climbed > 0 && group_climbs(tokens, at) {
                found.push(vec!["super in a group".to_owned()]);
            } else if climbed > 0 && climbed >= depth + inner {
                collect(tokens, at, &mut Vec::new(), &mut found);
            }
            next = next.max(at);
        }
        i = next;
    }
    found
}

/// Whether a group of `use` that begins at token `i` has a `super` in it, which could climb on.
fn group_climbs(tokens: &[Token], i: usize) -> bool {
    tokens.get(i).is_some_and(|t| t.is('{'))
        && tokens[i..]
            .iter()
            .take_while(|t| !t.is(';'))
            .any(|t| t.ident() == Some("super"))
}

/// Follows a path, and into its groups, from token `i` on; returns where it ends.
fn collect(
    tokens: &[Token],
    mut i: usize,
    path: &mut Vec<String>,
    found: &mut Vec<Vec<String>>,
) -> usize {
    let start = path.len();
    loop {
        match tokens.get(i) {
            Some(token) if token.is('{') => {
                i += 1;
                while tokens.get(i).is_some_and(|t| !t.is('}')) {
                    let end = collect(tokens, i, path, found);
                    // `as name`, and the comma.
                    i = end.max(i + 1);
                    while tokens.get(i).is_some_and(|t| !t.is('}') && !t.is(',')) {
                        i += 1;
                    }
                    i += usize::from(tokens.get(i).is_some_and(|t| t.is(',')));
                }
                path.truncate(start);
                return i + 1;
            }
            Some(token) if token.ident().is_some() || token.is('*') => {
                path.push(token.ident().unwrap_or("*").to_owned());
                if separator(tokens, i + 1) {
                    i += 3;
                    continue;
                }
                found.push(path.clone());
                path.truncate(start);
                return i + 1;
            }
            _ => {
                path.truncate(start);
                return i;
            }
        }
    }
}

fn separator(tokens: &[Token], i: usize) -> bool {
    let colon = |i: usize| tokens.get(i).is_some_and(|t| t.is(':'));
    colon(i) && colon(i + 1)
}

/// `src/a/b.rs` is module `a::b`, `src/a/mod.rs` is `a`, `src/lib.rs` is none.
fn module_path(path: &str) -> Vec<String> {
    let steps = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut steps: Vec<String> = steps.split('/').map(str::to_owned).collect();
    if steps
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        steps.pop();
    }
    steps
}

// --- form

fn form_faults(sources: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources {
        let lines = text.lines().count();
        if path.ends_with("/tests.rs") {
            continue;
        }
        if lines > LONGEST {
            faults.push(format!(
                "{path}: {lines} lines; split it, {LONGEST} is the most"
            ));
        }
        let says = text.starts_with("//!") || text.starts_with("#![doc = include_str!(");
        if !says {
            faults.push(format!("{path}: does not begin with a module doc"));
        }
    }
    faults
}

// --- SQL

fn sql_faults(sources: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources {
        // Tests tamper with what stores keep.
        if path.ends_with("/tests.rs") || path.contains("/tests/") {
            continue;
        }
        let in_store = path.ends_with("/store.rs") || path.contains("/store/");
        let tokens = tokens(text);
        for (i, token) in tokens.iter().enumerate() {
            let runs = match token.ident() {
                Some("query" | "query_with") => i >= 3 && tokens[i - 3].ident() == Some("sqlx"),
                Some(name) => {
                    let others = [
                        "query_as",
                        "query_scalar",
                        "raw_sql",
                        "AssertSqlSafe",
                        "QueryBuilder",
                    ];
                    others.contains(&name) || (name.starts_with("copy_") && name.ends_with("_raw"))
                }
                None => false,
            };
            let imported = token.ident() == Some("use")
                && tokens.get(i + 1).and_then(Token::ident) == Some("sqlx")
                && tokens[i..]
                    .iter()
                    .take_while(|t| !t.is(';'))
                    .any(|t| t.ident() == Some("query"));
            if (runs || imported) && !in_store {
                faults.push(format!(
                    "{path}: SQL outside of a store; move it to store.rs"
                ));
            }
            if let Some(literal) = token.literal() {
                let health = path == "src/store/health.rs";
                faults.extend(
                    literal_faults(literal, health).map(|fault| format!("{path}: {fault}")),
                );
            }
        }
    }
    faults
}

fn literal_faults(literal: &str, may_read_clock: bool) -> impl Iterator<Item = &'static str> {
    let text = literal
        .to_lowercase()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    let first = text.split([' ', '(', ';']).next().unwrap_or_default();
    let verbs = [
        "select", "insert", "update", "delete", "with", "create", "copy", "alter", "merge", "set",
        "lock", "do", "values",
    ];
    let is_sql = verbs.contains(&first) && text.contains(' ');
    let stars = text.contains("select *") || text.contains(".* ") || text.contains(".*,");
    // `now()` is right where it is the second choice after the caller's time, and as a default.
    let mut bare = text.clone();
    for n in 1..=99 {
        bare = bare.replace(&format!("coalesce(${n}, now())"), "");
        bare = bare.replace(&format!("coalesce(${n}::timestamptz, now())"), "");
    }
    bare = bare.replace("default now()", "");
    let clocks = [
        "now()",
        "current_timestamp",
        "localtimestamp",
        "statement_timestamp()",
        "current_date",
    ];
    let clock = clocks.iter().any(|clock| bare.contains(clock))
        || (bare.contains("clock_timestamp()") && !may_read_clock);
    [
        (is_sql && stars).then_some("SQL with `*`; list the columns"),
        (is_sql && clock)
            .then_some("SQL with a bare clock; write coalesce($n, now()) or bind a time"),
    ]
    .into_iter()
    .flatten()
}

// --- guarantees

/// The list items of the manual, with the lines that continue them.
fn promises(manual: &str) -> Vec<String> {
    let mut items: Vec<String> = Vec::new();
    for line in manual.lines() {
        if line.starts_with("* ") || line.starts_with("- ") {
            items.push(line.to_owned());
        } else if line.starts_with("  ")
            && let Some(item) = items.last_mut()
        {
            item.push(' ');
            item.push_str(line.trim());
        }
    }
    items
}

fn guarantee_faults(manual: &str, sources: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for promise in promises(manual) {
        // Every second piece between backticks is in them.
        let named: Vec<&str> = promise
            .split('`')
            .skip(1)
            .step_by(2)
            .filter(|s| is_test_path(s))
            .collect();
        if named.is_empty() {
            faults.push(format!("names no test: {promise}"));
        }
        for name in named {
            if !test_exists(name, sources) {
                faults.push(format!("no test `{name}` that runs: {promise}"));
            }
        }
    }
    faults
}

/// `file::test_fn`, and not `Type::method` or other code.
fn is_test_path(text: &str) -> bool {
    let steps: Vec<&str> = text.split("::").collect();
    let is_step = |step: &&str| {
        !step.is_empty()
            && step
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let whole = ["it", "architecture", "crash"].contains(&steps[0]) || steps.contains(&"tests");
    steps.len() >= 2 && whole && steps.iter().all(is_step)
}

fn test_exists(name: &str, sources: &Files) -> bool {
    let Some((module, function)) = name.rsplit_once("::") else {
        return false;
    };
    let path = module.replace("::", "/");
    let inline = path.trim_end_matches("/tests");
    let candidates = [
        format!("tests/{path}.rs"),
        format!("tests/{path}/mod.rs"),
        format!("src/{path}.rs"),
        format!("src/{path}/mod.rs"),
        format!("src/{inline}.rs"),
        format!("src/{inline}/mod.rs"),
    ];
    let mut texts = candidates.iter().filter_map(|path| sources.get(path));
    texts.any(|text| is_running_test(&tokens(text), function))
}

/// Whether `function` is defined under a `#[test]` of some kind and not under `#[ignore]`.
fn is_running_test(tokens: &[Token], function: &str) -> bool {
    let defined = |i: &usize| {
        tokens[*i].ident() == Some("fn")
            && tokens.get(i + 1).and_then(Token::ident) == Some(function)
    };
    (0..tokens.len()).filter(defined).any(|at| {
        // The attributes are what lies between the item before and the function.
        let start = tokens[..at]
            .iter()
            .rposition(|t| t.is('}') || t.is(';') || t.is('{'));
        let attributes = &tokens[start.map_or(0, |start| start + 1)..at];
        let has = |word| attributes.iter().any(|t| t.ident() == Some(word));
        has("test") && !has("ignore") && !has("cfg")
    })
}

// --- what is left undone

fn undone_faults(sources: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for (path, text) in sources {
        let tokens = tokens(text);
        for (i, token) in tokens.iter().enumerate() {
            let Some(name @ ("todo" | "unimplemented" | "ignore")) = token.ident() else {
                continue;
            };
            let called = tokens.get(i + 1).is_some_and(|t| t.is('!'));
            let attribute = name == "ignore" && is_in_attribute(&tokens, i);
            if (called && name != "ignore") || attribute {
                faults.push(format!("{path}: `{name}`; finish it or take it out"));
            }
        }
    }
    faults
}

fn is_in_attribute(tokens: &[Token], at: usize) -> bool {
    let open = tokens[..at].iter().rposition(|t| t.is('['));
    open.is_some_and(|open| {
        open > 0 && tokens[open - 1].is('#') && !tokens[open..at].iter().any(|t| t.is(']'))
    })
}

// --- migrations

fn migration_faults(migrations: &Files, registry: &str, released: &[(&str, &str)]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut numbers = BTreeSet::new();
    for (path, text) in migrations {
        let file = path.rsplit('/').next().unwrap_or(path);
        let name = file.trim_end_matches(".sql");
        if name == "grants" {
            if !registry.contains("migrations/grants.sql\"") {
                faults.push(format!("{path}: not included by store/migrate.rs"));
            }
            continue;
        }
        let number = name.get(..4).and_then(|number| number.parse::<u32>().ok());
        match number {
            Some(number) if registry.contains(&format!("step!({number}, \"{name}\"")) => {
                if !numbers.insert(number) {
                    faults.push(format!("{path}: the number {number} is used twice"));
                }
            }
            Some(_) => faults.push(format!("{path}: not registered in store/migrate.rs")),
            None => faults.push(format!("{path}: name it NNNN_what.sql")),
        }
        let checksum = hex::encode(Sha256::digest(text));
        if let Some((_, kept)) = released.iter().find(|(released, _)| *released == file)
            && *kept != checksum
        {
            faults.push(format!(
                "{path}: was released and may not change; add a new migration"
            ));
        }
    }
    for (file, _) in released {
        if !migrations.contains_key(&format!("migrations/{file}")) {
            faults.push(format!("migrations/{file}: was released and may not go"));
        }
    }
    faults
}

// --- reading

fn rust_files(directory: &str) -> Files {
    files(directory, "rs")
}

fn files(directory: &str, extension: &str) -> Files {
    let mut found = Files::new();
    let mut open = vec![Path::new(directory).to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten() {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                let name = path.to_string_lossy().replace('\\', "/");
                found.insert(name, fs::read_to_string(path).expect("a readable file"));
            }
        }
    }
    found
}

/// A piece of Rust. Comments are none.
#[derive(Clone, Debug, PartialEq)]
enum Token {
    Ident(String),
    Literal(String),
    Mark(char),
}

impl Token {
    fn ident(&self) -> Option<&str> {
        match self {
            Self::Ident(name) => Some(name),
            _ => None,
        }
    }

    fn literal(&self) -> Option<&str> {
        match self {
            Self::Literal(text) => Some(text),
            _ => None,
        }
    }

    fn is(&self, mark: char) -> bool {
        *self == Self::Mark(mark)
    }
}

fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            while i < chars.len() {
                match (at(i), at(i + 1)) {
                    ('/', '*') => depth += 1,
                    ('*', '/') => depth -= 1,
                    _ => {
                        i += 1;
                        continue;
                    }
                }
                i += 2;
                if depth == 0 {
                    break;
                }
            }
        } else if is_name(c) {
            let start = i;
            while is_name(at(i)) {
                i += 1;
            }
            let name: String = chars[start..i].iter().collect();
            let hashes = chars[i..].iter().take_while(|c| **c == '#').count();
            if matches!(&*name, "r" | "br" | "cr") && at(i + hashes) == '"' {
                let (literal, end) = raw(&chars, i + hashes + 1, hashes);
                tokens.push(Token::Literal(literal));
                i = end;
            } else {
                tokens.push(Token::Ident(name));
            }
        } else if c == '"' {
            let start = i + 1;
            i = start;
            while i < chars.len() && chars[i] != '"' {
                i += 1 + usize::from(chars[i] == '\\');
            }
            let literal = chars[start..i.min(chars.len())].iter().collect();
            tokens.push(Token::Literal(literal));
            i += 1;
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character; otherwise it is a lifetime.
            i += 2 + usize::from(at(i + 1) == '\\');
            while i < chars.len() && chars[i] != '\'' {
                i += 1;
            }
            i += 1;
        } else {
            if !c.is_whitespace() {
                tokens.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    tokens
}

/// The text of a raw string from `start` on, and where it ends.
fn raw(chars: &[char], start: usize, hashes: usize) -> (String, usize) {
    let ends = |i: &usize| {
        let after = chars.get(i + 1..i + 1 + hashes);
        chars[*i] == '"' && after.is_some_and(|after| after.iter().all(|c| *c == '#'))
    };
    let end = (start..chars.len()).find(ends).unwrap_or(chars.len());
    (chars[start..end].iter().collect(), end + 1 + hashes)
}

// --- the rules bite

fn one(path: &str, text: &str) -> Files {
    Files::from([(path.to_owned(), text.to_owned())])
}

#[test]
fn edges_that_run_upwards_or_sideways_are_found() {
    for (path, text) in [
        ("src/scope/mod.rs", "use crate::cost::Cost;"),
        ("src/scope/mod.rs", "use crate::permit::Permit;"),
        (
            "src/scope/mod.rs",
            "use crate::{ids::AgentId, cost::{self, Budget}};",
        ),
        (
            "src/scope/mod.rs",
            "use crate::{\n    audit::{\n        Audit,\n    },\n    gates::Gates,\n};",
        ),
        ("src/scope/mod.rs", "use {std::fmt, crate::cost::Cost};"),
        ("src/scope/mod.rs", "fn f(x: &crate::cost::Cost) {}"),
        ("src/scope/mod.rs", "fn f() { crate::loops::f() }"),
        ("src/scope/mod.rs", "use super::cost::Cost;"),
        ("src/scope/mod.rs", "use self::super::cost::Cost;"),
        ("src/scope/store.rs", "use super::super::cost::Cost;"),
        ("src/scope/store.rs", "use super::super::{cost::Cost};"),
        (
            "src/scope/store.rs",
            "use super::{model::X, super::cost::Cost};",
        ),
        (
            "src/scope/mod.rs",
            "mod tests { use super::super::cost::Cost; }",
        ),
        ("src/scope/mod.rs", "use crate as us; use us::cost::Cost;"),
        ("src/scope/mod.rs", "use crate::AgentId;"),
        ("src/scope/mod.rs", "use crate::*;"),
        ("src/scope/mod.rs", "pub use crate::cost as money_gate;"),
        ("src/store/mod.rs", "use crate::audit::Audit;"),
        ("src/audit/mod.rs", "use crate::halt::Halt;"),
        ("src/ids.rs", "use crate::store::Store;"),
        ("src/newcomer.rs", "//! x"),
        ("src/newcomer/mod.rs", "//! x"),
        ("src/scope/mod.rs", "/* /* */ */ use crate::cost::Cost;"),
        (
            "src/scope/mod.rs",
            "const X: char = '\"'; use crate::cost::Cost; const Y: char = '\"';",
        ),
    ] {
        assert!(!layer_faults(&one(path, text)).is_empty(), "{text}");
    }
}

#[test]
fn edges_that_run_downwards_are_fine() {
    for (path, text) in [
        (
            "src/scope/mod.rs",
            "use crate::{audit::Audit, ids::{AgentId, TenantId as T}, store::{self, Store}};",
        ),
        (
            "src/scope/mod.rs",
            "use crate::halt::Halt; use crate::scope::model::X; use super::scope::X;",
        ),
        (
            "src/scope/store.rs",
            "use super::model::X; mod tests { use super::*; use super::super::X; }",
        ),
        (
            "src/ids.rs",
            "use crate::error::ErrorKind; mod tests { use super::*; }",
        ),
        (
            "src/ids.rs",
            "//! [`crate::cost`]\n/// [`crate::Governance`]\n// crate::cost\nconst X: &str = \"crate::cost\";",
        ),
        (
            "src/ids.rs",
            "const X: &str = r#\"a \" crate::cost \"#; fn f<'a>(x: &'a str) {}",
        ),
        (
            "src/permit.rs",
            "use crate::{cost::Cost, scope::Scope, governance::Governance};",
        ),
        ("src/lib.rs", "pub use crate::cost::Cost;"),
        (
            "src/scope/mod.rs",
            "pub(crate) fn f() {} pub(in crate::scope) fn g() {}",
        ),
    ] {
        assert_none(&layer_faults(&one(path, text)));
    }
}

#[test]
fn the_edges_of_the_crate_see_what_is_public_only() {
    let faults = |used: &str| {
        let mut crate_ = one("src/adapters/openai.rs", used);
        let root = "mod ids; pub mod audit; mod scope_inner; pub use ids::{AgentId, kind as k}; pub(crate) mod cost;";
        crate_.extend(one("src/lib.rs", root));
        let audit = "pub use model::{Entry, Receipt}; pub struct Audit; pub(crate) struct Draft; pub const fn f() {}";
        crate_.extend(one("src/audit/mod.rs", audit));
        layer_faults(&crate_).len()
    };
    for fine in [
        "use crate::AgentId;",
        "use crate::k;",
        "use crate::audit::{Audit, Entry, f};",
        "use crate::adapters::x;",
    ] {
        assert_eq!(faults(fine), 0, "{fine}");
    }
    for bad in [
        "use crate::ids::AgentId;",
        "use crate::kind;",
        "use crate::audit::Draft;",
        "use crate::cost;",
    ] {
        assert_eq!(faults(bad), 1, "{bad}");
    }
}

#[test]
fn long_and_silent_files_are_found() {
    let long = format!("//! x\n{}", "\n".repeat(LONGEST));
    assert_eq!(form_faults(&one("src/a.rs", &long)).len(), 1);
    assert_none(&form_faults(&one(
        "src/a/tests.rs",
        &long.replace("//! x", ""),
    )));
    assert_none(&form_faults(&one("src/a.rs", &"//! x\n".repeat(LONGEST))));
    assert_eq!(form_faults(&one("src/a.rs", "use x;\n//! x")).len(), 1);
    assert_eq!(form_faults(&one("src/a.rs", "")).len(), 1);
}

#[test]
fn sql_in_the_wrong_place_or_form_is_found() {
    for bad in [
        "sqlx::query(\"x\")",
        "sqlx::query_as::<_, X>(\"x\")",
        "query_scalar(\"x\")",
        "sqlx::raw_sql(X)",
        "c.copy_in_raw(X)",
        "use sqlx::{query, Row}; query(X)",
        "sqlx::AssertSqlSafe(x)",
    ] {
        assert_eq!(sql_faults(&one("src/scope/mod.rs", bad)).len(), 1, "{bad}");
        assert_none(&sql_faults(&one("src/scope/store.rs", bad)));
        assert_none(&sql_faults(&one("src/audit/store/read.rs", bad)));
    }
    assert_none(&sql_faults(&one(
        "src/scope/url.rs",
        "url.query(); // sqlx::query\nlet query_as_x = \"sqlx::query\";",
    )));
    for bad in [
        "\"SELECT * FROM t\"",
        "\"select\n  *  FROM t\"",
        "\"SELECT t.* FROM t\"",
        "r\"SELECT a.*, b FROM t\"",
        "\"UPDATE t SET a = now()\"",
        "\"SELECT a FROM t WHERE b < CURRENT_TIMESTAMP\"",
        "\"UPDATE t SET a = coalesce(b, now())\"",
        "\"SELECT clock_timestamp()\"",
        "\"WITH x AS (SELECT 1) SELECT coalesce($1, now()), now()\"",
    ] {
        assert_eq!(
            sql_faults(&one("src/scope/store.rs", bad)).len(),
            1,
            "{bad}"
        );
    }
    for fine in [
        "\"SELECT count(*) FROM t\"",
        "\"UPDATE t SET a = coalesce($12, now())\"",
        "\"SELECT coalesce($1::timestamptz, now())\"",
        "\"CREATE TABLE t (a timestamptz DEFAULT now())\"",
        "\"call now() later\"",
    ] {
        assert_none(&sql_faults(&one("src/scope/store.rs", fine)));
    }
    assert_none(&sql_faults(&one(
        "src/store/health.rs",
        "\"SELECT clock_timestamp()\"",
    )));
}

#[test]
fn a_guarantee_without_a_running_test_is_found() {
    let mut sources = one(
        "tests/it/a.rs",
        "#[tokio::test(flavor = \"x\")]\nasync fn runs() {}\n\n#[test]\n#[ignore]\nfn sleeps() {}\nfn helper() {}\n// fn comment() {}",
    );
    sources.extend(one(
        "src/a/tests.rs",
        "proptest! {\n #![x]\n /// x\n #[test]\n fn p(x in 0..1) {} }",
    ));
    sources.extend(one(
        "src/b.rs",
        "mod tests { #[test] fn t() {} #[cfg(any())] #[test] fn off() {} }",
    ));
    let faults = |line: &str| guarantee_faults(line, &sources).len();
    for fine in [
        "* x: `it::a::runs`",
        "- `Type::method` does x: `a::tests::p`",
        "* x `b::tests::t`, `it::a::runs`",
        "* x\n  and y `b::tests::t`",
        "x without a test, but no list item",
    ] {
        assert_eq!(faults(fine), 0, "{fine}");
    }
    for bad in [
        "* x",
        "* `Type::method`",
        "* `it::a::sleeps`",
        "* `it::a::helper`",
        "* `it::a::comment`",
        "* `it::a::gone`",
        "* `it::gone::runs`",
        "* `b::tests::off`",
        "* `it::a::runs` and `it::a::gone`",
    ] {
        assert_eq!(faults(bad), 1, "{bad}");
    }
}

#[test]
fn what_is_left_undone_is_found() {
    for bad in [
        "fn f() { todo!() }",
        "fn f() { unimplemented!(\"x\") }",
        "#[ignore]\nfn f() {}",
        "#[ignore = \"x\"]\nfn f() {}",
        "#[cfg_attr(x, ignore)]\nfn f() {}",
    ] {
        assert_eq!(undone_faults(&one("src/a.rs", bad)).len(), 1, "{bad}");
    }
    for fine in [
        "// todo!()",
        "\"todo!()\"",
        "let todo = x[ignore];",
        "fn ignore() {}",
        "#[x] fn f() { a[0]; ignore() }",
    ] {
        assert_none(&undone_faults(&one("src/a.rs", fine)));
    }
}

#[test]
fn a_forgotten_or_changed_migration_is_found() {
    let registry =
        "step!(1, \"0001_a\", x), step!(2, \"0002_b\", x), include_str!(\"migrations/grants.sql\")";
    let sum = hex::encode(Sha256::digest("x"));
    let check = |files: &[&str], released: &[(&str, &str)]| {
        let text = |file: &&str| (format!("migrations/{file}"), "x".to_owned());
        migration_faults(&files.iter().map(text).collect(), registry, released).len()
    };
    assert_eq!(
        check(
            &["0001_a.sql", "0002_b.sql", "grants.sql"],
            &[("0001_a.sql", &sum)]
        ),
        0
    );
    assert_eq!(check(&["0003_c.sql"], &[]), 1);
    assert_eq!(check(&["0002_a.sql"], &[]), 1);
    assert_eq!(check(&["notes.sql"], &[]), 1);
    assert_eq!(check(&["0001_a.sql"], &[("0001_a.sql", "00")]), 1);
    assert_eq!(check(&["0002_b.sql"], &[("0001_a.sql", &sum)]), 1);
}
