-- What the application's role may do, the operators', and the archivist's. Run by `migrate` with the role's name in a setting, so that
-- %I quotes it; idempotent. Not a numbered migration: it is run whenever a role is named.
DO $$
DECLARE
    app text := nullif(current_setting('portcullis.app_role', true), '');
BEGIN
    IF app IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA portcullis TO %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.schema_migrations TO %I', app);
    -- The audit trail: append and read. The triggers refuse the rest even to the owner.
    EXECUTE format('REVOKE ALL ON portcullis.entries, portcullis.chains FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.entries TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.chains TO %I', app);
    EXECUTE format('REVOKE ALL ON portcullis.head_signatures FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.head_signatures TO %I', app);
    -- Events on their way into the trail: a row is queued, moved and deleted, never changed.
    EXECUTE format('REVOKE ALL ON portcullis.outbox FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON portcullis.outbox TO %I', app);
    -- Which key is current: rotating is the application's business. Nothing of it is removed.
    EXECUTE format('REVOKE ALL ON portcullis.keyring FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.keyring TO %I', app);
    -- Checkpoints: made and read; what was signed is never changed, tiles and trees only grow.
    EXECUTE format('REVOKE ALL ON portcullis.checkpoints, portcullis.checkpoint_ranges, portcullis.tree_tiles, portcullis.trees FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.checkpoints, portcullis.checkpoint_ranges TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.tree_tiles, portcullis.trees TO %I', app);
    -- What was published outside of the database.
    EXECUTE format('REVOKE ALL ON portcullis.anchor_receipts FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.anchor_receipts TO %I', app);
    -- Policies: where an operator has a role of its own, the application reads them and changes none. What was in force
    -- before is kept by a trigger, and changed by nobody.
    EXECUTE format('REVOKE ALL ON portcullis.policies, portcullis.policy_revisions, portcullis.policy_history FROM %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.policies, portcullis.policy_revisions, portcullis.policy_history TO %I', app);
    IF nullif(current_setting('portcullis.operator_role', true), '') IS NULL THEN
        EXECUTE format('GRANT INSERT, UPDATE ON portcullis.policies, portcullis.policy_revisions TO %I', app);
    END IF;
    -- Budgets.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.budgets TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.budget_windows, portcullis.reservations, portcullis.budget_leases TO %I', app);
    EXECUTE format('REVOKE ALL ON portcullis.budget_raises FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.budget_raises TO %I', app);
    -- Which clients are wrapped, and how many calls they made; only the marks of writers that are gone are removed.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.coverage_clients, portcullis.coverage_calls TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.coverage_writers TO %I', app);
    -- What was seen of sessions that move between processes: each process its own rows.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.loop_windows TO %I', app);
    -- Approvals: asked for, decided and used step by step, as the triggers let them; nothing is removed.
    EXECUTE format('REVOKE ALL ON portcullis.approval_requests, portcullis.approval_teams, portcullis.approval_tokens, portcullis.approval_grants FROM %I', app);
    -- Where an operator has a role of its own, the application asks and uses, and decides nothing: it can name no voter,
    -- and without one more of them a trigger lets nothing be granted.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (state, held_by, held_until, ended_at) ON portcullis.approval_requests TO %I', app);
    EXECUTE format('GRANT SELECT, UPDATE (uses_left) ON portcullis.approval_grants TO %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.approval_teams TO %I', app);
    IF nullif(current_setting('portcullis.operator_role', true), '') IS NULL THEN
        EXECUTE format('GRANT UPDATE ON portcullis.approval_requests TO %I', app);
        EXECUTE format('GRANT INSERT, UPDATE ON portcullis.approval_grants TO %I', app);
        EXECUTE format('GRANT INSERT, DELETE ON portcullis.approval_teams TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.approval_tokens TO %I', app);
    END IF;
    -- Retention: read, for verification; a legal hold may be set by anybody, and not released.
    EXECUTE format('REVOKE ALL ON portcullis.retention_policies, portcullis.legal_holds, portcullis.retention_guards, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links FROM %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.retention_policies, portcullis.legal_holds, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links TO %I', app);
    EXECUTE format('GRANT INSERT ON portcullis.legal_holds TO %I', app);
    -- The halt switch: anybody may halt, and nobody but an operator resumes. The epochs are a trigger's business.
    EXECUTE format('REVOKE ALL ON portcullis.halts, portcullis.halt_resumptions, portcullis.halt_epochs FROM %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.halts, portcullis.halt_resumptions, portcullis.halt_epochs TO %I', app);
    EXECUTE format('GRANT INSERT ON portcullis.halts TO %I', app);
    -- Who is there: a trigger lets a session take its steps, and keeps who operates it.
    EXECUTE format('REVOKE ALL ON portcullis.presence FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.presence TO %I', app);
END
$$;

-- Operators: what the application has (the block above, run for them), and to resume.
DO $$
DECLARE
    operator text := nullif(current_setting('portcullis.operator_role', true), '');
BEGIN
    IF operator IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT INSERT ON portcullis.halt_resumptions TO %I', operator);
END
$$;

-- The archivist: a role that the application does not have. What it may delete, a trigger decides.
DO $$
DECLARE
    archivist text := nullif(current_setting('portcullis.archivist_role', true), '');
BEGIN
    IF archivist IS NULL THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA portcullis TO %I', archivist);
    EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA portcullis FROM %I', archivist);
    EXECUTE format('GRANT SELECT ON portcullis.schema_migrations TO %I', archivist);
    -- What it does is on record as everything is.
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON portcullis.entries TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.chains TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON portcullis.outbox TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.keyring TO %I', archivist);
    -- What archives are verified against.
    EXECUTE format('GRANT SELECT ON portcullis.checkpoints, portcullis.checkpoint_ranges, portcullis.tree_tiles, portcullis.trees TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.head_signatures, portcullis.anchor_receipts TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.retention_policies, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links TO %I', archivist);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.legal_holds TO %I', archivist);
END
$$;

-- The operator: decides, and says who may. Beside what operators are given elsewhere.
DO $$
DECLARE
    operator text := nullif(current_setting('portcullis.operator_role', true), '');
BEGIN
    IF operator IS NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = operator) THEN
        RETURN;
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA portcullis TO %I', operator);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.approval_requests, portcullis.approval_grants TO %I', operator);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON portcullis.approval_teams TO %I', operator);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.approval_tokens TO %I', operator);
END
$$;
