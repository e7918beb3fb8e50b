//! The example games are played.

use std::path::Path;

use asobi_proto::effect::EffectBody;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, id, registry, score};
use crate::game::{Joined, Push};

fn example(mode: &str, prepare: impl FnOnce(&Play)) -> Play {
    let games = Path::new(env!("CARGO_MANIFEST_DIR")).join("../games");
    let mut play = Play::unstarted(&registry(&games), mode, tempfile::tempdir().expect("a folder"));
    prepare(&play);
    play.start();
    play
}

#[test]
fn the_arena_ends_after_a_minute_even_if_nobody_plays() {
    let mut play = example("arena", |_| ());
    for n in 1..=2 {
        assert_eq!(play.join(n), Ok(Joined::Seated));
    }
    for _ in 0..599 {
        play.tick().expect("ticks");
    }
    assert_eq!(play.outcome.finished, None);
    assert_eq!(play.state()["shots"], json!([]));
    play.tick().expect("ticks");
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["reason"]), (&json!(id(1)), &json!("time")));
    assert_eq!(play.outcome.effects.len(), 1);
}

#[test]
fn the_arena_is_won_by_hits_and_survives_garbage() {
    let mut play = example("arena", |_| ());
    for n in 1..=3 {
        assert_eq!(play.join(n), Ok(Joined::Seated));
    }
    for garbage in [json!({}), json!({"move_x": "a", "shoot": [], "aim_x": {}}), json!({"move_y": 1e300})] {
        play.input(2, &garbage).expect("ignored");
    }
    for _ in 0..590 {
        let victim = play.state()["players"][id(2)].clone();
        let aim = json!({"aim_x": victim["x"], "aim_y": victim["y"], "shoot": true});
        play.input(1, &aim).expect("aims");
        play.tick().expect("ticks");
        if play.outcome.finished.is_some() {
            break;
        }
    }
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["reason"]), (&json!(id(1)), &json!("score")));
    assert_eq!(score(&play, 0).board, "arena");
    assert!((score(&play, 0).score - 5.0).abs() < f64::EPSILON);
}

#[test]
fn tictactoe_refuses_wrong_moves_and_knows_a_line_and_a_draw() {
    let play_moves = |moves: &[(u128, Json)]| {
        let mut play = example("tictactoe", |_| ());
        play.join(1).expect("joins");
        play.join(2).expect("joins");
        for (player, cell) in moves {
            play.input(*player, &json!({"cell": cell})).expect("moves");
        }
        play
    };
    let line = [(1, 1), (2, 4), (1, 2), (2, 5), (1, 3)].map(|(p, c)| (p, json!(c)));
    let won = play_moves(&line);
    let result: Json = serde_json::from_str(won.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!((&result["winner"], &result["loser"]), (&json!(id(1)), &json!(id(2))));
    let full = [(1, 1), (2, 2), (1, 3), (2, 5), (1, 4), (2, 6), (1, 8), (2, 7), (1, 9)].map(|(p, c)| (p, json!(c)));
    let drawn = play_moves(&full);
    assert!(drawn.outcome.finished.as_deref().is_some_and(|r| r.contains("draw")));
    let wrong = [(2, json!(1)), (1, json!(0)), (1, json!("x")), (1, json!(1.5)), (1, json!(1)), (2, json!(1))];
    let refused = play_moves(&wrong);
    let said: Vec<_> = refused
        .outcome
        .pushes
        .iter()
        .map(|push| match push {
            Push::Message { message, .. } => message.as_str(),
            Push::Broadcast { .. } => "",
        })
        .collect();
    assert_eq!(
        said,
        [
            r#"{"error":"not_your_turn"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"no_such_cell"}"#,
            r#"{"error":"cell_taken"}"#,
        ]
    );
}

#[test]
fn echo_counts_and_ends_on_request() {
    let mut play = example("echo", |_| ());
    play.join(1).expect("joins");
    play.input(1, &json!({"n": 41})).expect("counts");
    play.input(1, &json!({"n": 42})).expect("counts");
    assert_eq!(play.state(), json!({"tick": 0, "players": {id(1): {"inputs": 2, "last": 42}}}));
    play.input(1, &json!({"finish": true})).expect("ends");
    assert_eq!(play.outcome.finished, Some(format!("{{\"winner\":\"{}\"}}", id(1))));
}

#[test]
fn pig_is_won_by_a_bot_that_plays_alone_and_keeps_the_record() {
    let mut play = example("pig", |play| play.answer(Ok("12")));
    let bot = Uuid::from_u128(2);
    play.join(1).expect("joins");
    play.game.know_bot(bot, "bot_Ada_a3f91c");
    play.join(2).expect("joins");
    assert_eq!(play.state()["record"], 12);
    for _ in 0..2000 {
        // The player passes.
        play.input(1, &json!({"hold": true})).expect("holds");
        if let Some(input) = play.think(2).expect("thinks") {
            play.input_text(2, &input).expect("plays");
        }
        play.tick().expect("ticks");
        if play.outcome.finished.is_some() {
            break;
        }
    }
    let result: Json = serde_json::from_str(play.outcome.finished.as_deref().expect("over")).expect("JSON");
    assert_eq!(result["winner"], "bot_Ada_a3f91c");
    let [EffectBody::Store(record)] = &play.outcome.effects[..] else {
        panic!("the record and nothing else: {:?}", play.outcome.effects);
    };
    assert!(record.value.as_u64().is_some_and(|points| points >= 50), "{record:?}");
}
