DROP FUNCTION audit_trim(interval, bigint);
