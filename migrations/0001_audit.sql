-- The audit trail: chains of entries, one chain per writer.

-- No CHECK constraints on the tables that are written for every call: Postgres parses those of a
-- table anew for each statement (a domain's it prepares anew), which was a third of what a small
-- append cost the server. The program keeps the rules at its door, reads nothing unchecked, and
-- `verify` finds what breaks them.
--
-- Names are compared byte for byte (COLLATE "C"), whatever the host's database does.

CREATE TABLE portcullis.chains (
    tenant_id   text COLLATE "C" NOT NULL,
    chain_no    integer          NOT NULL,
    -- Counts the claims; a writer that was paused past its lease is fenced by it.
    epoch       bigint           NOT NULL,
    -- The writer that holds the chain, for people; the epoch decides.
    holder      uuid             NOT NULL,
    lease_until timestamptz      NOT NULL,
    key_id      bigint           NOT NULL,
    next_seq    bigint           NOT NULL,
    head_mac    bytea            NOT NULL,
    recorded_at timestamptz      NOT NULL,
    -- Set for ever when the head was found not to be where its writer left it.
    stopped     boolean          NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, chain_no)
);

-- Every claim, release and append rewrites a chain's row; leave room for it on its page.
ALTER TABLE portcullis.chains SET (fillfactor = 50);

CREATE TABLE portcullis.entries (
    tenant_id      text COLLATE "C" NOT NULL,
    chain_no       integer          NOT NULL,
    seq            bigint           NOT NULL,
    key_id         bigint           NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    occurred_at    timestamptz      NOT NULL,
    recorded_at    timestamptz      NOT NULL,
    event_id       uuid             NOT NULL,
    session_id     text COLLATE "C",
    agent_id       text COLLATE "C",
    user_id        text COLLATE "C",
    agent_key      bytea,
    parent_id      uuid,
    model          text COLLATE "C",
    input_hash     bytea,
    output_hash    bytea,
    decision       text COLLATE "C",
    -- Canonical JSON as text, never jsonb: the MAC covers these very bytes.
    metadata       text COLLATE "C" NOT NULL,
    -- A commitment to separately stored, erasable content.
    sealed         bytea,
    -- live, journal, transaction or import: how it came into its chain.
    ingest         text COLLATE "C" NOT NULL,
    origin_journal uuid,
    origin_seq     bigint,
    origin_mac     bytea,
    mac            bytea            NOT NULL,
    -- The agent's, over what happened and not over its place; no MAC covers it: it proves itself,
    -- and agent_key, which is covered, says that there is one.
    signature      bytea,
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

-- The second wall behind the grants: nothing changes or removes an entry. Every trigger function has a search path of its
-- own: whoever writes must not choose what a function's names mean.
CREATE FUNCTION portcullis.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
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
