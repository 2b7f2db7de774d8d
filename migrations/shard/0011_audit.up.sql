-- The trail can't be forged by the gateway's role, which may only add to it: it
-- reads by one function and trims by another, which keeps 30 days at least.
CREATE INDEX audit_by_room ON audit (split_part(target, ' ', 2), at, id);

CREATE FUNCTION audit_of_room(room text, before_at timestamptz, before_id uuid, most bigint)
RETURNS SETOF audit LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    SELECT * FROM audit
     WHERE split_part(target, ' ', 2) = room AND (at, id) < (before_at, before_id)
     ORDER BY at DESC, id DESC LIMIT most
$$;

CREATE FUNCTION audit_trim(kept interval, most bigint)
RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    WITH gone AS (
        DELETE FROM audit WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM audit WHERE at < now() - greatest(kept, interval '30 days') ORDER BY at LIMIT most))
        RETURNING 1)
    SELECT count(*) FROM gone
$$;

REVOKE ALL ON FUNCTION audit_of_room(text, timestamptz, uuid, bigint), audit_trim(interval, bigint) FROM PUBLIC;
