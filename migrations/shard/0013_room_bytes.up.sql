-- The bytes of a room's live shapes bound the memory that its readers need.
ALTER TABLE room_head ADD COLUMN live_bytes bigint NOT NULL DEFAULT 0 CHECK (live_bytes >= 0);
UPDATE room_head AS head SET live_bytes = live.bytes
  FROM (SELECT shape.room_id, sum(octet_length(shape.data::text)) AS bytes
          FROM shape JOIN room_head ON room_head.room_id = shape.room_id
         WHERE NOT shape.deleted AND shape.last_seq > room_head.cleared_seq
         GROUP BY shape.room_id) AS live
 WHERE head.room_id = live.room_id;
-- Pages of shapes are in the order of their ids' bytes, as in memory.
ALTER TABLE shape ALTER COLUMN shape_id TYPE text COLLATE "C";
