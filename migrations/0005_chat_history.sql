-- Chat messages, one partition a day (UTC), so that what is kept no longer is dropped and not deleted. A message costs one index
-- entry; its key is the only way in. There is no default partition: days are made ahead, see asobi_store::chat::history.
ALTER TABLE chat_messages RENAME TO chat_messages_0;
ALTER INDEX chat_messages_pkey RENAME TO chat_messages_0_pkey;

CREATE TABLE chat_messages (
    channel_id  text        COLLATE "C" NOT NULL,
    seq         bigint      NOT NULL,
    message_id  uuid        NOT NULL,
    sender_id   uuid        NOT NULL,
    content     text        NOT NULL,
    sent_at     timestamptz NOT NULL,
    PRIMARY KEY (channel_id, seq, sent_at)
) PARTITION BY RANGE (sent_at);

-- One day's partition, if it is not there. Attached and not created in place: that would stop every writer and reader meanwhile.
CREATE FUNCTION chat_partition(day date) RETURNS void LANGUAGE plpgsql AS $$
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

SELECT chat_partition(day) FROM (
    SELECT DISTINCT (sent_at AT TIME ZONE 'UTC')::date AS day FROM chat_messages_0
    UNION SELECT (now() AT TIME ZONE 'UTC')::date + ahead FROM generate_series(0, 3) AS ahead
) AS days;

INSERT INTO chat_messages SELECT channel_id, seq, message_id, sender_id, content, sent_at FROM chat_messages_0;

-- The same order of locks whatever the database's collation.
ALTER TABLE chat_channels ALTER COLUMN channel_id TYPE text COLLATE "C";

-- Each process's writer and the last batch it committed. A batch that comes late finds a number that is not below its own and
-- stores nothing; whether one was stored is learnt here. Nothing but the key is indexed: HOT updates.
CREATE TABLE chat_writers (
    writer_id   uuid        PRIMARY KEY,
    node_id     text        NOT NULL,
    batch       bigint      NOT NULL,
    written_at  timestamptz NOT NULL
) WITH (fillfactor = 50);

-- What a sender's idempotency key was answered, for ten minutes.
CREATE TABLE chat_keys (
    sender_id   uuid        NOT NULL,
    key         text        COLLATE "C" NOT NULL,
    message_id  uuid        NOT NULL,
    channel_id  text        NOT NULL,
    seq         bigint      NOT NULL,
    sent_at     timestamptz NOT NULL,
    PRIMARY KEY (sender_id, key)
);
INSERT INTO chat_keys SELECT sender_id, idempotency_key, message_id, channel_id, seq, sent_at FROM chat_messages_0
WHERE idempotency_key IS NOT NULL AND sent_at > now() - interval '10 minutes';

-- Where a player has ever said something: for their erasure.
CREATE TABLE chat_senders (
    sender_id   uuid        NOT NULL,
    channel_id  text        COLLATE "C" NOT NULL,
    PRIMARY KEY (sender_id, channel_id)
);
INSERT INTO chat_senders SELECT DISTINCT sender_id, channel_id FROM chat_messages_0;

DROP TABLE chat_messages_0;
