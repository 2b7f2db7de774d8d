-- Removals of erased people are lost with this.
DELETE FROM room_member WHERE user_id LIKE 'erased:%';
DROP FUNCTION erased_member(bytea, text);
ALTER TABLE room DROP COLUMN ban_key;
