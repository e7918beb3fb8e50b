//! What a match does.

use std::sync::atomic::Ordering;

use asobi_proto::mode::ModeSettings;
use asobi_session::link::{Entered, FrameKind, LinkError};
use asobi_store::matches::SeatTaken;
use serde_json::{Value as Json, json};

use super::{
    Diaries,
    bench::{Bench, local, pass, port},
    edge, player,
};
use crate::host::mailbox::{Message, Stop};

fn shared() -> ModeSettings {
    ModeSettings { shared_state: true, max_players: 4, player_ttl_ms: 1000, ..ModeSettings::default() }
}

fn turns() -> ModeSettings {
    ModeSettings { tick_rate: 0, ..shared() }
}

fn pages(state: &Json) -> Vec<String> {
    serde_json::from_value(state["pages"].clone()).expect("pages")
}

fn reason(result: Result<Entered, LinkError>) -> String {
    match result {
        Err(LinkError::Refused { reason, .. }) => reason,
        other => format!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_shared_state_crosses_to_each_edge_once() {
    local(async {
        let play = Bench::start(shared(), &[1, 2, 3]).await;
        let (left, right) = (edge(), edge());
        let (a, b) = (port(&left, "g0#1"), port(&right, "g1#2"));
        let view: Json = serde_json::from_str(&play.enter(&a, 1, 1, None).await.expect("attached").view).expect("JSON");
        assert_eq!(
            (&view["status"], &view["player_count"], &view["max_players"], &view["joinable"], &view["listed"]),
            (&json!("running"), &json!(3), &json!(4), &json!(true), &json!(false))
        );
        assert_eq!(view["players"], json!([player(1), player(2), player(3)]));
        for (edge, session, n) in [(&a, 2, 2), (&b, 1, 3), (&b, 9, 3)] {
            play.enter(edge, session, n, None).await.expect("attached");
        }
        play.input(&a, 1, 1, r#"{"n":1}"#).expect("queued");
        play.input(&b, 9, 1, r#"{"n":2}"#).expect("queued");
        pass(105).await;
        let sent =
            left.frames.lock().iter().filter(|(_, kind, _)| *kind == FrameKind::State).cloned().collect::<Vec<_>>();
        assert_eq!(sent.len(), 1);
        assert_eq!(sent[0].0, [1, 2]);
        assert_eq!(right.seen(9, "match.state").len(), 1);
        let state = right.seen(1, "match.state").remove(0);
        assert_eq!(pages(&state)[3..], [r#"1 {"n":1}"#, r#"3 {"n":2}"#]);
        pass(900).await;
        assert_eq!(left.count("match.state"), 10, "ten a second");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_a_game_says_in_join_waits_for_its_player() {
    local(async {
        let play = Bench::start(shared(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        pass(250).await;
        play.enter(&a, 1, 1, None).await.expect("attached");
        assert_eq!(edge.seen(1, "module.message"), [json!({"module": "lua", "message": "welcome"})]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn states_of_their_own_and_unchanged_ones() {
    local(async {
        let own = ModeSettings { shared_state: false, send_unchanged: false, ..shared() };
        let play = Bench::start(own, &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        for n in [1, 2] {
            play.enter(&a, n, u128::from(n), None).await.expect("attached");
        }
        pass(1000).await;
        // One at once, and one tick's; then nothing changes.
        assert_eq!(edge.seen(2, "match.state").len(), 2);
        assert_eq!(edge.seen(2, "match.state")[0]["you"], "2");
        play.input(&a, 1, 1, "{}").expect("queued");
        pass(1000).await;
        assert_eq!(edge.seen(2, "match.state").len(), 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn inputs_are_taken_once_and_in_order() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 5, 1, None).await.expect("attached");
        for (number, text) in [(1, "a"), (2, "b"), (2, "again"), (1, "old"), (4, "c")] {
            play.input(&a, 5, number, text).expect("queued");
        }
        pass(0).await;
        // The node's stream broke and came back: the session is known by its node.
        let again = port(&edge, "g0#1");
        play.detach(&a, 5);
        play.enter(&again, 5, 1, None).await.expect("attached");
        play.input(&again, 5, 4, "sent again").expect("queued");
        play.input(&again, 5, 5, "d").expect("queued");
        pass(0).await;
        let last = edge.seen(5, "match.state").pop().expect("a state");
        assert_eq!(pages(&last)[2..], ["1 a", "1 b", "1 c", "lost 1", "back 1", "1 d"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_of_inputs_says_so() {
    local(async {
        let play = Bench::start(shared(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        for number in 1..=8 {
            play.input(&a, 1, number, "{}").expect("queued");
        }
        assert_eq!(play.input(&a, 1, 9, "{}"), Err(LinkError::Full));
        pass(110).await;
        play.input(&a, 1, 10, "{}").expect("room again");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_seat_waits_for_its_player_and_is_then_given_up() {
    local(async {
        let play = Bench::start(shared(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.enter(&a, 11, 1, None).await.expect("a second session");
        play.enter(&a, 2, 2, None).await.expect("attached");
        play.detach(&a, 1);
        pass(900).await;
        play.detach(&a, 11);
        pass(900).await;
        play.enter(&a, 12, 1, None).await.expect("back in time");
        play.detach(&a, 12);
        pass(1200).await;
        assert_eq!(reason(play.enter(&a, 13, 1, None).await), "not_in_match");
        let last = edge.seen(2, "match.state").pop().expect("a state");
        assert_eq!(pages(&last)[2..], ["lost 1", "back 1", "lost 1", "leave 1"]);
        assert_eq!(play.written(), ["give up [1]"]);
        // The last one leaves as well.
        play.leave(&a, 2).await;
        assert_eq!(play.written()[1..], ["finish true {\"reason\":\"everybody_left\"}"]);
        assert_eq!(*edge.dropped.lock(), [2]);
        play.task.await.expect("the match is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn joining_takes_a_row_and_the_games_consent() {
    local(async {
        let play = Bench::start(ModeSettings { quick_play: true, ..turns() }, &[1]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        let view: Json = serde_json::from_str(&play.enter(&a, 1, 1, None).await.expect("attached").view).expect("JSON");
        assert_eq!(view["status"], "waiting");
        play.input(&a, 1, 1, "early").expect("queued");
        assert_eq!(
            play.enter(&a, 2, 2, Some(r#"{"odd":1}"#)).await,
            Err(LinkError::Refused { reason: "join_refused".into(), refused_reason: Some("too_odd".into()) })
        );
        assert_eq!(play.written().last().map(String::as_str), Some("give up [2]"), "told when the row is gone");
        play.rows.seats.lock().push_back(SeatTaken::Elsewhere);
        assert_eq!(reason(play.enter(&a, 2, 2, Some("")).await), "already_in_match");
        let view: Json =
            serde_json::from_str(&play.enter(&a, 2, 2, Some("")).await.expect("joined").view).expect("JSON");
        assert_eq!(view["status"], "running", "who completes it is told so");
        play.enter(&a, 2, 2, Some("")).await.expect("again is the same");
        play.enter(&a, 3, 3, Some("")).await.expect("joined");
        play.enter(&a, 4, 4, Some("")).await.expect("joined");
        assert_eq!(reason(play.enter(&a, 5, 5, Some("")).await), "match_full");
        play.leave(&a, 4).await;
        play.input(&a, 1, 2, "close").expect("queued");
        assert_eq!(reason(play.enter(&a, 5, 5, Some("")).await), "match_locked");
        pass(0).await;
        assert_eq!(
            play.written(),
            [
                "list false 1 true",
                "seat 2",
                "give up [2]",
                "seat 2",
                "seat 2",
                "list true 2 true",
                "seat 3",
                "list true 3 true",
                "seat 4",
                "list true 4 true",
                "give up [4]",
                "list true 3 true",
                "list true 3 false",
            ]
        );
        let last = edge.seen(1, "match.state").pop().expect("a state");
        assert_eq!(pages(&last)[1], "1 early", "a game without ticks is asked at once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn before_the_first_tick_inputs_are_let_go() {
    local(async {
        let play = Bench::start(shared(), &[1]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "too early").expect("queued");
        play.enter(&a, 2, 2, Some("")).await.expect("joined");
        pass(105).await;
        let last = edge.seen(1, "match.state").pop().expect("a state");
        assert_eq!(pages(&last), ["join 1", "join 2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_seated_through_another_session_keeps_the_seats_row() {
    local(async {
        let play = Bench::start(turns(), &[1]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        // Both sessions ask before either has a seat; the game refuses the first one's wish.
        let (refused, joined) =
            tokio::join!(play.enter(&a, 2, 2, Some(r#"{"odd":1}"#)), play.enter(&a, 3, 2, Some("")));
        assert!(refused.is_err() && joined.is_ok());
        pass(0).await;
        assert_eq!(play.written(), ["seat 2", "seat 2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_ends_when_the_last_wish_to_join_comes_to_nothing() {
    local(async {
        let play = Bench::start(turns(), &[1]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        let (refused, ()) = tokio::join!(play.enter(&a, 2, 2, Some(r#"{"odd":1}"#)), play.leave(&a, 1));
        assert!(refused.is_err());
        play.task.await.expect("the match is gone");
        assert_eq!(
            play.rows.written.lock().last().map(String::as_str),
            Some("finish true {\"reason\":\"everybody_left\"}")
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_whose_players_are_all_refused_ends() {
    local(async {
        let play = Bench::start(turns(), &[66]).await;
        play.task.await.expect("the match is gone");
        assert_eq!(*play.rows.written.lock(), ["finish true {\"reason\":\"nobody_came\"}"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_goes_while_it_joins_leaves_a_seat_that_waits() {
    local(async {
        let play = Bench::start(turns(), &[1]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        let (joined, ()) = tokio::join!(play.enter(&a, 2, 2, Some("")), async { play.detach(&a, 2) });
        assert!(joined.is_err());
        play.enter(&a, 3, 2, None).await.expect("the seat is there");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_is_told_only_once_it_is_written() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.enter(&a, 2, 2, None).await.expect("attached");
        play.rows.broken.store(3, Ordering::SeqCst);
        play.input(&a, 1, 1, "score finish").expect("queued");
        pass(50).await;
        assert_eq!(edge.count("match.finished"), 0);
        assert_eq!(reason(play.enter(&a, 3, 1, None).await), "match_not_found");
        pass(5000).await;
        assert_eq!(play.written(), ["finish true {\"winner\":1}"]);
        assert_eq!(play.rows.effects.lock().len(), 1);
        let id = super::bench::MATCH;
        assert_eq!(edge.seen(2, "match.finished"), [json!({"match_id": id, "result": {"winner": 1}})]);
        assert_eq!(*edge.dropped.lock(), [1, 2]);
        let kinds: Vec<_> = edge.frames.lock().iter().map(|(_, _, f)| f[..25].to_owned()).collect();
        assert!(kinds.last().is_some_and(|last| last.contains("match.finished")), "{kinds:?}");
        play.task.await.expect("the match is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn scores_do_not_wait_for_the_end() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "score").expect("queued");
        pass(0).await;
        play.input(&a, 1, 2, "score").expect("queued");
        pass(0).await;
        assert_eq!(play.written(), ["effects 1", "effects 1"]);
        let ordinals: Vec<i64> = play.rows.effects.lock().iter().map(|e| e.ordinal).collect();
        assert_eq!(ordinals, [1, 2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_that_is_not_ours_any_more_says_nothing() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.rows.not_ours.store(true, Ordering::SeqCst);
        play.input(&a, 1, 1, "finish").expect("queued");
        pass(10).await;
        assert_eq!(edge.count("match.finished"), 0);
        assert!(edge.dropped.lock().is_empty(), "what becomes of its sessions is for who took it to say");
        play.task.await.expect("the match is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn errors_are_shown_in_development_and_end_the_match_in_the_long_run() {
    local(async {
        let play = Bench::with(&Diaries(turns()), &[1, 2], true).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        for number in 1..=19 {
            play.input(&a, 1, number, "fail").expect("queued");
            pass(0).await;
        }
        play.input(&a, 1, 20, "fine").expect("queued");
        pass(0).await;
        assert_eq!(edge.seen(1, "module.error").len(), 19);
        let error = edge.seen(1, "module.error").remove(0);
        assert_eq!(
            error,
            json!({"module": "lua", "callback": "handle_input", "script": "diary.rs", "line": 7, "message": "on purpose"})
        );
        for number in 21..=40 {
            play.input(&a, 1, number, "fail").expect("queued");
            pass(0).await;
        }
        assert_eq!(play.written(), ["finish false {\"error\":\"script_failed\"}"]);
        assert_eq!(edge.count("match.finished"), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_game_that_used_up_its_memory_ends_at_once() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "fail fatal").expect("queued");
        pass(0).await;
        assert_eq!(play.written(), ["finish false {\"error\":\"out_of_memory\"}"]);
        assert_eq!(edge.count("module.error"), 0, "nobody develops here");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_game_that_panics_ends_at_once_and_says_so() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "score").expect("queued");
        pass(0).await;
        play.input(&a, 1, 2, "panic").expect("queued");
        pass(0).await;
        assert_eq!(play.written(), ["effects 1", "finish false {\"error\":\"host_failed\"}"]);
        assert_eq!(edge.seen(1, "match.finished")[0]["result"], json!({"error": "host_failed"}));
        assert_eq!(*edge.dropped.lock(), [1]);
        play.task.await.expect("the match is gone, and its thread is not");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn timers_ring_without_ticks() {
    local(async {
        let play = Bench::start(turns(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.enter(&a, 2, 2, None).await.expect("attached");
        play.input(&a, 1, 1, "later").expect("queued");
        pass(2900).await;
        let before = edge.count("match.state");
        pass(200).await;
        assert_eq!(edge.count("match.state"), before + 1);
        assert_eq!(pages(&edge.seen(1, "match.state").pop().expect("a state")).pop().as_deref(), Some("bell"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_nobody_comes_to_ends() {
    local(async {
        let play = Bench::start(ModeSettings { quick_play: true, ..shared() }, &[]).await;
        pass(31_000).await;
        assert_eq!(play.written(), ["list false 0 true", "finish true {\"reason\":\"nobody_came\"}"]);
        play.task.await.expect("the match is gone");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_host_that_goes_down_ends_its_matches() {
    local(async {
        let play = Bench::start(shared(), &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.handle.stop(Stop::HostStopped);
        pass(0).await;
        assert_eq!(play.written(), ["finish false {\"error\":\"host_stopped\"}"]);
        assert_eq!(edge.seen(1, "match.finished")[0]["result"], json!({"error": "host_stopped"}));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wish_for_players_is_written_and_shrinks_as_seats_fill() {
    local(async {
        let play = Bench::start(ModeSettings { backfill: true, ..turns() }, &[1, 2]).await;
        let edge = edge();
        let a = port(&edge, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, "ask 1").expect("queued");
        play.input(&a, 1, 2, "ask 2").expect("queued");
        pass(0).await;
        let asked = [r#"backfill 1 {"skill":7}"#, r#"backfill 2 {"skill":7}"#];
        assert_eq!(play.written(), asked);
        // One comes by the queue, which knows of it; another one by the front door, which it does not.
        let (reply, answer) = tokio::sync::oneshot::channel();
        play.handle.post(Message::Add { players: vec![player(3)], reply });
        assert_eq!(answer.await.expect("answered"), [player(3)]);
        pass(0).await;
        assert_eq!(play.written(), asked);
        play.enter(&a, 4, 4, Some("")).await.expect("joined");
        pass(0).await;
        assert_eq!(play.written()[2..], ["seat 4", r#"backfill 0 {"skill":7}"#]);
    })
    .await;
}
