-- A shard: slots and their owner, rooms, logs, shapes.
-- Bodies and shape data are json, not jsonb: jsonb refuses U+0000 and rewrites
-- numbers. Only metadata, which is searched by containment, is jsonb.

CREATE TABLE slot_owner (
    slot      int    PRIMARY KEY CHECK (slot BETWEEN 0 AND 16383),
    epoch     bigint NOT NULL CHECK (epoch > 0),
    state     text   NOT NULL CHECK (state IN ('active', 'importing', 'moved')),
    moved_to  text,
    CHECK ((state = 'moved') = (moved_to IS NOT NULL))
);

-- One row: the timeline on which this shard may be written.
CREATE TABLE shard_claim (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    shard      text        NOT NULL,
    timeline   int         NOT NULL,
    system_id  bigint      NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE room (
    id            bigint      PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
    slot          int         NOT NULL,
    slug          text        NOT NULL,
    name          text        NOT NULL,
    owner         text        NOT NULL,
    access        text        NOT NULL CHECK (access IN ('public', 'password', 'invite')),
    default_role  text        NOT NULL CHECK (default_role IN ('viewer', 'editor', 'owner')),
    schema        text        NOT NULL CHECK (schema IN ('drawing', 'open')),
    password_hash text,
    metadata      jsonb       NOT NULL DEFAULT '{}',
    archived_at   timestamptz,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CHECK ((access = 'password') = (password_hash IS NOT NULL))
);
CREATE INDEX room_by_slot ON room (slot, id);
CREATE INDEX room_by_owner ON room (owner, id);
CREATE INDEX room_by_metadata ON room USING gin (metadata jsonb_path_ops);

CREATE FUNCTION room_touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER room_updated_at BEFORE UPDATE ON room FOR EACH ROW EXECUTE FUNCTION room_touch();

-- The hot row of a room: narrow, without trigger or index besides its key, and
-- with room on its page so that updates stay heap-only.
CREATE TABLE room_head (
    room_id     bigint PRIMARY KEY REFERENCES room (id) ON DELETE CASCADE,
    head_seq    bigint NOT NULL DEFAULT 0 CHECK (head_seq >= 0),
    head_epoch  bigint NOT NULL DEFAULT 0 CHECK (head_epoch >= 0),
    access_rev  bigint NOT NULL DEFAULT 1,
    cleared_seq bigint NOT NULL DEFAULT 0,
    live_shapes bigint NOT NULL DEFAULT 0 CHECK (live_shapes >= 0),
    visits      bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE room_event (
    room_id    bigint      NOT NULL,
    seq        bigint      NOT NULL CHECK (seq > 0),
    epoch      bigint      NOT NULL,
    op_id      text        NOT NULL,
    user_id    text        NOT NULL,
    kind       text        NOT NULL,
    body       json        NOT NULL,
    digest     bytea       NOT NULL,
    version    bigint,
    cleared    bigint,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (room_id, seq)
);
-- One effect per op, for as long as the row is kept.
CREATE UNIQUE INDEX room_event_op ON room_event (room_id, user_id, op_id);

-- The state at the head. A row without data is a tombstone; a row with
-- last_seq <= room_head.cleared_seq reads as deleted, at version + 1.
CREATE TABLE shape (
    room_id  bigint  NOT NULL,
    shape_id text    NOT NULL,
    version  bigint  NOT NULL CHECK (version > 0),
    type     text,
    data     json,
    deleted  boolean NOT NULL DEFAULT false,
    last_seq bigint  NOT NULL,
    PRIMARY KEY (room_id, shape_id),
    CHECK (deleted = (data IS NULL))
) WITH (fillfactor = 80);

CREATE TABLE room_member (
    room_id   bigint      NOT NULL REFERENCES room (id) ON DELETE CASCADE,
    user_id   text        NOT NULL,
    role      text        NOT NULL CHECK (role IN ('viewer', 'editor', 'owner', 'removed')),
    joined_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room_id, user_id)
);
CREATE INDEX room_member_by_user ON room_member (user_id, room_id);
