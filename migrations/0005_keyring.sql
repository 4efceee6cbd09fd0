-- Which key a tenant's entries are written under now, and which ones were before.

-- Secrets are not here: a fingerprint tells the right one from a wrong one without helping to guess
-- either. The evidence of a rotation is in the chains; this table only tells writers what to use.
CREATE TABLE portcullis.keyring (
    tenant_id   text COLLATE "C" NOT NULL,
    key_id      bigint           NOT NULL CHECK (key_id BETWEEN 1 AND 4294967295),
    -- A MAC over the salt, under a key that is derived from the secret for this alone.
    salt        bytea            NOT NULL CHECK (length(salt) = 16),
    fingerprint bytea            NOT NULL CHECK (length(fingerprint) = 16),
    started_at  timestamptz      NOT NULL,
    -- Null as long as the key is the current one.
    retired_at  timestamptz,
    reason      text COLLATE "C" CHECK (reason IN ('planned', 'compromise')),
    -- Since when somebody else may have had it, as far as is known.
    since       timestamptz,
    PRIMARY KEY (tenant_id, key_id),
    CHECK ((retired_at IS NULL) = (reason IS NULL))
);

-- One current key a tenant: what two processes that begin at once, or rotate at once, run into.
CREATE UNIQUE INDEX keyring_current_idx
    ON portcullis.keyring (tenant_id) WHERE retired_at IS NULL;

CREATE TRIGGER keyring_no_delete
    BEFORE DELETE ON portcullis.keyring
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER keyring_no_truncate
    BEFORE TRUNCATE ON portcullis.keyring
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
