-- Events that were committed together with rows of the host's own, on their way into a chain.

-- As for entries, no CHECK constraints: what is wrong with a row is found when it is moved. And no
-- UNIQUE on the event: the host's transaction would wait there for another host's, and fail by it.
-- Which event is recorded once is decided where it is chained.
CREATE TABLE portcullis.outbox (
    tenant_id      text COLLATE "C" NOT NULL,
    -- A UUIDv7 of the process that queued it: its rows are moved in the order in which it made them.
    place          uuid             NOT NULL,
    event_id       uuid             NOT NULL,
    key_id         bigint           NOT NULL,
    kind           text COLLATE "C" NOT NULL,
    occurred_at    timestamptz      NOT NULL,
    -- Whether the caller said when it happened, which the same event repeated must then say again.
    occurred_given boolean          NOT NULL,
    session_id     text COLLATE "C",
    agent_id       text COLLATE "C",
    user_id        text COLLATE "C",
    agent_key      bytea,
    parent_id      uuid,
    model          text COLLATE "C",
    input_hash     bytea,
    output_hash    bytea,
    decision       text COLLATE "C",
    metadata       text COLLATE "C" NOT NULL,
    signature      bytea,
    -- Over all of the above: nobody without the key can have an event chained as ours.
    mac            bytea            NOT NULL,
    -- When the host's transaction began, for people.
    queued_at      timestamptz      NOT NULL,
    -- Also the order in which rows are moved.
    PRIMARY KEY (tenant_id, place)
);

-- Every row is deleted soon: old versions should not wait for a fifth of the table.
ALTER TABLE portcullis.outbox SET (autovacuum_vacuum_scale_factor = 0.02);
