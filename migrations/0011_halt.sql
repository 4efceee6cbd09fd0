-- The halt switch: who stopped what and why, and who let it go on.
--
-- Nothing here is ever changed or deleted. A halt is in force for as long as no resumption names it, so
-- the right to resume is the right to insert into halt_resumptions, and nothing else.

CREATE TABLE portcullis.halts (
    -- `*`, which no tenant can be named, stands for every tenant of the installation.
    tenant_id   text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    -- Counts the tenant's halts and resumptions; order_halt gives it.
    epoch       bigint           NOT NULL CHECK (epoch > 0),
    -- As this crate parses names, for a row that it cannot read would keep it from reading the others.
    -- Empty: every agent. Not NULL, so that one index finds every kind of target.
    agent_id    text COLLATE "C" NOT NULL CHECK (octet_length(agent_id) <= 256 AND agent_id ~ '^[A-Za-z0-9._:/@+=-]*$'),
    -- Empty: every session.
    session_id  text COLLATE "C" NOT NULL CHECK (octet_length(session_id) <= 256 AND session_id ~ '^[A-Za-z0-9._:/@+=-]*$'),
    operator_id text             NOT NULL CHECK (octet_length(operator_id) BETWEEN 1 AND 256),
    reason      text             NOT NULL CHECK (octet_length(reason) BETWEEN 1 AND 1024),
    halted_at   timestamptz      NOT NULL CHECK (isfinite(halted_at)),
    -- Names the order, so that one whose answer was lost is not given twice.
    event_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, epoch),
    UNIQUE (tenant_id, event_id),
    CHECK (agent_id <> '' OR session_id = ''),
    CHECK (tenant_id <> '*' OR agent_id = '')
);
-- order_halt, insert_resumption_in_tx: the newest halt of one target.
CREATE INDEX halts_target_idx ON portcullis.halts (tenant_id, agent_id, session_id, epoch);

CREATE TABLE portcullis.halt_resumptions (
    tenant_id   text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    -- The halt that is over.
    halt_epoch  bigint           NOT NULL CHECK (halt_epoch > 0),
    -- Of the resumption itself; order_resumption gives it.
    epoch       bigint           NOT NULL CHECK (epoch > halt_epoch),
    operator_id text             NOT NULL CHECK (octet_length(operator_id) BETWEEN 1 AND 256),
    reason      text             NOT NULL CHECK (octet_length(reason) BETWEEN 1 AND 1024),
    resumed_at  timestamptz      NOT NULL CHECK (isfinite(resumed_at)),
    event_id    uuid             NOT NULL,
    PRIMARY KEY (tenant_id, halt_epoch)
);

-- One row a tenant, and one for all of them: how many changes there were. Only the two functions below
-- write it. Whoever halts or resumes locks it, so that the changes of a tenant are in one order; whoever polls
-- reads nothing else until it has changed.
CREATE TABLE portcullis.halt_epochs (
    tenant_id text COLLATE "C" NOT NULL CHECK (octet_length(tenant_id) BETWEEN 1 AND 256),
    epoch     bigint           NOT NULL CHECK (epoch >= 0),
    PRIMARY KEY (tenant_id)
);

-- Each statement in here sees what is committed when it begins (READ COMMITTED), and the epoch's row is
-- locked first: of two who halt the same target, the second finds it halted. As their owner, with a
-- search path of its own: whoever inserts must not choose the epoch, nor what `=` means.
CREATE FUNCTION portcullis.order_halt() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    newest bigint;
BEGIN
    INSERT INTO portcullis.halt_epochs AS e (tenant_id, epoch)
    VALUES (NEW.tenant_id, 0)
        ON CONFLICT (tenant_id) DO UPDATE SET epoch = e.epoch;
    IF EXISTS (SELECT FROM portcullis.halts h
                WHERE h.tenant_id = NEW.tenant_id AND h.event_id = NEW.event_id) THEN
        RETURN NULL;
    END IF;
    SELECT max(h.epoch) INTO newest
      FROM portcullis.halts h
     WHERE h.tenant_id = NEW.tenant_id AND h.agent_id = NEW.agent_id AND h.session_id = NEW.session_id;
    -- Halting what is halted is no change, and no error.
    IF newest IS NOT NULL
       AND NOT EXISTS (SELECT FROM portcullis.halt_resumptions r
                        WHERE r.tenant_id = NEW.tenant_id AND r.halt_epoch = newest) THEN
        RETURN NULL;
    END IF;
    UPDATE portcullis.halt_epochs e SET epoch = e.epoch + 1
     WHERE e.tenant_id = NEW.tenant_id
    RETURNING e.epoch INTO NEW.epoch;
    RETURN NEW;
END
$$;

CREATE FUNCTION portcullis.order_resumption() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO portcullis.halt_epochs AS e (tenant_id, epoch)
    VALUES (NEW.tenant_id, 0)
        ON CONFLICT (tenant_id) DO UPDATE SET epoch = e.epoch;
    IF EXISTS (SELECT FROM portcullis.halt_resumptions r
                WHERE r.tenant_id = NEW.tenant_id AND r.halt_epoch = NEW.halt_epoch) THEN
        RETURN NULL;
    END IF;
    -- A resumption in advance would make the halt to come none.
    IF NOT EXISTS (SELECT FROM portcullis.halts h
                    WHERE h.tenant_id = NEW.tenant_id AND h.epoch = NEW.halt_epoch) THEN
        RAISE EXCEPTION 'portcullis.halt_resumptions: there is no such halt'
            USING ERRCODE = 'check_violation';
    END IF;
    UPDATE portcullis.halt_epochs e SET epoch = e.epoch + 1
     WHERE e.tenant_id = NEW.tenant_id
    RETURNING e.epoch INTO NEW.epoch;
    RETURN NEW;
END
$$;

-- An epoch only grows, whoever writes it.
CREATE FUNCTION portcullis.check_halt_epoch() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.tenant_id = OLD.tenant_id AND NEW.epoch >= OLD.epoch THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'portcullis.halt_epochs only grow: change refused'
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER halts_in_order
    BEFORE INSERT ON portcullis.halts
    FOR EACH ROW EXECUTE FUNCTION portcullis.order_halt();
CREATE TRIGGER halts_append_only
    BEFORE UPDATE OR DELETE ON portcullis.halts
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER halts_no_truncate
    BEFORE TRUNCATE ON portcullis.halts
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER halt_resumptions_in_order
    BEFORE INSERT ON portcullis.halt_resumptions
    FOR EACH ROW EXECUTE FUNCTION portcullis.order_resumption();
CREATE TRIGGER halt_resumptions_append_only
    BEFORE UPDATE OR DELETE ON portcullis.halt_resumptions
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER halt_resumptions_no_truncate
    BEFORE TRUNCATE ON portcullis.halt_resumptions
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER halt_epochs_only_grow
    BEFORE UPDATE ON portcullis.halt_epochs
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_halt_epoch();
CREATE TRIGGER halt_epochs_no_delete
    BEFORE DELETE ON portcullis.halt_epochs
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER halt_epochs_no_truncate
    BEFORE TRUNCATE ON portcullis.halt_epochs
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();
