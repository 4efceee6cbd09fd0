-- What processes saw of sessions that move between them: fingerprints of calls, never what they are of.
--
-- A row belongs to one process, which alone writes it; whoever reads a session reads all of its rows.
CREATE TABLE portcullis.loop_windows (
    tenant_id  text        COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    agent_id   text        COLLATE "C" NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 256),
    session_id text        COLLATE "C" NOT NULL CHECK (length(session_id) BETWEEN 1 AND 256),
    -- Drawn by the process when it began.
    writer     uuid        NOT NULL,
    -- At most 128 calls of 25 bytes.
    calls      bytea       NOT NULL CHECK (octet_length(calls) <= 3200),
    mac        bytea       NOT NULL CHECK (octet_length(mac) = 32),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, agent_id, session_id, writer)
);

-- Removing what is older than any window.
CREATE INDEX loop_windows_age_idx ON portcullis.loop_windows (tenant_id, updated_at);
