//! Every SQL statement of the crate, prepared against the migrated schema: what `query!` would give,
//! without a database at build time.

use std::path::{Path, PathBuf};

use portcullis::store::TestDatabase;
use sqlx::Executor;

use crate::common::connect;

/// How many statements there are at least: were the reader below to go blind, this would show.
const AT_LEAST: usize = 40;

#[tokio::test]
async fn every_statement_fits_the_schema() {
    let test = TestDatabase::fresh().await.unwrap();
    let mut session = connect(&test.options()).await;
    let columns = columns_of_entries();
    let mut count = 0;
    let mut wrong = Vec::new();
    for file in store_files(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))) {
        let source = spelled_out(&std::fs::read_to_string(&file).unwrap(), &columns);
        for statement in literals(&source)
            .into_iter()
            .filter(|text| is_statement(text))
        {
            count += 1;
            let prepare = sqlx::AssertSqlSafe(format!("PREPARE probe AS {statement}"));
            match session.execute(prepare).await {
                Ok(_) => drop(session.execute("DEALLOCATE probe").await.unwrap()),
                Err(error) => {
                    let code = error
                        .as_database_error()
                        .and_then(|e| e.code().map(|c| c.to_string()));
                    // A parameter whose type only the driver's binding tells.
                    if code.as_deref() != Some("42P18") {
                        wrong.push(format!("{}: {error}\n{statement}", file.display()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(count >= AT_LEAST, "only {count} statements were found");
}

/// The list of columns that the macro `columns!` spells, without the alias.
fn columns_of_entries() -> Vec<String> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/src/audit/store/columns.rs");
    let pieces = literals(&std::fs::read_to_string(file).unwrap());
    let names = pieces.iter().filter_map(|piece| piece.strip_prefix('.'));
    let columns: Vec<String> = names
        .map(|name| name.trim_end_matches(", ").to_owned())
        .collect();
    assert!(
        columns.contains(&"mac".to_owned()),
        "the macro has another form: {columns:?}"
    );
    columns
}

/// The source with `columns!("e")` written out, and the pieces of a `concat!` joined.
fn spelled_out(source: &str, columns: &[String]) -> String {
    let mut out = without_macros(source);
    // What `previous!` asks for is prepared beside the macro, where its text is known.
    while let Some(at) = out.find("previous!(\"") {
        let (head, rest) = out.split_at(at);
        let (of, tail) = rest["previous!(\"".len()..].split_once("\")").unwrap();
        out = format!("{head}\"CASE WHEN {of} THEN e.mac END\"{tail}");
    }
    while let Some(at) = out.find("columns!(\"") {
        let (head, rest) = out.split_at(at);
        let (alias, tail) = rest["columns!(\"".len()..].split_once("\")").unwrap();
        let list: Vec<_> = columns
            .iter()
            .map(|column| format!("{alias}.{column}"))
            .collect();
        out = format!("{head}\"{}\"{tail}", list.join(", "));
    }
    // `"a", "b"` inside a concat! is one text.
    let mut joined = String::new();
    let mut rest = out.as_str();
    while let Some(at) = rest.find("concat!(") {
        let (head, tail) = rest.split_at(at);
        joined.push_str(head);
        let mut pieces = String::new();
        let mut composed = false;
        let mut inside = &tail["concat!(".len()..];
        loop {
            inside = inside.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            // What a macro makes is prepared beside it, as a whole.
            if let Some(tail) = inside.strip_prefix("advance!()") {
                (composed, inside) = (true, tail);
                continue;
            }
            let Some(body) = inside.strip_prefix('"') else {
                break;
            };
            let end = quoted_end(body);
            pieces.push_str(&body[..end]);
            inside = &body[end + 1..];
        }
        if !composed {
            joined.extend(["\"", pieces.as_str(), "\""]);
        }
        rest = inside;
    }
    joined + rest
}

/// The source without the bodies of its macros: what they make is prepared by
/// `audit::store::tests::every_composed_statement_fits_the_schema`.
fn without_macros(source: &str) -> String {
    let mut out = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("macro_rules! ") {
        let (head, tail) = rest.split_at(at);
        out.push_str(head);
        let end = tail.find("\n}\n").map_or(tail.len(), |end| end + 3);
        rest = &tail[end..];
    }
    out + rest
}

/// Every file that may hold SQL.
fn store_files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // The embedded cluster creates databases, which cannot be prepared.
            if path.file_name().unwrap() != "embedded" {
                found.extend(store_files(&path));
            }
        } else {
            let inside = path.components().any(|part| part.as_os_str() == "store");
            let named = path.file_name().unwrap() == "store.rs";
            let sql = path.extension().is_some_and(|extension| extension == "rs");
            if (inside || named) && sql && path.file_name().unwrap() != "testing.rs" {
                found.push(path);
            }
        }
    }
    found
}

fn is_statement(text: &str) -> bool {
    let first = text.split_whitespace().next().unwrap_or_default();
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"].contains(&first)
        && text.split_whitespace().count() > 2
}

/// The string literals of Rust source, comments left out.
fn literals(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut rest = source;
    while let Some(at) = rest.find(['"', '/', '\'']) {
        let (before, after) = rest.split_at(at);
        if after.starts_with("//") {
            rest = after.split_once('\n').map_or("", |(_, rest)| rest);
        } else if let Some(body) = after.strip_prefix('"') {
            let hashes = before.len() - before.trim_end_matches('#').len();
            let raw = before.trim_end_matches('#').ends_with('r');
            let end = if raw {
                raw_end(body, hashes)
            } else {
                quoted_end(body)
            };
            let (text, tail) = body.split_at(end.min(body.len()));
            found.push(if raw { text.to_owned() } else { unescape(text) });
            rest = tail.get(1 + if raw { hashes } else { 0 }..).unwrap_or("");
        } else if let Some(tail) = after.strip_prefix("'\"'") {
            rest = tail;
        } else {
            rest = &after[1..];
        }
    }
    found
}

fn raw_end(body: &str, hashes: usize) -> usize {
    body.find(&format!("\"{}", "#".repeat(hashes)))
        .unwrap_or(body.len())
}

fn quoted_end(body: &str) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    body.len()
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('\n')) => while chars.next_if(|c| c.is_whitespace()).is_some() {},
            ('\\', Some('n')) => {
                chars.next();
                out.push('\n');
            }
            ('\\', Some(_)) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[test]
fn literals_are_found_and_comments_are_not() {
    let source = "f(\"SELECT \\\"a\\\" \\\n   FROM t\"); // \"SELECT no\"\n r#\"WITH \"x\"\"#; '\"'; \"last\"";
    assert_eq!(
        literals(source),
        ["SELECT \"a\" FROM t", "WITH \"x\"", "last"]
    );
}
