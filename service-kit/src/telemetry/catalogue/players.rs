//! What gateways and match hosts have: sockets, chat, REST, and the relay to matches.

use super::{
    Buckets::{Counts, Seconds},
    Label::{Of, Rule},
    Metric, Roles, counter, gauge, histogram,
};

const PLAYERS: Roles = Roles::PLAYERS;

/// Types of the frames that clients send.
pub const FRAMES_IN: [&str; 27] = [
    "chat.join",
    "chat.leave",
    "chat.send",
    "dm.send",
    "groups.accept",
    "groups.decline",
    "groups.invite",
    "match.find_or_create",
    "match.input",
    "match.join",
    "match.leave",
    "match.list",
    "matchmaker.add",
    "matchmaker.remove",
    "party.accept",
    "party.create",
    "party.decline",
    "party.disband",
    "party.invite",
    "party.kick",
    "party.leave",
    "party.promote",
    "presence.update",
    "rpc.call",
    "session.connect",
    "session.heartbeat",
    "other",
];

/// Types of the frames that are sent to clients; what a script calls its own events is `match.event`.
pub const FRAMES_OUT: [&str; 41] = [
    "chat.deleted",
    "chat.joined",
    "chat.left",
    "chat.message",
    "chat.sent",
    "dm.message",
    "dm.sent",
    "error",
    "game.error",
    "game.message",
    "groups.accepted",
    "groups.declined",
    "groups.invited",
    "match.event",
    "match.finished",
    "match.joined",
    "match.left",
    "match.list",
    "match.matched",
    "match.matchmaker_expired",
    "match.matchmaker_failed",
    "match.migrate",
    "match.state",
    "matchmaker.queued",
    "matchmaker.removed",
    "matchmaker.status",
    "module.error",
    "module.message",
    "notification.new",
    "notification.read",
    "party.invited",
    "party.state",
    "presence.changed",
    "presence.snapshot",
    "presence.updated",
    "rpc.error",
    "session.connected",
    "session.heartbeat",
    "session.kicked",
    "session.revoked",
    "other",
];

pub(super) const TABLE: &[Metric] = &[
    gauge("asobi_session_sockets", PLAYERS, "Open sockets, authenticated or not.").zero(),
    counter(
        "asobi_session_frames_in_total",
        PLAYERS,
        "Frames from clients; `other`: of no known type, not readable, or refused before they were read.",
    )
    .by(&[Of("type", &FRAMES_IN)]),
    counter(
        "asobi_session_frames_out_total",
        PLAYERS,
        "Frames written to sockets; `match.event`: what scripts call by names of their own.",
    )
    .by(&[Of("type", &FRAMES_OUT)]),
    counter(
        "asobi_session_frames_dropped_total",
        PLAYERS,
        "Frames that were taken from or meant for a client and went nowhere.",
    )
    .by(&[Of(
        "reason",
        &["rate_limited", "too_large", "input", "closing", "not_utf8", "attached_elsewhere", "inbox_full"],
    )]),
    histogram(
        Counts,
        "asobi_session_fan_out_recipients",
        PLAYERS,
        "Sessions of this node that one frame of a match went to.",
    ),
    histogram(Counts, "asobi_chat_fan_out_recipients", PLAYERS, "Members on this node to whom a channel's news went."),
    histogram(
        Seconds,
        "asobi_session_delivery_seconds",
        PLAYERS,
        "From when the sender's gateway took a chat message to when it was written to a receiver's socket; between machines with their clocks' \
         difference, and never below 0. Of a large channel up to 32 receivers are measured.",
    ),
    counter(
        "asobi_session_states_conflated_total",
        PLAYERS,
        "Match states that a later one replaced in a socket's queue.",
    ),
    counter("asobi_session_slow_consumers_total", PLAYERS, "Sockets that were closed because they did not keep up.")
        .by(&[Of("cause", &["blocked", "queue_full"])]),
    counter("asobi_session_closes_total", PLAYERS, "Sockets that this side closed, by the reason of the close frame.")
        .by(&[Of("reason", &CLOSES)]),
    counter("asobi_session_refused_total", PLAYERS, "Sockets that were not let in.")
        .by(&[Of("reason", &["rate_limited", "origin_rejected", "admission", "under_way", "waited"])]),
    gauge(
        "asobi_session_connects_under_way",
        PLAYERS,
        "Sockets that are coming in: upgraded, and `session.connect` is not answered yet (`session.connects_under_way`).",
    ),
    histogram(
        Counts,
        "asobi_session_look_up_keys",
        PLAYERS,
        "Questions about players and channels that one statement answers.",
    )
    .by(&[Of("what", &["inboxes", "welcomes", "friends", "access", "channels", "whereabouts"])]),
    counter(
        "asobi_session_resyncs_total",
        PLAYERS,
        "Times that rows were read again because hints may have been lost.",
    )
    .by(&[Of("what", &["chat", "inbox", "presence"])]),
    counter(
        "asobi_session_inbox_gap_reads_total",
        PLAYERS,
        "Players whose inboxes were read because an event was missing.",
    ),
    counter(
        "asobi_session_migrations_offered_total",
        PLAYERS,
        "Clients that were offered the socket of their match's host.",
    ),
    counter(
        "asobi_session_migrations_total",
        PLAYERS,
        "Clients that came by such an offer, and whether their match was still there.",
    )
    .by(&[Of("outcome", &["here", "elsewhere"])]),
    gauge("asobi_chat_queue_messages", PLAYERS, "Messages that wait to be written, of `chat.queue`.").zero(),
    histogram(Counts, "asobi_chat_batch_messages", PLAYERS, "Messages of one transaction."),
    counter("asobi_chat_refused_total", PLAYERS, "Messages that were not stored.")
        .by(&[Of("reason", &["queue_full", "failed", "unconfirmed", "muted", "content"])]),
    counter("asobi_chat_gap_reads_total", PLAYERS, "Channels that were read because a message was missing."),
    counter("asobi_chat_days_dropped_total", PLAYERS, "Days of history that retention has dropped."),
    gauge(
        "asobi_chat_days_left",
        PLAYERS,
        "Days after today up to which each has a partition of the history, 3 at most; -1: today has none. On nodes that have looked.",
    ),
    gauge(
        "asobi_chat_days_overdue",
        PLAYERS,
        "Days of history that are past retention and could not be dropped yet; on nodes whose turn it was.",
    ),
    gauge("asobi_chat_muted_players", PLAYERS, "Players with a mute."),
    counter("asobi_chat_words_total", PLAYERS, "Texts in which the list of words found something.")
        .by(&[Of("action", &["masked", "refused"])]),
    counter(
        "asobi_chat_filter_total",
        PLAYERS,
        "Texts that the studio's own filter was asked about; the last four are judged by `chat.filter_on_failure`.",
    )
    .by(&[Of("outcome", &["allowed", "replaced", "refused", "busy", "broken", "late", "failed", "senseless"])]),
    counter(
        "asobi_relay_losses_total",
        PLAYERS,
        "Streams to match hosts that broke; their sessions are attached again.",
    ),
    counter("asobi_relay_refused_total", PLAYERS, "Messages for which a stream to a match host had no room.")
        .by(&[Of("reason", &["queue_full"])]),
    counter("asobi_auth_refused_total", PLAYERS, "Log-ins that were refused because too many wait.")
        .by(&[Of("reason", &["hash_queue_full"])]),
    counter(
        "asobi_auth_failures_total",
        PLAYERS,
        "Log-ins with a wrong name or password, and tokens that are not valid.",
    )
    .by(&[Of("what", &["login", "token"])]),
    counter("asobi_auth_doubt_reads_total", PLAYERS, "Reads of revocations because the listening session was silent."),
    histogram(
        Seconds,
        "asobi_http_request_seconds",
        PLAYERS,
        "Requests to the players' address, until the answer begins.",
    )
    .by(&[Rule("method", "HTTP's nine methods, or `other`"), Rule("status", "the status codes of the protocol")]),
    counter("asobi_rest_refused_total", PLAYERS, "Requests that were refused before anything was done for them.")
        .by(&[Of("reason", &["rate_limited"])]),
    counter("asobi_rest_social_refused_total", PLAYERS, "Requests that no social service answered."),
];

/// The reasons of `session::close`; a client's own goodbye has none.
const CLOSES: [&str; 12] = [
    "",
    "silent",
    "payload_too_large",
    "idle_auth_timeout",
    "rate_limited",
    "origin_rejected",
    "session_revoked",
    "restarting",
    "try_again_later",
    "slow_consumer",
    "replaced",
    "kicked",
];
