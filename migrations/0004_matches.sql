-- Modes as match hosts announce them, so that gateways and the matchmaker know them without any script.
CREATE TABLE modes (
    mode        text        PRIMARY KEY CHECK (length(mode) BETWEEN 1 AND 64),
    settings    jsonb       NOT NULL,  -- asobi_proto::mode::ModeSettings
    updated_at  timestamptz NOT NULL DEFAULT now(),
    queued      integer     NOT NULL DEFAULT 0,  -- pending tickets as the leader counted them last: what bounds a long queue cheaply
    queued_at   timestamptz                      -- when it did
);

-- Which incarnation of which host serves which mode.
CREATE TABLE host_modes (
    node_id      text   NOT NULL REFERENCES nodes ON DELETE CASCADE,
    incarnation  bigint NOT NULL,
    mode         text   NOT NULL REFERENCES modes ON DELETE CASCADE,
    PRIMARY KEY (node_id, mode)
);

-- allocating → running → finished | failed; allocating → failed. The row names the one host that may write for the match.
CREATE TABLE matches (
    id                uuid        PRIMARY KEY,
    mode              text        NOT NULL,
    state             text        NOT NULL CHECK (state IN ('allocating', 'running', 'finished', 'failed')),
    host_node         text        NOT NULL,
    host_incarnation  bigint      NOT NULL,
    epoch             bigint      NOT NULL,
    term              bigint      NOT NULL,   -- of the leader that formed or moved it last; 0: formed without one
    players           uuid[]      NOT NULL,   -- as formed, in seat order
    attempts          integer     NOT NULL DEFAULT 1,
    told              boolean     NOT NULL DEFAULT false,  -- what became of it is in the players' inboxes
    result            jsonb,
    inserted_at       timestamptz NOT NULL DEFAULT now(),
    started_at        timestamptz,
    finished_at       timestamptz
);
CREATE INDEX matches_open ON matches (host_node) WHERE state IN ('allocating', 'running');
CREATE INDEX matches_untold ON matches (id) WHERE NOT told;
CREATE INDEX matches_finished ON matches (finished_at DESC) WHERE state = 'finished';

-- Each live player once: nobody is in two matches. A row ends (is deleted) with the seat or with the match.
CREATE TABLE match_players (
    player_id   uuid        PRIMARY KEY,
    match_id    uuid        NOT NULL REFERENCES matches ON DELETE CASCADE,
    joined_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX match_players_match ON match_players (match_id);

-- What running, listed or joinable matches look like from outside; written by their host when it changes.
CREATE TABLE match_listings (
    match_id      uuid    PRIMARY KEY REFERENCES matches ON DELETE CASCADE,
    mode          text    NOT NULL,
    status        text    NOT NULL CHECK (status IN ('waiting', 'running')),
    player_count  integer NOT NULL,
    max_players   integer NOT NULL,
    joinable      boolean NOT NULL,
    listed        boolean NOT NULL
) WITH (fillfactor = 70);

-- A script's effects on the world leave in the transaction that makes them final, keyed by match and ordinal: each happens once.
CREATE TABLE match_effects (
    match_id     uuid        NOT NULL,
    ordinal      bigint      NOT NULL,
    kind         text        NOT NULL CHECK (kind IN ('score')),
    body         jsonb       NOT NULL,   -- asobi_proto::effect
    inserted_at  timestamptz NOT NULL DEFAULT now(),
    applied_at   timestamptz,
    error        text,                   -- why it could never be applied; it counts as applied then
    PRIMARY KEY (match_id, ordinal)
);
CREATE INDEX match_effects_open ON match_effects (inserted_at) WHERE applied_at IS NULL;
CREATE INDEX match_effects_applied ON match_effects (applied_at) WHERE applied_at IS NOT NULL;

-- The queue. One live ticket per player and mode in the whole cluster.
CREATE TABLE tickets (
    id            uuid        PRIMARY KEY,
    player_id     uuid        NOT NULL,
    mode          text        NOT NULL,
    properties    jsonb       NOT NULL DEFAULT '{}',
    state         text        NOT NULL CHECK (state IN ('pending', 'matched', 'cancelled', 'expired', 'failed')),
    match_id      uuid,
    submitted_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL,
    ended_at      timestamptz
) WITH (autovacuum_vacuum_scale_factor = 0.01);
CREATE UNIQUE INDEX tickets_live ON tickets (player_id, mode) WHERE state = 'pending';
CREATE INDEX tickets_expiry ON tickets (expires_at) WHERE state = 'pending';
CREATE INDEX tickets_pending ON tickets (mode, submitted_at) WHERE state = 'pending';
CREATE INDEX tickets_ended ON tickets (ended_at) WHERE ended_at IS NOT NULL;

-- Boards and their entries: one row per player and board; seq says in which order a board's rows changed.
CREATE TABLE leaderboards (
    id          text        PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 128),
    ordering    text        NOT NULL DEFAULT 'desc' CHECK (ordering IN ('desc', 'asc')),
    operator    text        NOT NULL DEFAULT 'last' CHECK (operator IN ('best', 'last', 'sum')),
    seq         bigint      NOT NULL DEFAULT 0,
    inserted_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE leaderboard_entries (
    leaderboard_id  text             NOT NULL REFERENCES leaderboards ON DELETE CASCADE,
    player_id       uuid             NOT NULL,
    score           double precision NOT NULL,
    sub_score       double precision NOT NULL DEFAULT 0,
    seq             bigint           NOT NULL,
    updated_at      timestamptz      NOT NULL DEFAULT now(),
    PRIMARY KEY (leaderboard_id, player_id)
);
