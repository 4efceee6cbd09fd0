-- The agents' keys that are on record: a verification reads them before anything else.

-- list_key_entries. Nothing of it is touched by entries of other kinds.
CREATE INDEX entries_identity_idx
    ON portcullis.entries (tenant_id, kind)
    WHERE kind IN ('identity.key_registered', 'identity.key_revoked');
