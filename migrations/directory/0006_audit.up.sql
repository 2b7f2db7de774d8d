-- As on a shard: the gateway's role may only add to the trail, and have it trimmed.
CREATE FUNCTION audit_trim(kept interval, most bigint)
RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, directory, pg_temp AS $$
    WITH gone AS (
        DELETE FROM audit WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM audit WHERE at < now() - greatest(kept, interval '30 days') ORDER BY at LIMIT most))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

REVOKE ALL ON FUNCTION audit_trim(interval, bigint) FROM PUBLIC;
