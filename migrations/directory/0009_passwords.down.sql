DROP FUNCTION reset_password(bytea, text, interval, uuid);
DROP FUNCTION set_password(text, text, text, uuid, interval, uuid, text);
DROP TABLE password_reset;
