-- Leased budgets: a process takes a slice of a window, of budgets.lease_percent of its limit, and spends it
-- from memory.

-- One slice. What is taken and not spent is part of what its window holds, so that no other process
-- can have it; what is spent is part of what the window has settled.
--
-- No CHECK constraints, as on the windows: the one statement that writes amounts keeps the rules.
CREATE TABLE portcullis.budget_leases (
    tenant_id    text   COLLATE "C" NOT NULL,
    lease_id     uuid   NOT NULL,
    budget       text   COLLATE "C" NOT NULL,
    period       text   COLLATE "C" NOT NULL,
    window_key   text   COLLATE "C" NOT NULL,
    -- The process, and for whom it took it first.
    holder       uuid   NOT NULL,
    agent_id     text   COLLATE "C" NOT NULL,
    session_id   text   COLLATE "C" NOT NULL,
    -- live; returned: nothing of it is left; lost: its holder let it run out, and what it had not
    -- reported is a reservation of unknown outcome, whose id is lease_id.
    state        text   COLLATE "C" NOT NULL DEFAULT 'live',
    -- How often it was renewed: whoever renews it says which time this is.
    epoch        bigint NOT NULL DEFAULT 0,
    taken_usd    bigint NOT NULL DEFAULT 0,
    taken_tokens bigint NOT NULL DEFAULT 0,
    taken_calls  bigint NOT NULL DEFAULT 0,
    -- As reported; the rest of what is taken counts as held.
    spent_usd    bigint NOT NULL DEFAULT 0,
    spent_tokens bigint NOT NULL DEFAULT 0,
    spent_calls  bigint NOT NULL DEFAULT 0,
    -- What the last renewal granted, for a holder that did not get the answer.
    last_usd     bigint NOT NULL DEFAULT 0,
    last_tokens  bigint NOT NULL DEFAULT 0,
    last_calls   bigint NOT NULL DEFAULT 0,
    taken_at     timestamptz NOT NULL,
    reported_at  timestamptz NOT NULL,
    lease_until  timestamptz NOT NULL,
    ended_at     timestamptz,
    -- Of a lost one: how many of spent_calls were not reported, and count as made.
    made_calls   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (tenant_id, lease_id)
);

-- Renewals change no column of the indexes below but lease_until; room on the page keeps the rest.
ALTER TABLE portcullis.budget_leases SET (fillfactor = 50);

-- The snapshot, and who is asked for slices: the live ones of a window.
CREATE INDEX budget_leases_window_idx
    ON portcullis.budget_leases (tenant_id, budget, period, window_key) WHERE state = 'live';
-- The sweeper: slices whose holder is gone.
CREATE INDEX budget_leases_lease_idx
    ON portcullis.budget_leases (tenant_id, lease_until) WHERE state = 'live';

-- How often the budgets of a tenant have changed: by this, processes find changes that they did not hear.
CREATE TABLE portcullis.budget_revisions (
    tenant_id text   COLLATE "C" NOT NULL,
    revision  bigint NOT NULL,
    PRIMARY KEY (tenant_id)
);
