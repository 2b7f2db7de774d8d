DROP TABLE import_line, room_import;
