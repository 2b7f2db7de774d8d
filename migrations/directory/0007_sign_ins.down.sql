DROP INDEX revocation_expiry;
ALTER TABLE revocation DROP COLUMN expires_at;
DROP TRIGGER refresh_token_sign_in ON refresh_token;
DROP FUNCTION refresh_token_of_sign_in();
DROP TABLE sign_in;
