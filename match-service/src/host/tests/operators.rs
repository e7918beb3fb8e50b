//! What operators see of a match, and that it is nobody's loss.

use std::time::Duration;

use asobi_proto::{mode::ModeSettings, ops_v1::MatchInspection};
use serde_json::{Value as Json, json};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::{
    super::{AskError, Seen, Wish},
    bench::{Bench, local, pass, port},
    edge,
    hosts::{diaries, host, new},
    player,
};
use crate::{
    host::mailbox::Message,
    lua::{self, Limits},
};

fn own_states() -> ModeSettings {
    ModeSettings { shared_state: false, max_players: 4, ..ModeSettings::default() }
}

fn turns() -> ModeSettings {
    ModeSettings { tick_rate: 0, ..own_states() }
}

async fn inspect(play: &Bench, n: Option<u128>) -> MatchInspection {
    let (reply, answer) = oneshot::channel();
    play.handle.post(Message::Inspect { player: n.map(player), reply });
    answer.await.expect("answered")
}

async fn watch(play: &Bench, n: Option<u128>, every: u64) -> (watch::Receiver<Seen>, bool) {
    let (seen, views) = watch::channel(None);
    let (reply, answer) = oneshot::channel();
    let wish = Wish { player: n.map(player), every: Duration::from_millis(every), seen };
    play.handle.post(Message::Watch { wish, reply });
    (views, answer.await.expect("answered"))
}

/// The pages of the last view.
fn pages(views: &mut watch::Receiver<Seen>) -> Vec<String> {
    let (_, view) = views.borrow_and_update().clone().expect("a view");
    let state: Json = serde_json::from_str(&view.state_json).expect("JSON");
    serde_json::from_value(state["pages"].clone()).expect("pages")
}

#[tokio::test(start_paused = true)]
async fn an_inspection_has_seats_timers_and_what_a_player_sees() {
    local(async {
        let play = Bench::start(own_states(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "later").expect("queued");
        pass(1_050).await;
        let seen = inspect(&play, Some(2)).await;
        assert_eq!((seen.phase.as_str(), seen.joinable, seen.tick_rate, seen.ticks), ("running", true, 10, 10));
        let seats: Vec<_> = seen.seats.iter().map(|seat| (seat.sessions, seat.waits_ms.is_some())).collect();
        assert_eq!(seats, [(1, false), (0, true)]);
        assert_eq!(seen.timers.len(), 1);
        assert!(seen.timers[0].name == "bell" && (1..3_000).contains(&seen.timers[0].due_in_ms), "{:?}", seen.timers);
        let view = seen.view.expect("a view");
        let state: Json = serde_json::from_str(&view.state_json).expect("JSON");
        assert_eq!((&state["you"], &state["pages"][2]), (&json!("2"), &json!("1 later")));
        // A game in Rust that shows nothing but what its players see says so.
        let whole = inspect(&play, None).await.view.expect("a view");
        assert!(whole.state_json.is_empty() && whole.problem.contains("only what its players see"), "{whole:?}");
        let stranger = inspect(&play, Some(9)).await.view.expect("a view");
        assert!(stranger.problem.contains("no seat"), "{stranger:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_gets_the_latest_at_its_own_pace_and_never_misses_the_last() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        let (mut views, there) = watch(&play, Some(2), 500).await;
        pass(0).await;
        assert!(there && pages(&mut views).len() == 2);
        for number in 1..=3 {
            play.input(&a, 1, number, "x").expect("queued");
            pass(10).await;
        }
        assert!(!views.has_changed().expect("open"), "too soon");
        pass(500).await;
        assert!(views.has_changed().expect("open"));
        assert_eq!(pages(&mut views)[2..], ["1 x", "1 x", "1 x"]);
        pass(5_000).await;
        assert!(!views.has_changed().expect("open"), "nothing has changed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn watches_are_bounded_are_forgotten_and_end_with_the_match() {
    local(async {
        let play = Bench::start(own_states(), &[1]).await;
        let mut views = Vec::new();
        for _ in 0..16 {
            let (view, there) = watch(&play, Some(1), 100).await;
            assert!(there);
            views.push(view);
        }
        assert!(!watch(&play, Some(1), 100).await.1, "one too many");
        assert_eq!(inspect(&play, None).await.watchers, 16);
        let last = views.pop().expect("some");
        views.clear();
        pass(200).await;
        assert_eq!(inspect(&play, None).await.watchers, 1);
        let (reply, ended) = oneshot::channel();
        play.handle.post(Message::End { result: r#"{"reason":"ended_by_operator"}"#.into(), reply });
        assert_eq!(ended.await, Ok(true));
        play.task.await.expect("the match is gone");
        assert!(last.has_changed().is_err(), "closed");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_operators_end_is_a_games_end_and_the_first_one_counts() {
    local(async {
        let play = Bench::start(own_states(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        // The database is away for a moment: both wait until the end is written.
        play.rows.broken.store(1, std::sync::atomic::Ordering::SeqCst);
        let ((first, one), (second, two)) = (oneshot::channel(), oneshot::channel());
        play.handle.post(Message::End { result: r#"{"reason":"one"}"#.into(), reply: first });
        play.handle.post(Message::End { result: r#"{"reason":"two"}"#.into(), reply: second });
        assert_eq!((one.await, two.await), (Ok(true), Ok(false)));
        assert_eq!(play.written().last().map(String::as_str), Some(r#"finish true {"reason":"one"}"#));
        assert_eq!(edge.seen(1, "match.finished")[0]["result"], json!({"reason": "one"}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_answers_for_its_own_matches_only() {
    let (host, _) = host(diaries(), 2);
    let (here, elsewhere) = (Uuid::from_u128(1), Uuid::from_u128(2));
    assert_eq!(host.create(new(1, "diary")).await, Ok(()));
    assert_eq!(host.inspect(elsewhere, None).await.map(|_| ()), Err(AskError::NotHere));
    assert_eq!(host.inspect(here, Some(player(1))).await.map(|seen| seen.node_id), Ok("h".to_owned()));
    let mut views = host.watch(here, Some(player(1)), Duration::from_millis(50)).await.expect("watched");
    views.changed().await.expect("a first view");
    assert_eq!(host.end(here, "{}".into()).await, Ok(()));
    while views.changed().await.is_ok() {}
    assert_eq!(host.end(here, "{}".into()).await, Err(AskError::NotHere));
    assert_eq!(host.watch(here, None, Duration::from_secs(1)).await.map(|_| ()), Err(AskError::NotHere));
}

#[tokio::test(start_paused = true)]
async fn the_whole_state_of_a_script_is_shown_and_what_one_player_sees() {
    local(async {
        let dir = tempfile::tempdir().expect("a folder");
        let script = "match_size = 1
            function init() return { secret = 7, list = {1, 2} } end
            function join(player_id, state) state.who = player_id return state end
            function get_state(player_id, state) return { you = player_id } end";
        std::fs::write(dir.path().join("match.lua"), script).expect("written");
        let limits = Limits { memory_bytes: 16 << 20, callback: Duration::from_secs(1) };
        let (games, _) = lua::load(dir.path(), limits).expect("loads");
        let mode = games.modes().remove(0).0;
        let play = Bench::with(games.get(&mode).expect("the mode").as_ref(), &[1], false).await;
        let view = inspect(&play, None).await.view.expect("a view");
        let state: Json = serde_json::from_str(&view.state_json).expect("JSON");
        let expected = json!({"secret": 7, "list": [1, 2], "who": player(1)});
        assert_eq!((state, view.truncated), (expected, false));
        let view = inspect(&play, Some(1)).await.view.expect("a view");
        assert_eq!(view.state_json, json!({"you": player(1)}).to_string());
    })
    .await;
}
