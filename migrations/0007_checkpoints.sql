-- Checkpoints: a tenant's entries as one Merkle tree, signed now and then.

-- Which entries became which leaves: a range of one chain stands in the tree from first_leaf on.
CREATE TABLE portcullis.checkpoint_ranges (
    tenant_id  text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    first_leaf bigint           NOT NULL CHECK (first_leaf >= 0),
    chain_no   integer          NOT NULL CHECK (chain_no > 0),
    from_seq   bigint           NOT NULL CHECK (from_seq > 0),
    to_seq     bigint           NOT NULL CHECK (to_seq >= from_seq),
    -- The MAC of the last entry, which the next range of the chain follows.
    to_mac     bytea            NOT NULL CHECK (octet_length(to_mac) = 32),
    PRIMARY KEY (tenant_id, first_leaf),
    -- Where a chain was read to, and the leaf of an entry; also: no entry twice.
    CONSTRAINT checkpoint_ranges_from_key UNIQUE (tenant_id, chain_no, from_seq)
);

-- The tree, in tiles of up to 256 hashes. A tile grows until it is full.
CREATE TABLE portcullis.tree_tiles (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    level     smallint         NOT NULL CHECK (level BETWEEN 0 AND 7),
    tile_no   bigint           NOT NULL CHECK (tile_no >= 0),
    hashes    bytea            NOT NULL
              CHECK (octet_length(hashes) BETWEEN 32 AND 8192 AND octet_length(hashes) % 32 = 0),
    PRIMARY KEY (tenant_id, level, tile_no)
);
-- Hashes do not compress.
ALTER TABLE portcullis.tree_tiles ALTER COLUMN hashes SET STORAGE EXTERNAL;

CREATE TABLE portcullis.checkpoints (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    size      bigint           NOT NULL CHECK (size > 0),
    root      bytea            NOT NULL CHECK (octet_length(root) = 32),
    -- The signed note, byte for byte.
    note      text COLLATE "C" NOT NULL CHECK (octet_length(note) <= 1048576),
    made_at   timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, size)
);

-- The last tree that was signed. Its row is locked by whoever makes the next checkpoint, so that
-- there is one at a time; the lock ends with its holder's connection, whatever becomes of it.
CREATE TABLE portcullis.trees (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    origin    text COLLATE "C" NOT NULL CHECK (octet_length(origin) BETWEEN 1 AND 1024),
    size      bigint           NOT NULL CHECK (size >= 0),
    root      bytea            NOT NULL CHECK (octet_length(root) = 32),
    PRIMARY KEY (tenant_id),
    -- Across tenants on purpose: two trees under one name look like a fork to everybody else.
    CONSTRAINT trees_origin_key UNIQUE (origin)
);

CREATE FUNCTION portcullis.refuse_rewrite() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.tenant_id = OLD.tenant_id AND NEW.level = OLD.level AND NEW.tile_no = OLD.tile_no
       AND substring(NEW.hashes FROM 1 FOR octet_length(OLD.hashes)) = OLD.hashes THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'portcullis.tree_tiles only grow: change refused'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION portcullis.refuse_shrink() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.tenant_id = OLD.tenant_id AND NEW.origin = OLD.origin AND NEW.size > OLD.size THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'portcullis.trees only grow: change refused'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER checkpoints_append_only
    BEFORE UPDATE OR DELETE ON portcullis.checkpoints
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER checkpoints_no_truncate
    BEFORE TRUNCATE ON portcullis.checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER checkpoint_ranges_append_only
    BEFORE UPDATE OR DELETE ON portcullis.checkpoint_ranges
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER checkpoint_ranges_no_truncate
    BEFORE TRUNCATE ON portcullis.checkpoint_ranges
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER tree_tiles_only_grow
    BEFORE UPDATE ON portcullis.tree_tiles
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_rewrite();
CREATE TRIGGER tree_tiles_no_delete
    BEFORE DELETE ON portcullis.tree_tiles
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER tree_tiles_no_truncate
    BEFORE TRUNCATE ON portcullis.tree_tiles
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER trees_only_grow
    BEFORE UPDATE ON portcullis.trees
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_shrink();
CREATE TRIGGER trees_no_delete
    BEFORE DELETE ON portcullis.trees
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER trees_no_truncate
    BEFORE TRUNCATE ON portcullis.trees
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
