-- Removes everything that portcullis made in this database. Export the audit trail first: it is
-- gone for good. Run it as the role that migrated. Nothing outside the schema was ever made.
DROP SCHEMA portcullis CASCADE;
