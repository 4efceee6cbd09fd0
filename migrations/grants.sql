-- What the application's roles may do, the operators', and the archivist's. Run by `migrate` with the roles' names in
-- settings, so that %I quotes them; idempotent. Not a numbered migration: it is run whenever a role is named.

-- Nobody runs our functions but our own triggers: some run as the owner, and whoever could attach one to a table of his own
-- would have whatever its casts and operators call run as the owner, too.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA portcullis FROM PUBLIC;

-- The application and the operators. Every role that was ever named is given what it needs now: whoever names the
-- operators once need not name the application again, nor the other way round.
DO $$
DECLARE
    app      text := nullif(current_setting('portcullis.app_role', true), '');
    operator text := nullif(current_setting('portcullis.operator_role', true), '');
    named    record;
    decides  boolean;
BEGIN
    IF app IS NULL AND operator IS NULL THEN
        RETURN;
    END IF;
    IF app IS NOT NULL THEN
        INSERT INTO portcullis.roles (role_name, part) VALUES (app, 'application') ON CONFLICT DO NOTHING;
    END IF;
    IF operator IS NOT NULL THEN
        INSERT INTO portcullis.roles (role_name, part) VALUES (operator, 'operator')
        ON CONFLICT (role_name) DO UPDATE SET part = 'operator';
    END IF;
    FOR named IN
        SELECT r.role_name AS name,
               -- Where nobody is an operator, the application is; but it never resumes what is halted.
               r.part = 'operator' OR NOT EXISTS (SELECT FROM portcullis.roles o WHERE o.part = 'operator') AS decides,
               r.part = 'operator' AS resumes
          FROM portcullis.roles r
          LEFT JOIN pg_catalog.pg_roles p ON p.rolname = r.role_name
         -- One that is named now and is none is an error; one that is gone is not.
         WHERE p.rolname IS NOT NULL OR r.role_name IN (app, operator)
         ORDER BY r.role_name
    LOOP
        app := named.name;
        decides := named.decides;
        EXECUTE format('GRANT USAGE ON SCHEMA portcullis TO %I', app);
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA portcullis FROM %I', app);
        EXECUTE format('GRANT SELECT ON portcullis.schema_migrations, portcullis.roles TO %I', app);
        -- The audit trail: append and read. The triggers refuse the rest even to the owner.
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.entries, portcullis.head_signatures TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.chains TO %I', app);
        -- Events on their way into the trail: a row is queued, moved and deleted, never changed.
        EXECUTE format('GRANT SELECT, INSERT, DELETE ON portcullis.outbox TO %I', app);
        -- Which key is current: rotating is the application's business. Nothing of it is removed.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.keyring TO %I', app);
        -- Checkpoints: made and read; what was signed is never changed, tiles and trees only grow.
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.checkpoints, portcullis.checkpoint_ranges TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.tree_tiles, portcullis.trees TO %I', app);
        -- What was published outside of the database.
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.anchor_receipts TO %I', app);
        -- Retention: read, for verification; a legal hold may be set by anybody, and not released.
        EXECUTE format('GRANT SELECT ON portcullis.retention_policies, portcullis.legal_holds, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links TO %I', app);
        EXECUTE format('GRANT INSERT ON portcullis.legal_holds TO %I', app);
        -- Who is there: a trigger lets a session take its steps, and keeps who operates it.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.presence TO %I', app);
        -- Which clients are wrapped, and how many calls they made; only the marks of writers that are gone are removed.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.coverage_clients, portcullis.coverage_calls TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.coverage_writers TO %I', app);
        -- What was seen of sessions that move between processes: each process its own rows.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.loop_windows TO %I', app);
        -- The halt switch: anybody may halt. The epochs are a trigger's business.
        EXECUTE format('GRANT SELECT ON portcullis.halts, portcullis.halt_resumptions, portcullis.halt_epochs TO %I', app);
        EXECUTE format('GRANT INSERT ON portcullis.halts TO %I', app);
        -- Policies are read. What was in force before is kept by a trigger, and changed by nobody.
        EXECUTE format('GRANT SELECT ON portcullis.policies, portcullis.policy_revisions, portcullis.policy_history TO %I', app);
        -- Budgets: windows are opened, with their budget's limits, and charged; a trigger lets nobody raise them who was
        -- not given it. Locking a budget while a window is opened takes the right to write something of it.
        EXECUTE format('GRANT SELECT, UPDATE (registered_at) ON portcullis.budgets TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.budget_windows, portcullis.reservations, portcullis.budget_leases TO %I', app);
        EXECUTE format('GRANT SELECT ON portcullis.budget_revisions TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.budget_raises TO %I', app);
        -- Approvals: asked for and used step by step, as the triggers let them. Who decides nothing can name no voter, and
        -- without one more of them a trigger lets nothing be granted.
        EXECUTE format('GRANT SELECT, INSERT, UPDATE (state, held_by, held_until, ended_at) ON portcullis.approval_requests TO %I', app);
        EXECUTE format('GRANT SELECT, UPDATE (uses_left) ON portcullis.approval_grants TO %I', app);
        EXECUTE format('GRANT SELECT ON portcullis.approval_teams TO %I', app);
        -- Which names are one person's; indexes ask it, of what is written, too.
        EXECUTE format('GRANT EXECUTE ON FUNCTION portcullis.folded(text) TO %I', app);
        CONTINUE WHEN NOT decides;
        -- Who decides: what agents may do and spend, whom to ask, and what is agreed to. Nothing of it is removed, but for
        -- budgets and who is of a team, which are on record.
        EXECUTE format('GRANT INSERT, UPDATE ON portcullis.policies, portcullis.policy_revisions TO %I', app);
        EXECUTE format('GRANT INSERT, UPDATE, DELETE ON portcullis.budgets TO %I', app);
        EXECUTE format('GRANT INSERT, UPDATE ON portcullis.budget_revisions TO %I', app);
        EXECUTE format('GRANT UPDATE ON portcullis.approval_requests TO %I', app);
        EXECUTE format('GRANT INSERT, UPDATE ON portcullis.approval_grants TO %I', app);
        EXECUTE format('GRANT INSERT, DELETE ON portcullis.approval_teams TO %I', app);
        EXECUTE format('GRANT SELECT, INSERT ON portcullis.approval_tokens, portcullis.approval_tokens_issued TO %I', app);
        CONTINUE WHEN NOT named.resumes;
        EXECUTE format('GRANT INSERT ON portcullis.halt_resumptions TO %I', app);
    END LOOP;
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
    EXECUTE format('GRANT EXECUTE ON FUNCTION portcullis.kept_kinds() TO %I', archivist);
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
