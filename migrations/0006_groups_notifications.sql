-- What players share beyond friendship: groups, and what they are told and can read later.

-- A group's row is locked by whoever changes its membership, so that its bound and its one owner hold under simultaneous calls.
CREATE TABLE groups (
    id           uuid        PRIMARY KEY,
    name         text        NOT NULL CHECK (char_length(name) BETWEEN 2 AND 64),
    description  text,
    max_members  integer     NOT NULL CHECK (max_members BETWEEN 1 AND 1000),
    open         boolean     NOT NULL,
    creator_id   uuid        REFERENCES players ON DELETE SET NULL,
    metadata     jsonb       NOT NULL DEFAULT '{}',
    inserted_at  timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX groups_creator ON groups (creator_id);

CREATE TABLE group_members (
    group_id   uuid        NOT NULL REFERENCES groups ON DELETE CASCADE,
    player_id  uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    id         uuid        NOT NULL,
    role       text        NOT NULL CHECK (role IN ('owner', 'admin', 'moderator', 'member')),
    joined_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (group_id, player_id)
);
CREATE INDEX group_members_player ON group_members (player_id);
CREATE UNIQUE INDEX group_members_owner ON group_members (group_id) WHERE role = 'owner';

CREATE TABLE notifications (
    id         uuid        PRIMARY KEY,
    player_id  uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    type       text        NOT NULL CHECK (octet_length(type) BETWEEN 1 AND 64),
    subject    text        NOT NULL CHECK (octet_length(subject) <= 256),
    content    jsonb       NOT NULL DEFAULT '{}',
    read       boolean     NOT NULL DEFAULT false,
    sent_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX notifications_player ON notifications (player_id, sent_at DESC, id DESC);
CREATE INDEX notifications_unread ON notifications (player_id) WHERE NOT read;
CREATE INDEX notifications_age ON notifications (sent_at);
