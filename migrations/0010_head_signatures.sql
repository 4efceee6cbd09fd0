-- Signed heads: where a chain ended after a batch, signed by a key of the process that wrote it.

-- One row a batch, in the statement that appends it. Not a column of the entries: an entry may be
-- signed by its agent and end a batch, and where no heads are signed nobody pays for it. No CHECK
-- constraints, as for the entries: `verify` finds what breaks the rules.
CREATE TABLE portcullis.head_signatures (
    tenant_id text COLLATE "C" NOT NULL,
    chain_no  integer          NOT NULL,
    -- The last entry of the batch. The signature covers its MAC, and so all that stands before.
    seq       bigint           NOT NULL,
    -- The id of the process's key, and its signature.
    key       bytea            NOT NULL,
    signature bytea            NOT NULL,
    PRIMARY KEY (tenant_id, chain_no, seq)
);

CREATE TRIGGER head_signatures_append_only
    BEFORE UPDATE OR DELETE ON portcullis.head_signatures
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER head_signatures_no_truncate
    BEFORE TRUNCATE ON portcullis.head_signatures
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
