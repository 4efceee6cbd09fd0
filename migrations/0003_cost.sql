-- Budgets, what is spent of them, and the reservations that spend it. Money is nano-dollars.
--
-- Names and keys are compared byte for byte (COLLATE "C"), so that every process locks windows in
-- the same order.

-- One limit of one budget: so much per session, day, month, rolling window, or for ever. The limits
-- of a budget share its name. A limit of NULL only counts.
CREATE TABLE portcullis.budgets (
    tenant_id       text    COLLATE "C" NOT NULL CHECK (length(tenant_id) BETWEEN 1 AND 256),
    name            text    COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 256),
    -- The seconds of a rolling window are part of its name: rolling:300.
    period          text    COLLATE "C" NOT NULL
                    CHECK (period IN ('session', 'day', 'month', 'forever')
                           OR period ~ '^rolling:[1-9][0-9]{0,7}$'),
    -- Whose calls are charged: those that fit every part. An empty one fits every call.
    agent_id        text    COLLATE "C" NOT NULL CHECK (length(agent_id) <= 256),
    user_id         text    COLLATE "C" NOT NULL CHECK (length(user_id) <= 256),
    model           text    COLLATE "C" NOT NULL CHECK (length(model) <= 256),
    usd_limit       bigint  CHECK (usd_limit > 0),
    token_limit     bigint  CHECK (token_limit > 0),
    call_limit      bigint  CHECK (call_limit > 0),
    seconds_limit   integer CHECK (seconds_limit BETWEEN 1 AND 86400),
    -- How long a bucket of a rolling window is.
    bucket_micros   bigint  CHECK (bucket_micros > 0),
    -- Nano-dollars for a million tokens of a model without a price.
    fallback_input  bigint  CHECK (fallback_input >= 0),
    fallback_output bigint  CHECK (fallback_output >= 0),
    on_limit        text    COLLATE "C" NOT NULL CHECK (on_limit IN ('refuse', 'ask', 'warn')),
    -- At which percentages somebody is told, ascending.
    warn_at         integer[] NOT NULL,
    -- How much of it a process may take at once, to spend from memory.
    lease_percent   integer CHECK (lease_percent BETWEEN 1 AND 50),
    registered_at   timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, name, period),
    CHECK ((fallback_input IS NULL) = (fallback_output IS NULL)),
    CHECK (seconds_limit IS NULL OR period = 'session'),
    CHECK ((bucket_micros IS NOT NULL) = (period LIKE 'rolling:%'))
);

-- The budgets that apply to a call: a few looks by whose it is.
CREATE INDEX budgets_subject_idx ON portcullis.budgets (tenant_id, agent_id, user_id, model);

-- What is spent of one limit in one session, on one day, and so on. The limit is repeated here,
-- because an admission checks it under the lock of this row: a limit that is lowered waits for that
-- lock.
--
-- No CHECK constraints here and on reservations, as in 0001: they were half of what a reservation
-- cost. The statements keep the rules: no amount is below zero, and settled + held can always be
-- written.
CREATE TABLE portcullis.budget_windows (
    tenant_id      text    COLLATE "C" NOT NULL,
    budget         text    COLLATE "C" NOT NULL,
    period         text    COLLATE "C" NOT NULL,
    -- The session, the day as 2026-11-21, the month as 2026-11, or '-'.
    window_key     text    COLLATE "C" NOT NULL,
    usd_limit      bigint,
    token_limit    bigint,
    call_limit     bigint,
    seconds_limit  integer,
    -- By how much somebody raised the limits of this window.
    raised_usd     bigint  NOT NULL DEFAULT 0,
    raised_tokens  bigint  NOT NULL DEFAULT 0,
    raised_calls   bigint  NOT NULL DEFAULT 0,
    settled_usd    bigint  NOT NULL DEFAULT 0,
    -- Reserved and not settled: held, or of unknown outcome.
    held_usd       bigint  NOT NULL DEFAULT 0,
    -- By how much settled + held may exceed the limit: what calls cost beyond their ceilings, and
    -- what was already spent when a limit was lowered.
    overrun_usd    bigint  NOT NULL DEFAULT 0,
    settled_tokens bigint  NOT NULL DEFAULT 0,
    held_tokens    bigint  NOT NULL DEFAULT 0,
    overrun_tokens bigint  NOT NULL DEFAULT 0,
    settled_calls  bigint  NOT NULL DEFAULT 0,
    held_calls     bigint  NOT NULL DEFAULT 0,
    overrun_calls  bigint  NOT NULL DEFAULT 0,
    -- The percentage that somebody was last told about.
    warned         integer NOT NULL DEFAULT 0,
    -- A rolling window: what the calls that began in each of the last 61 stretches are charged at;
    -- what is settled and held above is then counted from the beginning. Stretch i is in slot
    -- i mod 61 + 1; the latest is bucket_at. 60 of them are the window, and the one that is under way
    -- makes 61: a stretch counts until its end has left.
    bucket_micros  bigint,
    bucket_at      bigint,
    bucket_usd     bigint[],
    bucket_tokens  bigint[],
    bucket_calls   bigint[],
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
    -- held, unknown, settled, refunded or released.
    state           text    COLLATE "C" NOT NULL,
    -- Decides the bucket of a rolling window, too.
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

-- The snapshot by model: the calls since a window opened. Partial, so that it is no way to a
-- reservation by its id: while the server believes the table small, any index that begins with the
-- tenant is as good to it as the key.
CREATE INDEX reservations_time_idx ON portcullis.reservations (tenant_id, reserved_at)
    WHERE state IN ('settled', 'unknown', 'held');
-- The sweeper: leases that have run out.
CREATE INDEX reservations_lease_idx
    ON portcullis.reservations (tenant_id, lease_until) WHERE state = 'held';

-- By how much the limit of a window was raised, once each: by an operator, or by an approval.
CREATE TABLE portcullis.budget_raises (
    tenant_id  text    COLLATE "C" NOT NULL,
    -- Of the raise, or of the approval.
    raise_id   text    COLLATE "C" NOT NULL CHECK (length(raise_id) BETWEEN 1 AND 256),
    budget     text    COLLATE "C" NOT NULL,
    period     text    COLLATE "C" NOT NULL,
    window_key text    COLLATE "C" NOT NULL,
    usd        bigint  NOT NULL CHECK (usd >= 0),
    tokens     bigint  NOT NULL CHECK (tokens >= 0),
    calls      bigint  NOT NULL CHECK (calls >= 0),
    raised_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, raise_id, budget, period)
);
