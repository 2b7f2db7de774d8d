DROP TABLE room_legacy_read;
