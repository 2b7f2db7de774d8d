-- What roomgate needs in a fresh PostgreSQL: /etc/patroni/roles.sql, owned by
-- postgres, mode 0600. Patroni runs it once, when it makes the cluster. The
-- standbys get it with everything else.
\set ON_ERROR_STOP on

-- Owns the database; migrations run as it.
CREATE ROLE roomgate_owner LOGIN PASSWORD '@OWNER_PASSWORD@';
-- The gateway's: owns nothing, reads and writes rows. Without pg_monitor it
-- would not see how far replicas are.
CREATE ROLE roomgate LOGIN PASSWORD '@GATEWAY_PASSWORD@';
GRANT pg_monitor TO roomgate;
CREATE DATABASE roomgate OWNER roomgate_owner;

\connect roomgate
CREATE SCHEMA directory AUTHORIZATION roomgate_owner;
GRANT USAGE ON SCHEMA public, directory TO roomgate;
ALTER DEFAULT PRIVILEGES FOR ROLE roomgate_owner IN SCHEMA public, directory
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO roomgate;
ALTER DEFAULT PRIVILEGES FOR ROLE roomgate_owner IN SCHEMA public, directory
    GRANT USAGE, SELECT ON SEQUENCES TO roomgate;
CREATE EXTENSION pg_stat_statements;
