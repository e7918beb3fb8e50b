-- The three roles of an Asobi database and what each may do. Run it with psql as a superuser (or, as with a provider's, as who owns the database
-- and may create roles), connected to the database, before the first `asobi migrate` and again after each one: the second time gives asobi_readonly what is new.
-- It may be run as often as one likes, while the cluster runs.
--
--     psql -d asobi -f deploy/postgresql/roles.sql
--
-- Passwords are not set here. Afterwards, once, in psql (which sends only their hashes):
--
--     \password asobi_migrator
--     \password asobi_service
--     \password asobi_readonly
--
-- | role            | who connects as it                       | may                                                                   |
-- | --------------- | ---------------------------------------- | --------------------------------------------------------------------- |
-- | asobi_migrator  | `asobi migrate`                          | owns the schema and everything in it                                  |
-- | asobi_service   | every process, `asobi ctl`, `doctor`     | reads and writes rows; the audit it only appends to; owns nothing     |
-- | asobi_readonly  | people, dashboards                       | reads, except for secrets and their hashes; every transaction is read only |

\set ON_ERROR_STOP on
\set QUIET on
SET client_min_messages = warning;
-- Taking a table's ownership over waits for who uses it; nobody else shall wait behind that for long. Run it again when it fails of it.
SET lock_timeout = '5s';
SET search_path = public;
SELECT current_database() AS db \gset

DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['asobi_migrator', 'asobi_service', 'asobi_readonly'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        END IF;
    END LOOP;
END $$;
-- `asobi migrate` says who stands in its way, and dashboards what the server does. The services see their own sessions only.
GRANT pg_read_all_stats TO asobi_migrator;
GRANT pg_monitor TO asobi_readonly;

-- Nobody else.
REVOKE ALL ON DATABASE :"db" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"db" TO asobi_migrator, asobi_service, asobi_readonly;

-- For who comes without these in its start-up options, such as a pooler that drops them: what a process set for itself wins.
ALTER ROLE asobi_service IN DATABASE :"db" SET statement_timeout = '15s';
ALTER ROLE asobi_service IN DATABASE :"db" SET idle_in_transaction_session_timeout = '15s';
-- A dashboard's forgotten transaction keeps the notification queue and every dead row.
ALTER ROLE asobi_readonly IN DATABASE :"db" SET statement_timeout = '30s';
ALTER ROLE asobi_readonly IN DATABASE :"db" SET idle_in_transaction_session_timeout = '30s';
ALTER ROLE asobi_readonly IN DATABASE :"db" SET default_transaction_read_only = on;

-- Who is no superuser gives away only to a role that they are in.
SELECT format('GRANT asobi_migrator TO %I', current_user) FROM pg_roles WHERE rolname = current_user AND NOT rolsuper \gexec

-- What is in the schema is the migrator's, and nobody else makes anything in it.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE, CREATE ON SCHEMA public TO asobi_migrator;
GRANT USAGE ON SCHEMA public TO asobi_service, asobi_readonly;
DO $$
DECLARE
    one record;
BEGIN
    -- Indexes follow their tables, and the sequences of identity columns too.
    FOR one IN SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind FROM pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S') AND c.relowner <> 'asobi_migrator'::regrole
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                                 AND (d.deptype = 'e' OR d.deptype IN ('a', 'i') AND c.relkind = 'S'))
    LOOP
        EXECUTE format('ALTER %s %s OWNER TO asobi_migrator', one.kind, one.name);
    END LOOP;
    FOR one IN SELECT p.oid::regprocedure AS name FROM pg_proc p
               WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> 'asobi_migrator'::regrole
                 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO asobi_migrator', one.name);
    END LOOP;
END $$;

-- What the next migrations make is the services' at once: they run on the new schema before anybody has run this again.
ALTER DEFAULT PRIVILEGES FOR ROLE asobi_migrator REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE asobi_migrator IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO asobi_service;
ALTER DEFAULT PRIVILEGES FOR ROLE asobi_migrator IN SCHEMA public GRANT USAGE ON SEQUENCES TO asobi_service;
ALTER DEFAULT PRIVILEGES FOR ROLE asobi_migrator IN SCHEMA public GRANT EXECUTE ON FUNCTIONS TO asobi_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO asobi_service;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO asobi_service;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO asobi_service;

-- What services only read, and the audit, which they only append to. And for asobi_readonly table by table, so that what is new is not seen
-- before somebody has thought of it: every column except for those that let somebody in.
DO $$
DECLARE
    one record;
    secret constant text[] := ARRAY[
        'players.password_hash', 'guest_devices.secret_hash', 'refresh_tokens.token_hash', 'signing_keys.secret', 'cluster_keys.value',
        'cluster_secrets.value', 'operator_tokens.token_hash',
        -- The answer to who made a token has the token in it.
        'operator_requests.response', 'operator_requests.request_hash'];
BEGIN
    FOR one IN SELECT c.relname AS name FROM pg_class c
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
                 AND c.relname IN ('audit', '_sqlx_migrations', 'cluster_secrets', 'schema_support')
    LOOP
        EXECUTE format('REVOKE INSERT, UPDATE, DELETE ON %I FROM asobi_service', one.name);
    END LOOP;
    IF to_regclass('audit') IS NOT NULL THEN
        GRANT INSERT ON audit TO asobi_service;
    END IF;
    REVOKE ALL ON ALL TABLES IN SCHEMA public FROM asobi_readonly;
    FOR one IN SELECT c.relname AS name,
                      string_agg(quote_ident(a.attname), ', ') FILTER (WHERE c.relname || '.' || a.attname <> ALL (secret)) AS columns,
                      bool_or(c.relname || '.' || a.attname = ANY (secret)) AS some
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') GROUP BY c.relname
    LOOP
        -- Of the whole table where nothing is hidden, so that count(*) and the like need no column.
        EXECUTE CASE WHEN one.some THEN format('GRANT SELECT (%s) ON %I TO asobi_readonly', one.columns, one.name)
                     ELSE format('GRANT SELECT ON %I TO asobi_readonly', one.name) END;
    END LOOP;
END $$;
