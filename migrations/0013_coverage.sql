-- Which clients of models and tools are wrapped, and how many calls went through them.

-- A client is its kind and a keyed digest of the host that it calls: no host name is stored.
CREATE TABLE portcullis.coverage_clients (
    tenant_id  text             NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    kind       text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    host       bytea            NOT NULL CHECK (length(host) = 32),
    first_seen timestamptz      NOT NULL,
    last_seen  timestamptz      NOT NULL CHECK (last_seen >= first_seen),
    calls      bigint           NOT NULL CHECK (calls >= 0),
    PRIMARY KEY (tenant_id, kind, host)
);

-- The calls by quarter of an hour, so that those of a window can be held against what the provider
-- counted in it. At most 35 000 rows a client and year, however many processes there are.
CREATE TABLE portcullis.coverage_calls (
    tenant_id text             NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    kind      text COLLATE "C" NOT NULL CHECK (length(kind) BETWEEN 1 AND 64),
    host      bytea            NOT NULL CHECK (length(host) = 32),
    -- When it began.
    quarter   timestamptz      NOT NULL,
    calls     bigint           NOT NULL CHECK (calls > 0),
    PRIMARY KEY (tenant_id, kind, host, quarter)
);

-- The last batch of each process that writes counts: one that is sent again adds nothing. A row is
-- of no use once its process is gone, and is removed after a day.
CREATE TABLE portcullis.coverage_writers (
    tenant_id  text        NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    writer_id  uuid        NOT NULL,
    batch      bigint      NOT NULL CHECK (batch > 0),
    written_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, writer_id)
);

CREATE INDEX coverage_writers_by_age ON portcullis.coverage_writers (tenant_id, written_at);
