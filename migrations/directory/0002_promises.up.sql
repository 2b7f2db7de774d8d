-- What was begun and must be brought to its end, and what must be remembered
-- for a while: rooms half made, answers given, sign-outs, erasures.

-- While a room is being made: what was asked for, so that anybody can finish it.
ALTER TABLE slug ADD COLUMN plan jsonb;
CREATE INDEX slug_creating ON slug (created_at) WHERE state = 'creating';

CREATE INDEX refresh_token_expiry ON refresh_token (expires_at);

-- The answer to each request with an Idempotency-Key. A row without a status is
-- a request under way, or one whose node died.
CREATE TABLE idempotency (
    user_id    text        NOT NULL,
    key        text        NOT NULL,
    digest     bytea       NOT NULL,
    -- The id of what it makes, the same at every try.
    makes      bigint      NOT NULL,
    -- Which try it is: a node that was taken for dead writes no answer.
    try        uuid        NOT NULL,
    tried_at   timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz NOT NULL DEFAULT now(),
    status     int,
    location   text,
    answer     text,
    PRIMARY KEY (user_id, key)
);
CREATE INDEX idempotency_age ON idempotency (created_at);

-- Tokens that end before their time: those of one sign-in, or all that a person
-- had by then. Needed for as long as such a token may live.
CREATE TABLE revocation (
    id         uuid        PRIMARY KEY,
    user_id    text        NOT NULL,
    login      uuid,
    revoked_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX revocation_age ON revocation (revoked_at);

-- People who asked to be forgotten. What names them here goes with the insert.
-- A row without done_at is work that any node continues; checked_at is when it
-- was gone through once more, for what a token did before every node knew.
CREATE TABLE erasure (
    user_id     text        PRIMARY KEY,
    asked_at    timestamptz NOT NULL DEFAULT now(),
    -- Whoever works on it says so now and then; others leave it alone meanwhile.
    worked_at   timestamptz,
    done_at     timestamptz,
    checked_at  timestamptz,
    transferred int         NOT NULL DEFAULT 0,
    archived    int         NOT NULL DEFAULT 0
);
CREATE INDEX erasure_open ON erasure (asked_at) WHERE checked_at IS NULL;

CREATE TABLE audit (
    id     uuid        PRIMARY KEY,
    actor  text        NOT NULL,
    action text        NOT NULL,
    target text        NOT NULL,
    at     timestamptz NOT NULL DEFAULT now()
);
