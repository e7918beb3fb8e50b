-- Parties, party tickets, teams, backfill, and what operators and the leader say of a mode.

-- A party lives as long as it has members. Everyone is in one at most.
CREATE TABLE parties (
    id           uuid        PRIMARY KEY,
    leader_id    uuid        NOT NULL,
    inserted_at  timestamptz NOT NULL DEFAULT now(),
    deserted_at  timestamptz              -- since when nobody of it was seen connected
);

CREATE TABLE party_members (
    player_id  uuid        PRIMARY KEY REFERENCES players ON DELETE CASCADE,
    party_id   uuid        NOT NULL REFERENCES parties ON DELETE CASCADE,
    joined_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- As the members were told last; one node at a time looks for changes.
    ready      boolean     NOT NULL DEFAULT true,
    online     boolean     NOT NULL DEFAULT true
);
CREATE INDEX party_members_party ON party_members (party_id);

CREATE TABLE party_invites (
    party_id    uuid        NOT NULL REFERENCES parties ON DELETE CASCADE,
    player_id   uuid        NOT NULL REFERENCES players ON DELETE CASCADE,
    from_id     uuid        NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (party_id, player_id)
);
CREATE INDEX party_invites_player ON party_invites (player_id);
CREATE INDEX party_invites_expiry ON party_invites (expires_at);

-- A party's ticket is one row per member, so that tickets_live counts each of them. `head` is the leader's row, whose id all members
-- know the ticket by; it is null where the ticket is its own: a single player's, and the leader's row itself. All rows of a ticket
-- change state together, in one statement.
ALTER TABLE tickets
    ADD COLUMN head      uuid,
    ADD COLUMN party_id  uuid,
    ADD COLUMN query     text;
CREATE INDEX tickets_head ON tickets (head) WHERE head IS NOT NULL;

ALTER TABLE modes
    ADD COLUMN paused             boolean NOT NULL DEFAULT false,
    ADD COLUMN operator_settings  jsonb   NOT NULL DEFAULT '{}',  -- win over `settings`
    ADD COLUMN estimated_wait_ms  bigint;                         -- as the leader reckoned last; null: unknown

ALTER TABLE matches
    ADD COLUMN teams    jsonb,                         -- [[player_id, …], …] in the teams' order; null: no teams
    ADD COLUMN regions  text[] NOT NULL DEFAULT '{}';  -- where its host may be, the best first; empty: anywhere

-- What running matches ask of the queue: one request per match, gone when it is served, withdrawn or over.
CREATE TABLE backfills (
    match_id      uuid        PRIMARY KEY REFERENCES matches ON DELETE CASCADE,
    mode          text        NOT NULL,
    wanted        integer     NOT NULL CHECK (wanted > 0),
    properties    jsonb       NOT NULL DEFAULT '{}',
    requested_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 70);

-- Players claimed for a running match whose host has not answered for them yet; a new leader goes on from here.
CREATE TABLE backfill_claims (
    player_id   uuid        PRIMARY KEY,
    match_id    uuid        NOT NULL REFERENCES matches ON DELETE CASCADE,
    ticket_id   uuid        NOT NULL,   -- the head's
    claimed_at  timestamptz NOT NULL DEFAULT now(),
    attempts    integer     NOT NULL DEFAULT 0
);
CREATE INDEX backfill_claims_match ON backfill_claims (match_id);
