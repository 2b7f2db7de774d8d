DROP FUNCTION audit_of_room(text, timestamptz, uuid, bigint), audit_trim(interval, bigint);
DROP INDEX audit_by_room;
