ALTER TABLE room DROP COLUMN retention_ms;
DROP TABLE room_snapshot_part, room_snapshot;
