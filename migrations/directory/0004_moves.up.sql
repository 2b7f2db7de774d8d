-- The last move of each slot that ever moved: a primary that was promoted without
-- having heard of it is told before it is written to.
CREATE TABLE slot_move (
    slot     int         PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    owner    text        NOT NULL,
    moved_at timestamptz NOT NULL DEFAULT now()
);
