-- Invites, on their room's shard: using one is one transaction with the member
-- row that it writes. Of the code only a digest is here.
CREATE TABLE room_invite (
    room_id    bigint      NOT NULL REFERENCES room (id) ON DELETE CASCADE,
    id         bigint      NOT NULL,
    digest     bytea       NOT NULL,
    role       text        NOT NULL CHECK (role IN ('viewer', 'editor', 'owner')),
    -- From then on it opens nothing; a revoked one ended when it was revoked.
    expires_at timestamptz,
    max_uses   int         CHECK (max_uses > 0),
    uses       int         NOT NULL DEFAULT 0 CHECK (uses <= max_uses),
    revoked    boolean     NOT NULL DEFAULT false,
    -- room_head.access_rev when it was made: what was decided of somebody later,
    -- it doesn't change.
    made_rev   bigint      NOT NULL,
    created_by text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (room_id, id)
);
CREATE UNIQUE INDEX room_invite_code ON room_invite (room_id, digest);
CREATE INDEX room_invite_end ON room_invite (expires_at);

-- As of which access_rev an owner decided on this person; 0: nobody did.
ALTER TABLE room_member ADD COLUMN decided_rev bigint NOT NULL DEFAULT 0;
