-- Budgets, what is spent of them, and the reservations that spend it. Money is nano-dollars.
--
-- Names and keys are compared byte for byte (COLLATE "C"), so that every process locks windows in
-- the same order.

-- One limit of one budget: so much per session, so much per UTC day. The limits of a budget share
-- its name. A limit of NULL only counts.
CREATE TABLE portcullis.budgets (
    tenant_id       text    COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    name            text    COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 256),
    period          text    COLLATE "C" NOT NULL CHECK (period IN ('session', 'day')),
    agent_id        text    COLLATE "C" NOT NULL CHECK (length(agent_id) BETWEEN 1 AND 256),
    usd_limit       bigint  CHECK (usd_limit > 0),
    token_limit     bigint  CHECK (token_limit > 0),
    seconds_limit   integer CHECK (seconds_limit BETWEEN 1 AND 86400),
    -- Nano-dollars for a million tokens of a model without a price.
    fallback_input  bigint  CHECK (fallback_input >= 0),
    fallback_output bigint  CHECK (fallback_output >= 0),
    registered_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name, period),
    CHECK ((fallback_input IS NULL) = (fallback_output IS NULL)),
    CHECK (seconds_limit IS NULL OR period = 'session')
);

-- The budgets that apply to a call: one look by its agent.
CREATE INDEX budgets_agent_idx ON portcullis.budgets (tenant_id, agent_id);

-- What is spent of one limit in one session, or on one day. The limit is repeated here, because an
-- admission checks it under the lock of this row: a limit that is lowered waits for that lock.
--
-- No CHECK constraints here and on reservations, as in 0001: they were half of what a reservation
-- cost. The statements keep the rules: no amount is below zero, and settled + held can always be
-- written.
CREATE TABLE portcullis.budget_windows (
    tenant_id      text    COLLATE "C" NOT NULL,
    budget         text    COLLATE "C" NOT NULL,
    period         text    COLLATE "C" NOT NULL,
    -- The session, or the day as 2026-11-21.
    window_key     text    COLLATE "C" NOT NULL,
    usd_limit      bigint,
    token_limit    bigint,
    seconds_limit  integer,
    settled_usd    bigint  NOT NULL DEFAULT 0,
    -- Reserved and not settled: held, or of unknown outcome.
    held_usd       bigint  NOT NULL DEFAULT 0,
    -- By how much settled + held may exceed the limit: what calls cost beyond their ceilings, and
    -- what was already spent when a limit was lowered.
    overrun_usd    bigint  NOT NULL DEFAULT 0,
    settled_tokens bigint  NOT NULL DEFAULT 0,
    held_tokens    bigint  NOT NULL DEFAULT 0,
    overrun_tokens bigint  NOT NULL DEFAULT 0,
    opened_at      timestamptz NOT NULL,
    -- The first admission, from which session seconds count.
    first_at       timestamptz,
    PRIMARY KEY (tenant_id, budget, period, window_key)
);

-- Every reservation and every settlement rewrites a window's row, whose key never changes; room on
-- its page keeps the new version there, and the index untouched.
ALTER TABLE portcullis.budget_windows SET (fillfactor = 30, autovacuum_vacuum_scale_factor = 0.02);

-- One call: reserved before, settled or released after. What it is charged to is kept in parallel
-- arrays, so that a call charged to many windows is still one row, written twice.
CREATE TABLE portcullis.reservations (
    tenant_id       text    COLLATE "C" NOT NULL,
    reservation_id  uuid    NOT NULL,
    agent_id        text    COLLATE "C" NOT NULL,
    session_id      text    COLLATE "C" NOT NULL,
    user_id         text    COLLATE "C",
    model           text    COLLATE "C",
    provider        text    COLLATE "C",
    -- held, unknown, settled or released.
    state           text    COLLATE "C" NOT NULL,
    reserved_at     timestamptz NOT NULL,
    lease_until     timestamptz NOT NULL,
    ended_at        timestamptz,
    -- The operation that ended it, so that it can be tried again after a lost answer.
    ended_by        uuid,
    reserved_tokens bigint  NOT NULL,
    -- What it is charged at now: the ceiling while held, the cost once settled.
    charged_tokens  bigint  NOT NULL,
    input_tokens    bigint,
    cached_tokens   bigint,
    output_tokens   bigint,
    reasoning_tokens bigint,
    budgets         text[]   NOT NULL,
    periods         text[]   NOT NULL,
    window_keys     text[]   NOT NULL,
    -- Per window, because an unknown model is priced by each budget's own fallback.
    reserved_usd    bigint[] NOT NULL,
    charged_usd     bigint[] NOT NULL,
    -- The budgets' fallback prices, if any had one, for a model whose price is not known at the end.
    fallback_input  bigint[],
    fallback_output bigint[],
    PRIMARY KEY (tenant_id, reservation_id)
);

-- The snapshot by model: the calls of an agent since its window opened.
CREATE INDEX reservations_agent_idx
    ON portcullis.reservations (tenant_id, agent_id, reserved_at);
-- The sweeper: leases that have run out.
CREATE INDEX reservations_lease_idx
    ON portcullis.reservations (tenant_id, lease_until) WHERE state = 'held';
