-- What was published outside of the database, and what came back: a memory, never a proof.

CREATE TABLE portcullis.anchor_receipts (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    anchor    text COLLATE "C" NOT NULL CHECK (octet_length(anchor) BETWEEN 1 AND 256),
    size      bigint           NOT NULL CHECK (size > 0),
    root      bytea            NOT NULL CHECK (octet_length(root) = 32),
    kind      text COLLATE "C" NOT NULL CHECK (octet_length(kind) BETWEEN 1 AND 64),
    -- What the anchor answered: cosignatures, a timestamp token, nothing.
    receipt   bytea            NOT NULL CHECK (octet_length(receipt) <= 1048576),
    kept_at   timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, anchor, size)
);

CREATE TRIGGER anchor_receipts_append_only
    BEFORE UPDATE OR DELETE ON portcullis.anchor_receipts
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER anchor_receipts_no_truncate
    BEFORE TRUNCATE ON portcullis.anchor_receipts
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
