//! What is done to a trail, and exactly what must be found: the list, as data.

use portcullis::audit::FindingClass::{
    self, BadMac, Checkpoint, Encoding, Fork, Gap, Journal, KeyWindow, Rollback, Rotation,
    Signature, Time, Truncated, UnknownKey,
};

/// A class, a chain (0 is the tree over all of them) and a place.
pub(super) type Found = (FindingClass, u32, u64);

/// One mutation.
#[derive(Clone, Copy)]
pub(super) struct Mutation {
    pub(super) group: &'static str,
    pub(super) how: How,
    /// All that must be found, and nothing else.
    pub(super) found: &'static [Found],
    /// The tree is torn: more may be said of it.
    pub(super) more: bool,
}

/// How it is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum How {
    /// A column of an evidence table is set, in one row.
    Column(&'static str, &'static str, &'static str),
    /// Statements of somebody who may do everything in the database, and has no key.
    Sql(&'static str),
    /// The same, by somebody who stole the chain's keys: the chain is written anew from a place on.
    Thief(&'static str, i32, i64),
    /// A row that waits in the outbox is changed; the writer must refuse it.
    Outbox(&'static str, &'static str),
    /// The keyring is changed: writers must refuse to write.
    Keyring(&'static str, &'static str),
    /// Lines of a journal's file are changed before it is drained. The places are lines.
    Lines(&'static str, fn(&mut Vec<String>)),
}

const fn column(
    column: &'static str,
    value: &'static str,
    at: &'static str,
    found: &'static [Found],
) -> Mutation {
    Mutation {
        group: "a changed column",
        how: How::Column(column, value, at),
        found,
        more: false,
    }
}

const fn sql(group: &'static str, text: &'static str, found: &'static [Found]) -> Mutation {
    Mutation {
        group,
        how: How::Sql(text),
        found,
        more: false,
    }
}

const fn thief(
    group: &'static str,
    text: &'static str,
    (chain_no, from): (i32, i64),
    found: &'static [Found],
) -> Mutation {
    Mutation {
        group,
        how: How::Thief(text, chain_no, from),
        found,
        more: false,
    }
}

/// A change after which the stored tree does not hold together.
const fn torn(mutation: Mutation) -> Mutation {
    Mutation {
        more: true,
        ..mutation
    }
}

const fn outbox(name: &'static str, value: &'static str) -> Mutation {
    Mutation {
        group: "a changed column",
        how: How::Outbox(name, value),
        found: &[],
        more: false,
    }
}

const fn keyring(name: &'static str, text: &'static str) -> Mutation {
    Mutation {
        group: "a changed column",
        how: How::Keyring(name, text),
        found: &[],
        more: false,
    }
}

const fn lines(
    name: &'static str,
    change: fn(&mut Vec<String>),
    found: &'static [Found],
) -> Mutation {
    Mutation {
        group: "a journal's file",
        how: How::Lines(name, change),
        found,
        more: false,
    }
}

/// An entry under a checkpoint, as a link and as a leaf.
const BOTH: &[Found] = &[(BadMac, 2, 6), (Checkpoint, 2, 6)];
/// The same where the entry cannot be read.
const TORN: &[Found] = &[(Encoding, 2, 6), (Checkpoint, 2, 6)];
const AT: &str = "chain_no = 2 AND seq = 6";
/// The checkpoint that is not kept elsewhere.
const FIRST: &str = "size = (SELECT min(size) FROM portcullis.checkpoints)";
const HEAD: &str = "chain_no = 2";
const NOTHING: &[Found] = &[];

/// What cannot be found, because it is no evidence: who holds a chain and until when, and what is
/// there for people.
pub(super) const OPERATIONAL: &[&str] = &[
    "chains.epoch",
    "chains.holder",
    "chains.lease_until",
    "chains.stopped",
    "checkpoints.made_at",
    "keyring.reason",
    "keyring.retired_at",
    "keyring.since",
    "keyring.started_at",
    "outbox.queued_at",
    "outbox.tenant_id",
    "keyring.tenant_id",
];

pub(super) const MUTATIONS: &[Mutation] = &[
    // Entries, column by column; the one that is changed has everything.
    column(
        "entries.tenant_id",
        "'other'",
        AT,
        &[(Gap, 2, 6), (Checkpoint, 2, 6)],
    ),
    column(
        "entries.chain_no",
        "9",
        AT,
        &[
            (Gap, 2, 6),
            (Gap, 9, 1),
            (Truncated, 4, 1),
            (Truncated, 9, 7),
            (Checkpoint, 2, 6),
        ],
    ),
    column(
        "entries.seq",
        "99",
        AT,
        &[(Gap, 2, 6), (Checkpoint, 2, 6), (BadMac, 2, 99)],
    ),
    column(
        "entries.key_id",
        "7",
        AT,
        &[(UnknownKey, 2, 6), (Checkpoint, 2, 6)],
    ),
    column("entries.kind", "'app.other'", AT, BOTH),
    column(
        "entries.occurred_at",
        "occurred_at + interval '1 microsecond'",
        AT,
        BOTH,
    ),
    column(
        "entries.recorded_at",
        "recorded_at - interval '1 microsecond'",
        AT,
        BOTH,
    ),
    column("entries.event_id", "gen_random_uuid()", AT, BOTH),
    column("entries.session_id", "'other'", AT, BOTH),
    column("entries.agent_id", "'other'", AT, BOTH),
    column("entries.user_id", "NULL", AT, BOTH),
    column("entries.agent_key", "'\\x01'", AT, BOTH),
    column("entries.parent_id", "NULL", AT, BOTH),
    column("entries.model", "'other'", AT, BOTH),
    column("entries.input_hash", "sha256('x')", AT, BOTH),
    column("entries.output_hash", "NULL", AT, BOTH),
    column("entries.decision", "'deny'", AT, BOTH),
    column("entries.metadata", "metadata || ' '", AT, BOTH),
    column("entries.metadata", "NULL", AT, TORN),
    column("entries.sealed", "sha256('x')", AT, BOTH),
    column("entries.ingest", "'import'", AT, BOTH),
    column("entries.origin_journal", "gen_random_uuid()", AT, BOTH),
    column("entries.origin_seq", "1", AT, BOTH),
    column("entries.origin_mac", "sha256('x')", AT, BOTH),
    column("entries.mac", "sha256('x')", AT, BOTH),
    column("entries.signature", "sha512('x')", AT, &[(Signature, 2, 6)]),
    // Identity: the entry that says whose a key is, and what that key signed.
    column(
        "entries.metadata",
        "replace(metadata, 'ed25519', 'ed25518')",
        "kind = 'identity.key_registered'",
        &[
            (BadMac, 1, 10),
            (Checkpoint, 1, 10),
            (Signature, 1, 11),
            (Signature, 1, 15),
            (Signature, 1, 17),
        ],
    ),
    column(
        "entries.signature",
        "set_byte(signature, 9, get_byte(signature, 9) # 1)",
        "chain_no = 1 AND seq = 11",
        &[(Signature, 1, 11)],
    ),
    column(
        "entries.signature",
        "NULL",
        "chain_no = 1 AND seq = 11",
        &[(Signature, 1, 11)],
    ),
    // Heads.
    column("chains.tenant_id", "'other'", HEAD, &[(Truncated, 2, 17)]),
    column(
        "chains.chain_no",
        "9",
        HEAD,
        &[(Truncated, 2, 17), (Truncated, 4, 1), (Truncated, 9, 1)],
    ),
    column("chains.key_id", "1", HEAD, &[(KeyWindow, 2, 16)]),
    column(
        "chains.next_seq",
        "next_seq - 1",
        HEAD,
        &[(Rollback, 2, 16)],
    ),
    column(
        "chains.next_seq",
        "next_seq + 1",
        HEAD,
        &[(Truncated, 2, 17)],
    ),
    column("chains.head_mac", "sha256('x')", HEAD, &[(Fork, 2, 16)]),
    column(
        "chains.recorded_at",
        "recorded_at - interval '1 day'",
        HEAD,
        &[(Time, 2, 16)],
    ),
    column("chains.epoch", "epoch + 1", HEAD, NOTHING),
    column("chains.holder", "gen_random_uuid()", HEAD, NOTHING),
    column(
        "chains.lease_until",
        "now() + interval '1 day'",
        HEAD,
        NOTHING,
    ),
    column("chains.stopped", "true", HEAD, NOTHING),
    // Checkpoints.
    column(
        "checkpoints.tenant_id",
        "'other'",
        FIRST,
        &[(Checkpoint, 0, 36)],
    ),
    column(
        "checkpoints.size",
        "size - 1",
        FIRST,
        &[(Checkpoint, 0, 36), (Checkpoint, 0, 46)],
    ),
    column(
        "checkpoints.root",
        "sha256('x')",
        FIRST,
        &[(Checkpoint, 0, 36), (Checkpoint, 0, 36)],
    ),
    column(
        "checkpoints.note",
        "replace(note, 'audit', 'audiT')",
        FIRST,
        &[(Checkpoint, 0, 36)],
    ),
    column(
        "checkpoints.made_at",
        "made_at - interval '1 day'",
        FIRST,
        NOTHING,
    ),
    // Ranges.
    torn(column(
        "checkpoint_ranges.tenant_id",
        "'other'",
        "first_leaf = 0",
        &[(Checkpoint, 2, 1)],
    )),
    column(
        "checkpoint_ranges.first_leaf",
        "1",
        "first_leaf = 0",
        &[(Checkpoint, 1, 1)],
    ),
    torn(column(
        "checkpoint_ranges.chain_no",
        "7",
        "first_leaf = 0",
        &[(Checkpoint, 1, 13), (Checkpoint, 7, 1)],
    )),
    torn(column(
        "checkpoint_ranges.from_seq",
        "2",
        "first_leaf = 0",
        &[(Checkpoint, 1, 2)],
    )),
    torn(column(
        "checkpoint_ranges.to_seq",
        "to_seq - 1",
        "first_leaf = 0",
        &[(Checkpoint, 1, 11), (Checkpoint, 1, 13)],
    )),
    torn(column(
        "checkpoint_ranges.to_seq",
        "9223372036854775807",
        "first_leaf = 0",
        &[(Checkpoint, 1, 13)],
    )),
    column(
        "checkpoint_ranges.to_mac",
        "sha256('x')",
        "first_leaf = 0",
        &[(Checkpoint, 1, 12)],
    ),
    // Tiles.
    torn(column(
        "tree_tiles.tenant_id",
        "'other'",
        "level = 0",
        &[
            (Checkpoint, 0, 0),
            (Checkpoint, 1, 1),
            (Checkpoint, 2, 1),
            (Checkpoint, 3, 1),
        ],
    )),
    torn(column(
        "tree_tiles.level",
        "3",
        "level = 0",
        &[
            (Checkpoint, 0, 0),
            (Checkpoint, 1, 1),
            (Checkpoint, 2, 1),
            (Checkpoint, 3, 1),
        ],
    )),
    torn(column(
        "tree_tiles.tile_no",
        "9",
        "level = 0",
        &[
            (Checkpoint, 0, 0),
            (Checkpoint, 1, 1),
            (Checkpoint, 2, 1),
            (Checkpoint, 3, 1),
        ],
    )),
    column(
        "tree_tiles.hashes",
        "set_byte(hashes, 160, get_byte(hashes, 160) # 1)",
        "level = 0",
        &[(Checkpoint, 1, 6)],
    ),
    column(
        "tree_tiles.hashes",
        "hashes || sha256('x')",
        "level = 0",
        &[(Checkpoint, 0, 0)],
    ),
    column(
        "tree_tiles.hashes",
        "hashes || '\\x00'",
        "level = 0",
        &[(Checkpoint, 0, 0)],
    ),
    // The tree's own row.
    column("trees.tenant_id", "'other'", "true", &[(Checkpoint, 0, 46)]),
    column("trees.origin", "'other'", "true", &[(Checkpoint, 0, 46)]),
    column("trees.size", "size - 1", "true", &[(Checkpoint, 0, 46)]),
    column("trees.root", "sha256('x')", "true", &[(Checkpoint, 0, 46)]),
    // The outbox.
    outbox("outbox.place", "gen_random_uuid()"),
    outbox("outbox.event_id", "gen_random_uuid()"),
    outbox("outbox.key_id", "7"),
    outbox("outbox.kind", "'app.other'"),
    outbox(
        "outbox.occurred_at",
        "occurred_at + interval '1 microsecond'",
    ),
    outbox("outbox.occurred_given", "NOT occurred_given"),
    outbox("outbox.session_id", "'other'"),
    outbox("outbox.agent_id", "'other'"),
    outbox("outbox.user_id", "'other'"),
    outbox("outbox.agent_key", "sha256('x')"),
    outbox("outbox.parent_id", "gen_random_uuid()"),
    outbox("outbox.model", "'other'"),
    outbox("outbox.input_hash", "sha256('x')"),
    outbox("outbox.output_hash", "sha256('x')"),
    outbox("outbox.decision", "'deny'"),
    outbox("outbox.metadata", "'{}'"),
    outbox("outbox.signature", "sha512('x')"),
    outbox("outbox.mac", "sha256('x')"),
    // The keyring.
    keyring(
        "keyring.key_id",
        "UPDATE portcullis.keyring SET key_id = 7 WHERE key_id = 2",
    ),
    keyring(
        "keyring.salt",
        "UPDATE portcullis.keyring SET salt = substring(sha256('x') FROM 1 FOR 16) WHERE key_id = 2",
    ),
    keyring(
        "keyring.fingerprint",
        "UPDATE portcullis.keyring SET fingerprint = substring(sha256('x') FROM 1 FOR 16) WHERE key_id = 2",
    ),
    keyring(
        "keyring set back",
        "UPDATE portcullis.keyring SET retired_at = now(), reason = 'planned' WHERE key_id = 2; UPDATE portcullis.keyring SET retired_at = NULL, reason = NULL, since = NULL WHERE key_id = 1",
    ),
    // Rows deleted, inserted, swapped, duplicated, moved.
    sql(
        "a deleted row",
        "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq = 1",
        &[(Gap, 2, 1), (Checkpoint, 2, 1)],
    ),
    sql(
        "a deleted row",
        "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq = 6",
        &[(Gap, 2, 6), (Checkpoint, 2, 6)],
    ),
    sql(
        "a deleted row",
        "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq = 16",
        &[(Truncated, 2, 16)],
    ),
    sql(
        "a deleted row",
        "DELETE FROM portcullis.entries WHERE chain_no = 3 AND seq BETWEEN 2 AND 12",
        &[(Gap, 3, 2), (Rotation, 3, 14), (Checkpoint, 3, 2)],
    ),
    sql(
        "a deleted row",
        "DELETE FROM portcullis.checkpoints WHERE size = (SELECT min(size) FROM portcullis.checkpoints)",
        &[(Checkpoint, 0, 36)],
    ),
    torn(sql(
        "a deleted row",
        "DELETE FROM portcullis.checkpoint_ranges WHERE first_leaf = 0",
        &[(Checkpoint, 2, 1)],
    )),
    torn(sql(
        "a deleted row",
        "DELETE FROM portcullis.tree_tiles",
        &[
            (Checkpoint, 0, 0),
            (Checkpoint, 1, 1),
            (Checkpoint, 2, 1),
            (Checkpoint, 3, 1),
        ],
    )),
    sql(
        "a deleted row",
        "DELETE FROM portcullis.trees",
        &[(Checkpoint, 0, 46)],
    ),
    sql(
        "an inserted row",
        "CREATE TEMP TABLE t AS SELECT * FROM portcullis.entries WHERE chain_no = 2 AND seq = 6; UPDATE t SET seq = 17, event_id = gen_random_uuid(); INSERT INTO portcullis.entries SELECT * FROM t; DROP TABLE t",
        &[(BadMac, 2, 17)],
    ),
    sql(
        "swapped rows",
        "UPDATE portcullis.entries SET seq = 100 WHERE chain_no = 2 AND seq = 6; UPDATE portcullis.entries SET seq = 6 WHERE chain_no = 2 AND seq = 7; UPDATE portcullis.entries SET seq = 7 WHERE chain_no = 2 AND seq = 100",
        &[(BadMac, 2, 6), (BadMac, 2, 7), (Checkpoint, 2, 6)],
    ),
    sql(
        "a row in two places",
        "INSERT INTO portcullis.entries SELECT * FROM portcullis.entries WHERE chain_no = 2 AND seq = 6",
        &[(Fork, 2, 6)],
    ),
    sql(
        "a row of another chain",
        "UPDATE portcullis.entries SET chain_no = 3, seq = 16 WHERE chain_no = 2 AND seq = 6",
        &[(Gap, 2, 6), (Checkpoint, 2, 6), (BadMac, 3, 16)],
    ),
    // Tails, chains and everything, with their heads.
    sql(
        "a tail cut off with its head",
        "DELETE FROM portcullis.entries WHERE chain_no = 2 AND seq > 14; UPDATE portcullis.chains c SET next_seq = 15, head_mac = e.mac, recorded_at = e.recorded_at, key_id = e.key_id FROM portcullis.entries e WHERE c.chain_no = 2 AND e.chain_no = 2 AND e.seq = 14",
        &[(Checkpoint, 2, 15)],
    ),
    sql(
        "a chain gone with its head",
        "DELETE FROM portcullis.entries WHERE chain_no = 3; DELETE FROM portcullis.chains WHERE chain_no = 3",
        &[(Checkpoint, 3, 1)],
    ),
    sql(
        "everything gone",
        "DELETE FROM portcullis.entries; DELETE FROM portcullis.chains; DELETE FROM portcullis.checkpoints; DELETE FROM portcullis.checkpoint_ranges; DELETE FROM portcullis.tree_tiles; DELETE FROM portcullis.trees",
        &[(Truncated, 0, 1)],
    ),
    sql("a restored backup", "SELECT 'older'", &[(Rollback, 0, 37)]),
    // With the chain's keys stolen: no MAC is wrong any more.
    thief(
        "written anew with the keys",
        "UPDATE portcullis.entries SET decision = 'deny' WHERE chain_no = 2 AND seq = 6",
        (2, 6),
        &[(Checkpoint, 2, 6)],
    ),
    thief(
        "written anew with the keys",
        "DELETE FROM portcullis.entries WHERE chain_no = 3 AND seq = 12; UPDATE portcullis.entries SET seq = -seq WHERE chain_no = 3 AND seq > 12; UPDATE portcullis.entries SET seq = -seq - 1 WHERE chain_no = 3 AND seq < 0",
        (3, 12),
        &[
            (Checkpoint, 3, 12),
            (Checkpoint, 3, 13),
            (Checkpoint, 3, 15),
        ],
    ),
    // Rotations.
    sql(
        "rotation abuse",
        "DELETE FROM portcullis.entries WHERE chain_no = 3 AND seq IN (13, 14)",
        &[(Gap, 3, 13), (Rotation, 3, 15), (Checkpoint, 3, 13)],
    ),
    thief(
        "rotation abuse",
        "UPDATE portcullis.entries SET key_id = 1 WHERE chain_no = 3 AND seq = 15; UPDATE portcullis.chains SET key_id = 1 WHERE chain_no = 3",
        (3, 15),
        &[(KeyWindow, 3, 15), (KeyWindow, 3, 15), (Checkpoint, 3, 15)],
    ),
    // Numbers and encodings.
    sql(
        "an edited number",
        "UPDATE portcullis.entries SET metadata = replace(metadata, '9007199254740991', '9007199254740990') WHERE chain_no = 1 AND seq = 11",
        &[(BadMac, 1, 11), (Checkpoint, 1, 11)],
    ),
    sql(
        "an edited number",
        "UPDATE portcullis.entries SET metadata = replace(metadata, '9007199254740991', '9007199254740993') WHERE chain_no = 1 AND seq = 11",
        &[(BadMac, 1, 11), (Checkpoint, 1, 11)],
    ),
    thief(
        "an edited number",
        "UPDATE portcullis.entries SET metadata = replace(metadata, '9007199254740991', '9007199254740992') WHERE chain_no = 1 AND seq = 17",
        (1, 17),
        &[(Encoding, 1, 17), (Signature, 1, 17)],
    ),
    thief(
        "an edited number",
        "UPDATE portcullis.entries SET metadata = replace(metadata, '9007199254740991', '9007199254740993') WHERE chain_no = 1 AND seq = 17",
        (1, 17),
        &[(Encoding, 1, 17), (Signature, 1, 17)],
    ),
    sql(
        "another encoding of the same",
        "UPDATE portcullis.entries SET metadata = replace(metadata, ',', ', ') WHERE chain_no = 2 AND seq = 6",
        BOTH,
    ),
    sql(
        "another encoding of the same",
        "UPDATE portcullis.entries SET session_id = '', decision = session_id || decision WHERE chain_no = 2 AND seq = 6",
        BOTH,
    ),
    thief(
        "another encoding of the same",
        "UPDATE portcullis.entries SET metadata = replace(metadata, ',', ', ') WHERE chain_no = 2 AND seq = 16",
        (2, 16),
        &[(Encoding, 2, 16)],
    ),
    // Time.
    thief(
        "time going backwards",
        "UPDATE portcullis.entries SET recorded_at = recorded_at - interval '1 hour' WHERE chain_no = 2 AND seq = 16",
        (2, 16),
        &[(Time, 2, 16)],
    ),
    // Journals, as the trail tells of them.
    thief(
        "a journal's lines on record",
        "UPDATE portcullis.entries SET ingest = 'live', origin_journal = NULL, origin_seq = NULL, origin_mac = NULL WHERE chain_no = 1 AND seq = 5",
        (1, 5),
        &[(Checkpoint, 1, 5), (Journal, 1, 6)],
    ),
    thief(
        "a journal's lines on record",
        "UPDATE portcullis.entries SET origin_seq = 3 WHERE chain_no = 1 AND seq = 5",
        (1, 5),
        &[(Checkpoint, 1, 5), (Journal, 1, 5), (Journal, 1, 6)],
    ),
    thief(
        "a journal's lines on record",
        "UPDATE portcullis.entries SET kind = 'app.other' WHERE kind = 'chain.degraded_end'",
        (1, 9),
        &[(Checkpoint, 1, 9), (Journal, 1, 2)],
    ),
    // A journal's file, before it is drained: header, start of the outage, eight events.
    lines(
        "an edited line",
        |lines| lines[4] = lines[4].replace("\"n\\\":2", "\"n\\\":7"),
        &[(Journal, 0, 4)],
    ),
    lines(
        "a dropped line",
        |lines| drop(lines.remove(4)),
        &[(Journal, 0, 4)],
    ),
    lines(
        "a replayed line",
        |lines| lines.push(lines[4].clone()),
        &[(Journal, 0, 4)],
    ),
    lines(
        "swapped lines",
        |lines| lines.swap(4, 5),
        &[(Journal, 0, 4), (Journal, 0, 4)],
    ),
    lines(
        "a line of one's own",
        |lines| lines.push("{\"seq\":10}".to_owned()),
        &[(Journal, 0, 10)],
    ),
    lines(
        "an edited first line",
        |lines| lines[0] = lines[0].replace("\"first\":1", "\"first\":2"),
        &[(Journal, 0, 0)],
    ),
];
