-- Tickets that were used, until no clock takes them for valid any more. Which use
-- it was tells a statement that is run again from a second use.
CREATE TABLE spent_ticket (
    id         uuid        PRIMARY KEY,
    use        uuid        NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX spent_ticket_expiry ON spent_ticket (expires_at);
