-- Boards as operators set them up, their periods, and what makes a large board quick to read.

ALTER TABLE leaderboards
    ADD COLUMN title           text             NOT NULL DEFAULT '' CHECK (octet_length(title) <= 256),
    ADD COLUMN metadata        jsonb            NOT NULL DEFAULT '{}',
    ADD COLUMN min_score       double precision,           -- of each submission; null: none
    ADD COLUMN max_score       double precision,
    ADD COLUMN client_submit   boolean          NOT NULL DEFAULT false,
    ADD COLUMN reset_schedule  text,                       -- cron, UTC; null: never
    ADD COLUMN next_reset_at   timestamptz,                -- what the schedule says; null: never
    ADD COLUMN periods_kept    integer          CHECK (periods_kept >= 0),  -- past ones; null: all
    ADD COLUMN declared        boolean          NOT NULL DEFAULT false,     -- false: its first score made it
    ADD COLUMN period          bigint           NOT NULL DEFAULT 0,
    ADD COLUMN period_began    timestamptz      NOT NULL DEFAULT now(),
    ADD COLUMN period_seq      bigint           NOT NULL DEFAULT 0,  -- entries up to this number are of earlier periods
    ADD COLUMN gone_seq        bigint           NOT NULL DEFAULT 0,  -- up to this one they are of no period that is kept
    ADD COLUMN swept_seq       bigint           NOT NULL DEFAULT 0,  -- and up to this one they are swept
    ADD COLUMN deleted_at      timestamptz;                -- there is no such board any more; the row waits for the sweep

-- None of these names seq: a submission's update of the row stays HOT.
CREATE INDEX leaderboards_due ON leaderboards (next_reset_at) WHERE next_reset_at IS NOT NULL;
CREATE INDEX leaderboards_unswept ON leaderboards (id) WHERE swept_seq < gone_seq OR deleted_at IS NOT NULL;
CREATE INDEX leaderboards_undeclared ON leaderboards (id) WHERE NOT declared;

-- An entry that was taken off stays as a row with a number, so that who follows the numbers learns of it.
ALTER TABLE leaderboard_entries ADD COLUMN removed boolean NOT NULL DEFAULT false;

-- What changed since a number, and a whole board page by page, without reading the others' rows. It costs each submission a second index
-- entry, since seq changes with every one; batches of 512 share the rest of the cost.
CREATE INDEX leaderboard_entries_seq ON leaderboard_entries (leaderboard_id, seq);
ALTER TABLE leaderboard_entries SET (autovacuum_vacuum_scale_factor = 0.05);

-- Periods that are over. Their entries are those whose number is above first_seq and up to last_seq, wherever they are.
CREATE TABLE leaderboard_periods (
    leaderboard_id  text        NOT NULL REFERENCES leaderboards ON DELETE CASCADE,
    period          bigint      NOT NULL,
    ordering        text        NOT NULL CHECK (ordering IN ('desc', 'asc')),
    began_at        timestamptz NOT NULL,
    ended_at        timestamptz NOT NULL,
    first_seq       bigint      NOT NULL,
    last_seq        bigint      NOT NULL,
    PRIMARY KEY (leaderboard_id, period)
);

-- Entries of past periods whose players have come back since: a player has one row in leaderboard_entries, and it moves here when they
-- submit in a later period. Those who never came back have theirs there still.
CREATE TABLE leaderboard_past (
    leaderboard_id  text             NOT NULL REFERENCES leaderboards ON DELETE CASCADE,
    seq             bigint           NOT NULL,
    player_id       uuid             NOT NULL,
    score           double precision NOT NULL,
    sub_score       double precision NOT NULL,
    updated_at      timestamptz      NOT NULL,
    PRIMARY KEY (leaderboard_id, seq)
);
CREATE INDEX leaderboard_past_player ON leaderboard_past (player_id);

-- Scripts make boards. All rows that are there are of the kinds before.
ALTER TABLE match_effects
    DROP CONSTRAINT match_effects_kind_check,
    ADD CONSTRAINT match_effects_kind_check CHECK (kind IN ('score', 'notify', 'chat', 'store', 'board')) NOT VALID;
