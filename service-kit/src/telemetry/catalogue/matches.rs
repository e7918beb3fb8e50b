//! What match hosts, matchmakers and social services have.

use super::{
    Buckets::{Bytes, Seconds, Waits},
    Label::{Of, Rule},
    Metric, Roles, counter, gauge, histogram,
};

const MATCH: Roles = Roles::MATCH;
const MATCHMAKER: Roles = Roles::MATCHMAKER;
const SOCIAL: Roles = Roles::SOCIAL;
const MODE: super::Label = Rule("mode", "the modes that match hosts announce, 100 at most, and `other`");

pub(super) const TABLE: &[Metric] = &[
    gauge("asobi_match_running", MATCH, "Matches that are here, those that start included.").zero(),
    gauge("asobi_match_capacity", MATCH, "Matches that the host takes (`match.capacity`)."),
    gauge("asobi_match_load_ratio", MATCH, "Matches that are here, of those that the host takes.").zero(),
    histogram(Seconds, "asobi_match_tick_seconds", MATCH, "How long a tick took."),
    histogram(Seconds, "asobi_match_tick_lateness_seconds", MATCH, "From when a tick was due to when it began."),
    histogram(
        Seconds,
        "asobi_match_timer_lateness_seconds",
        MATCH,
        "How late a bare timer is on the same threads: what ticks are measured against.",
    ),
    counter("asobi_match_overruns_total", MATCH, "Ticks that took longer than their rate allows."),
    counter("asobi_match_ticks_missed_total", MATCH, "Ticks that were let go because a match was held up."),
    gauge(
        "asobi_match_checkpoint_age_seconds",
        MATCH,
        "Of the match that has waited the longest: since the state that is known to be saved was taken. Without trouble no more than the longest \
         `checkpoint_interval_ms` and a write.",
    )
    .zero(),
    gauge(
        "asobi_match_checkpoint_overdue_seconds",
        MATCH,
        "The same past the match's own `checkpoint_interval_ms`: what a match would lose more than it declares.",
    )
    .zero(),
    histogram(Bytes, "asobi_match_checkpoint_bytes", MATCH, "How large a checkpoint is."),
    counter("asobi_match_checkpoints_unchanged_total", MATCH, "Checkpoints that were not written because nothing had changed."),
    gauge("asobi_match_trusted", MATCH, "1 while the host may act for its matches; at 0 they are frozen.").zero(),
    counter("asobi_match_moves_total", MATCH, "Matches that went on at another host, live."),
    counter("asobi_match_callback_errors_total", MATCH, "Callbacks of scripts that failed."),
    counter("asobi_match_effects_dropped_total", MATCH, "Effects of scripts past what one match may have waiting."),
    counter("asobi_match_inputs_refused_total", MATCH, "Inputs past `match.input_queue`."),
    counter("asobi_match_asks_total", MATCH, "What scripts asked other services for.")
        .by(&[Of("outcome", &["answered", "timeout", "unavailable"])]),
    counter("asobi_match_relay_overflows_total", MATCH, "Streams to nodes that did not keep up; their sessions attach again."),
    counter("asobi_match_relay_states_conflated_total", MATCH, "States that a later one replaced in a stream's queue."),
    gauge("asobi_matchmaker_leading", MATCHMAKER, "1 on the matchmaker that leads.").zero(),
    gauge("asobi_leader_term", MATCHMAKER, "The term of the last leadership this process had.")
        .by(&[Of("leadership", &["matchmaker"])]),
    gauge(
        "asobi_leader_lease_age_seconds",
        MATCHMAKER,
        "Since the leader's last answered ping was sent: its trust in itself ends at 2.5. 0 on who does not lead.",
    )
    .by(&[Of("leadership", &["matchmaker"])])
    .zero(),
    gauge("asobi_matchmaker_queue_depth", MATCHMAKER, "Players that wait; on the leader, elsewhere 0.").by(&[MODE]),
    gauge("asobi_matchmaker_oldest_wait_seconds", MATCHMAKER, "How long the oldest ticket has waited; on the leader, elsewhere 0.")
        .by(&[MODE]),
    gauge("asobi_matchmaker_backfill_wanted", MATCHMAKER, "Players that running matches ask for; on the leader, elsewhere 0.")
        .by(&[MODE]),
    histogram(Waits, "asobi_matchmaker_wait_seconds", MATCHMAKER, "Time to match: from a ticket to the group it is in.").by(&[MODE]),
    counter("asobi_matchmaker_groups_total", MATCHMAKER, "Groups that were claimed; `broken_up`: a ticket was gone meanwhile.")
        .by(&[Of("outcome", &["formed", "broken_up"])]),
    histogram(Seconds, "asobi_matchmaker_create_seconds", MATCHMAKER, "How long a host takes to create a match."),
    counter("asobi_matchmaker_create_failures_total", MATCHMAKER, "Matches that a host did not create; another one is asked."),
    counter("asobi_matchmaker_matches_total", MATCHMAKER, "Matches whose players were told."),
    counter("asobi_matchmaker_tickets_ended_total", MATCHMAKER, "Tickets that ended without a match.")
        .by(&[Of("reason", &["expired", "no_game_module", "ghost", "match_start_failed"])]),
    counter("asobi_matchmaker_backfilled_total", MATCHMAKER, "Players who were seated in running matches."),
    counter("asobi_matchmaker_backfill_refused_total", MATCHMAKER, "Players whom a running match did not take after all."),
    counter("asobi_matchmaker_hosts_dead_total", MATCHMAKER, "Match hosts that were found dead, and by what.")
        .by(&[Of("proof", &["lock", "lease"])]),
    counter("asobi_matchmaker_moves_total", MATCHMAKER, "Matches that the leader had moved from one host to another."),
    counter("asobi_matchmaker_failovers_total", MATCHMAKER, "Matches that were given to another host because theirs is dead."),
    counter("asobi_matchmaker_orphans_total", MATCHMAKER, "Matches that ended because no host could go on with them."),
    counter("asobi_matchmaker_resyncs_total", MATCHMAKER, "Times that the index was compared with the whole queue."),
    counter("asobi_social_effects_total", SOCIAL, "Effects of matches.").by(&[Of("outcome", &["applied", "refused"])]),
    counter("asobi_social_reports_total", SOCIAL, "Reports that players made."),
    counter("asobi_social_notifications_expired_total", SOCIAL, "Notifications that were removed for their age."),
    counter("asobi_social_notification_jobs_told_total", SOCIAL, "Players who were told something by a job."),
    histogram(Seconds, "asobi_social_notification_batch_seconds", SOCIAL, "How long a job's transaction took."),
    gauge("asobi_social_boards", SOCIAL, "Boards in memory."),
    gauge("asobi_social_board_entries", SOCIAL, "Entries in memory, of all boards."),
    gauge("asobi_social_board_bytes", SOCIAL, "What they take, estimated."),
    histogram(Seconds, "asobi_social_board_load_seconds", SOCIAL, "How long a board took to be read."),
    counter("asobi_social_board_loads_total", SOCIAL, "Boards that were read, and from where; nowhere: their turn did not come.")
        .by(&[Of("from", &["replica", "primary", "nowhere"])]),
    counter("asobi_social_board_repairs_total", SOCIAL, "Boards that were read on because a score was missing."),
    counter("asobi_social_submissions_refused_total", SOCIAL, "Scores that were refused because too many wait.")
        .by(&[Of("reason", &["queue_full"])]),
];
