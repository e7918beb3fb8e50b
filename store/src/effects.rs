//! What matches do to the world outside, on its way out: the rows a host writes, inside the transaction that makes them final.
//!
//! ```text
//!  insert ─┬─ store: applied by the same transaction ──────────────────────► applied
//!          ├─ score, notify, chat: open ─► a social service, once each ────► applied   (effects_apply)
//!          └─ what can never be applied: put aside with its error ─────────► applied, error
//! ```
//!
//! | what happens | what comes of it |
//! | --- | --- |
//! | the same effects are written again, the outcome of the first time being unknown | the rows are there already: nothing is written, and nothing stored twice |
//! | meanwhile another match has stored under the same key | its value stays: what was stored is not stored again |
//! | one of many effects cannot be applied, or not even be written | it is put aside, the others are written |

mod check;

use std::collections::HashSet;

use asobi_proto::effect::{EffectBody, StoreEffect};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

pub(crate) use self::check::direct;
pub use self::check::{Problem, check};
use crate::{Error, matches::Fence, storage};

/// One effect of a match. Ordinals count from 1 and never repeat within a match, so writing one twice does nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub ordinal: i64,
    pub body: EffectBody,
}

/// [`insert_many`], of one match.
///
/// # Errors
/// As [`insert_many`].
pub async fn insert(conn: &mut PgConnection, fence: &Fence, effects: &[Effect]) -> Result<(), Error> {
    let effects: Vec<(Uuid, &Effect)> = effects.iter().map(|effect| (fence.match_id, effect)).collect();
    insert_many(conn, &effects).await
}

/// Writes effects of any number of matches, inside a transaction that already holds the fences of all of them, and applies those of kind
/// `store` that were not there before, in the order given. An effect that cannot be applied fails nothing: its row says why.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn insert_many(conn: &mut PgConnection, effects: &[(Uuid, &Effect)]) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    let mut rows: Vec<Row<'_>> = effects.iter().map(|(match_id, effect)| Row::of(*match_id, effect)).collect();
    let mut new = write(conn, &mut rows).await?;
    // Taken out, so that an effect that was given twice counts once.
    rows.retain(|row| new.remove(&(row.match_id, row.ordinal)));
    for Row { match_id, ordinal, kind, problem, .. } in &rows {
        if let Some(why) = problem {
            tracing::error!(match.id = %match_id, effect.ordinal = ordinal, effect.kind = kind, why, "An effect can never be applied and is put aside.");
        }
    }
    let stores: Vec<&StoreEffect> = rows.iter().filter_map(|row| row.store).collect();
    storage::apply(conn, &stores).await
}

/// An effect as it is written.
struct Row<'a> {
    match_id: Uuid,
    ordinal: i64,
    kind: &'static str,
    body: Value,
    problem: Option<Problem>,
    /// To be applied with the row.
    store: Option<&'a StoreEffect>,
}

impl<'a> Row<'a> {
    fn of(match_id: Uuid, effect: &'a Effect) -> Self {
        let checked = check(&effect.body).and_then(|()| effect.body.to_json().map_err(|_| "it cannot be said in JSON"));
        let (body, problem) = match checked {
            Ok(mut body) => {
                // It is applied by then: the row is only there so that it is not applied again.
                if let (EffectBody::Store(_), Some(fields)) = (&effect.body, body.as_object_mut()) {
                    fields.remove("value");
                }
                (body, None)
            }
            // What is wrong with it may be that it cannot be written.
            Err(problem) => (Value::Null, Some(problem)),
        };
        let store = match &effect.body {
            EffectBody::Store(store) if problem.is_none() => Some(store),
            _ => None,
        };
        Self { match_id, ordinal: effect.ordinal, kind: effect.body.kind(), body, problem, store }
    }
}

/// Takes the rows' bodies and answers which rows were not there before.
async fn write(conn: &mut PgConnection, rows: &mut [Row<'_>]) -> Result<HashSet<(Uuid, i64)>, Error> {
    let matches: Vec<Uuid> = rows.iter().map(|row| row.match_id).collect();
    let ordinals: Vec<i64> = rows.iter().map(|row| row.ordinal).collect();
    let kinds: Vec<&str> = rows.iter().map(|row| row.kind).collect();
    let bodies: Vec<Value> = rows.iter_mut().map(|row| row.body.take()).collect();
    let errors: Vec<Option<&str>> = rows.iter().map(|row| row.problem).collect();
    let done: Vec<bool> = rows.iter().map(|row| row.store.is_some() || row.problem.is_some()).collect();
    let new = sqlx::query!(
        "INSERT INTO match_effects (match_id, ordinal, kind, body, error, applied_at)
         SELECT match_id, ordinal, kind, body, error, CASE WHEN done THEN now() END
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[], $5::text[], $6::boolean[])
              AS e (match_id, ordinal, kind, body, error, done)
         ON CONFLICT DO NOTHING
         RETURNING match_id, ordinal",
        &matches,
        &ordinals,
        &kinds as &[&str],
        &bodies,
        &errors as &[Option<&str>],
        &done,
    )
    .fetch_all(conn)
    .await?;
    Ok(new.into_iter().map(|row| (row.match_id, row.ordinal)).collect())
}

/// Puts aside what waits to be applied in the name of a player who is being erased. What is being applied at this moment is not waited for:
/// who applies it may be waiting for the player. Notifications find nobody to tell when their time comes.
pub(crate) async fn erase(conn: &mut PgConnection, player: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "WITH theirs AS (
             SELECT match_id, ordinal FROM match_effects
             WHERE applied_at IS NULL
               AND (kind = 'score' AND body->>'player_id' = $1::uuid::text OR kind = 'chat' AND body->>'sender_id' = $1::uuid::text)
             FOR UPDATE SKIP LOCKED)
         UPDATE match_effects e SET applied_at = now(), error = 'the player was erased', body = 'null'
         FROM theirs t WHERE e.match_id = t.match_id AND e.ordinal = t.ordinal",
        player
    )
    .execute(conn)
    .await?;
    Ok(())
}
