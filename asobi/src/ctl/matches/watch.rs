//! `asobi ctl match watch`: until the match has ended, whatever becomes of its hosts and of the node that is asked.

use std::time::Duration;

use anyhow::bail;
use asobi_proto::ops_v1::{
    WatchMatchRequest, WatchMatchResponse, match_service_client::MatchServiceClient, watch_match_response::Kind,
};
use serde_json::{Value, json};
use tonic::{Code, Request};
use uuid::Uuid;

use super::state;
use crate::ctl::{Ctl, one::meant, output, refusal, shown};

/// Times in a row that a watch is begun again without a word in between, and the pause before each.
const AGAIN: u32 = 20;
const PAUSE: Duration = Duration::from_millis(500);

pub async fn run(ctl: &Ctl, match_id: Uuid, player: Option<Uuid>, rate: u32) -> anyhow::Result<()> {
    let request = WatchMatchRequest {
        match_id: match_id.to_string(),
        player_id: player.map(|id| id.to_string()).unwrap_or_default(),
        max_per_second: rate,
    };
    let mut again = 0;
    loop {
        // No deadline in the request: it would end the stream.
        let mut changes = ctl
            .ask(None, async |channel| {
                MatchServiceClient::new(channel).watch_match(Request::new(request.clone())).await.map_err(meant)
            })
            .await?;
        let broke = loop {
            match changes.message().await {
                Ok(Some(WatchMatchResponse { kind: Some(kind) })) => {
                    again = 0;
                    if ctl.json {
                        output::json(&object(&kind));
                    } else {
                        output::line(&sentence(&kind));
                    }
                    if matches!(kind, Kind::Ended(_)) {
                        return Ok(());
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(status) => break Some(status),
            }
        };
        again += 1;
        match broke {
            Some(status) if again > AGAIN || !goes_on(status.code()) => return Err(refusal(&status)),
            None if again > AGAIN => bail!("the node that is asked ends the watch again and again"),
            _ => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn goes_on(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal)
}

/// One object per line, told apart by `kind`.
fn object(kind: &Kind) -> Value {
    match kind {
        Kind::State(seen) => {
            let view = seen.view.clone().unwrap_or_default();
            json!({
                "kind": "state", "node_id": seen.node_id, "number": seen.number, "state": shown::json(&view.state_json),
                "truncated": view.truncated, "problem": shown::text(&view.problem),
            })
        }
        Kind::Moved(moved) => json!({"kind": "moved", "node_id": moved.node_id, "epoch": moved.epoch}),
        Kind::Ended(end) => {
            json!({"kind": "ended", "state": state(end.state()), "result": shown::json(&end.result_json)})
        }
    }
}

fn sentence(kind: &Kind) -> String {
    match kind {
        Kind::State(seen) => {
            let view = seen.view.clone().unwrap_or_default();
            let cut = if view.truncated { "  (cut)" } else { "" };
            let said = if view.state_json.is_empty() { view.problem } else { view.state_json };
            format!("{}  {}{cut}", seen.node_id, shown::plain(&said))
        }
        Kind::Moved(moved) => format!("{}  goes on here (epoch {})", moved.node_id, moved.epoch),
        Kind::Ended(end) => format!("{} with {}", state(end.state()), shown::plain(&end.result_json)),
    }
}

#[cfg(test)]
mod tests {
    use asobi_proto::ops_v1::{MatchState, MatchView, WatchedEnd, WatchedMove, WatchedState};

    use super::*;

    #[test]
    fn what_happens_is_one_line_each() {
        let view = MatchView { state_json: r#"{"tick":3}"#.into(), ..MatchView::default() };
        let seen = Kind::State(WatchedState { view: Some(view), number: 9, node_id: "match-0".into() });
        let moved = Kind::Moved(WatchedMove { node_id: "match-1".into(), epoch: 2 });
        let result_json = r#"{"winner":"x"}"#.into();
        let ended = Kind::Ended(WatchedEnd { state: MatchState::Finished.into(), result_json });
        assert_eq!(sentence(&seen), r#"match-0  {"tick":3}"#);
        assert_eq!(sentence(&moved), "match-1  goes on here (epoch 2)");
        assert_eq!(sentence(&ended), r#"finished with {"winner":"x"}"#);
        assert_eq!((&object(&seen)["state"]["tick"], &object(&ended)["kind"]), (&json!(3), &json!("ended")));
    }
}
