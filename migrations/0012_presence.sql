-- Who is there: the newest heartbeat of each session of an agent, and who operates it.

CREATE TABLE portcullis.presence (
    tenant_id       text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    agent_id        text COLLATE "C" NOT NULL CHECK (octet_length(agent_id) <= 256 AND agent_id ~ '^[A-Za-z0-9._:/@+=-]+$'),
    session_id      text COLLATE "C" NOT NULL CHECK (octet_length(session_id) <= 256 AND session_id ~ '^[A-Za-z0-9._:/@+=-]+$'),
    -- NULL: unknown. Once known it stays, for who operates an agent may not approve what it does.
    operator_id     text             CHECK (octet_length(operator_id) <= 256 AND operator_id ~ '^[A-Za-z0-9._:/@+=-]+$'),
    status          text             NOT NULL CHECK (status IN ('live', 'idle', 'closed')),
    -- Canonical JSON. Shown, and never read for anything else: no identity comes from it.
    metadata        text             NOT NULL CHECK (octet_length(metadata) BETWEEN 2 AND 4096),
    first_seen      timestamptz      NOT NULL CHECK (isfinite(first_seen)),
    last_seen       timestamptz      NOT NULL CHECK (last_seen >= first_seen AND isfinite(last_seen)),
    -- When somebody found that it had not been seen for too long; a heartbeat takes it away.
    unresponsive_at timestamptz      CHECK (isfinite(unresponsive_at)),
    -- Also the order in which it is listed.
    PRIMARY KEY (tenant_id, agent_id, session_id)
);
-- try_mark_unresponsive.
CREATE INDEX presence_watched_idx ON portcullis.presence (tenant_id, last_seen)
    WHERE status <> 'closed' AND unresponsive_at IS NULL;
-- insert_resumption_in_tx: whether a name is an agent's, in any case of its letters.
CREATE INDEX presence_folded_idx ON portcullis.presence (tenant_id, lower(agent_id));

-- Live and idle follow each other; closed is the end. Time does not run backwards, and nobody takes
-- the operator away or puts another in his place.
CREATE FUNCTION portcullis.check_presence() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (NEW.tenant_id, NEW.agent_id, NEW.session_id, NEW.first_seen)
       IS NOT DISTINCT FROM (OLD.tenant_id, OLD.agent_id, OLD.session_id, OLD.first_seen)
       AND OLD.status <> 'closed'
       AND NEW.last_seen >= OLD.last_seen
       AND (OLD.operator_id IS NULL OR NEW.operator_id IS NOT DISTINCT FROM OLD.operator_id) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'portcullis.presence: this is no step of a session: change refused'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER presence_steps_only
    BEFORE UPDATE ON portcullis.presence
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_presence();
CREATE TRIGGER presence_no_delete
    BEFORE DELETE ON portcullis.presence
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER presence_no_truncate
    BEFORE TRUNCATE ON portcullis.presence
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
