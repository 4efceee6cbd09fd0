-- What a batch of appended entries differs in, as one row: the program sends an array of them. The
-- order is the program's; a program that sends other fields brings a type of another name.

CREATE TYPE portcullis.new_entry AS (
    kind           text COLLATE "C",
    occurred_at    timestamptz,
    event_id       uuid,
    session_id     text COLLATE "C",
    agent_id       text COLLATE "C",
    user_id        text COLLATE "C",
    parent_id      uuid,
    model          text COLLATE "C",
    input_hash     bytea,
    output_hash    bytea,
    decision       text COLLATE "C",
    metadata       text COLLATE "C",
    mac            bytea,
    ingest         text COLLATE "C",
    agent_key      bytea,
    signature      bytea,
    origin_journal uuid,
    origin_seq     bigint,
    origin_mac     bytea
);
