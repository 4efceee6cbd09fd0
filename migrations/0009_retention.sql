-- Retention: how long entries must stay, what must stay longer, and what was archived and removed.
--
-- Entries are removed in whole ranges of a checkpoint: all of a range but its last entry, which the
-- rest of the chain follows, and the entries that a later verification reads (kept_kinds). Nothing
-- else is ever removed; `check_prune` below looks at every deletion.

-- What applies to a tenant's entries: the newest version does.
CREATE TABLE portcullis.retention_policies (
    tenant_id  text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    version    bigint           NOT NULL CHECK (version > 0),
    -- Calendar months; Regulation (EU) 2024/1689 asks for six (Articles 19(1) and 26(6)).
    min_months integer          NOT NULL CHECK (min_months BETWEEN 6 AND 1200),
    max_months integer          CHECK (max_months BETWEEN min_months AND 1200),
    set_at     timestamptz      NOT NULL,
    -- Of the entry that says who set it and why.
    event_id   uuid             NOT NULL,
    PRIMARY KEY (tenant_id, version)
);

-- What nothing may be removed of, until it is released. Who and why is in the trail. Every part that
-- is given must fit; a hold without any is on everything of the tenant.
CREATE TABLE portcullis.legal_holds (
    tenant_id     text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    -- Also the id of the entry legal_hold.set.
    hold_id       uuid             NOT NULL,
    session_id    text COLLATE "C" CHECK (octet_length(session_id) BETWEEN 1 AND 256),
    agent_id      text COLLATE "C" CHECK (octet_length(agent_id) BETWEEN 1 AND 256),
    from_time     timestamptz,
    to_time       timestamptz      CHECK (to_time > from_time),
    set_at        timestamptz      NOT NULL,
    released_at   timestamptz,
    release_event uuid,
    PRIMARY KEY (tenant_id, hold_id),
    CHECK ((released_at IS NULL) = (release_event IS NULL))
);
-- check_prune, list_open_holds.
CREATE INDEX legal_holds_open_idx ON portcullis.legal_holds (tenant_id) WHERE released_at IS NULL;

-- One row a tenant. Whoever sets or releases a hold, changes the policy or marks an archive rewrites
-- it, whoever removes entries locks it in share mode: a hold is set before a removal or after it, never beside.
CREATE TABLE portcullis.retention_guards (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    changes   bigint           NOT NULL,
    PRIMARY KEY (tenant_id)
);

-- One file of archived entries.
CREATE TABLE portcullis.archives (
    tenant_id   text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    -- Also the id of the entry retention.purged.
    archive_id  uuid             NOT NULL,
    file_name   text COLLATE "C" NOT NULL CHECK (octet_length(file_name) BETWEEN 1 AND 256),
    sha256      bytea            NOT NULL CHECK (octet_length(sha256) = 32),
    entries     bigint           NOT NULL CHECK (entries > 0),
    -- Of the checkpoint that is kept outside of the database and covers the ranges.
    tree_size   bigint           NOT NULL CHECK (tree_size > 0),
    -- Ids of events begin with their time: which archive may hold an event.
    first_event uuid             NOT NULL,
    last_event  uuid             NOT NULL,
    archived_at timestamptz      NOT NULL,
    PRIMARY KEY (tenant_id, archive_id)
);

-- The ranges of checkpoint_ranges that are in an archive, each once: they may be removed.
CREATE TABLE portcullis.archive_ranges (
    tenant_id  text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    first_leaf bigint           NOT NULL CHECK (first_leaf >= 0),
    archive_id uuid             NOT NULL,
    PRIMARY KEY (tenant_id, first_leaf)
);
-- The ranges of one archive.
CREATE INDEX archive_ranges_archive_idx ON portcullis.archive_ranges (tenant_id, archive_id);

-- The entries of archived ranges that stay, each with the MAC before it, since what has that may go.
-- A MAC that is right after it proves the entry: nobody makes one without the key.
CREATE TABLE portcullis.archive_links (
    tenant_id    text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    chain_no     integer          NOT NULL CHECK (chain_no > 0),
    seq          bigint           NOT NULL CHECK (seq > 1),
    previous_mac bytea            NOT NULL CHECK (octet_length(previous_mac) = 32),
    PRIMARY KEY (tenant_id, chain_no, seq)
);

-- list_retention_entries. Nothing of it is touched by entries of other kinds.
CREATE INDEX entries_retention_idx
    ON portcullis.entries (tenant_id, kind)
    WHERE kind IN ('legal_hold.released', 'legal_hold.set', 'retention.policy_set', 'retention.purged');

-- What stays wherever it stands: a verification reads these to know which key holds where, whose
-- signatures hold, and what was removed by whom.
CREATE FUNCTION portcullis.kept_kinds() RETURNS pg_catalog.text[]
LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY['chain.key_rotated', 'identity.key_registered', 'identity.key_revoked',
                 'identity.key_rotated', 'legal_hold.released', 'legal_hold.set',
                 'retention.policy_set', 'retention.purged']
$$;

-- As their owner, with a search path of its own: whoever removes entries must not choose what `=`
-- means here, nor have the guard's row to himself.
CREATE FUNCTION portcullis.touch_retention() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO portcullis.retention_guards AS g (tenant_id, changes)
    VALUES (NEW.tenant_id, 1)
        ON CONFLICT (tenant_id) DO UPDATE SET changes = g.changes + 1;
    RETURN NEW;
END
$$;

CREATE FUNCTION portcullis.check_release() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.released_at IS NULL AND NEW.released_at IS NOT NULL
       AND (NEW.tenant_id, NEW.hold_id, NEW.session_id, NEW.agent_id, NEW.from_time, NEW.to_time, NEW.set_at)
           IS NOT DISTINCT FROM
           (OLD.tenant_id, OLD.hold_id, OLD.session_id, OLD.agent_id, OLD.from_time, OLD.to_time, OLD.set_at) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'portcullis.legal_holds are released once and never changed: change refused'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Looks at what a DELETE removed, and refuses all of it if one entry is not of a range that
--   * is marked as archived, by an archive that is on record in the trail (retention.purged),
--   * lies wholly under a checkpoint,
--   * is gone as a whole: but for its last entry and those that stay, of which each either still
--     has the one before it or the MAC of it in archive_links;
-- or is younger than the policy's minimum, or is under a legal hold.
--
-- Each statement in here sees what is committed when it begins (READ COMMITTED), and the guard is
-- locked first. At a higher isolation level, locking a guard that was changed since the
-- transaction's snapshot fails, and one that was not there then is not seen: nothing is removed.
CREATE FUNCTION portcullis.check_prune() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    tenant  text;
    months  integer;
    covered bigint;
    why     text;
BEGIN
    FOR tenant IN SELECT DISTINCT d.tenant_id FROM gone d ORDER BY 1 LOOP
        PERFORM FROM portcullis.retention_guards g WHERE g.tenant_id = tenant FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'portcullis.entries is append-only: DELETE refused: there is no retention policy'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        SELECT p.min_months INTO months
          FROM portcullis.retention_policies p
         WHERE p.tenant_id = tenant
         ORDER BY p.version DESC
         LIMIT 1;
        SELECT max(c.size) INTO covered FROM portcullis.checkpoints c WHERE c.tenant_id = tenant;
        WITH placed AS MATERIALIZED (
            SELECT d.chain_no, d.seq, d.kind, d.session_id, d.agent_id,
                   least(d.recorded_at, d.occurred_at) AS earliest,
                   greatest(d.recorded_at, d.occurred_at) AS latest,
                   r.first_leaf, r.from_seq, r.to_seq, m.archive_id
              FROM gone d
              LEFT JOIN LATERAL (
                 SELECT n.first_leaf, n.from_seq, n.to_seq
                   FROM portcullis.checkpoint_ranges n
                  WHERE n.tenant_id = tenant AND n.chain_no = d.chain_no AND n.from_seq <= d.seq
                  ORDER BY n.from_seq DESC
                  LIMIT 1) r ON r.to_seq >= d.seq
              LEFT JOIN portcullis.archive_ranges m
                ON m.tenant_id = tenant AND m.first_leaf = r.first_leaf
             WHERE d.tenant_id = tenant
        ), touched AS (
            SELECT DISTINCT p.chain_no, p.from_seq, p.to_seq
              FROM placed p
             WHERE p.from_seq IS NOT NULL
        )
        SELECT found.problem INTO why
          FROM (
            SELECT CASE
                       WHEN p.archive_id IS NULL THEN 'an entry is of no range that was archived'
                       WHEN p.seq = p.to_seq THEN 'the last entry of a range stays'
                       WHEN p.kind = ANY (portcullis.kept_kinds()) THEN 'an entry of this kind stays'
                       WHEN p.first_leaf + (p.to_seq - p.from_seq) >= coalesce(covered, 0)
                           THEN 'a range is under no checkpoint'
                       WHEN months IS NULL
                         OR (p.latest AT TIME ZONE 'UTC' + make_interval(months => months)) AT TIME ZONE 'UTC'
                            > clock_timestamp()
                           THEN 'an entry is younger than the retention policy allows'
                       WHEN NOT EXISTS (SELECT
                                          FROM portcullis.entries e
                                         WHERE e.tenant_id = tenant
                                           AND e.event_id = p.archive_id
                                           AND e.kind = 'retention.purged')
                           THEN 'the archive is not on record in the trail'
                       WHEN EXISTS (SELECT
                                      FROM portcullis.legal_holds h
                                     WHERE h.tenant_id = tenant
                                       AND h.released_at IS NULL
                                       AND (h.session_id IS NULL OR h.session_id = p.session_id)
                                       AND (h.agent_id IS NULL OR h.agent_id = p.agent_id)
                                       AND (h.from_time IS NULL OR h.from_time <= p.latest)
                                       AND (h.to_time IS NULL OR h.to_time > p.earliest))
                           THEN 'an entry is under a legal hold'
                   END AS problem
              FROM placed p
            UNION ALL
            SELECT 'a range is removed as a whole or not at all'
              FROM touched t
              JOIN portcullis.entries k
                ON k.tenant_id = tenant AND k.chain_no = t.chain_no
               AND k.seq >= t.from_seq AND k.seq < t.to_seq
             WHERE k.kind <> ALL (portcullis.kept_kinds())
            UNION ALL
            SELECT 'the MAC before an entry that stays is not on record'
              FROM touched t
              JOIN portcullis.entries k
                ON k.tenant_id = tenant AND k.chain_no = t.chain_no
               AND k.seq > t.from_seq AND k.seq <= t.to_seq
             WHERE NOT EXISTS (SELECT
                                 FROM portcullis.entries b
                                WHERE b.tenant_id = tenant AND b.chain_no = k.chain_no AND b.seq = k.seq - 1)
               AND NOT EXISTS (SELECT
                                 FROM portcullis.archive_links l
                                WHERE l.tenant_id = tenant AND l.chain_no = k.chain_no AND l.seq = k.seq)
          ) found
         WHERE found.problem IS NOT NULL
         LIMIT 1;
        IF why IS NOT NULL THEN
            RAISE EXCEPTION 'portcullis.entries is append-only: DELETE refused: %', why
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;

-- Nothing is changed, as before; what may be deleted is looked at once for each statement, which is
-- as strict as for each row and a hundredth of the work. Inserts are looked at by nothing.
DROP TRIGGER entries_append_only ON portcullis.entries;
CREATE TRIGGER entries_append_only
    BEFORE UPDATE ON portcullis.entries
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER entries_prune_only
    AFTER DELETE ON portcullis.entries
    REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.check_prune();

CREATE TRIGGER retention_policies_guarded
    BEFORE INSERT ON portcullis.retention_policies
    FOR EACH ROW EXECUTE FUNCTION portcullis.touch_retention();
CREATE TRIGGER retention_policies_append_only
    BEFORE UPDATE OR DELETE ON portcullis.retention_policies
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER retention_policies_no_truncate
    BEFORE TRUNCATE ON portcullis.retention_policies
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
-- In the order of their names: first whether it is a release, then the guard.
CREATE TRIGGER legal_holds_a_release_only
    BEFORE UPDATE ON portcullis.legal_holds
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_release();
CREATE TRIGGER legal_holds_guarded
    BEFORE INSERT OR UPDATE ON portcullis.legal_holds
    FOR EACH ROW EXECUTE FUNCTION portcullis.touch_retention();
CREATE TRIGGER legal_holds_no_delete
    BEFORE DELETE ON portcullis.legal_holds
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER legal_holds_no_truncate
    BEFORE TRUNCATE ON portcullis.legal_holds
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
-- Which holds were open is decided before the archive's entry says so, or after.
CREATE TRIGGER archives_guarded
    BEFORE INSERT ON portcullis.archives
    FOR EACH ROW EXECUTE FUNCTION portcullis.touch_retention();
CREATE TRIGGER archives_append_only
    BEFORE UPDATE OR DELETE ON portcullis.archives
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER archives_no_truncate
    BEFORE TRUNCATE ON portcullis.archives
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER archive_ranges_append_only
    BEFORE UPDATE OR DELETE ON portcullis.archive_ranges
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER archive_ranges_no_truncate
    BEFORE TRUNCATE ON portcullis.archive_ranges
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER archive_links_append_only
    BEFORE UPDATE OR DELETE ON portcullis.archive_links
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER archive_links_no_truncate
    BEFORE TRUNCATE ON portcullis.archive_links
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
