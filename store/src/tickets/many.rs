//! Many players' wishes in one statement: a burst of newcomers pays one commit for many.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use asobi_proto::mode::ModeSettings;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use tokio::{task::JoinSet, time::timeout};
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use super::{COUNTED, Created, Ticket, TicketError, TicketState, Wish, create};
use crate::{Error, Result};

/// How long the batch waits for others' locks before everybody in it is tried alone, so that one who has to wait is the only one.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// Bound of one who is tried alone: less than any caller waits for the batch.
const ALONE: Duration = Duration::from_secs(2);
const LOOKS: usize = 3;

/// One player's wish, checked as [`create`] demands.
#[derive(Debug, Clone)]
pub struct NewTicket {
    pub player: Uuid,
    pub mode: String,
    /// A JSON object.
    pub properties: serde_json::Value,
    pub query: Option<String>,
    pub settings: Arc<ModeSettings>,
    /// In whose trace the ticket is written.
    pub span: Span,
}

impl NewTicket {
    fn wish(&self) -> Wish<'_> {
        Wish { properties: &self.properties, query: self.query.as_deref() }
    }
}

type Answer = Result<Created, TicketError>;

/// Queues players as [`create`] does each: all that is said there holds here, and each is answered by themselves, in the order of the wishes.
/// Within a call the queue's bound is exact.
///
/// # Errors
/// The database did not answer: what became of the wishes is then unknown. What it refuses is not an error of the call: nothing of the batch is
/// stored then, and each is tried alone.
pub async fn create_many(pool: &PgPool, wishes: &[NewTicket], max_queue: i64) -> Result<Vec<Answer>> {
    if let [only] = wishes {
        return Ok(vec![alone(pool, only, max_queue).await]);
    }
    let mut answers: Vec<Option<Answer>> = wishes.iter().map(|_| None).collect();
    for _ in 0..LOOKS {
        let open: Vec<usize> = first_of_each(wishes, &answers);
        if open.is_empty() {
            break;
        }
        let looked = look(pool, wishes, &open, max_queue).instrument(writing(wishes)).await;
        match looked {
            Ok(found) => found.into_iter().for_each(|(at, answer)| answers[at] = Some(answer)),
            Err(Error::Sql(sqlx::Error::Database(said))) => {
                tracing::warn!(error = %said, tickets = open.len(), "Tickets could not be written together; each is tried alone.");
                let mut trying = JoinSet::new();
                for at in open {
                    let (pool, new) = (pool.clone(), wishes[at].clone());
                    trying.spawn(async move { (at, alone(&pool, &new, max_queue).await) });
                }
                while let Some(Ok((at, answer))) = trying.join_next().await {
                    answers[at] = Some(answer);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(with_twins(wishes, answers))
}

async fn alone(pool: &PgPool, new: &NewTicket, max_queue: i64) -> Answer {
    let creating = create(pool, new.player, &new.mode, new.wish(), &new.settings, max_queue);
    let created = timeout(ALONE, creating.instrument(new.span.clone())).await;
    created.unwrap_or(Err(TicketError::Db(Error::Deadline(ALONE))))
}

/// The span of the batch: in the trace of its first recorded wish, and linked to the others.
fn writing(wishes: &[NewTicket]) -> Span {
    let mut recorded = wishes.iter().map(|new| &new.span).filter(|span| !span.is_disabled());
    let Some(first) = recorded.next() else { return Span::none() };
    let span = tracing::info_span!(
        target: asobi_trace::TARGET,
        parent: first,
        "sql",
        otel.name = "INSERT tickets",
        otel.kind = "client",
        db.system.name = "postgresql",
        db.operation.name = "INSERT",
        db.collection.name = "tickets",
        db.operation.batch.size = wishes.len(),
    );
    asobi_trace::link_spans(&span, recorded);
    span
}

/// Those that are to be looked at: of a player's wishes in one mode the first, which answers the others.
fn first_of_each(wishes: &[NewTicket], answers: &[Option<Answer>]) -> Vec<usize> {
    let mut seen = HashSet::new();
    let first = |at: &usize| seen.insert((wishes[*at].player, wishes[*at].mode.as_str()));
    (0..wishes.len()).filter(first).filter(|at| answers[*at].is_none()).collect()
}

/// Answers who wished twice as if the second wish had come after the first.
fn with_twins(wishes: &[NewTicket], mut answers: Vec<Option<Answer>>) -> Vec<Answer> {
    let mut firsts: HashMap<(Uuid, &str), usize> = HashMap::new();
    for (at, new) in wishes.iter().enumerate() {
        let first = *firsts.entry((new.player, &new.mode)).or_insert(at);
        if first == at {
            continue;
        }
        answers[at] = match &answers[first] {
            Some(Ok(created)) => Some(Ok(Created { already_queued: true, position: None, ..created.clone() })),
            Some(Err(TicketError::AlreadyInMatch)) => Some(Err(TicketError::AlreadyInMatch)),
            Some(Err(TicketError::QueueFull)) => Some(Err(TicketError::QueueFull)),
            _ => None,
        };
    }
    let unsettled = || Err(TicketError::Db(Error::Sql(sqlx::Error::RowNotFound)));
    answers.into_iter().map(|answer| answer.unwrap_or_else(unsettled)).collect()
}

/// Answers those of the wishes for which that is clear now; a twin on another node may be in the way of the others.
async fn look(pool: &PgPool, wishes: &[NewTicket], open: &[usize], max_queue: i64) -> Result<Vec<(usize, Answer)>> {
    let asked: Vec<(Uuid, &NewTicket)> = open.iter().map(|at| (Uuid::now_v7(), &wishes[*at])).collect();
    let mut tx = crate::begin(pool).await?;
    sqlx::query(LOCK_TIMEOUT).execute(&mut *tx).await?;
    let rows = insert(&mut tx, &asked, max_queue).await?;
    tx.commit().await?;
    let answers = read(&asked, rows, max_queue);
    Ok(open.iter().zip(answers).filter_map(|(at, answer)| Some((*at, answer?))).collect())
}

/// What was found of a wish, with its place from 1 on; or, without a place, a ticket that was made, by its id.
struct Row {
    place: Option<i64>,
    seated: Option<bool>,
    /// Before any of the batch.
    waiting: Option<i64>,
    estimated_wait_ms: Option<i64>,
    /// Of the ticket by which the player waits in the mode already.
    id: Option<Uuid>,
    properties: Option<serde_json::Value>,
    query: Option<String>,
    party_id: Option<Uuid>,
    submitted_at: Option<OffsetDateTime>,
    expires_at: Option<OffsetDateTime>,
}

/// What it answers is in two lots, so that nothing is joined for every pair of rows. It inserts in the order of players, as parties are, so that
/// two batches never wait for each other.
async fn insert(conn: &mut PgConnection, asked: &[(Uuid, &NewTicket)], max_queue: i64) -> Result<Vec<Row>> {
    let ids: Vec<Uuid> = asked.iter().map(|(id, _)| *id).collect();
    let news = || asked.iter().map(|(_, new)| new);
    let players: Vec<Uuid> = news().map(|new| new.player).collect();
    let modes: Vec<&str> = news().map(|new| new.mode.as_str()).collect();
    let properties: Vec<serde_json::Value> = news().map(|new| new.properties.clone()).collect();
    let queries: Vec<Option<String>> = news().map(|new| new.query.clone()).collect();
    let seconds: Vec<f64> = news().map(|new| f64::from(new.settings.max_wait_seconds)).collect();
    let traces: Vec<Option<String>> = news().map(|new| asobi_trace::traceparent_of(&new.span)).collect();
    Ok(sqlx::query_as!(
        Row,
        r#"WITH wish AS MATERIALIZED (
               SELECT w.*, EXISTS (SELECT 1 FROM match_players s WHERE s.player_id = w.player_id) AS seated,
                 EXISTS (SELECT 1 FROM tickets t WHERE t.player_id = w.player_id AND t.mode = w.mode AND t.state = 'pending') AS held
               FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::jsonb[], $5::text[], $6::float8[], $7::text[]) WITH ORDINALITY
                 AS w (id, player_id, mode, properties, query, seconds, traceparent, place)),
             room AS MATERIALIZED (
               SELECT w.mode, CASE
                 WHEN $8::bigint > $9::bigint AND COALESCE((SELECT queued_at > now() - interval '5 s' FROM modes m WHERE m.mode = w.mode), false)
                 THEN (SELECT queued FROM modes m WHERE m.mode = w.mode)::bigint
                 ELSE (SELECT count(*) FROM (SELECT 1 FROM tickets t WHERE t.mode = w.mode AND t.state = 'pending' LIMIT $8) AS waiting)
                 END AS waiting, (SELECT estimated_wait_ms FROM modes m WHERE m.mode = w.mode) AS estimated_wait_ms
               FROM (SELECT DISTINCT mode FROM wish) AS w),
             asks AS (
               SELECT w.*, r.waiting + row_number() OVER (PARTITION BY w.mode ORDER BY w.place) AS position
               FROM wish w JOIN room r ON r.mode = w.mode WHERE NOT w.seated AND NOT w.held),
             made AS (
               INSERT INTO tickets (id, player_id, mode, properties, query, state, expires_at, traceparent)
               SELECT id, player_id, mode, properties, query, 'pending', now() + make_interval(secs => seconds), traceparent
               FROM asks WHERE position <= $8 ORDER BY player_id, mode
               ON CONFLICT (player_id, mode) WHERE state = 'pending' DO NOTHING
               RETURNING id, submitted_at, expires_at)
           SELECT w.place AS "place?", w.seated AS "seated?", r.waiting AS "waiting?", r.estimated_wait_ms AS "estimated_wait_ms?",
                  COALESCE(t.head, t.id) AS "id?", t.properties AS "properties?", t.query AS "query?", t.party_id AS "party_id?",
                  t.submitted_at AS "submitted_at?", t.expires_at AS "expires_at?"
           FROM wish w JOIN room r ON r.mode = w.mode
           LEFT JOIN tickets t ON w.held AND t.player_id = w.player_id AND t.mode = w.mode AND t.state = 'pending'
           UNION ALL
           SELECT NULL, NULL, NULL, NULL, id, NULL, NULL, NULL, submitted_at, expires_at FROM made"#,
        &ids,
        &players,
        &modes as &[&str],
        &properties,
        &queries as &[Option<String>],
        &seconds,
        &traces as &[Option<String>],
        max_queue,
        COUNTED,
    )
    .fetch_all(conn)
    .await?)
}

/// Answers each in order; none: to be looked at again.
fn read(asked: &[(Uuid, &NewTicket)], rows: Vec<Row>, max_queue: i64) -> Vec<Option<Answer>> {
    let (mut found, made): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.place.is_some());
    let made: HashMap<Uuid, Row> = made.into_iter().filter_map(|row| Some((row.id?, row))).collect();
    found.sort_unstable_by_key(|row| row.place);
    let mut waiting: HashMap<&str, i64> = HashMap::new();
    let mut answers = Vec::with_capacity(asked.len());
    for ((id, new), row) in asked.iter().zip(found) {
        if row.seated == Some(true) {
            answers.push(Some(Err(TicketError::AlreadyInMatch)));
            continue;
        }
        if let Some(held) = row.id {
            answers.push(created(new, held, &row, row.estimated_wait_ms, None).map(Ok));
            continue;
        }
        let position = waiting.entry(&new.mode).or_insert(row.waiting.unwrap_or(0));
        *position += 1;
        answers.push(match made.get(id) {
            Some(made) => created(new, *id, made, row.estimated_wait_ms, Some(*position)).map(Ok),
            None if *position > max_queue => Some(Err(TicketError::QueueFull)),
            None => None,
        });
    }
    answers
}

/// The ticket that a row is of; without a position one that was there before.
fn created(
    new: &NewTicket,
    id: Uuid,
    row: &Row,
    estimated_wait_ms: Option<i64>,
    position: Option<i64>,
) -> Option<Created> {
    let ticket = Ticket {
        id,
        player_id: new.player,
        players: vec![new.player],
        party_id: row.party_id,
        mode: new.mode.clone(),
        state: TicketState::Pending,
        properties: row.properties.clone().unwrap_or_else(|| new.properties.clone()),
        query: if position.is_some() { new.query.clone() } else { row.query.clone() },
        submitted_at: row.submitted_at?,
        expires_at: row.expires_at?,
        match_id: None,
    };
    Some(Created { ticket, already_queued: position.is_none(), estimated_wait_ms, position })
}
