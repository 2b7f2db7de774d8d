CREATE OR REPLACE FUNCTION refresh_token_of_sign_in() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    ended timestamptz;
BEGIN
    INSERT INTO directory.sign_in AS known (id, account_id, expires_at)
    VALUES (NEW.family, NEW.account_id, NEW.expires_at)
        ON CONFLICT (id) DO UPDATE SET expires_at = greatest(known.expires_at, excluded.expires_at)
    RETURNING known.ended_at INTO ended;
    IF ended IS NOT NULL THEN
        RETURN NULL;
    END IF;
    RETURN NEW;
END $$;
ALTER TABLE sign_in DROP COLUMN refreshed_at, DROP COLUMN agent;
DROP FUNCTION reset_password(bytea, text, interval, uuid);
DROP FUNCTION set_password(text, text, text, uuid, interval, uuid, text);
DROP TABLE password_reset;
