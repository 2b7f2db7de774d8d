ALTER TABLE shape ALTER COLUMN shape_id TYPE text COLLATE "default";
ALTER TABLE room_head DROP COLUMN live_bytes;
