-- Old states of rooms. The state at a seq is the newest of them at or before it,
-- plus the events in between; retention deletes events behind one of them.

CREATE TABLE room_snapshot (
    room_id bigint      NOT NULL,
    seq     bigint      NOT NULL CHECK (seq > 0),
    epoch   bigint      NOT NULL,
    -- How many rows of room_snapshot_part it has; at least one.
    parts   int         NOT NULL CHECK (parts > 0),
    -- When the event at seq was written.
    as_of   timestamptz NOT NULL,
    PRIMARY KEY (room_id, seq)
);

-- Live shapes only: no later event needs what is deleted. One entry a shape, at
-- the same place of each array; shapes are JSON texts as in shape.data.
CREATE TABLE room_snapshot_part (
    room_id   bigint   NOT NULL,
    seq       bigint   NOT NULL,
    part      int      NOT NULL,
    shape_ids text[]   NOT NULL,
    versions  bigint[] NOT NULL,
    types     text[]   NOT NULL,
    shapes    text[]   NOT NULL,
    PRIMARY KEY (room_id, seq, part),
    FOREIGN KEY (room_id, seq) REFERENCES room_snapshot (room_id, seq) ON DELETE CASCADE
);

-- How long events are kept behind a snapshot. NULL: as the node's configuration
-- says; 0: for ever.
ALTER TABLE room ADD COLUMN retention_ms bigint CHECK (retention_ms >= 0);
