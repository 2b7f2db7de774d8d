-- A removal outlasts the erasure of the removed person: their row stays under a keyed
-- digest of their id, and so does the removal if the same id comes back. The key is
-- the room's own, so that digests of two rooms can't be compared. NULL: the room has
-- no such row.
ALTER TABLE room ADD COLUMN ban_key bytea;

CREATE FUNCTION erased_member(ban_key bytea, user_id text) RETURNS text
    LANGUAGE sql IMMUTABLE STRICT
    RETURN 'erased:' || encode(sha256(ban_key || convert_to(user_id, 'UTF8')), 'hex');
