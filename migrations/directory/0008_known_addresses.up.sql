-- Addresses from which an account has signed in. Guesses of its password from other
-- addresses do not slow down sign-ins from these. A digest is keyed by a secret of
-- the nodes, so a stolen database tells nobody's address.
CREATE TABLE known_address (
    account_id text        NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    digest     bytea       NOT NULL,
    seen_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (account_id, digest)
);
CREATE INDEX known_address_age ON known_address (seen_at);
