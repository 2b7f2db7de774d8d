-- One row per sign-in. A rotation locks it, and every end of the sign-in marks it:
-- so no successor token can slip past an end that runs at the same time.
CREATE TABLE sign_in (
    id         uuid        PRIMARY KEY,
    account_id text        NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    -- The end of its last refresh token.
    expires_at timestamptz NOT NULL,
    ended_at   timestamptz
);
CREATE INDEX sign_in_account ON sign_in (account_id) WHERE ended_at IS NULL;
CREATE INDEX sign_in_expiry ON sign_in (expires_at);

INSERT INTO sign_in (id, account_id, expires_at)
SELECT family, min(account_id), max(expires_at) FROM refresh_token GROUP BY family;

-- Holds for nodes of older versions too. A token of a sign-in that has ended is not
-- stored.
CREATE FUNCTION refresh_token_of_sign_in() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER refresh_token_sign_in BEFORE INSERT ON refresh_token
    FOR EACH ROW EXECUTE FUNCTION refresh_token_of_sign_in();

-- Until the last token that the revocation concerns has expired.
ALTER TABLE revocation ADD COLUMN expires_at timestamptz NOT NULL DEFAULT now() + interval '400 days';
CREATE INDEX revocation_expiry ON revocation (expires_at);
