//! Applying what matches did to the world outside, each effect once: claimed, applied and marked in one transaction.

use std::collections::HashMap;

use asobi_proto::effect::ScoreEffect;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Result,
    boards::{self, Submission, Written},
};

/// What one batch did.
#[derive(Debug, Default)]
pub struct Applied {
    /// Rows that are done; when this is the limit there may be more.
    pub effects: usize,
    /// The submissions that reached a board, with their outcome.
    pub scores: Vec<(Submission, Written)>,
    /// Effects that can never be applied, and why; they were marked so.
    pub refused: Vec<(Uuid, i64, &'static str)>,
}

/// Applies up to `limit` open effects, oldest first. Several services may do so at once: each takes what no other holds.
///
/// # Errors
/// When the database fails; nothing was applied then, or the outcome of the commit is unknown and the rows tell.
pub async fn batch(pool: &PgPool, limit: i64) -> Result<Applied> {
    let mut tx = crate::begin(pool).await?;
    let rows = sqlx::query!(
        "SELECT match_id, ordinal, kind, body FROM match_effects WHERE applied_at IS NULL
         ORDER BY inserted_at, match_id, ordinal LIMIT $1 FOR UPDATE SKIP LOCKED",
        limit,
    )
    .fetch_all(&mut *tx)
    .await?;
    if rows.is_empty() {
        return Ok(Applied::default());
    }
    let mut refused: HashMap<(Uuid, i64), &'static str> = HashMap::new();
    let mut submissions = Vec::with_capacity(rows.len());
    let mut keys = Vec::with_capacity(rows.len());
    for row in &rows {
        match read(&row.kind, &row.body) {
            Ok(submission) => {
                submissions.push(submission);
                keys.push((row.match_id, row.ordinal));
            }
            Err(why) => {
                refused.insert((row.match_id, row.ordinal), why);
            }
        }
    }
    let outcomes = if submissions.is_empty() { Vec::new() } else { boards::write(&mut tx, &submissions).await? };
    for (key, outcome) in keys.iter().zip(&outcomes) {
        if *outcome == Written::NoRoom {
            refused.insert(*key, "there is no room for another leaderboard");
        }
    }
    let matches: Vec<Uuid> = rows.iter().map(|r| r.match_id).collect();
    let ordinals: Vec<i64> = rows.iter().map(|r| r.ordinal).collect();
    let errors: Vec<String> =
        rows.iter().map(|r| refused.get(&(r.match_id, r.ordinal)).copied().unwrap_or_default().to_owned()).collect();
    sqlx::query!(
        "UPDATE match_effects e SET applied_at = now(), error = nullif(d.error, '')
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[]) AS d (match_id, ordinal, error)
         WHERE e.match_id = d.match_id AND e.ordinal = d.ordinal",
        &matches,
        &ordinals,
        &errors,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(Applied {
        effects: rows.len(),
        scores: submissions.into_iter().zip(outcomes).collect(),
        refused: refused.into_iter().map(|((match_id, ordinal), why)| (match_id, ordinal, why)).collect(),
    })
}

/// A row's body as a submission that a board can take, or why it never will be one.
fn read(kind: &str, body: &serde_json::Value) -> Result<Submission, &'static str> {
    if kind != "score" {
        return Err("this release does not know the kind");
    }
    let effect: ScoreEffect = serde::Deserialize::deserialize(body).map_err(|_| "the body is not a score")?;
    if effect.board.is_empty() || effect.board.len() > boards::ID_BYTES || effect.board.contains('\0') {
        return Err("the board's id is empty or too long");
    }
    if !effect.score.is_finite() || !effect.sub_score.is_finite() {
        return Err("the score is not a finite number");
    }
    Ok(Submission {
        board: effect.board,
        player_id: effect.player_id,
        score: effect.score,
        sub_score: effect.sub_score,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_scores_a_board_can_take_are_read() {
        let player = Uuid::now_v7();
        let good = read("score", &json!({"board": "arena", "player_id": player, "score": 3})).expect("reads");
        assert_eq!((good.board.as_str(), good.player_id, good.score, good.sub_score), ("arena", player, 3.0, 0.0));
        for body in [
            json!({"board": "", "player_id": player, "score": 3}),
            json!({"board": "x".repeat(129), "player_id": player, "score": 3}),
            json!({"board": "arena", "player_id": "somebody", "score": 3}),
            json!({"board": "arena", "player_id": player, "score": null}),
            json!([1]),
        ] {
            assert!(read("score", &body).is_err(), "{body}");
        }
        assert!(read("gift", &json!({})).is_err());
    }
}
