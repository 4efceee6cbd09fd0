-- The audit trail: chains of entries, one chain per writer.

CREATE TABLE portcullis.chains (
    tenant_id   text        NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    chain_no    integer     NOT NULL CHECK (chain_no > 0),
    -- Counts the claims; a writer that was paused past its lease is fenced by it.
    epoch       bigint      NOT NULL CHECK (epoch > 0),
    -- The writer that holds the chain, for people; the epoch decides.
    holder      uuid        NOT NULL,
    lease_until timestamptz NOT NULL,
    key_id      bigint      NOT NULL CHECK (key_id BETWEEN 1 AND 4294967295),
    next_seq    bigint      NOT NULL CHECK (next_seq > 0),
    head_mac    bytea       NOT NULL CHECK (length(head_mac) = 32),
    recorded_at timestamptz NOT NULL,
    -- Set for ever when the head was found not to be where its writer left it.
    stopped     boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, chain_no)
);

-- Every claim, release and append rewrites a chain's row; leave room for it on its page.
ALTER TABLE portcullis.chains SET (fillfactor = 50);

CREATE TABLE portcullis.entries (
    tenant_id      text        NOT NULL,
    chain_no       integer     NOT NULL,
    seq            bigint      NOT NULL CHECK (seq > 0),
    key_id         bigint      NOT NULL,
    kind           text        NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    occurred_at    timestamptz NOT NULL,
    recorded_at    timestamptz NOT NULL,
    event_id       uuid        NOT NULL,
    session_id     text        CHECK (length(session_id) BETWEEN 1 AND 256),
    agent_id       text        CHECK (length(agent_id) BETWEEN 1 AND 256),
    user_id        text        CHECK (length(user_id) BETWEEN 1 AND 256),
    agent_key      bytea       CHECK (length(agent_key) BETWEEN 1 AND 64),
    parent_id      uuid,
    model          text        CHECK (length(model) BETWEEN 1 AND 256),
    input_hash     bytea       CHECK (length(input_hash) = 32),
    output_hash    bytea       CHECK (length(output_hash) = 32),
    decision       text        CHECK (length(decision) BETWEEN 1 AND 64),
    -- Canonical JSON as text, never jsonb: the MAC covers these very bytes.
    metadata       text        NOT NULL CHECK (length(metadata) <= 65536),
    -- A commitment to separately stored, erasable content.
    sealed         bytea       CHECK (length(sealed) = 32),
    ingest         text        NOT NULL CHECK (ingest IN ('live', 'journal', 'transaction', 'import')),
    origin_journal uuid,
    origin_seq     bigint      CHECK (origin_seq > 0),
    origin_mac     bytea       CHECK (length(origin_mac) = 32),
    mac            bytea       NOT NULL CHECK (length(mac) = 32),
    -- Also what forbids a fork: no two entries of one place.
    PRIMARY KEY (tenant_id, chain_no, seq),
    -- An event that is written twice is found out; ids are UUIDv7, so this index grows at its end.
    CONSTRAINT entries_event_id_key UNIQUE (tenant_id, event_id)
);

-- list_entries, filtered by time or not at all.
CREATE INDEX entries_recorded_at_idx
    ON portcullis.entries (tenant_id, recorded_at, chain_no, seq);
-- list_entries by session; the first and last entry of a session in each chain, to verify it.
CREATE INDEX entries_session_idx
    ON portcullis.entries (tenant_id, session_id, recorded_at) WHERE session_id IS NOT NULL;
-- list_entries by agent.
CREATE INDEX entries_agent_idx
    ON portcullis.entries (tenant_id, agent_id, recorded_at) WHERE agent_id IS NOT NULL;
-- Provenance: the children of an event.
CREATE INDEX entries_parent_idx
    ON portcullis.entries (tenant_id, parent_id) WHERE parent_id IS NOT NULL;

-- The second wall behind the grants: nothing changes or removes an entry.
CREATE FUNCTION portcullis.refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'portcullis.% is append-only: % refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER entries_append_only
    BEFORE UPDATE OR DELETE ON portcullis.entries
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER entries_no_truncate
    BEFORE TRUNCATE ON portcullis.entries
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
-- A chain is advanced, never removed: without its head, a deleted tail would not show.
CREATE TRIGGER chains_no_delete
    BEFORE DELETE ON portcullis.chains
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER chains_no_truncate
    BEFORE TRUNCATE ON portcullis.chains
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
