-- What lets services run as a role that owns nothing, and what lets an old build know that a schema is too new for it.

-- The oldest build that runs on this schema, by its newest migration. Migrations that only add leave it; one that takes something away, which
-- the release before last used, raises it to the number from which on builds do not use it.
CREATE TABLE schema_support (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    oldest  bigint  NOT NULL
);
INSERT INTO schema_support (oldest) VALUES (0);

-- As before, by whoever may call it: with the rights of the table's owner.
CREATE OR REPLACE FUNCTION chat_partition(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    name text := 'chat_messages_' || to_char(day, 'YYYYMMDD');
    first timestamptz := day::timestamp AT TIME ZONE 'UTC';
    next timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    -- Not by to_regclass, which may remember from before the wait for a lock that there was none.
    IF EXISTS (SELECT FROM pg_class c WHERE c.relname = name
               AND c.relnamespace = (SELECT m.relnamespace FROM pg_class m WHERE m.oid = 'chat_messages'::regclass)) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE chat_messages INCLUDING ALL, CHECK (sent_at >= %L AND sent_at < %L))', name, first, next);
    EXECUTE format('ALTER TABLE chat_messages ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', name, first, next);
END $$;

-- Drops one day of the past, for a role that owns no tables. Nothing can detach concurrently inside of a function, so this locks the whole
-- table for the moment it takes; whoever still reads it makes this fail soon rather than everybody else wait behind it.
CREATE FUNCTION chat_drop_day(day date) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '200ms' AS $$
BEGIN
    IF day >= (now() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'the day % is not over', day;
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %I', 'chat_messages_' || to_char(day, 'YYYYMMDD'));
END $$;

-- What they name is in this schema, whatever the caller's search_path is.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['chat_partition', 'chat_drop_day'] LOOP
        EXECUTE format('ALTER FUNCTION %I(date) SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %I(date) FROM PUBLIC', name);
    END LOOP;
END $$;
