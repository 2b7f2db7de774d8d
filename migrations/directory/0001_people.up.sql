-- The directory: people, names of rooms, claims on shards. Not on the data path.

CREATE TABLE account (
    id            text        PRIMARY KEY,
    email         text        NOT NULL,
    name          text        NOT NULL,
    photo         text,
    password_hash text        NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX account_email ON account (lower(email));

-- Refresh tokens rotate within a family; reuse of a spent one revokes it whole.
CREATE TABLE refresh_token (
    digest     bytea       PRIMARY KEY,
    family     uuid        NOT NULL,
    account_id text        NOT NULL REFERENCES account (id) ON DELETE CASCADE,
    spent      boolean     NOT NULL DEFAULT false,
    expires_at timestamptz NOT NULL
);
CREATE INDEX refresh_token_family ON refresh_token (family);
CREATE INDEX refresh_token_account ON refresh_token (account_id);

-- creating: the room's shard may not have it yet. The owner who asks again
-- continues it; the janitor finishes or undoes what nobody continues.
CREATE TABLE slug (
    slug       text        PRIMARY KEY,
    room_id    bigint      NOT NULL UNIQUE,
    owner      text        NOT NULL,
    state      text        NOT NULL CHECK (state IN ('creating', 'active')),
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX slug_by_owner ON slug (owner, room_id);

-- Which shards there are, and which primary of each may be written to.
CREATE TABLE shard (
    name       text        PRIMARY KEY,
    weight     int         NOT NULL DEFAULT 100 CHECK (weight >= 0),
    timeline   int,
    system_id  bigint,
    endpoint   text,
    claimed_at timestamptz
);
