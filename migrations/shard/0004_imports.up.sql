-- What an import answered, so that the same op again answers alike.
CREATE TABLE room_import (
    room_id    bigint      NOT NULL,
    user_id    text        NOT NULL,
    op_id      text        NOT NULL,
    -- Of the whole body, to tell a repeat from a reused op.
    digest     bytea       NOT NULL,
    answer     json        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room_id, user_id, op_id)
);

-- Shapes on their way in. Unlogged, because what a crash takes is sent again.
CREATE UNLOGGED TABLE import_line (
    import_id uuid        NOT NULL,
    line      int         NOT NULL,
    shape_id  text        NOT NULL,
    type      text,
    data      json        NOT NULL,
    digest    bytea       NOT NULL,
    staged_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (import_id, line)
);
CREATE INDEX import_line_by_age ON import_line (staged_at);
