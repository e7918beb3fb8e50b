//! Step 4: the players are told, many matches in one fenced transaction; while one is under way the next batch gathers.

use std::sync::Arc;

use asobi_proto::bus::InboxEvent;
use asobi_store::allocation::{self, Told};
use tokio::sync::mpsc;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::traces;
use crate::{
    deps::{Error, Reign, Result},
    frames,
};

/// Matches of one transaction.
const BATCH: usize = 256;

/// A match whose players are to be told.
#[derive(Debug)]
pub struct Tell {
    pub match_id: Uuid,
    /// Its row's.
    pub traceparent: Option<String>,
}

/// Tells until the queue is closed and empty.
pub async fn run(reign: Arc<Reign>, mut queue: mpsc::Receiver<Tell>) {
    let mut waiting = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut waiting, BATCH).await > 0 {
        let matches: Vec<Uuid> = waiting.iter().map(|tell| tell.match_id).collect();
        match tell(&reign, &matches, &Telling::of(&waiting)).await {
            Ok(new) => metrics::counter!("asobi_matchmaker_matches_total").increment(new as u64),
            Err(Error::Over) => {}
            Err(error) => {
                tracing::warn!(matches = matches.len(), %error, "Players could not be told of their matches for now; the rows are looked at again.");
            }
        }
        waiting.clear();
        reign.let_go(matches);
    }
}

/// The spans of matches whose trace is recorded.
struct Telling(Vec<(Uuid, Span)>);

impl Telling {
    fn of(waiting: &[Tell]) -> Self {
        let recorded = waiting.iter().filter(|tell| tell.traceparent.is_some());
        let span = |tell: &Tell| asobi_trace::under!(tell.traceparent.as_deref(), "tell players", asobi.match.id = %tell.match_id);
        Self(recorded.map(|tell| (tell.match_id, span(tell))).collect())
    }

    fn sql(&self) -> Span {
        let spans: Vec<Span> = self.0.iter().map(|(_, span)| span.clone()).collect();
        traces::sql(&spans, "tell players", "matches")
    }

    /// That of the match that tells this player.
    fn to(&self, told: &[Told], player: Uuid) -> Span {
        if self.0.is_empty() {
            return Span::none();
        }
        let of = told.iter().find(|told| told.players.contains(&player));
        let span = of.and_then(|told| self.0.iter().find(|(id, _)| *id == told.id));
        span.map_or_else(Span::none, |(_, span)| span.clone())
    }
}

/// Answers how many of them were new.
async fn tell(reign: &Reign, matches: &[Uuid], telling: &Telling) -> Result<usize> {
    let (told, events, seqs) = reign
        .bounded(async {
            let mut tx = reign.begin().await?;
            let told = allocation::tell(&mut tx, matches).await?;
            let events = events(&told);
            let seqs = asobi_store::inbox::append(&mut tx, &events).await?;
            tx.commit().await?;
            Ok((told, events, seqs))
        })
        .instrument(telling.sql())
        .await?;
    for (seq, (player, event)) in seqs.iter().zip(&events) {
        // What is published hangs on it.
        telling.to(&told, *player).in_scope(|| reign.publish_one(*seq, *player, event));
    }
    Ok(told.iter().filter(|told| told.failovers == 0).count())
}

/// What the players of these matches hear. A match that was over before anybody could be told is announced all the same, for clients that
/// wait for it, and then ended.
fn events(told: &[Told]) -> Vec<(Uuid, InboxEvent)> {
    let mut events = Vec::new();
    for told in told {
        if told.failovers > 0 {
            events.extend(told.players.iter().map(|player| (*player, moved(told))));
            continue;
        }
        let mut announce = frames::matched(told);
        if told.state == "running" {
            events.extend(told.players.iter().map(|player| (*player, announce.clone())));
            continue;
        }
        // There is no seat to attach to.
        announce.action = None;
        let over = frames::finished(told.id, told.result.as_ref().unwrap_or(&serde_json::Value::Null));
        for player in &told.players {
            events.push((*player, announce.clone()));
            events.push((*player, over.clone()));
        }
    }
    events
}

/// What the players of a match hear that went on at another host: where it is, or how it ended there.
fn moved(told: &Told) -> InboxEvent {
    if told.state == "running" {
        return frames::moved(told.id);
    }
    frames::finished(told.id, told.result.as_ref().unwrap_or(&serde_json::Value::Null))
}

#[cfg(test)]
mod tests {
    use asobi_proto::bus::InboxAction;
    use serde_json::json;

    use super::*;

    fn told(state: &str) -> Told {
        let players = vec![Uuid::from_u128(1), Uuid::from_u128(2)];
        Told {
            id: Uuid::from_u128(9),
            mode: "arena".into(),
            state: state.into(),
            players,
            failovers: 0,
            teams: None,
            result: Some(json!({"winner": null})),
        }
    }

    fn frame(event: &InboxEvent) -> serde_json::Value {
        serde_json::from_str(event.frame.as_ref().expect("a frame").get()).expect("json")
    }

    #[test]
    fn everybody_hears_who_plays() {
        let events = events(&[told("running")]);
        assert_eq!(events.len(), 2);
        let (player, event) = &events[1];
        assert_eq!(*player, Uuid::from_u128(2));
        assert_eq!(event.action, Some(InboxAction::Matched { match_id: Uuid::from_u128(9) }));
        let expected = json!({"type": "match.matched", "payload": {
            "match_id": Uuid::from_u128(9), "players": [Uuid::from_u128(1), Uuid::from_u128(2)], "mode": "arena", "teams": null}});
        assert_eq!(frame(event), expected);
    }

    #[test]
    fn a_match_that_went_on_elsewhere_is_not_announced_again() {
        let events = events(&[Told { failovers: 1, ..told("running") }]);
        assert_eq!(events.len(), 2);
        assert!(events.iter().all(|(_, event)| event.frame.is_none()));
        assert_eq!(events[0].1.action, Some(InboxAction::Moved { match_id: Uuid::from_u128(9) }));
        let ended = super::events(&[Told { failovers: 1, ..told("finished") }]);
        assert_eq!(ended.iter().map(|(_, e)| frame(e)["type"].clone()).collect::<Vec<_>>(), ["match.finished"; 2]);
    }

    #[test]
    fn a_match_that_is_over_already_is_announced_and_ended() {
        let events = events(&[told("finished")]);
        let kinds: Vec<_> = events.iter().map(|(_, e)| (frame(e)["type"].clone(), e.action.is_some())).collect();
        assert_eq!(kinds[..2], [(json!("match.matched"), false), (json!("match.finished"), true)]);
        assert_eq!(frame(&events[1].1)["payload"], json!({"match_id": Uuid::from_u128(9), "result": {"winner": null}}));
    }
}
