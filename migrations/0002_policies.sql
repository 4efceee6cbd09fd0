-- The policies of every module, and what was in force before.
--
-- A change takes the next revision of its module from `policy_revisions`, whose row it locks until it commits. So
-- revisions become visible in their order: whoever saw revision n has seen every smaller one, and whoever asks for
-- what is greater than n misses nothing. Triggers hold every writer to it, by hand too.

CREATE TABLE portcullis.policy_revisions (
    tenant_id  text        NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    module     text        COLLATE "C" NOT NULL CHECK (length(module) BETWEEN 1 AND 32),
    revision   bigint      NOT NULL CHECK (revision > 0),
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, module)
);

CREATE TABLE portcullis.policies (
    tenant_id  text        NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    module     text        COLLATE "C" NOT NULL CHECK (length(module) BETWEEN 1 AND 32),
    -- Whose policy it is, or what the module calls it. Byte order, so that nothing hangs on the server's locale.
    name       text        COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 512),
    -- Counts the changes of this policy.
    version    bigint      NOT NULL CHECK (version > 0),
    -- The change that it came with.
    revision   bigint      NOT NULL CHECK (revision > 0),
    -- Text, never jsonb: the hash on record covers these very bytes. NULL: it was removed, and others have to hear of it.
    document   text        CHECK (octet_length(document) BETWEEN 2 AND 8388608),
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, module, name)
);
-- What changed since a revision, in order.
CREATE INDEX policies_by_revision ON portcullis.policies (tenant_id, module, revision, name);

-- What was in force and is no more. What is in force stands in `policies`.
CREATE TABLE portcullis.policy_history (
    tenant_id   text        NOT NULL,
    module      text        COLLATE "C" NOT NULL,
    name        text        COLLATE "C" NOT NULL,
    version     bigint      NOT NULL,
    revision    bigint      NOT NULL,
    document    text,
    since       timestamptz NOT NULL,
    until       timestamptz NOT NULL,
    -- The revision that took its place, and the database role that wrote it.
    replaced_by bigint      NOT NULL,
    role_name   text        NOT NULL,
    PRIMARY KEY (tenant_id, module, name, version)
);

-- Whoever writes a policy has taken the revision for it in the same transaction. Otherwise a reader who has seen that
-- revision would never see the change.
CREATE FUNCTION portcullis.check_revision() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (
        SELECT
          FROM changed c
          LEFT JOIN portcullis.policy_revisions r ON r.tenant_id = c.tenant_id AND r.module = c.module
         WHERE r.revision IS DISTINCT FROM c.revision
            OR r.xmin IS DISTINCT FROM pg_current_xact_id()::xid)
    THEN
        RAISE EXCEPTION 'portcullis.policies: take the next revision in the same transaction'
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION portcullis.keep_policy_history() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO portcullis.policy_history
           (tenant_id, module, name, version, revision, document, since, until, replaced_by, role_name)
    SELECT o.tenant_id, o.module, o.name, o.version, o.revision, o.document, o.updated_at, n.updated_at, n.revision,
           session_user
      FROM before o
      JOIN changed n ON n.tenant_id = o.tenant_id AND n.module = o.module AND n.name = o.name;
    RETURN NULL;
END
$$;

CREATE TRIGGER policies_revised_on_insert
    AFTER INSERT ON portcullis.policies
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.check_revision();
CREATE TRIGGER policies_revised_on_update
    AFTER UPDATE ON portcullis.policies
    REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.check_revision();
CREATE TRIGGER policies_keep_history
    AFTER UPDATE ON portcullis.policies
    REFERENCING OLD TABLE AS before NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.keep_policy_history();
CREATE TRIGGER policies_only_grow
    BEFORE UPDATE ON portcullis.policies
    FOR EACH ROW WHEN (
        (NEW.tenant_id, NEW.module, NEW.name) IS DISTINCT FROM (OLD.tenant_id, OLD.module, OLD.name)
        OR NEW.version <> OLD.version + 1
        OR NEW.revision <= OLD.revision)
    EXECUTE FUNCTION portcullis.refuse_change();
-- A policy is removed by leaving its document away: a row that is gone tells nobody.
CREATE TRIGGER policies_no_delete
    BEFORE DELETE ON portcullis.policies
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policies_no_truncate
    BEFORE TRUNCATE ON portcullis.policies
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policy_revisions_only_grow
    BEFORE UPDATE ON portcullis.policy_revisions
    FOR EACH ROW WHEN (
        (NEW.tenant_id, NEW.module) IS DISTINCT FROM (OLD.tenant_id, OLD.module)
        OR NEW.revision <= OLD.revision)
    EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policy_revisions_no_delete
    BEFORE DELETE ON portcullis.policy_revisions
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policy_revisions_no_truncate
    BEFORE TRUNCATE ON portcullis.policy_revisions
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policy_history_append_only
    BEFORE UPDATE OR DELETE ON portcullis.policy_history
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER policy_history_no_truncate
    BEFORE TRUNCATE ON portcullis.policy_history
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
