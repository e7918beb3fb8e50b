-- Accounts, their tokens, and what revokes them.

CREATE TABLE players (
    id             uuid        PRIMARY KEY,
    username       text        NOT NULL,
    display_name   text,
    avatar_url     text,
    metadata       jsonb       NOT NULL DEFAULT '{}',
    password_hash  text,                 -- argon2id in PHC form; null for guests
    guest          boolean     NOT NULL DEFAULT false,
    inserted_at    timestamptz NOT NULL DEFAULT now(),
    updated_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX players_username ON players (lower(username));

-- A guest's device. The secret is random already, so a keyed hash is enough.
CREATE TABLE guest_devices (
    device_id    text        PRIMARY KEY CHECK (length(device_id) BETWEEN 1 AND 128),
    player_id    uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    secret_hash  bytea       NOT NULL,
    inserted_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX guest_devices_player ON guest_devices (player_id);

-- A family is one login: refresh tokens descend from each other, access tokens name it.
CREATE TABLE token_families (
    id          uuid        PRIMARY KEY,
    player_id   uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz
);
CREATE INDEX token_families_player ON token_families (player_id);

CREATE TABLE refresh_tokens (
    token_hash  bytea       PRIMARY KEY,  -- sha256 of the opaque token
    family_id   uuid        NOT NULL REFERENCES token_families ON DELETE CASCADE,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz              -- single use: a second one revokes the family
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);

-- Keys that sign access tokens: published before they are used (active_from), verified until they retire.
CREATE TABLE signing_keys (
    id           uuid        PRIMARY KEY,
    secret       bytea       NOT NULL,
    active_from  timestamptz NOT NULL,
    retires_at   timestamptz NOT NULL
);

-- Revocations live until the last token they could concern has expired. Nodes load them before they are ready.
CREATE TABLE revocations (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject     uuid        NOT NULL,     -- a token family, or a player (all families up to issued_before)
    kind        text        NOT NULL CHECK (kind IN ('family', 'player')),
    reason      text        NOT NULL,
    issued_before timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX revocations_expiry ON revocations (expires_at);

-- Accepted is mutual; the row belongs to who asked.
CREATE TABLE friendships (
    id           uuid        PRIMARY KEY,
    player_id    uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    friend_id    uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    status       text        NOT NULL CHECK (status IN ('pending', 'accepted', 'blocked')),
    blocked_by   uuid,                 -- which of the two, while it is blocked: only they may lift it
    inserted_at  timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (player_id, friend_id),
    CHECK (player_id <> friend_id)
);
CREATE INDEX friendships_friend ON friendships (friend_id);
-- One row per pair, whoever asked first.
CREATE UNIQUE INDEX friendships_pair ON friendships (least(player_id, friend_id), greatest(player_id, friend_id));
