ALTER TABLE room_member DROP COLUMN decided_rev;
DROP TABLE room_invite;
