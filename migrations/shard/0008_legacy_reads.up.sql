-- Positions at which clients of the first protocol read a room's history over
-- HTTP. The join that follows continues from there, on any node.
CREATE TABLE room_legacy_read (
    room_id    bigint      NOT NULL,
    -- A digest of user, sign-in and room. No id of a user is stored.
    reader     bytea       NOT NULL,
    id         uuid        NOT NULL,
    epoch      bigint      NOT NULL,
    seq        bigint      NOT NULL,
    -- The join that used this read.
    claimed_by uuid,
    -- The join after which no read of this reader waited for a join.
    closed_by  uuid,
    read_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room_id, reader, id)
);
CREATE INDEX room_legacy_read_age ON room_legacy_read (read_at);
