DROP TABLE audit, erasure, revocation, idempotency;
DROP INDEX refresh_token_expiry, slug_creating;
ALTER TABLE slug DROP COLUMN plan;
