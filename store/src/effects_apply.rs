//! Applying what matches did to the world outside, each effect once: claimed, applied and marked in one transaction.
//!
//! ```text
//!  claim (skipping what others hold) ─► players held ─► notifications · scores · messages ─► inboxes ─► marked ─► commit ─► published
//!          └ messages: by one service at a time, so that those of a match keep their order
//! ```
//!
//! | what happens | what comes of it |
//! | --- | --- |
//! | the service dies before the commit | nothing was applied: another one claims the rows |
//! | it dies after the commit, or does not learn of it | everything is applied and marked. What it would have published is found in the rows: messages and inbox events by each node's sweep and by the gap in their numbers, scores by the gap in the board's |
//! | the database refuses the batch | its effects are applied one by one, and what is refused alone is put aside with an error |
//! | a player is erased meanwhile | the erasure waits for the commit, or the claim finds nobody to tell |

use std::collections::{BTreeSet, HashMap, HashSet};

use asobi_proto::{
    bus::InboxEvent,
    effect::{BoardEffect, ChatEffect, EffectBody, NotifyEffect, ScoreEffect, StoreEffect},
};
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    boards::{self, NewBoard, Operator, Rules, Settings, Submission, Written, Wrote},
    chat::{self, Batch, Message, NewMessage, Placed, WriterId},
    effects::{self, Problem},
    inbox, lock_keys,
    notifications::{self, NewNotification, Notification, Published},
    storage,
};

/// What one batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows that are done; when this is the limit there may be more.
    pub effects: usize,
    /// The submissions that reached a board, with their outcome.
    pub scores: Vec<(Submission, Written)>,
    /// Boards that were due to begin anew, and did.
    pub reset: Vec<String>,
    /// Stored in their channels.
    pub messages: Vec<Message>,
    /// Appended to inboxes.
    pub events: Vec<Published>,
    /// Effects that can never be applied, and why; they were marked so.
    pub refused: Vec<(Uuid, i64, Problem)>,
}

/// Of an effect: its match and ordinal.
type Key = (Uuid, i64);

/// Applies effects, under a name of its own among the writers of chat.
#[derive(Debug)]
pub struct Applier {
    writer: WriterId,
    /// Of the last batch of messages. That each is stored once is the doing of the rows' marks; so no number is tried twice.
    number: i64,
    /// Notifications that one player keeps.
    kept: i64,
}

struct Row {
    key: Key,
    kind: String,
    body: Value,
}

impl Applier {
    #[must_use]
    pub fn new(node_id: &str, kept: i64) -> Self {
        Self { writer: WriterId { id: Uuid::now_v7(), node_id: node_id.to_owned() }, number: 0, kept }
    }

    /// Applies up to `limit` open effects, oldest first. Several services may do so at once: each takes what no other holds. After it the
    /// caller publishes what it answers.
    ///
    /// # Errors
    /// When the database fails; nothing was applied then, or the outcome of the commit is unknown and the rows tell. When
    /// [`Error::no_partition`], the days of the chat's history are to be made first.
    pub async fn batch(&mut self, pool: &PgPool, limit: i64) -> Result<Applied> {
        let mut tx = crate::begin(pool).await?;
        let rows = claim(&mut tx, limit).await?;
        if rows.is_empty() {
            return Ok(Applied::default());
        }
        let applied = match self.attempt(&mut tx, &rows).await? {
            Some(applied) => applied,
            None => self.one_by_one(&mut tx, &rows).await?,
        };
        mark(&mut tx, &rows, &applied.refused).await?;
        tx.commit().await?;
        Ok(applied)
    }

    /// Applies what the database does not refuse, and refuses that.
    async fn one_by_one(&mut self, conn: &mut PgConnection, rows: &[Row]) -> Result<Applied> {
        let mut all = Applied::default();
        for row in rows {
            match self.attempt(conn, std::slice::from_ref(row)).await? {
                Some(applied) => all.add(applied),
                None => all.refuse(row.key, "the database refuses it"),
            }
        }
        Ok(all)
    }

    /// None: the database refuses something of it, and nothing of it was applied.
    async fn attempt(&mut self, conn: &mut PgConnection, rows: &[Row]) -> Result<Option<Applied>> {
        let mut part = conn.begin().await?;
        match Box::pin(self.apply(&mut part, rows)).await {
            Ok(applied) => {
                part.commit().await?;
                Ok(Some(applied))
            }
            Err(error) if is_refusal(&error) => {
                tracing::warn!(%error, effects = rows.len(), "The database refuses effects of matches.");
                part.rollback().await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Everybody who takes locks of several of these takes them in this order: players, boards, channels, inboxes; each in their own order.
    async fn apply(&mut self, conn: &mut PgConnection, rows: &[Row]) -> Result<Applied> {
        let (work, refused) = Work::of(rows);
        let mut applied = Applied { effects: rows.len(), refused, ..Applied::default() };
        let there = hold_players(conn, &work).await?;
        storage::apply(conn, &work.stores.iter().collect::<Vec<_>>()).await?;
        let told = notify(conn, &work.notices).await?;
        // Before the scores, which would make them otherwise.
        create(conn, work.boards).await?;
        submit(conn, work.scores, &mut applied).await?;
        let mut events = self.speak(conn, work.chats, &there, &mut applied).await?;
        events.extend(told.iter().map(|n| (n.player_id, n.event())));
        let seqs = inbox::append(conn, &events).await?;
        applied.events = events.into_iter().zip(seqs).map(|((player, event), seq)| (player, seq, event)).collect();
        if !told.is_empty() {
            notifications::trim(conn, &told, self.kept).await?;
        }
        Ok(applied)
    }

    /// Stores messages; answers what tells the players of direct ones.
    async fn speak(
        &mut self,
        conn: &mut PgConnection,
        chats: Vec<ChatEffect>,
        there: &HashSet<Uuid>,
        applied: &mut Applied,
    ) -> Result<Vec<(Uuid, InboxEvent)>> {
        if chats.is_empty() {
            return Ok(Vec::new());
        }
        let new: Vec<NewMessage> = chats.into_iter().map(new_message).collect();
        self.number += 1;
        let messages: Vec<&NewMessage> = new.iter().collect();
        let batch = Batch { writer: &self.writer, number: self.number, messages: &messages };
        // A number that was never used is never late.
        let placed = chat::append(conn, &batch).await?.ok_or(sqlx::Error::RowNotFound)?;
        let mut events = Vec::new();
        for (message, placed) in new.into_iter().zip(placed) {
            let direct = recipients(&message).into_iter().flatten().filter(|player| there.contains(player));
            events.extend(direct.map(|player| (player, chat::direct_event(&message, &placed))));
            applied.messages.push(stored(message, placed));
        }
        Ok(events)
    }
}

impl Applied {
    fn add(&mut self, other: Self) {
        self.effects += other.effects;
        self.scores.extend(other.scores);
        self.reset.extend(other.reset);
        self.messages.extend(other.messages);
        self.events.extend(other.events);
        self.refused.extend(other.refused);
    }

    fn refuse(&mut self, key: Key, why: Problem) {
        self.effects += 1;
        self.refused.push((key.0, key.1, why));
    }
}

/// Effects by their kinds, each in the order of its rows.
#[derive(Debug, Default)]
struct Work {
    scores: Vec<(Key, Submission)>,
    boards: Vec<NewBoard>,
    notices: Vec<(Vec<Uuid>, NewNotification)>,
    chats: Vec<ChatEffect>,
    /// Those that another release left to be applied here.
    stores: Vec<StoreEffect>,
}

impl Work {
    fn of(rows: &[Row]) -> (Self, Vec<(Uuid, i64, Problem)>) {
        let (mut work, mut refused) = (Self::default(), Vec::new());
        for row in rows {
            match read(&row.kind, &row.body) {
                Ok(EffectBody::Score(score)) => work.scores.push((row.key, submission(score))),
                Ok(EffectBody::Board(board)) => work.boards.push(new_board(board)),
                Ok(EffectBody::Notify(notify)) => work.notices.push(notice(notify)),
                Ok(EffectBody::Chat(chat)) => work.chats.push(chat),
                Ok(EffectBody::Store(store)) => work.stores.push(store),
                Err(why) => refused.push((row.key.0, row.key.1, why)),
            }
        }
        (work, refused)
    }

    /// Everybody something is to be told to, or written for.
    fn players(&self) -> BTreeSet<Uuid> {
        let told = self.notices.iter().flat_map(|(players, _)| players.iter().copied());
        let scores = self.scores.iter().map(|(_, submission)| submission.player_id);
        let direct = self.chats.iter().filter_map(|chat| effects::direct(&chat.channel_id)).flat_map(|(a, b)| [a, b]);
        let stores = self.stores.iter().filter_map(|store| store.player_id);
        told.chain(scores).chain(direct).chain(stores).collect()
    }
}

/// A row's body as something that can be applied, or why it never will be.
fn read(kind: &str, body: &Value) -> Result<EffectBody, Problem> {
    let body = EffectBody::read(kind, body)
        .map_err(|_| "the body is not one of its kind")?
        .ok_or("this release does not know the kind")?;
    effects::check(&body).map(|()| body)
}

fn submission(score: ScoreEffect) -> Submission {
    let ScoreEffect { board, player_id, score, sub_score } = score;
    Submission { board, player_id, score, sub_score, by_client: false }
}

fn new_board(board: BoardEffect) -> NewBoard {
    let rules = Rules {
        descending: board.order.as_deref() != Some("low"),
        operator: match board.operator.as_deref() {
            Some("best") => Operator::Best,
            Some("sum") => Operator::Sum,
            _ => Operator::Last,
        },
    };
    let settings = Settings {
        title: board.title.unwrap_or_default(),
        rules,
        min_score: board.min_score,
        max_score: board.max_score,
        reset_schedule: board.reset,
        periods_kept: board.periods_kept,
        ..Settings::default()
    };
    NewBoard { id: board.board, settings }
}

fn notice(notify: NotifyEffect) -> (Vec<Uuid>, NewNotification) {
    let content = if notify.content.is_null() { json!({}) } else { notify.content };
    (notify.player_ids, NewNotification { kind: notify.kind, subject: notify.subject, content })
}

fn new_message(chat: ChatEffect) -> NewMessage {
    NewMessage {
        message_id: Uuid::now_v7(),
        channel_id: chat.channel_id,
        sender_id: chat.sender_id,
        content: chat.content,
        idempotency_key: None,
        sender_known: false,
    }
}

fn stored(new: NewMessage, placed: Placed) -> Message {
    let NewMessage { message_id, channel_id, sender_id, content, .. } = new;
    Message { message_id, channel_id, seq: placed.seq, sender_id, content, sent_at: placed.sent_at, deleted: false }
}

/// Who of a direct channel's two players is told of a message: the other one, or both, when a third one speaks. Whether they block each
/// other is not asked: the game speaks, not a player.
fn recipients(message: &NewMessage) -> Option<BTreeSet<Uuid>> {
    let (a, b) = effects::direct(&message.channel_id)?;
    Some(match message.sender_id {
        sender if sender == a => [b].into(),
        sender if sender == b => [a].into(),
        _ => [a, b].into(),
    })
}

/// Of these classes (the data, a constraint, a limit) nothing changes by trying again.
fn is_refusal(error: &Error) -> bool {
    let Error::Sql(sqlx::Error::Database(said)) = error else { return false };
    !error.no_partition()
        && said.code().is_some_and(|code| ["22", "23", "54"].iter().any(|class| code.starts_with(class)))
}

async fn claim(conn: &mut PgConnection, limit: i64) -> Result<Vec<Row>> {
    // Held until the commit. Who does not get it leaves the messages to who has it.
    let speaks = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "speaks!""#, lock_keys::EFFECT_CHAT)
        .fetch_one(&mut *conn)
        .await?;
    let rows = sqlx::query!(
        "SELECT match_id, ordinal, kind, body FROM match_effects WHERE applied_at IS NULL AND (kind <> 'chat' OR $2)
         ORDER BY inserted_at, match_id, ordinal LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
        speaks,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|row| Row { key: (row.match_id, row.ordinal), kind: row.kind, body: row.body }).collect())
}

/// Those of the players who exist; they do until the commit.
async fn hold_players(conn: &mut PgConnection, work: &Work) -> Result<HashSet<Uuid>> {
    let players: Vec<Uuid> = work.players().into_iter().collect();
    if players.is_empty() {
        return Ok(HashSet::new());
    }
    let there = sqlx::query_scalar!("SELECT id FROM players WHERE id = ANY($1) ORDER BY id FOR KEY SHARE", &players)
        .fetch_all(conn)
        .await?;
    Ok(there.into_iter().collect())
}

/// The rows of the notifications; the inboxes come with the others' events.
async fn notify(conn: &mut PgConnection, notices: &[(Vec<Uuid>, NewNotification)]) -> Result<Vec<Notification>> {
    let mut told = Vec::new();
    for (players, new) in notices {
        told.extend(notifications::insert(conn, players, new).await?);
    }
    Ok(told)
}

/// Makes the boards that are not there yet.
async fn create(conn: &mut PgConnection, mut new: Vec<NewBoard>) -> Result<()> {
    // The first one of an id counts; locks are taken in order.
    new.sort_by(|a, b| a.id.cmp(&b.id));
    for board in &new {
        boards::create(conn, board).await?;
    }
    Ok(())
}

async fn submit(conn: &mut PgConnection, scores: Vec<(Key, Submission)>, applied: &mut Applied) -> Result<()> {
    if scores.is_empty() {
        return Ok(());
    }
    let (keys, submissions): (Vec<Key>, Vec<Submission>) = scores.into_iter().unzip();
    let Wrote { outcomes, reset } = boards::write(conn, &submissions).await?;
    for ((match_id, ordinal), outcome) in keys.into_iter().zip(&outcomes) {
        let why = match outcome {
            Written::NoRoom => "there is no room for another leaderboard",
            Written::OutOfBounds => "the score is not within the board's bounds",
            // Matches are no clients.
            Written::ClosedToClients | Written::Changed(_) | Written::Kept(_) => continue,
        };
        applied.refused.push((match_id, ordinal, why));
    }
    applied.reset = reset;
    applied.scores = submissions.into_iter().zip(outcomes).collect();
    Ok(())
}

async fn mark(conn: &mut PgConnection, rows: &[Row], refused: &[(Uuid, i64, Problem)]) -> Result<()> {
    let refused: HashMap<Key, Problem> = refused.iter().map(|(id, ordinal, why)| ((*id, *ordinal), *why)).collect();
    let (matches, ordinals): (Vec<Uuid>, Vec<i64>) = rows.iter().map(|row| row.key).unzip();
    let errors: Vec<Option<&str>> = rows.iter().map(|row| refused.get(&row.key).copied()).collect();
    sqlx::query!(
        "UPDATE match_effects e SET applied_at = now(), error = d.error
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[]) AS d (match_id, ordinal, error)
         WHERE e.match_id = d.match_id AND e.ordinal = d.ordinal",
        &matches,
        &ordinals,
        &errors as &[Option<&str>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_applied_is_read() {
        let player = Uuid::now_v7();
        let good = read("score", &json!({"board": "arena", "player_id": player, "score": 3})).expect("reads");
        let score = ScoreEffect { board: "arena".into(), player_id: player, score: 3.0, sub_score: 0.0 };
        assert_eq!(good, EffectBody::Score(score));
        for body in [
            json!({"board": "", "player_id": player, "score": 3}),
            json!({"board": "x".repeat(129), "player_id": player, "score": 3}),
            json!({"board": "arena", "player_id": "somebody", "score": 3}),
            json!({"board": "arena", "player_id": player, "score": null}),
            json!([1]),
            json!(null),
        ] {
            assert!(read("score", &body).is_err(), "{body}");
        }
        assert!(read("gift", &json!({})).is_err());
    }

    #[test]
    fn a_direct_message_is_told_to_whoever_did_not_send_it() {
        let [a, b, game] = [1, 2, 3].map(Uuid::from_u128);
        let told = |channel: String, sender| {
            let chat = ChatEffect { channel_id: channel, sender_id: sender, content: "hi".into() };
            recipients(&new_message(chat)).map(|players| players.into_iter().collect::<Vec<_>>())
        };
        let direct = format!("dm:{a}:{b}");
        assert_eq!(told(direct.clone(), a), Some(vec![b]));
        assert_eq!(told(direct.clone(), b), Some(vec![a]));
        assert_eq!(told(direct, game), Some(vec![a, b]));
        assert_eq!(told(format!("dm:{a}:{a}"), a), Some(vec![a]));
        assert_eq!(told("global:lobby".into(), a), None);
    }
}
