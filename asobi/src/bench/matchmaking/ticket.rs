//! What queues as one, and is matched as one: a player, or a party.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _, future::try_join_all, stream};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::bench::player::{Guest, Socket, call};

/// How long one player may wait for a partner who is there.
const PATIENCE: Duration = Duration::from_secs(60);
/// Parties that are formed at once.
const CONCURRENCY: usize = 16;

pub struct Ticket {
    /// The first one leads.
    sockets: Vec<Socket>,
    party_id: Option<String>,
}

/// What a ticket's players were told.
pub struct Told {
    /// To each of them.
    pub after: Vec<Duration>,
    frames: Vec<Utf8Bytes>,
}

/// The match that a player was told of.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    pub match_id: String,
    pub players: usize,
}

/// Lets everybody queue alone, or of a hundred tickets so many as parties.
///
/// # Errors
/// The cluster lets nobody form a party.
pub async fn tickets(players: Vec<(Guest, Socket)>, percent: u32, most: usize) -> anyhow::Result<Vec<Ticket>> {
    let sizes = sizes(players.len(), percent, most);
    let mut players = players.into_iter();
    let groups: Vec<Vec<(Guest, Socket)>> =
        sizes.into_iter().map(|size| players.by_ref().take(size).collect()).collect();
    let mut forming = stream::iter(groups).map(Ticket::of).buffered(CONCURRENCY);
    let mut tickets = Vec::new();
    while let Some(ticket) = forming.next().await {
        tickets.push(ticket?);
    }
    Ok(tickets)
}

/// How many queue together each time, until so many players do: the parties are spread evenly, and are of two up to `most` in turn.
fn sizes(players: usize, percent: u32, most: usize) -> Vec<usize> {
    let (mut sizes, mut left, mut due) = (Vec::new(), players, 0);
    let mut parties = (2..=most).cycle();
    while left > 0 {
        due += percent;
        let mut size = 1;
        if due >= 100 {
            due -= 100;
            size = parties.next().unwrap_or(1).min(left);
        }
        sizes.push(size);
        left -= size;
    }
    sizes
}

impl Ticket {
    async fn of(players: Vec<(Guest, Socket)>) -> anyhow::Result<Self> {
        let (guests, mut sockets): (Vec<Guest>, Vec<Socket>) = players.into_iter().unzip();
        let party_id = if sockets.len() > 1 { Some(befriend(&guests, &mut sockets).await?) } else { None };
        Ok(Self { sockets, party_id })
    }

    pub fn size(&self) -> usize {
        self.sockets.len()
    }

    pub async fn queue(&mut self, mode: &str, properties: &Value) -> anyhow::Result<()> {
        let mut payload = json!({"mode": mode, "properties": properties});
        if let Some(party_id) = &self.party_id {
            payload["party_id"] = json!(party_id);
        }
        let frame = json!({"type": "matchmaker.add", "cid": "q", "payload": payload});
        let leader = self.sockets.first_mut().context("nobody queues")?;
        Ok(leader.send(Message::text(frame.to_string())).await?)
    }

    /// Until each of its players is told of a match.
    pub async fn told(&mut self, since: Instant) -> anyhow::Result<Told> {
        let telling = self.sockets.iter_mut().map(|socket| async move {
            let frame = pushed(socket, "match.matched").await?;
            anyhow::Ok((since.elapsed(), frame))
        });
        let (after, frames) = try_join_all(telling).await?.into_iter().unzip();
        Ok(Told { after, frames })
    }

    /// Ends the match, unless others have.
    pub async fn finish(&mut self) -> anyhow::Result<()> {
        let finishing = self.sockets.iter_mut().map(|socket| async move {
            socket.send(Message::text(r#"{"type":"match.input","payload":{"over":true}}"#)).await?;
            pushed(socket, "match.finished").await
        });
        try_join_all(finishing).await?;
        Ok(())
    }
}

/// The first one's party, which all others join; its id.
async fn befriend(guests: &[Guest], sockets: &mut [Socket]) -> anyhow::Result<String> {
    let (leader, members) = sockets.split_first_mut().context("nobody leads")?;
    let party = call(leader, "party.create", json!({})).await?;
    let party_id = party["party_id"].as_str().context("a party has no id")?.to_owned();
    for (member, guest) in members.iter_mut().zip(&guests[1..]) {
        call(leader, "party.invite", json!({"player_id": guest.player_id})).await?;
        call(member, "party.accept", json!({"party_id": party_id})).await?;
    }
    Ok(party_id)
}

impl Told {
    /// The match that all of them are in; none, if not all are in one.
    ///
    /// # Errors
    /// What they were told names no match.
    pub fn together(&self) -> anyhow::Result<Option<Matched>> {
        let matches = self.frames.iter().map(|frame| Matched::read(frame)).collect::<anyhow::Result<Vec<_>>>()?;
        let alike = matches.windows(2).all(|two| two[0] == two[1]);
        Ok(matches.into_iter().next().filter(|_| alike))
    }
}

impl Matched {
    fn read(frame: &str) -> anyhow::Result<Self> {
        let frame: Value = serde_json::from_str(frame)?;
        let payload = &frame["payload"];
        let match_id = payload["match_id"].as_str().context("match.matched names no match")?.to_owned();
        Ok(Self { match_id, players: payload["players"].as_array().map_or(0, Vec::len) })
    }
}

/// Waits for a push; a refusal of what was asked is an error.
pub async fn pushed(socket: &mut Socket, kind: &str) -> anyhow::Result<Utf8Bytes> {
    let wanted = format!("\"type\":\"{kind}\"");
    let waiting = async {
        loop {
            let message = socket.next().await.context("the gateway closed a socket")??;
            let Message::Text(text) = message else { continue };
            if text.contains(&wanted) {
                return Ok(text);
            }
            // Who comes second to end a match is not in it any more.
            let refused = text.contains("\"type\":\"error\"") && !text.contains("not_in_match");
            ensure!(!refused, "the wish was refused: {text}");
            let nothing = text.contains("match.matchmaker_") || text.contains("matchmaker.removed");
            ensure!(!nothing, "the ticket came to nothing: {text}");
        }
    };
    timeout(PATIENCE, waiting).await.with_context(|| format!("{kind} did not come within {PATIENCE:?}"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parties_of_all_sizes_are_spread_among_those_who_come_alone() {
        assert_eq!(sizes(4, 0, 4), [1, 1, 1, 1]);
        assert_eq!(sizes(12, 50, 4), [1, 2, 1, 3, 1, 4]);
        assert_eq!(sizes(13, 25, 4), [1, 1, 1, 2, 1, 1, 1, 3, 1, 1]);
        assert_eq!(sizes(6, 50, 4), [1, 2, 1, 2], "the last party is of those who are left");
    }

    #[test]
    fn a_party_is_together_when_all_are_told_of_the_same_match() {
        let told = |ids: &[&str]| {
            let frame =
                |id: &&str| json!({"type": "match.matched", "payload": {"match_id": id, "players": ["a", "b"]}});
            Told { after: Vec::new(), frames: ids.iter().map(|id| frame(id).to_string().into()).collect() }
        };
        let matched = Matched { match_id: "m".to_owned(), players: 2 };
        assert_eq!(told(&["m", "m"]).together().unwrap(), Some(matched));
        assert_eq!(told(&["m", "n"]).together().unwrap(), None);
    }
}
