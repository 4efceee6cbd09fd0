-- What each agent may use.

CREATE TABLE portcullis.scope_policies (
    tenant_id  text        NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    -- Byte order, so that reading page by page does not hang on the server's locale.
    agent_id   text        COLLATE "C" NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 256),
    -- Canonical JSON as text, never jsonb: the hash on record covers these very bytes.
    policy     text        NOT NULL CHECK (octet_length(policy) BETWEEN 2 AND 8388608),
    -- Counts the changes of this agent's policy.
    version    bigint      NOT NULL CHECK (version > 0),
    updated_at timestamptz NOT NULL,
    -- Also the order in which all policies are read.
    PRIMARY KEY (tenant_id, agent_id)
);
