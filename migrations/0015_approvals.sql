-- Approvals: what a person has to agree to first. No arguments are kept, only keyed hashes of them.
--
-- The rules stand here too, so that a program that goes past the crate meets the same ones: which
-- state may follow which, that whoever operates an agent is no voter, that nothing is undone.

-- One request, and what became of it.
CREATE TABLE portcullis.approval_requests (
    tenant_id       text    COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    request_id      uuid    NOT NULL,
    -- A call, or a limit that is to be raised once.
    subject         text    COLLATE "C" NOT NULL CHECK (subject IN ('call', 'raise')),
    -- The tool or model, or budget:<name>.
    label           text    COLLATE "C" NOT NULL CHECK (length(label) BETWEEN 1 AND 300),
    agent_id        text    COLLATE "C" NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 256),
    session_id      text    COLLATE "C" NOT NULL CHECK (length(session_id) BETWEEN 1 AND 256),
    user_id         text    COLLATE "C",
    operator_id     text    COLLATE "C",
    -- The agents that started it, nearest first.
    ancestors       text[]  COLLATE "C" NOT NULL,
    -- What the request is about, keyed: all of it, and all of it but the arguments.
    call_digest     bytea   NOT NULL CHECK (octet_length(call_digest) = 32),
    frame_digest    bytea   NOT NULL CHECK (octet_length(frame_digest) = 32),
    -- The policy that asked for it; empty where the host did.
    policy_hash     text    COLLATE "C" NOT NULL CHECK (length(policy_hash) IN (0, 64)),
    state           text    COLLATE "C" NOT NULL CHECK (state IN
                        ('pending', 'granted', 'denied', 'expired', 'withdrawn', 'consumed', 'revoked')),
    -- Who may decide: user:<id>, team:<id>.
    approvers       text[]  COLLATE "C" NOT NULL CHECK (cardinality(approvers) BETWEEN 1 AND 64),
    quorum          integer NOT NULL CHECK (quorum BETWEEN 1 AND 16),
    -- Who may never: the operators, the users and the agents of the request, folded.
    barred          text[]  COLLATE "C" NOT NULL,
    operator_known  boolean NOT NULL,
    -- Who has, folded; all of them agreed while it is pending.
    voters          text[]  COLLATE "C" NOT NULL,
    -- What they agreed to: the call, or the call with narrower arguments.
    approved_digest bytea   CHECK (octet_length(approved_digest) = 32),
    -- For how long it can be decided, and after that be used.
    life_micros     bigint  NOT NULL CHECK (life_micros BETWEEN 1 AND 31622400000000),
    requested_at    timestamptz NOT NULL CHECK (isfinite(requested_at)),
    expires_at      timestamptz NOT NULL CHECK (isfinite(expires_at)),
    -- Under a key that the database does not have: of what never changes, and of that with what it was asked for on.
    terms_mac       bytea   NOT NULL CHECK (octet_length(terms_mac) = 64),
    ended_at        timestamptz,
    -- Counts escalations: a decision is made under the approvers that were looked at.
    revision        integer NOT NULL,
    -- The call that is about to use it, for a moment; the one that did.
    held_by         uuid,
    held_until      timestamptz,
    PRIMARY KEY (tenant_id, request_id),
    CHECK (NOT voters && barred),
    CHECK (state NOT IN ('granted', 'consumed') OR (cardinality(voters) >= quorum AND approved_digest IS NOT NULL)),
    CHECK (state <> 'consumed' OR held_by IS NOT NULL),
    CHECK (held_by IS NULL OR state NOT IN ('pending', 'denied', 'withdrawn'))
);

-- Asking again finds the same request: there is one at a time.
CREATE UNIQUE INDEX approval_requests_live_idx
    ON portcullis.approval_requests (tenant_id, call_digest)
    WHERE state IN ('pending', 'granted');
-- find_request: the newest about a call, whatever became of it.
CREATE INDEX approval_requests_digest_idx
    ON portcullis.approval_requests (tenant_id, call_digest, requested_at);
-- try_take: what was agreed to.
CREATE INDEX approval_requests_approved_idx
    ON portcullis.approval_requests (tenant_id, approved_digest)
    WHERE state = 'granted';
-- list_pending, and what is past its time.
CREATE INDEX approval_requests_pending_idx
    ON portcullis.approval_requests (tenant_id, request_id)
    WHERE state = 'pending';
-- operators_of: those of the agents that this one started, and of its own session in other requests.
CREATE INDEX approval_requests_ancestors_idx
    ON portcullis.approval_requests USING gin (ancestors);
CREATE INDEX approval_requests_session_idx
    ON portcullis.approval_requests (tenant_id, agent_id, session_id)
    WHERE operator_id IS NOT NULL;

-- A name as it is compared, as `fold` in src/gates/approver.rs does. Everything in it is of pg_catalog, whoever asks.
CREATE FUNCTION portcullis.folded(id text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN coalesce(
    nullif(pg_catalog.regexp_replace(pg_catalog.regexp_replace(pg_catalog.regexp_replace(
        pg_catalog.lower(id COLLATE "C"),
        '^((user|operator|agent|team|mailto|human|session)?[:/])+(?=.)', ''),
        '[@+].*$', ''), '[^a-z0-9]', '', 'g'), ''),
    pg_catalog.regexp_replace(pg_catalog.regexp_replace(
        pg_catalog.lower(id COLLATE "C"),
        '^((user|operator|agent|team|mailto|human|session)?[:/])+(?=.)', ''),
        '[^a-z0-9]', '', 'g'));

-- is_agent: no agent's id is that of a person, however it is written.
CREATE INDEX policies_folded_idx
    ON portcullis.policies (tenant_id, portcullis.folded(name))
    WHERE module IN ('scope', 'gates', 'loops');
CREATE INDEX presence_person_idx
    ON portcullis.presence (tenant_id, portcullis.folded(agent_id));
CREATE INDEX halts_person_idx
    ON portcullis.halts (tenant_id, portcullis.folded(agent_id));
CREATE INDEX approval_requests_person_idx
    ON portcullis.approval_requests (tenant_id, portcullis.folded(agent_id));

CREATE FUNCTION portcullis.check_approval_request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' OR NEW.voters <> '{}' OR NEW.approved_digest IS NOT NULL
           OR NEW.held_by IS NOT NULL OR NEW.revision <> 0 THEN
            RAISE EXCEPTION 'a request for approval begins pending'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        IF NEW.expires_at > NEW.requested_at + NEW.life_micros * interval '1 microsecond' THEN
            RAISE EXCEPTION 'a request for approval lives no longer than it says'
                USING ERRCODE = 'insufficient_privilege';
        END IF;
        RETURN NEW;
    END IF;
    IF (OLD.tenant_id, OLD.request_id, OLD.subject, OLD.label, OLD.agent_id, OLD.session_id, OLD.user_id,
        OLD.operator_id, OLD.ancestors, OLD.call_digest, OLD.frame_digest, OLD.policy_hash, OLD.operator_known,
        OLD.requested_at, OLD.terms_mac)
       IS DISTINCT FROM
       (NEW.tenant_id, NEW.request_id, NEW.subject, NEW.label, NEW.agent_id, NEW.session_id, NEW.user_id,
        NEW.operator_id, NEW.ancestors, NEW.call_digest, NEW.frame_digest, NEW.policy_hash, NEW.operator_known,
        NEW.requested_at, NEW.terms_mac)
       OR NOT OLD.barred <@ NEW.barred OR NOT OLD.voters <@ NEW.voters
       OR cardinality(NEW.voters) > cardinality(OLD.voters) + 1
       -- Nobody counts twice.
       OR (cardinality(NEW.voters) > cardinality(OLD.voters) AND NEW.voters <@ OLD.voters)
       OR NEW.quorum < OLD.quorum
       OR (OLD.approved_digest IS NOT NULL AND OLD.approved_digest IS DISTINCT FROM NEW.approved_digest) THEN
        RAISE EXCEPTION 'what a request for approval is about does not change'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state NOT IN ('pending', 'granted') THEN
        RAISE EXCEPTION 'a request for approval that has ended does not change'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state <> NEW.state AND (OLD.state, NEW.state) NOT IN (
            ('pending', 'granted'), ('pending', 'denied'), ('pending', 'expired'), ('pending', 'withdrawn'),
            ('granted', 'consumed'), ('granted', 'expired'), ('granted', 'revoked')) THEN
        RAISE EXCEPTION 'a request for approval cannot go from % to %', OLD.state, NEW.state
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- Whoever agreed or refused is named; nothing else is a decision.
    IF OLD.state = 'pending' AND NEW.state IN ('granted', 'denied')
       AND cardinality(NEW.voters) <> cardinality(OLD.voters) + 1 THEN
        RAISE EXCEPTION 'a decision is somebody''s'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF OLD.state = 'granted' AND (OLD.voters, OLD.approvers, OLD.quorum)
       IS DISTINCT FROM (NEW.voters, NEW.approvers, NEW.quorum) THEN
        RAISE EXCEPTION 'what was decided does not change'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NEW.state = 'consumed' AND OLD.held_by IS DISTINCT FROM NEW.held_by THEN
        RAISE EXCEPTION 'an approval is used by the call that holds it'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER approval_requests_step_by_step
    BEFORE INSERT OR UPDATE ON portcullis.approval_requests
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_approval_request();
CREATE TRIGGER approval_requests_no_delete
    BEFORE DELETE ON portcullis.approval_requests
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER approval_requests_no_truncate
    BEFORE TRUNCATE ON portcullis.approval_requests
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();

-- Who is of which team, as the host says.
CREATE TABLE portcullis.approval_teams (
    tenant_id text COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    team_id   text COLLATE "C" NOT NULL CHECK (length(team_id) BETWEEN 1 AND 256),
    member_id text COLLATE "C" NOT NULL CHECK (length(member_id) BETWEEN 1 AND 256),
    PRIMARY KEY (tenant_id, team_id, member_id)
);

-- Tokens that were used. The one that is first is the only one.
CREATE TABLE portcullis.approval_tokens (
    tenant_id  text  COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    token_id   bytea NOT NULL CHECK (octet_length(token_id) = 16),
    request_id uuid  NOT NULL,
    used_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, token_id)
);

CREATE TRIGGER approval_tokens_append_only
    BEFORE UPDATE OR DELETE ON portcullis.approval_tokens
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER approval_tokens_no_truncate
    BEFORE TRUNCATE ON portcullis.approval_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();

-- Tokens that were given out, by those who may decide: whoever has only the key makes none. With the hash of what each
-- says, so that none of them stands for another one.
CREATE TABLE portcullis.approval_tokens_issued (
    tenant_id   text  COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    token_id    bytea NOT NULL CHECK (octet_length(token_id) = 16),
    request_id  uuid  NOT NULL,
    claims_hash bytea NOT NULL CHECK (octet_length(claims_hash) = 32),
    issued_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, token_id)
);

CREATE TRIGGER approval_tokens_issued_append_only
    BEFORE UPDATE OR DELETE ON portcullis.approval_tokens_issued
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER approval_tokens_issued_no_truncate
    BEFORE TRUNCATE ON portcullis.approval_tokens_issued
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();

-- What was agreed to in advance: so many calls of one agent, until a moment.
CREATE TABLE portcullis.approval_grants (
    tenant_id   text    COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    grant_id    uuid    NOT NULL,
    agent_id    text    COLLATE "C" NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 256),
    -- Whole names.
    tools       text[]  COLLATE "C" NOT NULL CHECK (cardinality(tools) BETWEEN 1 AND 64),
    -- The one call that it is for, without who makes it; NULL for any arguments.
    what_digest bytea   CHECK (octet_length(what_digest) = 32),
    policy_hash text    COLLATE "C" NOT NULL CHECK (length(policy_hash) = 64),
    -- Who agreed, as they are named and folded.
    granted_by  text    COLLATE "C" NOT NULL CHECK (length(granted_by) BETWEEN 1 AND 300),
    voter       text    COLLATE "C" NOT NULL CHECK (length(voter) BETWEEN 1 AND 256),
    uses        integer NOT NULL CHECK (uses BETWEEN 1 AND 1000000),
    uses_left   integer NOT NULL CHECK (uses_left BETWEEN 0 AND uses),
    granted_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    PRIMARY KEY (tenant_id, grant_id)
);

CREATE INDEX approval_grants_agent_idx
    ON portcullis.approval_grants (tenant_id, agent_id, expires_at)
    WHERE uses_left > 0 AND revoked_at IS NULL;

CREATE FUNCTION portcullis.check_approval_grant() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (OLD.tenant_id, OLD.grant_id, OLD.agent_id, OLD.tools, OLD.what_digest, OLD.policy_hash, OLD.granted_by,
        OLD.voter, OLD.uses, OLD.granted_at, OLD.expires_at)
       IS DISTINCT FROM
       (NEW.tenant_id, NEW.grant_id, NEW.agent_id, NEW.tools, NEW.what_digest, NEW.policy_hash, NEW.granted_by,
        NEW.voter, NEW.uses, NEW.granted_at, NEW.expires_at)
       OR OLD.revoked_at IS NOT NULL
       -- Nobody gives a use back: one is counted when it is used, and not before.
       OR NEW.uses_left NOT IN (OLD.uses_left, OLD.uses_left - 1) THEN
        RAISE EXCEPTION 'what was agreed to in advance does not change'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER approval_grants_fixed
    BEFORE UPDATE ON portcullis.approval_grants
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_approval_grant();
CREATE TRIGGER approval_grants_no_delete
    BEFORE DELETE ON portcullis.approval_grants
    FOR EACH ROW EXECUTE FUNCTION portcullis.refuse_change();
CREATE TRIGGER approval_grants_no_truncate
    BEFORE TRUNCATE ON portcullis.approval_grants
    FOR EACH STATEMENT EXECUTE FUNCTION portcullis.refuse_change();

-- A limit is raised by who may write budgets, or, once, by what people agreed to. Otherwise the application, which opens
-- windows and charges them, could raise what holds its agents. A call may be short in several budgets: they agree to all
-- of them, and the request is named after one. By how much each is raised stands in the request's digest only, which no
-- trigger can check.
CREATE FUNCTION portcullis.check_raise() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF has_column_privilege('portcullis.budgets', 'usd_limit', 'UPDATE') OR EXISTS (
        SELECT
          FROM portcullis.approval_requests r
         WHERE r.tenant_id = NEW.tenant_id
           AND r.request_id = CASE WHEN NEW.raise_id ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'
                                   THEN NEW.raise_id::uuid END
           AND r.subject = 'raise'
           AND r.label IN (SELECT 'budget:' || b.budget
                             FROM portcullis.budget_raises b
                            WHERE b.tenant_id = NEW.tenant_id AND b.raise_id = NEW.raise_id)
           AND r.state = 'consumed'
           -- What the request names is its agent, its user and its session, and no amounts.
           AND (NEW.period <> 'session' OR NEW.window_key = r.session_id)
           AND EXISTS (
               SELECT
                 FROM portcullis.budgets b
                WHERE b.tenant_id = NEW.tenant_id AND b.name = NEW.budget AND b.period = NEW.period
                  AND b.on_limit = 'ask' AND b.agent_id IN ('', r.agent_id)
                  AND b.user_id IN ('', coalesce(r.user_id, ''))))
       -- All at once: what was agreed to and used is used up.
       AND NOT EXISTS (
        SELECT
          FROM portcullis.budget_raises b
         WHERE b.tenant_id = NEW.tenant_id AND b.raise_id = NEW.raise_id
           AND b.xmin <> pg_current_xact_id()::xid)
    THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'nobody agreed to raise this limit'
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER budget_raises_agreed_to
    AFTER INSERT ON portcullis.budget_raises
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_raise();

-- After the statement, so that the raise is there by which a limit grew. What is charged changes no limit, and does not
-- come here; a window that is opened does.
CREATE FUNCTION portcullis.check_limits() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF has_column_privilege('portcullis.budgets', 'usd_limit', 'UPDATE') THEN
        RETURN NULL;
    END IF;
    IF NOT EXISTS (
        SELECT
          FROM portcullis.budgets b
         WHERE b.tenant_id = NEW.tenant_id AND b.name = NEW.budget AND b.period = NEW.period
           AND (b.usd_limit, b.token_limit, b.call_limit, b.seconds_limit)
               IS NOT DISTINCT FROM
               (NEW.usd_limit, NEW.token_limit, NEW.call_limit, NEW.seconds_limit))
    THEN
        RAISE EXCEPTION 'the limits of a window are those of its budget'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF (NEW.raised_usd, NEW.raised_tokens, NEW.raised_calls) <> (0, 0, 0) AND NOT EXISTS (
        SELECT
          FROM portcullis.budget_raises r
         WHERE r.tenant_id = NEW.tenant_id AND r.budget = NEW.budget AND r.period = NEW.period
           AND r.window_key = NEW.window_key
        HAVING sum(r.usd) >= NEW.raised_usd AND sum(r.tokens) >= NEW.raised_tokens
           AND sum(r.calls) >= NEW.raised_calls)
    THEN
        RAISE EXCEPTION 'a limit is not raised without a raise'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER budget_windows_limited
    AFTER INSERT OR UPDATE OF tenant_id, budget, period, window_key, usd_limit, token_limit, call_limit, seconds_limit,
        raised_usd, raised_tokens, raised_calls
    ON portcullis.budget_windows
    FOR EACH ROW EXECUTE FUNCTION portcullis.check_limits();
