-- Mutes, deleted messages, the words that chat is held against, and reports.

-- How often each of the things below has changed. Whoever changes one raises its counter and holds that row to the commit, so that
-- versions become visible in their order: a node that has read up to one reads what comes after it, and has missed nothing.
CREATE TABLE moderation_versions (
    what     text   PRIMARY KEY CHECK (what IN ('mutes', 'deletions', 'words')),
    version  bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
INSERT INTO moderation_versions (what) VALUES ('mutes'), ('deletions'), ('words');

-- One mute per player and channel. Lifted ones stay for a day, so that nodes read of them as of new ones.
CREATE TABLE mutes (
    player_id   uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    channel_id  text        COLLATE "C" NOT NULL DEFAULT '' CHECK (octet_length(channel_id) <= 200),  -- '': everywhere
    reason      text        NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 256),
    until       timestamptz,                          -- null: for ever
    muted_by    text        NOT NULL,                 -- as the audit names them
    muted_at    timestamptz NOT NULL DEFAULT now(),
    lifted_at   timestamptz,
    version     bigint      NOT NULL,
    PRIMARY KEY (player_id, channel_id)
);
CREATE UNIQUE INDEX mutes_version ON mutes (version);
CREATE INDEX mutes_over ON mutes (COALESCE(lifted_at, until)) WHERE lifted_at IS NOT NULL OR until IS NOT NULL;

-- A deleted message keeps its row and number, without its content: nothing else tells a hole from a message that is still on its way.
ALTER TABLE chat_messages ADD COLUMN deleted_at timestamptz;

-- The deletions of the last day, for nodes and for whoever comes back to a channel.
CREATE TABLE chat_deletions (
    version     bigint      PRIMARY KEY,
    channel_id  text        COLLATE "C" NOT NULL,
    seq         bigint      NOT NULL,
    message_id  uuid        NOT NULL,
    deleted_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX chat_deletions_age ON chat_deletions (deleted_at);

-- The channels of direct messages by their second player; by the first they are found by their key.
CREATE INDEX chat_channels_second ON chat_channels (right(channel_id, 36)) WHERE channel_id >= 'dm:' AND channel_id < 'dm;';

-- What chat must not say.
CREATE TABLE chat_words (
    id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    word      text        NOT NULL UNIQUE CHECK (octet_length(word) BETWEEN 1 AND 128),  -- in lower case
    refuses   boolean     NOT NULL,  -- else it is masked
    whole     boolean     NOT NULL,  -- only as a word of its own, else wherever it stands
    added_by  text        NOT NULL,
    added_at  timestamptz NOT NULL DEFAULT now()
);

-- What players report. The message is a copy: it outlives its retention and its deletion, not the players.
CREATE TABLE reports (
    id           uuid        PRIMARY KEY,
    reporter_id  uuid        REFERENCES players ON DELETE SET NULL,  -- null: they have been erased
    player_id    uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    kind         text        NOT NULL CHECK (octet_length(kind) BETWEEN 1 AND 32),
    note         text        NOT NULL DEFAULT '' CHECK (octet_length(note) <= 1000),
    channel_id   text        COLLATE "C",
    seq          bigint,
    message_id   uuid,
    content      text,
    sent_at      timestamptz,
    state        text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'resolved')),
    resolution   text        NOT NULL DEFAULT '' CHECK (octet_length(resolution) <= 64),
    remark       text        NOT NULL DEFAULT '' CHECK (octet_length(remark) <= 1000),
    resolved_by  text,
    resolved_at  timestamptz,
    inserted_at  timestamptz NOT NULL DEFAULT now()
);
-- Reporting the same once more while nobody has looked is the same report.
CREATE UNIQUE INDEX reports_once ON reports (reporter_id, player_id, COALESCE(message_id, '00000000-0000-0000-0000-000000000000'))
    WHERE state = 'open' AND reporter_id IS NOT NULL;
CREATE INDEX reports_open ON reports (id) WHERE state = 'open';
CREATE INDEX reports_player ON reports (player_id, id);
CREATE INDEX reports_reporter ON reports (reporter_id, id);
