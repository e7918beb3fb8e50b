-- Players whom operators keep out, and which sessions count against a player's bound.

-- One ban per player; a new one takes its place. It ends with its time, or with the player.
CREATE TABLE bans (
    player_id  uuid        PRIMARY KEY REFERENCES players ON DELETE CASCADE,
    reason     text        NOT NULL DEFAULT '' CHECK (octet_length(reason) <= 256),
    until      timestamptz,  -- null: for ever
    banned_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX bans_until ON bans (until) WHERE until IS NOT NULL;

-- The socket is gone and the row waits for the end of its grace: the player is still seen, but holds no place.
ALTER TABLE sessions ADD COLUMN leaving boolean NOT NULL DEFAULT false;
