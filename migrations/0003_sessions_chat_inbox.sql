-- Sessions are rows of their node's incarnation and live as long as its lease. Unlogged: every node re-asserts its own after a crash.
CREATE UNLOGGED TABLE sessions (
    session_id    uuid        PRIMARY KEY,
    player_id     uuid        NOT NULL,
    node_id       text        NOT NULL,
    incarnation   bigint      NOT NULL,
    status        text        NOT NULL DEFAULT 'online',
    connected_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX sessions_player ON sessions (player_id);
CREATE INDEX sessions_node ON sessions (node_id, incarnation);

-- A channel's counter. Commit order is seq order within the channel, because the counter's row lock is held to the commit.
-- No index on seq and room on the page: HOT updates.
CREATE TABLE chat_channels (
    channel_id  text   PRIMARY KEY CHECK (length(channel_id) <= 200),
    seq         bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE chat_messages (
    channel_id       text        NOT NULL,
    seq              bigint      NOT NULL,
    message_id       uuid        NOT NULL,
    sender_id        uuid        NOT NULL,
    content          text        NOT NULL,
    sent_at          timestamptz NOT NULL,
    idempotency_key  text,
    PRIMARY KEY (channel_id, seq)
);
CREATE UNIQUE INDEX chat_messages_id ON chat_messages (message_id);
-- For the erasure of a player.
CREATE INDEX chat_messages_sender ON chat_messages (sender_id);
CREATE UNIQUE INDEX chat_messages_idempotency ON chat_messages (sender_id, idempotency_key) WHERE idempotency_key IS NOT NULL;

-- What a player must be told on every connection, on any node: a counter per player, events until they expire, and a cursor per session
-- (kept by the node that holds the session). The same two-table shape as chat, for the same reason.
CREATE TABLE inboxes (
    player_id  uuid   PRIMARY KEY,
    seq        bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE inbox_events (
    player_id   uuid        NOT NULL,
    seq         bigint      NOT NULL,
    event       jsonb       NOT NULL,  -- asobi_proto::bus::InboxEvent
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (player_id, seq)
);
CREATE INDEX inbox_events_expiry ON inbox_events (expires_at);
