//! `asobi ctl players` and `asobi ctl player show`: who there is.

use asobi_proto::ops_v1::{
    GetPlayerRequest, GetPlayerResponse, PlayerSession, PlayerSummary, SearchPlayersRequest,
    player_directory_service_client::PlayerDirectoryServiceClient,
};
use asobi_service_kit::grpc::with_deadline;
use clap::Args;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Ctl, DEADLINE, output, shown};

/// Players by id or by how their names begin
#[derive(Debug, Args)]
pub struct PlayersArgs {
    /// An id, or how the name begins, whatever the case; without it, everybody
    who: Option<String>,
    /// Only those who are connected
    #[arg(long, conflicts_with = "offline")]
    online: bool,
    /// Only those who are not
    #[arg(long)]
    offline: bool,
    /// Show at most so many
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

pub async fn run(args: &PlayersArgs, ctl: &Ctl) -> anyhow::Result<()> {
    let id = args.who.as_deref().filter(|who| Uuid::try_parse(who).is_ok());
    let mut request = SearchPlayersRequest {
        player_id: id.unwrap_or_default().to_owned(),
        username_prefix: if id.is_some() { String::new() } else { args.who.clone().unwrap_or_default() },
        online: if args.online || args.offline { Some(args.online) } else { None },
        ..SearchPlayersRequest::default()
    };
    let mut players: Vec<PlayerSummary> = Vec::new();
    let wanted = args.limit as usize;
    while players.len() < wanted {
        request.page_size = i32::try_from((wanted - players.len()).min(200))?;
        let page = ctl
            .ask(None, async |channel| {
                let request = with_deadline(request.clone(), DEADLINE);
                PlayerDirectoryServiceClient::new(channel).search_players(request).await
            })
            .await?;
        players.extend(page.players);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if ctl.json {
        output::json(&players.iter().map(object).collect());
        return Ok(());
    }
    let rows: Vec<_> = players.iter().map(row).collect();
    output::line(&output::table(["player", "name", "display name", "is", "created"], &rows));
    if !request.page_token.is_empty() {
        eprintln!("There are more; --limit shows them.");
    }
    Ok(())
}

fn object(player: &PlayerSummary) -> Value {
    json!({
        "player_id": player.player_id,
        "username": player.username,
        "display_name": shown::text(&player.display_name),
        "guest": player.guest,
        "online": player.online,
        "banned": player.banned,
        "created_at": shown::seconds(player.created_at.as_ref()),
    })
}

fn row(player: &PlayerSummary) -> [String; 5] {
    [
        player.player_id.clone(),
        player.username.clone(),
        shown::plain(&player.display_name),
        words(player),
        shown::time(player.created_at.as_ref()),
    ]
}

fn words(player: &PlayerSummary) -> String {
    let words = [("guest", player.guest), ("online", player.online), ("banned", player.banned)];
    words.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect::<Vec<_>>().join(", ")
}

/// `asobi ctl player show`
pub async fn show(id: Uuid, ctl: &Ctl) -> anyhow::Result<()> {
    let request = GetPlayerRequest { player_id: id.to_string() };
    let found = ctl
        .ask(None, async |channel| {
            PlayerDirectoryServiceClient::new(channel).get_player(with_deadline(request.clone(), DEADLINE)).await
        })
        .await?;
    if ctl.json {
        output::json(&detail(&found));
    } else {
        output::line(&text(&found));
    }
    Ok(())
}

fn detail(found: &GetPlayerResponse) -> Value {
    let player = found.player.clone().unwrap_or_default();
    let mut object = object(&player);
    let more = json!({
        "avatar_url": shown::text(&found.avatar_url),
        "metadata": shown::json(&found.metadata_json),
        "updated_at": shown::seconds(found.updated_at.as_ref()),
        "sessions": found.sessions.iter().map(session).collect::<Value>(),
        "ban": found.ban.as_ref().map(|ban| json!({
            "reason": ban.reason,
            "until": shown::seconds(ban.until.as_ref()),
            "banned_at": shown::seconds(ban.banned_at.as_ref()),
        })),
        "match": found.seat.as_ref().map(|seat| json!({
            "match_id": seat.match_id, "mode": seat.mode, "state": seat.state, "host_node": seat.host_node,
            "joined_at": shown::seconds(seat.joined_at.as_ref()), "place": seat.place,
        })),
        "tickets": found.tickets.iter().map(|ticket| json!({
            "ticket_id": ticket.ticket_id, "mode": ticket.mode, "party_id": shown::text(&ticket.party_id),
            "submitted_at": shown::seconds(ticket.submitted_at.as_ref()),
        })).collect::<Value>(),
        "party": found.party.as_ref().map(|party| json!({
            "party_id": party.party_id, "leader_id": party.leader_id, "members": party.members,
        })),
        "groups": found.groups,
        "friends": found.friends,
        "unread": found.unread,
    });
    if let (Value::Object(object), Value::Object(more)) = (&mut object, more) {
        object.extend(more);
    }
    object
}

fn session(session: &PlayerSession) -> Value {
    json!({
        "session_id": session.session_id, "node_id": session.node_id, "incarnation": session.incarnation,
        "status": session.status, "leaving": session.leaving,
        "connected_at": shown::seconds(session.connected_at.as_ref()),
    })
}

fn text(found: &GetPlayerResponse) -> String {
    let player = found.player.clone().unwrap_or_default();
    let mut pairs = vec![
        ("player", player.player_id.clone()),
        ("name", player.username.clone()),
        ("display name", shown::plain(&player.display_name)),
        ("is", words(&player)),
        ("created", shown::time(player.created_at.as_ref())),
    ];
    if let Some(ban) = &found.ban {
        let until = shown::time(ban.until.as_ref());
        let until = if until.is_empty() { "for ever".to_owned() } else { format!("until {until}") };
        pairs.push(("banned", format!("{until}  {}", shown::plain(&ban.reason)).trim_end().to_owned()));
    }
    for session in &found.sessions {
        let leaving = if session.leaving { ", leaving" } else { "" };
        let since = shown::time(session.connected_at.as_ref());
        pairs.push(("session", format!("{} on {} since {since}{leaving}", session.status, session.node_id)));
    }
    if let Some(seat) = &found.seat {
        pairs.push(("match", format!("{}  {}  {} on {}", seat.match_id, seat.mode, seat.state, seat.host_node)));
    }
    for ticket in &found.tickets {
        pairs.push(("ticket", format!("{}  {}", ticket.ticket_id, ticket.mode)));
    }
    if let Some(party) = &found.party {
        pairs.push(("party", format!("{} of {}", party.party_id, party.members)));
    }
    pairs.extend([
        ("groups", found.groups.to_string()),
        ("friends", found.friends.to_string()),
        ("unread", found.unread.to_string()),
    ]);
    shown::pairs(&pairs)
}

#[cfg(test)]
mod tests {
    use asobi_proto::ops_v1::{PlayerBan, PlayerSeat};

    use super::*;

    #[test]
    fn a_player_is_shown_with_what_goes_on_around_them() {
        let player = PlayerSummary {
            player_id: "p".into(),
            username: "ada".into(),
            online: true,
            banned: true,
            ..PlayerSummary::default()
        };
        assert_eq!(words(&player), "online, banned");
        let seat = PlayerSeat {
            match_id: "m".into(),
            mode: "duel".into(),
            state: "running".into(),
            host_node: "match-0".into(),
            ..PlayerSeat::default()
        };
        let found = GetPlayerResponse {
            player: Some(player),
            ban: Some(PlayerBan { reason: "spam\n".into(), ..PlayerBan::default() }),
            seat: Some(seat),
            ..GetPlayerResponse::default()
        };
        let shown = text(&found);
        assert!(shown.contains("banned   for ever  spam\u{fffd}\n"), "{shown}");
        assert!(shown.contains("match    m  duel  running on match-0"), "{shown}");
        let object = detail(&found);
        assert_eq!(
            (&object["username"], &object["match"]["match_id"], &object["ban"]["until"]),
            (&json!("ada"), &json!("m"), &Value::Null)
        );
    }
}
