-- Matches that outlive their host: checkpoints, script versions, effects of more kinds, and what scripts store.

-- The last state of each running match, from which another host goes on. The row is its own fence: whoever gives the match to another host
-- raises `epoch` here in the same transaction, so a write of the host before finds nothing to update. Written every second: no index on what
-- changes, room on the page.
CREATE TABLE match_checkpoints (
    match_id    uuid        PRIMARY KEY REFERENCES matches ON DELETE CASCADE,
    epoch       bigint      NOT NULL,
    number      bigint      NOT NULL,   -- counts the snapshots of a match
    body        bytea       NOT NULL,   -- asobi.match.v1.Snapshot
    written_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_vacuum_scale_factor = 0.01);

ALTER TABLE matches
    ADD COLUMN version    text    NOT NULL DEFAULT '',  -- of the script it started with; empty: unknown, or of no importance
    ADD COLUMN failovers  integer NOT NULL DEFAULT 0;   -- how often it went on elsewhere after its host was gone

-- Of the script a host has for the mode.
ALTER TABLE host_modes ADD COLUMN version text NOT NULL DEFAULT '';

ALTER TABLE match_effects DROP CONSTRAINT match_effects_kind_check;
ALTER TABLE match_effects
    ADD CONSTRAINT match_effects_kind_check CHECK (kind IN ('score', 'notify', 'chat', 'store')) NOT VALID;

-- What scripts store: the game's own, and each player's.
CREATE TABLE game_storage (
    collection  text        NOT NULL CHECK (length(collection) BETWEEN 1 AND 64),
    key         text        NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    value       jsonb       NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection, key)
);
CREATE TABLE player_storage (
    player_id   uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    collection  text        NOT NULL CHECK (length(collection) BETWEEN 1 AND 64),
    key         text        NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    value       jsonb       NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (player_id, collection, key)
);
