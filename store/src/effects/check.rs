//! What an effect must be like so that it can be applied at some time. Checked before it is written, because one that PostgreSQL refuses would
//! take the whole checkpoint with it, and again before it is applied, because another release may have written it.

use asobi_proto::effect::{BoardEffect, ChatEffect, EffectBody, NotifyEffect, ScoreEffect, StoreEffect};
use serde_json::Value;
use uuid::Uuid;

use crate::{boards, storage};

/// Players of one notification.
const RECIPIENTS: usize = 1_000;
/// As the notifications' table has them.
const TYPE_BYTES: usize = 64;
const SUBJECT_BYTES: usize = 256;
const CONTENT_BYTES: usize = 4 * 1024;
/// As the boards' table has it.
const TITLE_BYTES: usize = 256;
/// A message's, as for players.
const MESSAGE_BYTES: usize = 2_000;
const CHANNEL_BYTES: usize = 200;
/// Readers of JSON give up at 128; the row puts a level around it.
const DEPTH: usize = 100;

/// Why an effect can never be applied.
pub type Problem = &'static str;

/// Whether an effect can be written, and applied later.
///
/// # Errors
/// Why not.
pub fn check(body: &EffectBody) -> Result<(), Problem> {
    match body {
        EffectBody::Score(score) => check_score(score),
        EffectBody::Notify(notify) => check_notify(notify),
        EffectBody::Chat(chat) => check_chat(chat),
        EffectBody::Store(store) => check_store(store),
        EffectBody::Board(board) => check_board(board),
    }
}

fn demand(holds: bool, otherwise: Problem) -> Result<(), Problem> {
    if holds { Ok(()) } else { Err(otherwise) }
}

fn is_text(text: &str, most: usize) -> bool {
    text.len() <= most && !text.contains('\0')
}

fn check_score(score: &ScoreEffect) -> Result<(), Problem> {
    let id = !score.board.is_empty() && is_text(&score.board, boards::ID_BYTES);
    demand(id, "the board's id is empty or too long")?;
    demand(score.score.is_finite() && score.sub_score.is_finite(), "the score is not a finite number")
}

fn check_board(board: &BoardEffect) -> Result<(), Problem> {
    let id = !board.board.is_empty() && is_text(&board.board, boards::ID_BYTES);
    demand(id, "the board's id is empty or too long")?;
    let one_of = |word: &Option<String>, words: &[&str]| word.as_deref().is_none_or(|word| words.contains(&word));
    demand(one_of(&board.order, &["high", "low"]), "the board's order is neither high nor low")?;
    demand(one_of(&board.operator, &["best", "last", "sum"]), "the board's operator is none of best, last and sum")?;
    let schedule = board.reset.as_deref().is_none_or(boards::is_schedule);
    demand(schedule, "the board's reset is no cron pattern of five fields")?;
    let bounds = [board.min_score, board.max_score];
    demand(bounds.iter().flatten().all(|bound| bound.is_finite()), "a bound is not a finite number")?;
    let together = board.min_score.zip(board.max_score).is_none_or(|(min, max)| min <= max);
    demand(together, "the lowest score is above the highest")?;
    demand(board.periods_kept.is_none_or(|kept| kept >= 0), "the number of periods is negative")?;
    demand(board.title.as_deref().is_none_or(|title| is_text(title, TITLE_BYTES)), "the title is too long")
}

fn check_notify(notify: &NotifyEffect) -> Result<(), Problem> {
    demand(notify.player_ids.len() <= RECIPIENTS, "the notification is for too many players")?;
    demand(
        !notify.kind.is_empty() && is_text(&notify.kind, TYPE_BYTES),
        "the notification's type is empty or too long",
    )?;
    demand(is_text(&notify.subject, SUBJECT_BYTES), "the notification's subject is too long")?;
    demand(notify.content.is_object() || notify.content.is_null(), "the notification's content is not an object")?;
    check_json(&notify.content, CONTENT_BYTES)
}

fn check_chat(chat: &ChatEffect) -> Result<(), Problem> {
    let content = !chat.content.is_empty() && is_text(&chat.content, MESSAGE_BYTES);
    demand(content, "the message is empty or too long")?;
    demand(is_channel(&chat.channel_id), "the channel's id is none that players use")
}

fn check_store(store: &StoreEffect) -> Result<(), Problem> {
    let name = |text: &str, most: usize| {
        !text.contains('\0') && text.len() <= 4 * most && (1..=most).contains(&text.chars().count())
    };
    demand(name(&store.collection, storage::COLLECTION_CHARS), "the collection's name is empty or too long")?;
    demand(name(&store.key, storage::KEY_CHARS), "the key is empty or too long")?;
    check_json(&store.value, storage::VALUE_BYTES)
}

/// Whether jsonb can hold a value, and we want it to.
fn check_json(value: &Value, most: usize) -> Result<(), Problem> {
    // First the depth: what follows calls itself as deep.
    let no_nul = walk(value, DEPTH)?;
    demand(no_nul, "there is a NUL in it")?;
    let size = serde_json::to_vec(value).map_or(usize::MAX, |text| text.len());
    demand(size <= most, "it is too large")
}

/// Whether there is no NUL in it.
fn walk(value: &Value, depth: usize) -> Result<bool, Problem> {
    let depth = depth.checked_sub(1).ok_or("it is nested too deep")?;
    Ok(match value {
        Value::String(text) => !text.contains('\0'),
        Value::Array(items) => all(items.iter().map(|item| walk(item, depth)))?,
        Value::Object(fields) => all(fields.iter().map(|(key, item)| Ok(!key.contains('\0') && walk(item, depth)?)))?,
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    })
}

fn all(mut parts: impl Iterator<Item = Result<bool, Problem>>) -> Result<bool, Problem> {
    parts.try_fold(true, |so_far, part| Ok(so_far && part?))
}

/// Whether an id names a channel that players can be in.
fn is_channel(id: &str) -> bool {
    let Some((scheme, name)) = id.split_once(':') else { return false };
    is_text(id, CHANNEL_BYTES)
        && match scheme {
            "global" => !name.is_empty(),
            "match" | "room" => canonical(name).is_some(),
            "dm" => direct(id).is_some(),
            _ => false,
        }
}

/// The two players of a direct channel.
pub(crate) fn direct(channel: &str) -> Option<(Uuid, Uuid)> {
    let (a, b) = channel.strip_prefix("dm:")?.split_once(':')?;
    let (a, b) = (canonical(a)?, canonical(b)?);
    (a <= b).then_some((a, b))
}

/// One spelling per id, or two channels would be one.
fn canonical(text: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(text).ok()?;
    (id.hyphenated().to_string() == text).then_some(id)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn score(board: &str, score: f64) -> EffectBody {
        EffectBody::Score(ScoreEffect { board: board.into(), player_id: Uuid::nil(), score, sub_score: 0.0 })
    }

    fn chat(channel: &str, content: &str) -> EffectBody {
        EffectBody::Chat(ChatEffect { channel_id: channel.into(), sender_id: Uuid::nil(), content: content.into() })
    }

    fn board(of: BoardEffect) -> EffectBody {
        EffectBody::Board(of)
    }

    fn laps() -> BoardEffect {
        BoardEffect {
            board: "laps".into(),
            order: Some("low".into()),
            reset: Some("@weekly".into()),
            ..BoardEffect::default()
        }
    }

    fn store(collection: &str, key: &str, value: Value) -> EffectBody {
        EffectBody::Store(StoreEffect { collection: collection.into(), key: key.into(), player_id: None, value })
    }

    fn notify(kind: &str, subject: &str, content: Value) -> EffectBody {
        EffectBody::Notify(NotifyEffect {
            player_ids: vec![Uuid::nil()],
            kind: kind.into(),
            subject: subject.into(),
            content,
        })
    }

    #[test]
    fn what_can_be_applied_passes_and_what_cannot_says_why() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        for good in [
            score("arena", -1.5),
            chat("global:lobby", &"x".repeat(2_000)),
            chat(&format!("match:{a}"), "hi"),
            chat(&format!("room:{a}"), "hi"),
            chat(&format!("dm:{a}:{b}"), "hi"),
            store("ü".repeat(64).as_str(), "k", json!(null)),
            store("c", &"k".repeat(128), json!({"a": [1, "x", {"b": 1e308}]})),
            board(laps()),
            board(BoardEffect { min_score: Some(0.0), max_score: Some(0.0), periods_kept: Some(0), ..laps() }),
            notify("news", "", Value::Null),
            notify("news", "Hello", json!({"a": 1})),
        ] {
            assert_eq!(check(&good), Ok(()), "{good:?}");
        }
        let deep = (0..200).fold(json!(1), |inner, _| json!([inner]));
        for bad in [
            score("", 1.0),
            score("a\0b", 1.0),
            score("arena", f64::NAN),
            board(BoardEffect { board: String::new(), ..laps() }),
            board(BoardEffect { order: Some("up".into()), ..laps() }),
            board(BoardEffect { operator: Some("max".into()), ..laps() }),
            board(BoardEffect { reset: Some("weekly".into()), ..laps() }),
            board(BoardEffect { min_score: Some(2.0), max_score: Some(1.0), ..laps() }),
            board(BoardEffect { max_score: Some(f64::INFINITY), ..laps() }),
            board(BoardEffect { periods_kept: Some(-1), ..laps() }),
            board(BoardEffect { title: Some("x".repeat(257)), ..laps() }),
            score("arena", f64::INFINITY),
            chat("global:lobby", ""),
            chat("global:lobby", "a\0b"),
            chat("global:lobby", &"x".repeat(2_001)),
            chat("global:", "hi"),
            chat("world:1", "hi"),
            chat("room:guild", "hi"),
            chat(&format!("dm:{b}:{a}"), "hi"),
            chat("lobby", "hi"),
            store("", "k", json!(1)),
            store("c", "", json!(1)),
            store(&"c".repeat(65), "k", json!(1)),
            store("c", &"k".repeat(129), json!(1)),
            store("c", "a\0b", json!(1)),
            store("c", "k", json!({"a": ["x", "a\u{0}b"]})),
            store("c", "k", json!({"a\u{0}b": 1})),
            store("c", "k", json!("x".repeat(storage::VALUE_BYTES))),
            store("c", "k", deep),
            notify("", "Hello", json!({})),
            notify("news", "a\0b", json!({})),
            notify("news", &"x".repeat(257), json!({})),
            notify("news", "Hello", json!([1])),
            notify("news", "Hello", json!({"a": "x".repeat(CONTENT_BYTES)})),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
