//! What a script does to the world outside: notifications, messages in channels, values it stores.

use asobi_proto::effect::{BoardEffect, ChatEffect, EffectBody, NotifyEffect, StoreEffect};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::{Play, counter, id};
use crate::game::BotWish;

/// Runs calls in one callback: each answer, and what became of it.
fn calls(calls: &str) -> (Vec<Json>, Vec<EffectBody>) {
    let mut play = counter(&format!(
        "local A, B = '{}', '{}'\nfunction tick(s)\n  s.n = {{ {calls} }}\n  return s\nend",
        id(1),
        id(2)
    ));
    play.tick().expect("runs");
    let Json::Array(answers) = play.state()["n"].take() else {
        panic!("every call answers something");
    };
    (answers, play.outcome.effects)
}

/// Calls with wrong arguments: each answers with an error, and nothing becomes of them.
fn refused(all: &[&str]) {
    let (answers, effects) = calls(&all.join(", "));
    assert_eq!(effects, []);
    assert_eq!(answers.len(), all.len());
    for (call, answer) in all.iter().zip(answers) {
        assert!(answer["error"].is_string(), "{call} answers {answer}");
    }
}

#[test]
fn a_player_is_notified() {
    let (answers, effects) = calls("game.notify(A, 'reward', 'You won', { coins = 5 }), game.notify(B, 'news', '')");
    assert_eq!(answers, [json!({"ok": [id(1)]}), json!({"ok": [id(2)]})]);
    let notified = |n, kind: &str, subject: &str, content| {
        EffectBody::Notify(NotifyEffect {
            player_ids: vec![Uuid::from_u128(n)],
            kind: kind.into(),
            subject: subject.into(),
            content,
        })
    };
    assert_eq!(effects, [notified(1, "reward", "You won", json!({"coins": 5})), notified(2, "news", "", json!({}))]);
}

#[test]
fn many_are_notified_at_once_and_each_once() {
    let (answers, effects) = calls(
        "game.notify_many({ A, 'nobody', B, A, 7 }, 't', 's', { n = 1 }), game.notify_many({ 'nobody' }, 't', 's')",
    );
    assert_eq!(answers, [json!({"ok": [id(1), id(2)]}), json!({"ok": []})]);
    let [EffectBody::Notify(notified)] = &effects[..] else {
        panic!("one effect: {effects:?}");
    };
    assert_eq!(notified.player_ids, [1, 2].map(Uuid::from_u128));
}

#[test]
fn notifications_have_their_bounds() {
    refused(&[
        "game.notify()",
        "game.notify('nobody', 't', 's')",
        "game.notify(A)",
        "game.notify(A, '', 's')",
        "game.notify(A, string.rep('t', 65), 's')",
        "game.notify(A, 't', string.rep('s', 257))",
        "game.notify(A, 't', 's\\0')",
        "game.notify(A, 't')",
        "game.notify(A, 't', 's', 'text')",
        "game.notify(A, 't', 's', { 1, 2 })",
        "game.notify(A, 't', 's', { x = string.rep('x', 5000) })",
        "game.notify(A, 't', 's', { f = print })",
        "game.notify_many(A, 't', 's')",
        "game.notify_many(table.create(1001, A), 't', 's')",
    ]);
}

#[test]
fn a_message_is_sent_in_a_channel() {
    let (answers, effects) = calls("game.chat.send('global:lobby', A, 'Hello\\nall')");
    assert_eq!(answers, [json!(true)]);
    let sent =
        ChatEffect { channel_id: "global:lobby".into(), sender_id: Uuid::from_u128(1), content: "Hello\nall".into() };
    assert_eq!(effects, [EffectBody::Chat(sent)]);
    refused(&[
        "game.chat.send()",
        "game.chat.send('lobby', A, 'x')",
        "game.chat.send(':lobby', A, 'x')",
        "game.chat.send('global:', A, 'x')",
        "game.chat.send('global:' .. string.rep('x', 200), A, 'x')",
        "game.chat.send('global:a\\0', A, 'x')",
        "game.chat.send('global:a', 'nobody', 'x')",
        "game.chat.send('global:a', A, '')",
        "game.chat.send('global:a', A, 'x\\0')",
        "game.chat.send('global:a', A, string.rep('x', 2001))",
        "game.chat.send('global:a', A, 5)",
    ]);
}

#[test]
fn values_are_stored_in_two_namespaces() {
    let (answers, effects) = calls(
        "game.storage.set('c', 'k', { n = 1 }), game.storage.player_set(A, 'c', 'k', 'text'), game.storage.set('c', 'gone', nil)",
    );
    assert_eq!(answers, [json!({"ok": true}), json!({"ok": true}), json!({"ok": true})]);
    let stored = |key: &str, player_id, value| {
        EffectBody::Store(StoreEffect { collection: "c".into(), key: key.into(), player_id, value })
    };
    let player = Some(Uuid::from_u128(1));
    assert_eq!(
        effects,
        [stored("k", None, json!({"n": 1})), stored("k", player, json!("text")), stored("gone", None, Json::Null)]
    );
    refused(&[
        "game.storage.set()",
        "game.storage.set('', 'k', 1)",
        "game.storage.set(string.rep('c', 65), 'k', 1)",
        "game.storage.set('c', '', 1)",
        "game.storage.set('c', string.rep('k', 129), 1)",
        "game.storage.set('c\\0', 'k', 1)",
        "game.storage.set('c', 'k\\0', 1)",
        "game.storage.set('c', 'k', 0/0)",
        "game.storage.set('c', 'k', print)",
        "game.storage.set('c', 'k', string.rep('x', 65536))",
        "game.storage.player_set()",
        "game.storage.player_set('nobody', 'c', 'k', 1)",
        "game.storage.player_set(A, '', 'k', 1)",
    ]);
}

#[test]
fn no_text_that_postgresql_cannot_hold_is_stored() {
    let (_, effects) = calls("game.storage.set('c', 'k', { ['a\\0'] = 'b\\0' })");
    let [EffectBody::Store(store)] = &effects[..] else {
        panic!("one effect: {effects:?}");
    };
    assert_eq!(store.value, json!({"a\u{fffd}": "b\u{fffd}"}));
}

#[test]
fn one_callback_has_its_bound_of_effects() {
    let (answers, effects) = calls(
        "(function() for _ = 1, 256 do assert(game.leaderboard.submit('b', A, 1)) end return true end)(),
         game.leaderboard.submit('b', A, 1), game.notify(A, 't', 's'), game.chat.send('global:a', A, 'x'),
         game.storage.set('c', 'k', 1)",
    );
    let too_many = json!({"error": "too many effects in one callback"});
    assert_eq!(answers, [json!(true), json!(false), too_many.clone(), too_many.clone(), too_many]);
    assert_eq!(effects.len(), 256);
}

#[test]
fn effects_of_a_failed_callback_do_not_happen() {
    let mut play = counter("function tick(s) assert(game.storage.set('c', 'k', 1).ok) error('on purpose') end");
    play.tick().expect_err("fails");
    assert_eq!(play.outcome, crate::game::Outcome::default());
}

#[test]
fn wishes_about_bots_need_a_mode_with_bots() {
    let wishes = "function tick(s)
  s.n = { game.bots.add('Ada'), game.bots.remove('bot_Ada_a3f91c'), game.bots.add('a b'), game.bots.add(''),
    game.bots.add(string.rep('x', 33)), game.bots.add(), game.bots.remove(''), game.bots.remove(5) }
  return s
end";
    let mut none = counter(wishes);
    none.tick().expect("runs");
    assert_eq!(none.state()["n"][0], json!({"error": "the mode does not set bots"}));
    assert_eq!(none.outcome.bots, []);

    let script = format!("match_size = 2\nbots = {{ script = 'ai.lua' }}\n{}\n{wishes}", super::COUNTER);
    let mut some = Play::with(&[("match.lua", &script), ("ai.lua", "function think() end")], "default");
    some.tick().expect("runs");
    let answers = some.state()["n"].take();
    assert_eq!((&answers[0], &answers[1]), (&json!(true), &json!(true)));
    assert!((2..8).all(|n| answers[n]["error"].is_string()), "{answers}");
    assert_eq!(some.outcome.bots, [BotWish::Add("Ada".into()), BotWish::Remove("bot_Ada_a3f91c".into())]);
}

#[test]
fn a_board_is_made_as_the_script_says() {
    let (answers, effects) = calls(
        "game.leaderboard.create('laps', { order = 'low', operator = 'best', reset = '0 0 * * MON', max_score = 600 }),
         game.leaderboard.create('wins')",
    );
    assert_eq!(answers, [json!({"ok": true}), json!({"ok": true})]);
    let laps = BoardEffect {
        board: "laps".into(),
        order: Some("low".into()),
        operator: Some("best".into()),
        reset: Some("0 0 * * MON".into()),
        max_score: Some(600.0),
        ..BoardEffect::default()
    };
    let wins = BoardEffect { board: "wins".into(), ..BoardEffect::default() };
    assert_eq!(effects, [EffectBody::Board(laps), EffectBody::Board(wins)]);
    refused(&[
        "game.leaderboard.create()",
        "game.leaderboard.create('')",
        "game.leaderboard.create('laps', 7)",
        "game.leaderboard.create('laps', { 'low' })",
        "game.leaderboard.create('laps', { order = 'up' })",
        "game.leaderboard.create('laps', { size = 7 })",
        "game.leaderboard.create('laps', { board = 'other' })",
        "game.leaderboard.create('laps', { reset = 'weekly' })",
        "game.leaderboard.create('laps', { min_score = 2, max_score = 1 })",
    ]);
}
