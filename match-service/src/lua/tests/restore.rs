//! A match is saved, and goes on in another VM as if nothing had been.

use std::time::Instant;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, counter, folder, id, registry};
use crate::game::{Joined, Outcome};

/// The same mode in a VM that has not begun, in place of the one that plays.
fn moved(play: &mut Play, files: &[(&str, &str)], mode: &str, players: &[u128]) -> Play {
    let saved = play.save().expect("can be saved");
    let dir = folder(files);
    let mut other = Play::unstarted(&registry(dir.path()), mode, dir);
    let players: Vec<Uuid> = players.iter().copied().map(Uuid::from_u128).collect();
    other.game.restore(&saved, &players).expect("can be restored");
    other
}

const DICE: &str = r#"match_size = 2
state_strategy = "shared"
function init() return { rolls = {}, players = {}, first = nil } end
function join(id, state)
  state.players[id] = { rolls = 0 }
  state.first = state.first or state.players[id]
  return state
end
function handle_input(id, input, state)
  if input.fail then error("on purpose") end
  local player = state.players[id]
  player.rolls = player.rolls + 1
  table.insert(state.rolls, game.random(1000000))
  game.send(id, { roll = state.rolls[#state.rolls] })
  return state
end
function tick(state)
  state.first.rolls = state.first.rolls + 100
  if #state.rolls >= 6 then state._finished = true state._result = { rolls = state.rolls } end
  return state
end
function get_state(state) return state end
"#;

#[test]
fn callbacks_go_on_exactly_as_before() {
    let files = [("match.lua", DICE)];
    let play = |moves: bool| {
        let mut play = Play::with(&files, "default");
        for n in 1..=2 {
            play.join(n).expect("joins");
        }
        let mut states: Vec<Json> = Vec::new();
        let mut outcome = Outcome::default();
        for round in 0..3 {
            if moves {
                outcome.pushes.extend(std::mem::take(&mut play.outcome).pushes);
                play = moved(&mut play, &files, "default", &[1, 2]);
            }
            play.input(1, &json!({})).expect("rolls");
            play.input(2, &json!({"fail": round == 1})).err();
            play.input(2, &json!({})).expect("rolls");
            play.tick().expect("ticks");
            states.push(play.state());
        }
        outcome.pushes.extend(play.outcome.pushes);
        outcome.finished = play.outcome.finished;
        (states, outcome)
    };
    let (stayed, moved) = (play(false), play(true));
    assert_eq!(stayed.0[2]["players"][id(1)]["rolls"], 303, "the first player is the one of the list too");
    assert!(stayed.1.finished.is_some());
    assert_eq!(stayed, moved);
}

#[test]
fn a_changed_script_takes_the_state_up() {
    let mut play = Play::with(&[("match.lua", DICE)], "default");
    play.join(1).expect("joins");
    play.input(1, &json!({})).expect("rolls");
    let changed = DICE.replace("rolls + 100", "rolls + 7");
    let mut play = moved(&mut play, &[("match.lua", &changed)], "default", &[1]);
    play.tick().expect("ticks");
    assert_eq!(play.state()["players"][id(1)]["rolls"], 8);
}

#[test]
fn who_has_a_seat_can_be_sent_something_again() {
    let mut play = counter("function tick(s) s.n = game.send('00000000-0000-0000-0000-000000000001', {}) return s end");
    play.join(1).expect("joins");
    let saved = play.save().expect("can be saved");
    play.game.restore(&saved, &[]).expect("can be restored");
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], json!({"error": "no such player in this match"}));
    play.game.restore(&saved, &[Uuid::from_u128(1)]).expect("can be restored");
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], true);
}

#[test]
fn a_state_that_cannot_be_saved_is_named_and_plays_on() {
    let mut play = counter("function tick(s) s.n = s.n + 1 s.on = { hit = print } return s end");
    play.tick().expect("ticks");
    let error = play.save().expect_err("has a function");
    assert_eq!(error.to_string(), "match.lua:0: save: state.on.hit is a function, which cannot be saved");
    assert!(!error.fatal);
    play.tick().expect("ticks");
    assert_eq!(play.state()["n"], 2);
}

#[test]
fn what_nobody_saved_is_refused_and_changes_nothing() {
    let mut play = counter("function tick(s) s.n = s.n + 1 return s end");
    play.tick().expect("ticks");
    for saved in [&b""[..], b"\x01", b"garbage", b"\x02\0\0\0\0\0\0\0\0\0\x09\0\0"] {
        let error = play.game.restore(saved, &[]).expect_err("is no snapshot");
        assert_eq!(error.callback, "restore");
        assert!(error.message.starts_with("what was saved "), "{error}");
    }
    assert_eq!(play.state()["n"], 1);
}

/// The arena in full swing.
fn arena() -> Play {
    let games = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../games");
    let mut play = Play::of(&registry(&games), "arena", tempfile::tempdir().expect("a folder"));
    for n in 1..=8 {
        assert_eq!(play.join(n), Ok(Joined::Seated));
        let aim = json!({"move_x": 0.3, "aim_x": 10 * u32::try_from(n).expect("small"), "aim_y": 77, "shoot": true});
        play.input(n, &aim).expect("shoots");
    }
    for _ in 0..30 {
        play.tick().expect("ticks");
    }
    play
}

#[test]
fn the_arena_moves_in_full_swing() {
    let mut play = arena();
    let saved = play.save().expect("can be saved");
    assert!((500..8000).contains(&saved.len()), "{} bytes", saved.len());
    let started = Instant::now();
    for _ in 0..100 {
        play.save().expect("can be saved");
    }
    println!("the arena's {} bytes take {:?} to save", saved.len(), started.elapsed() / 100);
    let mut other = arena();
    other.tick().expect("ticks");
    let players: Vec<Uuid> = (1..=8).map(Uuid::from_u128).collect();
    other.game.restore(&saved, &players).expect("can be restored");
    for _ in 0..200 {
        play.tick().expect("ticks");
        other.tick().expect("ticks");
        assert_eq!(play.state(), other.state());
    }
}
