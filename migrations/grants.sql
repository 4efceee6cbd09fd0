-- What the application's role may do, and the archivist's. Run by `migrate` with the role's name in a setting, so that
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
    -- Policies and budgets.
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.scope_policies TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON portcullis.budgets TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.budget_windows, portcullis.reservations, portcullis.budget_leases TO %I', app);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE ON portcullis.budget_windows, portcullis.reservations TO %I', app);
    EXECUTE format('REVOKE ALL ON portcullis.budget_raises FROM %I', app);
    EXECUTE format('GRANT SELECT, INSERT ON portcullis.budget_raises TO %I', app);
    -- Retention: read, for verification; a legal hold may be set by anybody, and not released.
    EXECUTE format('REVOKE ALL ON portcullis.retention_policies, portcullis.legal_holds, portcullis.retention_guards, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links FROM %I', app);
    EXECUTE format('GRANT SELECT ON portcullis.retention_policies, portcullis.legal_holds, portcullis.archives, portcullis.archive_ranges, portcullis.archive_links TO %I', app);
    EXECUTE format('GRANT INSERT ON portcullis.legal_holds TO %I', app);
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
