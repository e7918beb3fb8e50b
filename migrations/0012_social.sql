-- Invitations to groups and what groups announce; notifications that end, are told in a player's language, and go to many at once.

-- At most one for each player and group. It ends when it is accepted, declined, taken back or past its time, with its group, or with either player.
CREATE TABLE group_invites (
    group_id    uuid        NOT NULL REFERENCES groups ON DELETE CASCADE,
    player_id   uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    invited_by  uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    invited_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (group_id, player_id)
);
CREATE INDEX group_invites_player ON group_invites (player_id);
CREATE INDEX group_invites_inviter ON group_invites (invited_by);
CREATE INDEX group_invites_expiry ON group_invites (expires_at);

CREATE TABLE group_announcements (
    id            uuid        PRIMARY KEY,
    group_id      uuid        NOT NULL REFERENCES groups ON DELETE CASCADE,
    author_id     uuid        REFERENCES players ON DELETE SET NULL,  -- null: they have been erased
    subject       text        NOT NULL CHECK (octet_length(subject) <= 256),
    content       text        NOT NULL,
    announced_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX group_announcements_group ON group_announcements (group_id, id DESC);
CREATE INDEX group_announcements_author ON group_announcements (author_id);

-- When the group last announced something, whether or not that is still there: how often it may is counted from here.
ALTER TABLE groups ADD COLUMN announced_at timestamptz;
-- For the search by the beginning of a name, in the order of names.
CREATE INDEX groups_name ON groups (lower(name) COLLATE "C", id);

-- Null: until it is old, as all are.
ALTER TABLE notifications ADD COLUMN expires_at timestamptz;
CREATE INDEX notifications_expiry ON notifications (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE notification_templates (
    id          text        PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 64),
    message     jsonb       NOT NULL,  -- its type, its default language, and for each language subject and content
    updated_at  timestamptz NOT NULL DEFAULT now(),
    updated_by  text        NOT NULL
);

-- One notification for many players. The row is locked by whoever tells the next ones, and how far it came is written by the very transaction
-- that tells them: whoever dies in between has told nobody, and the next one begins there.
CREATE TABLE notification_jobs (
    id                 uuid        PRIMARY KEY,
    created_by         text        NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    state              text        NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'running', 'done', 'cancelled', 'failed')),
    message            jsonb       NOT NULL,  -- as a template's, with nothing left to fill in
    expires_at         timestamptz,           -- of the notifications
    players            uuid[],                -- in order; null: all those who are as follows
    registered_after   timestamptz,
    registered_before  timestamptz,
    guest              boolean,
    language           text,
    total              bigint,                -- null: not counted yet
    done               bigint      NOT NULL DEFAULT 0,
    told               bigint      NOT NULL DEFAULT 0,
    after              uuid,                  -- the last player it came to
    started_at         timestamptz,
    finished_at        timestamptz,
    failures           integer     NOT NULL DEFAULT 0,  -- in a row
    failure            text,
    retry_at           timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notification_jobs_open ON notification_jobs (created_at) WHERE state IN ('waiting', 'running');
