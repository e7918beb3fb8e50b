//! How a match is written, goes on elsewhere, and keeps still while nobody knows whose it is.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use asobi_proto::mode::ModeSettings;
use asobi_session::link::SessionNo;
use serde_json::{Value as Json, json};
use tokio::{sync::oneshot, task::yield_now};

use super::{
    Diaries, FakeEdge,
    bench::{Bench, ground, local, pass, port},
    edge, player,
};
use crate::host::{Adopted, Message, MoveError, Port, Target, Trust, room::Room};

fn settings() -> ModeSettings {
    ModeSettings { max_players: 4, player_ttl_ms: 60_000, ..ModeSettings::default() }
}

fn turns() -> ModeSettings {
    ModeSettings { tick_rate: 0, ..settings() }
}

fn pages(edge: &FakeEdge, session: u64) -> Vec<String> {
    let states = edge.seen(session, "match.state");
    let last = states.last().cloned().unwrap_or_default();
    serde_json::from_value(last["pages"].clone()).unwrap_or_default()
}

async fn move_it(play: &Bench) -> Result<i64, MoveError> {
    let (reply, answer) = oneshot::channel();
    let target = Target { node_id: "other".into(), incarnation: 9, grpc_addr: "other:1".into() };
    play.handle.post(Message::Move { target, reply });
    answer.await.expect("an answer")
}

#[tokio::test(start_paused = true)]
async fn what_changed_is_written_each_second_and_the_inputs_in_it_are_safe_then() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        pass(2_000).await;
        let written = play.rows.checkpoints.lock().len();
        assert!((1..=2).contains(&written), "{written}");
        play.input(&a, 1, 7, r#"{"n":1}"#).expect("queued");
        pass(2_100).await;
        let more = play.rows.checkpoints.lock().len();
        assert!((written + 1..=written + 3).contains(&more), "{more}");
        assert_eq!(*left.applied.lock(), [(1, 7)], "told once");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_in_which_nothing_happens_is_written_once() {
    local(async {
        // A turn-based diary does not even count ticks.
        let play = Bench::start(turns(), &[1, 2]).await;
        pass(10_000).await;
        assert_eq!(play.rows.checkpoints.lock().len(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn effects_leave_with_the_state_they_belong_to_and_at_once() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.input(&a, 1, 1, r#"{"score":1}"#).expect("queued");
        pass(105).await;
        assert_eq!(play.rows.effects.lock().len(), 1);
        let body = play.rows.checkpoints.lock().last().cloned().expect("a body");
        let again = Bench::restored(settings(), &body, None).await;
        let right = edge();
        let b = port(&right, "g0#1");
        assert_eq!(again.enter(&b, 1, 1, None).await.expect("attached").applied, 1, "the input is in it");
        again.input(&b, 1, 1, r#"{"score":1}"#).expect("queued");
        again.input(&b, 1, 2, r#"{"score":1}"#).expect("queued");
        pass(205).await;
        let ordinals: Vec<i64> = again.rows.effects.lock().iter().map(|effect| effect.ordinal).collect();
        assert_eq!(ordinals, [2], "the same number counts once, and ordinals go on");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_is_shown_to_nobody_before_it_is_written() {
    local(async {
        let (play, left) = (Bench::start(turns(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        pass(10).await;
        let before = left.count("match.state");
        play.rows.silent.store(true, Ordering::SeqCst);
        play.input(&a, 1, 1, r#"{"n":1}"#).expect("queued");
        pass(3_000).await;
        assert_eq!(left.count("match.state"), before, "nobody has seen the move");
        play.rows.silent.store(false, Ordering::SeqCst);
        pass(3_000).await;
        assert_eq!(pages(&left, 1).last().map(String::as_str), Some(r#"1 {"n":1}"#));
        assert_eq!(*left.applied.lock(), [(1, 1)]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_moves_with_everything_and_sends_its_sessions_after_it() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        for (session, n) in [(1, 1), (2, 2)] {
            play.enter(&a, session, n, None).await.expect("attached");
        }
        play.input(&a, 1, 5, r#"{"later":1}"#).expect("queued");
        pass(105).await;
        play.input(&a, 2, 3, r#"{"waits":1}"#).expect("queued");
        assert_eq!(move_it(&play).await, Ok(2));
        play.task.await.expect("its task has ended");
        let moved: Vec<u64> = left.moved.lock().iter().map(|(session, _)| *session).collect();
        assert_eq!(moved, [1, 2]);
        let to = left.moved.lock()[0].1.clone();
        assert_eq!((to.node_id.as_str(), to.incarnation, to.epoch), ("other", 9, 2));
        let request = play.peers.asked.lock().remove(0);
        assert_eq!((request.epoch, request.version.as_str()), (1, "v1"));

        // There: nobody was away, an input that waited is applied, the bell rings.
        let right = edge();
        let there = Bench::restored(settings(), &request.snapshot, None).await;
        let b = port(&right, "g0#1");
        assert_eq!(there.enter(&b, 1, 1, None).await.expect("attached").applied, 5);
        assert_eq!(there.enter(&b, 2, 2, None).await.expect("attached").applied, 3);
        assert!(right.count("match.state") >= 2, "each has been shown where it goes on, without waiting for a tick");
        pass(3_200).await;
        assert_eq!(pages(&right, 1)[2..], [r#"1 {"later":1}"#, r#"2 {"waits":1}"#, "bell"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_come_after_a_match_is_missed_in_time() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        play.enter(&a, 2, 2, None).await.expect("attached");
        move_it(&play).await.expect("moves");
        let request = play.peers.asked.lock().remove(0);
        let right = edge();
        let there = Bench::restored(settings(), &request.snapshot, None).await;
        let b = port(&right, "g0#1");
        there.enter(&b, 1, 1, None).await.expect("attached");
        pass(4_000).await;
        assert_eq!(pages(&right, 1), ["join 1", "join 2"]);
        pass(2_000).await;
        assert_eq!(pages(&right, 1)[2..], ["lost 2"]);
        there.enter(&b, 2, 2, None).await.expect("attached");
        pass(200).await;
        assert_eq!(pages(&right, 1)[3..], ["back 2"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_changes_to_the_matchs_own_host_was_never_away() {
    local(async {
        let (play, left, right) = (Bench::start(settings(), &[1, 2]).await, edge(), edge());
        let (a, b) = (port(&left, "g0#1"), port(&right, "h#1"));
        play.enter(&a, 1, 1, None).await.expect("attached");
        let follow = |port: &Arc<Port>, session| {
            let session = (port.number, SessionNo(session));
            play.handle.post(Message::Detach { session, follows: true });
        };
        follow(&a, 1);
        pass(3_000).await;
        play.enter(&b, 1, 1, None).await.expect("attached");
        pass(3_000).await;
        assert_eq!(pages(&right, 1), ["join 1", "join 2"]);
        // Who says so and does not come is missed.
        follow(&b, 1);
        pass(5_100).await;
        play.enter(&a, 2, 1, None).await.expect("attached");
        pass(200).await;
        assert_eq!(pages(&left, 2)[2..], ["lost 1", "back 1"]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_that_is_refused_goes_on_where_it_was() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        *play.peers.answer.lock() = Adopted::Refused("full".into());
        assert_eq!(move_it(&play).await, Err(MoveError::Refused("full".into())));
        let before = left.count("match.state");
        pass(300).await;
        assert!(left.count("match.state") > before);
        assert_eq!((play.handle.epoch(), play.handle.is_moving()), (1, false));
        assert!(left.moved.lock().is_empty());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_a_move_of_unknown_outcome_the_row_says_who_has_the_match() {
    local(async {
        for ours in [true, false] {
            let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
            let a = port(&left, "g0#1");
            play.enter(&a, 1, 1, None).await.expect("attached");
            pass(50).await;
            *play.peers.answer.lock() = Adopted::Unknown("silence".into());
            play.rows.not_ours.store(!ours, Ordering::SeqCst);
            let moved = move_it(&play).await;
            assert!(play.rows.written.lock().contains(&"reclaim 1".to_owned()));
            if ours {
                assert_eq!(moved, Err(MoveError::Unanswered("silence".into())));
                assert_eq!(play.handle.epoch(), 2, "a move that is still under way finds another epoch");
                let before = left.count("match.state");
                pass(300).await;
                assert!(left.count("match.state") > before);
            } else {
                assert_eq!(moved, Ok(2));
                assert_eq!(left.moved.lock().len(), 1);
                play.task.await.expect("its task has ended");
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn seats_follow_their_rows_where_a_match_goes_on_from_a_checkpoint() {
    local(async {
        let (play, left) = (Bench::start(settings(), &[1, 2]).await, edge());
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        pass(1_200).await;
        let body = play.rows.checkpoints.lock().last().cloned().expect("a body");
        let right = edge();
        let there = Bench::restored(settings(), &body, Some(&[1, 3])).await;
        let b = port(&right, "g0#1");
        let view: Json =
            serde_json::from_str(&there.enter(&b, 1, 1, None).await.expect("attached").view).expect("JSON");
        assert_eq!(view["players"], json!([player(1), player(3)]));
        pass(200).await;
        assert_eq!(pages(&right, 1)[2..], ["leave 2", "join 3"]);
    })
    .await;
}

#[tokio::test]
async fn in_doubt_nothing_leaves_and_nothing_is_taken() {
    local(async {
        let trust = Arc::new(Trust::new(std::time::Instant::now()));
        let room = Room::start(ground(&Diaries(settings()), false, &trust), &[player(1), player(2)]).await;
        let (play, left) = (Bench::of(room.expect("starts"), Arc::clone(&trust)), edge());
        let a = port(&left, "g0#1");
        let entering = play.enter(&a, 1, 1, None);
        tokio::pin!(entering);
        let early = tokio::time::timeout(Duration::from_millis(300), entering.as_mut()).await;
        assert!(early.is_err(), "nobody is answered in doubt");
        assert!(left.frames.lock().is_empty());
        trust.extend(std::time::Instant::now() + Duration::from_secs(600));
        entering.await.expect("attached");
        while left.count("match.state") == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_said_in_doubt_is_overtaken_by_nothing() {
    local(async {
        let trust = Arc::new(Trust::new(std::time::Instant::now()));
        // The players are welcomed in doubt.
        let room = Room::start(ground(&Diaries(settings()), false, &trust), &[player(1), player(2)]).await;
        let (play, left) = (Bench::of(room.expect("starts"), Arc::clone(&trust)), edge());
        play.rows.silent.store(true, Ordering::SeqCst);
        trust.extend(std::time::Instant::now() + Duration::from_secs(600));
        let a = port(&left, "g0#1");
        play.enter(&a, 1, 1, None).await.expect("attached");
        tokio::time::sleep(Duration::from_millis(400)).await;
        assert!(left.frames.lock().is_empty(), "it has ticked, and the welcome is not proven yet");
        play.rows.silent.store(false, Ordering::SeqCst);
        while left.count("match.state") < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(left.frames.lock()[0].2.contains("welcome"), "{:?}", left.frames.lock()[0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_match_that_always_has_a_checkpoint_to_write_moves_all_the_same() {
    local(async {
        let busy = ModeSettings { tick_rate: 60, checkpoint_interval_ms: 1, ..settings() };
        let play = Bench::start(busy, &[1, 2]).await;
        play.rows.slow.store(40, Ordering::SeqCst);
        pass(500).await;
        assert_eq!(tokio::time::timeout(Duration::from_secs(1), move_it(&play)).await, Ok(Ok(2)));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_refused() {
    local(async {
        let trust = Arc::new(Trust::unbounded());
        for body in [&b"\xff\xff\xff"[..], b"\x08\x63"] {
            let room = Room::restore(ground(&Diaries(settings()), false, &trust), body, None).await;
            assert!(room.is_err_and(|error| error.to_string().contains("cannot be read")));
        }
    })
    .await;
}
