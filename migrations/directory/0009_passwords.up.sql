-- Tokens that set a new password once, as the operator's mailer sent them. A spent one
-- stays until it expires, so that a repeat of the request that spent it is recognised.
CREATE TABLE password_reset (
    digest     bytea       PRIMARY KEY,
    account_id text        NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    is_spent   boolean     NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
);
CREATE INDEX password_reset_account ON password_reset (account_id);
CREATE INDEX password_reset_expiry ON password_reset (expires_at);

-- Replaces the hash old_hash, or any hash if that is NULL. The later statements see
-- each sign-in that began before the lock was granted.
CREATE FUNCTION set_password(
    owner_id text, old_hash text, new_hash text, kept_sign_in uuid, remembered interval, note uuid, deed text)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    current_hash text;
BEGIN
    SELECT password_hash INTO current_hash FROM directory.account WHERE id = owner_id FOR NO KEY UPDATE;
    IF current_hash = new_hash THEN
        RETURN true;
    END IF;
    IF current_hash IS NULL OR current_hash <> old_hash THEN
        RETURN false;
    END IF;
    UPDATE directory.account SET password_hash = new_hash WHERE id = owner_id;
    WITH ended AS (
        UPDATE directory.sign_in SET ended_at = now()
         WHERE account_id = owner_id AND ended_at IS NULL AND id IS DISTINCT FROM kept_sign_in
        RETURNING id)
    INSERT INTO directory.revocation (id, user_id, login, expires_at)
    SELECT gen_random_uuid(), owner_id, id, now() + remembered FROM ended;
    DELETE FROM directory.known_address WHERE account_id = owner_id;
    UPDATE directory.password_reset SET is_spent = true WHERE account_id = owner_id;
    INSERT INTO directory.audit (id, actor, action, target)
    VALUES (note, owner_id, deed, 'user ' || owner_id);
    RETURN true;
END $$;

-- The account's lock comes first, as in set_password: two requests with one token
-- exclude each other.
CREATE FUNCTION reset_password(token bytea, new_hash text, remembered interval, note uuid)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    owner_id text;
    current_hash text;
BEGIN
    SELECT account_id INTO owner_id FROM directory.password_reset WHERE digest = token AND expires_at > now();
    SELECT password_hash INTO current_hash FROM directory.account WHERE id = owner_id FOR NO KEY UPDATE;
    IF current_hash IS NULL THEN
        RETURN false;
    END IF;
    IF (SELECT is_spent FROM directory.password_reset WHERE digest = token) THEN
        RETURN current_hash = new_hash;
    END IF;
    RETURN directory.set_password(owner_id, NULL, new_hash, NULL, remembered, note, 'password.reset');
END $$;

-- For the list that a user sees. NULL: not refreshed since this migration.
ALTER TABLE sign_in ADD COLUMN refreshed_at timestamptz, ADD COLUMN agent text;

CREATE OR REPLACE FUNCTION refresh_token_of_sign_in() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended timestamptz;
BEGIN
    INSERT INTO directory.sign_in AS known (id, account_id, expires_at)
    VALUES (NEW.family, NEW.account_id, NEW.expires_at)
        ON CONFLICT (id) DO UPDATE
           SET expires_at = greatest(known.expires_at, excluded.expires_at), refreshed_at = now()
    RETURNING known.ended_at INTO ended;
    IF ended IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
