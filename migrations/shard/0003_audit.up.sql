-- Who did what to whom, in the transaction of the deed. Opaque ids only. It is
-- read by time, and stays on the shard where it happened.
CREATE TABLE audit (
    at     timestamptz NOT NULL DEFAULT now(),
    id     uuid        NOT NULL,
    actor  text        NOT NULL,
    action text        NOT NULL,
    target text        NOT NULL,
    PRIMARY KEY (at, id)
);
