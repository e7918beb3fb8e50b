//! What the server says.

use serde_json::{Value, json};

/// One type of frame that the server sends.
pub struct Outbound {
    pub kind: &'static str,
    pub about: &'static str,
    pub payload: Value,
    /// Whether it also comes without being asked for: a frame without a `cid`.
    pub push: bool,
    /// What a client has to announce to get it.
    pub capability: Option<&'static str>,
    /// After the first release.
    pub new: bool,
}

fn reply(kind: &'static str, payload: Value, about: &'static str) -> Outbound {
    Outbound { kind, about, payload, push: false, capability: None, new: false }
}

fn push(kind: &'static str, payload: Value, about: &'static str) -> Outbound {
    Outbound { push: true, ..reply(kind, payload, about) }
}

impl Outbound {
    fn added(self) -> Self {
        Self { new: true, ..self }
    }

    fn needs(self, capability: &'static str) -> Self {
        Self { capability: Some(capability), new: true, ..self }
    }
}

pub fn all() -> Vec<Outbound> {
    let mut all = session();
    all.extend(matches());
    all.extend(queue());
    all.extend(groups());
    all.extend(talk());
    all.sort_unstable_by_key(|frame| frame.kind);
    all
}

fn session() -> Vec<Outbound> {
    let error = json!({"code": "string", "message": "string", "details": "object"});
    let connected = json!({"player_id": "string", "wire+": "=json", "node_id+": "string", "match_id+": "uuid?",
                           "capabilities+": ["string"], "unread+": "int"});
    vec![
        push(
            "error",
            json!({"reason": "string", "error": error, "type?": "string"}),
            "What went wrong: reason is the flat text of the first release, error the object that REST \
                    answers too. Without a cid, type is the offending frame's where it is known.",
        ),
        reply("rpc.error", json!({"error": error}), "What is wrong with a call."),
        reply(
            "session.connected",
            connected,
            "The session stands. match_id is the live match the player belongs to; its frames flow \
                    without a match.join. unread counts the notifications that wait.",
        ),
        reply("session.heartbeat", json!({"ts": "ms"}), "The server's clock."),
        push("session.revoked", json!({"reason": "string"}), "The log-in was ended; the socket closes with 1008.")
            .added(),
        push(
            "session.kicked",
            json!({"reason": "string"}),
            "An operator closes the player's sockets, with 4003; the player may come back.",
        )
        .added(),
        reply("presence.updated", json!({"status": "any"}), "The status, as it was given."),
        push(
            "presence.changed",
            json!({"player_id": "uuid", "status": "string", "node_id?": "string"}),
            "A friend came, changed their status, or went (offline).",
        )
        .needs("presence"),
        push(
            "presence.snapshot",
            json!({"friends": [{"player_id": "uuid", "status": "string"}]}),
            "The friends that are there, once after session.connected.",
        )
        .needs("presence"),
        push(
            "notification.new",
            json!({"id": "uuid", "type": "string", "subject": "string", "content": "object", "sent_at": "ms",
                   "expires_at?": "ms"}),
            "A notification; it also waits in GET /api/v1/notifications, until expires_at where it has one.",
        ),
        push(
            "notification.read",
            json!({"unread": "int", "id?": "uuid", "up_to?": {"id?": "uuid", "time?": "ms"}}),
            "Notifications were read on one of the player's connections: this one, or all up to one or to a \
                time, or all (an empty up_to). unread is how many are not.",
        )
        .added(),
    ]
}

fn matches() -> Vec<Outbound> {
    let listed = json!({"match_id": "string", "mode": "string", "status": "waiting|running", "player_count": "int",
                        "max_players": "int", "joinable": "bool"});
    let joined = json!({"match_id": "string", "mode": "string", "status": "string", "player_count": "int",
                        "max_players": "int", "players": ["string"], "listed": "bool", "joinable": "bool"});
    let matched = json!({"match_id": "string", "players": ["string"], "mode+": "string", "teams+": "any"});
    let migrate = json!({"match_id": "uuid", "node_id": "string", "url": "string", "token": "string",
                         "expires_at": "ms", "reason": "matched|joined|drained|failed_over",
                         "affinity": {"cookie": "string", "query": "string"}});
    let told = || json!({"module": "string", "message": "any"});
    let failed =
        || json!({"module": "string", "callback": "string", "script": "string", "message": "string", "line+": "int?"});
    vec![
        reply("match.list", json!({"matches": [listed]}), "The listed matches that run."),
        reply("match.joined", joined, "The player has a seat; match.state follows."),
        reply("match.left", json!({"success": "bool"}), "The seat is free."),
        push(
            "match.matched",
            matched,
            "The matchmaker seated the player; no match.join follows. teams is a list of lists of players \
                    where the mode has teams, else null.",
        ),
        push(
            "match.state",
            json!({}),
            "What the game's script shows, each tick; the newest replaces those that were not sent yet.",
        ),
        push(
            "match.finished",
            json!({"match_id": "string", "result": "any"}),
            "The match is over; result is the script's, or {\"error\": \"host_lost\"} and its like.",
        ),
        push(
            "match.migrate",
            migrate,
            "Offers the match's own node: open url and send session.connect with migration_token.",
        )
        .needs("migrate"),
        push("match.matchmaker_expired", json!({"ticket_id": "string"}), "The ticket waited too long."),
        push(
            "match.matchmaker_failed",
            json!({"reason": "match_start_failed|no_game_module"}),
            "The match that the player was put into could not begin.",
        ),
        push("module.message", told(), "A script's message to one player."),
        push("module.error", failed(), "What a script did wrong; only where the operator shows it to players."),
        push(
            "game.message",
            told(),
            "module.message under its old name; sent beside it unless the operator switched it off.",
        ),
        push("game.error", failed(), "module.error under its old name."),
    ]
}

fn queue() -> Vec<Outbound> {
    let queued = json!({"ticket_id": "string", "status": "=pending", "players_needed": "int?", "already_queued": "bool",
                        "estimated_wait_ms+": "int?", "position+": "int?", "mode?": "string", "party_id?": "uuid?"});
    let status = json!({"ticket_id": "uuid", "waited_ms": "int", "estimated_wait_ms": "int?", "position": "int?"});
    let member = json!({"player_id": "uuid", "ready": "bool", "online": "bool"});
    let party = json!({"party_id": "uuid", "leader_id": "uuid?", "members": [member]});
    vec![
        push("matchmaker.queued", queued, "The ticket waits. A party's members get it too, with mode and party_id."),
        push(
            "matchmaker.removed",
            json!({"success": "bool", "ticket_id?": "uuid", "reason?": "string"}),
            "The ticket is withdrawn. Unasked, with the ticket and why, where a party or a member's match \
                ended it.",
        ),
        push("matchmaker.status", status, "Where the ticket stands, at most every 5 seconds.").needs("queue"),
        push(
            "party.state",
            party,
            "The party as it is now, to all its members after each change. Whoever is in none any more \
                sees it without members.",
        )
        .added(),
        push(
            "party.invited",
            json!({"party_id": "uuid", "from": "uuid", "expires_at": "ms"}),
            "An invitation to a party.",
        )
        .added(),
    ]
}

fn groups() -> Vec<Outbound> {
    let group = || json!({"group_id": "uuid"});
    vec![
        reply(
            "groups.invited",
            json!({"group_id": "uuid", "player_id": "uuid", "expires_at": "ms"}),
            "The invitation stands, until then.",
        )
        .added(),
        reply("groups.accepted", group(), "The player is in the group.").added(),
        reply("groups.declined", group(), "There is no invitation any more.").added(),
    ]
}

fn talk() -> Vec<Outbound> {
    let message = json!({"channel_id": "string", "sender_id": "uuid", "content": "string", "sent_at": "ms",
                         "message_id+": "uuid", "seq+": "int", "deleted?": "bool"});
    let deleted = json!({"channel_id": "string", "message_id": "uuid", "seq": "int"});
    let direct = json!({"channel_id": "string", "sender_id": "uuid", "content": "string", "sent_at": "ms",
                        "message_id+": "uuid", "seq+": "int"});
    let sent = json!({"channel_id": "string", "message_id": "uuid", "seq": "int", "sent_at": "ms"});
    vec![
        reply(
            "chat.joined",
            json!({"channel_id": "string", "last_seq+": "int", "truncated?": "bool"}),
            "The connection is in the channel. After a since_seq, truncated says whether more was missed than follows.",
        ),
        reply("chat.left", json!({"channel_id": "string"}), "The connection is not in the channel."),
        reply("chat.sent", sent, "The message is stored.").added(),
        push(
            "chat.message",
            message,
            "A message in a channel, once to every connection in it; in each channel in the order of seq. One that \
                a moderator deleted before it came has no content and deleted: true.",
        ),
        push(
            "chat.deleted",
            deleted,
            "A moderator deleted a message, in a channel or between the two of a direct message: it is to be shown no more.",
        )
        .added(),
        reply("dm.sent", json!({"channel_id": "string"}), "The direct message is stored."),
        push("dm.message", direct, "A direct message, to each of the recipient's connections."),
    ]
}
