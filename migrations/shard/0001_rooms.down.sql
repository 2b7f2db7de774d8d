DROP TABLE room_member, shape, room_event, room_head, room, shard_claim, slot_owner;
DROP FUNCTION room_touch();
