//! What clients say.

use serde_json::{Value, json};

/// One type of frame that clients send.
pub struct Inbound {
    pub kind: &'static str,
    pub about: &'static str,
    pub payload: Value,
    /// The types that answer it; none: there is no answer to success.
    pub replies: &'static [&'static str],
    /// Why it may be refused, beside what any frame may be.
    pub reasons: &'static [&'static str],
    /// After the first release.
    pub new: bool,
}

/// The reasons of any frame.
pub const ANY_REASON: [&str; 9] = [
    "invalid_json",
    "invalid_message",
    "invalid_payload",
    "unknown_type",
    "payload_too_large",
    "rate_limited",
    "not_authenticated",
    "not_ready",
    "binary_uplink_unsupported",
];

const PARTY: &[&str] = &[
    "missing_field",
    "party_not_found",
    "party_full",
    "not_party_leader",
    "already_in_party",
    "not_invited",
    "player_not_found",
    "blocked",
];

fn of(kind: &'static str, payload: Value, replies: &'static [&'static str], about: &'static str) -> Inbound {
    Inbound { kind, about, payload, replies, reasons: &[], new: false }
}

impl Inbound {
    fn refused(mut self, reasons: &'static [&'static str]) -> Self {
        self.reasons = reasons;
        self
    }

    fn added(mut self) -> Self {
        self.new = true;
        self
    }
}

pub fn all() -> Vec<Inbound> {
    let mut all = session();
    all.extend(matches());
    all.extend(queue());
    all.extend(parties());
    all.extend(groups());
    all.extend(talk());
    all.sort_unstable_by_key(|frame| frame.kind);
    all
}

fn session() -> Vec<Inbound> {
    let connect = json!({"token?": "string", "migration_token?": "string", "capabilities?": ["string"]});
    let call = json!({"protocol": "int", "method": "string", "params?": "object"});
    vec![
        of(
            "session.connect",
            connect,
            &["session.connected"],
            "Says who the player is, by an access token or by the token of match.migrate, and which \
                additions the client understands: migrate, presence, queue. Again on a connected socket: \
                renews the token.",
        )
        .refused(&["invalid_token"]),
        of("session.heartbeat", json!({}), &["session.heartbeat"], "Is answered with the server's clock."),
        of("rpc.call", call, &["rpc.error"], "No method is there yet; every call is answered by rpc.error."),
        of(
            "presence.update",
            json!({"status?": "string"}),
            &["presence.updated"],
            "Changes what friends see; \"online\" where there is no status, at most 64 bytes.",
        ),
    ]
}

fn matches() -> Vec<Inbound> {
    let filters = json!({"mode?": "string", "has_capacity?": "bool", "joinable?": "bool"});
    let join = json!({"match_id": "uuid", "ctx?": "object"});
    const LIST: &[&str] = &["invalid_mode_filter", "invalid_has_capacity_filter", "invalid_joinable_filter"];
    const JOIN: &[&str] = &[
        "missing_field",
        "match_not_found",
        "match_full",
        "match_locked",
        "join_refused",
        "already_in_match",
        "join_rate_limited",
        "internal",
        "invalid_join_ctx",
        "invalid_join_ctx_key",
        "join_ctx_too_many_keys",
        "join_ctx_key_too_long",
        "join_ctx_value_too_long",
        "invalid_join_ctx_value",
    ];
    const QUICK: &[&str] = &[
        "missing_field",
        "unknown_mode",
        "quick_play_disabled",
        "already_in_match",
        "match_full",
        "match_locked",
        "join_refused",
        "join_rate_limited",
        "internal",
    ];
    vec![
        of("match.list", filters, &["match.list"], "Asks for the listed matches of the whole cluster.").refused(LIST),
        of(
            "match.join",
            join,
            &["match.joined"],
            "Takes a seat, or comes back to it. ctx is a flat object for the game's script: at most 8 \
                keys of at most 64 bytes, with strings of at most 256 bytes, integers and booleans.",
        )
        .refused(JOIN),
        of(
            "match.find_or_create",
            json!({"mode": "string"}),
            &["match.joined"],
            "Takes a seat in any match of a mode with quick play, or in a new one.",
        )
        .refused(QUICK),
        of(
            "match.input",
            json!({}),
            &[],
            "The payload is the input; one whose only key is data, with an object or the JSON text of \
                one, is unwrapped. No answer to success, with or without a cid.",
        )
        .refused(&["not_in_match"]),
        of("match.leave", json!({}), &["match.left"], "Gives the seat up; also answered in no match."),
    ]
}

fn queue() -> Vec<Inbound> {
    let add = json!({"mode?": "string", "properties?": "object", "party_id?": "uuid", "query?": "string"});
    const ADD: &[&str] = &[
        "unknown_mode",
        "queue_full",
        "already_in_match",
        "invalid_query",
        "party_not_found",
        "not_party_leader",
        "party_full",
        "already_queued",
    ];
    vec![
        of(
            "matchmaker.add",
            add,
            &["matchmaker.queued"],
            "Waits for a match of a mode, alone or with a party. query filters the others by their properties.",
        )
        .refused(ADD),
        of(
            "matchmaker.remove",
            json!({"ticket_id": "uuid"}),
            &["matchmaker.removed"],
            "Withdraws a ticket; a party's is its leader's.",
        )
        .refused(&["missing_field", "not_found", "not_owner"]),
    ]
}

fn parties() -> Vec<Inbound> {
    let party = |kind, about, payload| of(kind, payload, &["party.state"], about).refused(PARTY).added();
    let player = || json!({"player_id": "uuid"});
    let id = || json!({"party_id": "uuid"});
    vec![
        party("party.create", "Makes a party of one, who leads it.", json!({})),
        party("party.invite", "Invites a player, who hears of it on every connection.", player()),
        party("party.accept", "Comes into a party that invited the player.", id()),
        party("party.decline", "Turns an invitation down.", id()),
        party("party.leave", "Leaves; the next member leads where the leader goes.", json!({})),
        party("party.kick", "Takes a member out; the leader's to do.", player()),
        party("party.promote", "Makes a member the leader; the leader's to do.", player()),
        party("party.disband", "Ends the party; the leader's to do.", json!({})),
    ]
}

fn groups() -> Vec<Inbound> {
    const INVITE: &[&str] =
        &["missing_field", "group_not_found", "player_not_found", "already_member", "blocked", "not_authorized"];
    const ACCEPT: &[&str] =
        &["missing_field", "group_not_found", "already_member", "not_invited", "group_full", "not_authorized"];
    vec![
        of(
            "groups.invite",
            json!({"group_id": "uuid", "player_id": "uuid"}),
            &["groups.invited"],
            "Invites a player into a group, closed or open; its owner's, admins' and moderators' to do. The \
                invited one has the notification group_invite.",
        )
        .refused(INVITE)
        .added(),
        of(
            "groups.accept",
            json!({"group_id": "uuid"}),
            &["groups.accepted"],
            "Comes into a group that invited the player.",
        )
        .refused(ACCEPT)
        .added(),
        of(
            "groups.decline",
            json!({"group_id": "uuid"}),
            &["groups.declined"],
            "Turns an invitation down; also answered where there is none.",
        )
        .refused(&["missing_field", "group_not_found"])
        .added(),
    ]
}

fn talk() -> Vec<Inbound> {
    let join = json!({"channel_id": "string", "since_seq?": "int"});
    let send = json!({"channel_id": "string", "content": "string", "idempotency_key?": "string"});
    let direct = json!({"recipient_id": "uuid", "content": "string", "idempotency_key?": "string"});
    const JOIN: &[&str] = &["missing_field", "invalid_channel_id", "not_authorized", "blocked", "too_many_channels"];
    const SEND: &[&str] = &[
        "missing_field",
        "content_empty",
        "content_too_large",
        "content_refused",
        "not_authorized",
        "blocked",
        "muted",
        "unconfirmed",
    ];
    const DIRECT: &[&str] =
        &["content_empty", "content_too_large", "content_refused", "blocked", "muted", "invalid_input", "unconfirmed"];
    vec![
        of(
            "chat.join",
            join,
            &["chat.joined"],
            "Comes into a channel: global:, room:, dm: or match:. With since_seq, what was missed follows \
                before what comes.",
        )
        .refused(JOIN),
        of("chat.leave", json!({"channel_id": "string"}), &["chat.left"], "Leaves a channel; also answered out of it.")
            .refused(&["missing_field"]),
        of(
            "chat.send",
            send,
            &["chat.sent"],
            "Says something in a channel; only a cid is answered. At most 2000 bytes. Sent again with the \
                same idempotency_key within ten minutes, it is said once.",
        )
        .refused(SEND),
        of("dm.send", direct, &["dm.sent"], "Sends a direct message, stored whether or not the recipient is there.")
            .refused(DIRECT),
    ]
}
