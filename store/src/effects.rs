//! What matches do to the world outside, on its way out: the rows a host writes. They are applied elsewhere, each once.

use asobi_proto::effect::EffectBody;
use sqlx::{PgConnection, PgPool};

use crate::{
    Error,
    matches::{Fence, lock_fenced},
};

/// One effect of a match. Ordinals count from 1 and never repeat within a match, so writing one twice does nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub ordinal: i64,
    pub body: EffectBody,
}

/// Writes effects of a running match if it is still the host's. False: it is not, and nothing was written.
/// The caller wakes [`Topic::Effects`](asobi_proto::bus::Topic::Effects) afterwards.
///
/// # Errors
/// The database did not answer; the effects may be written again.
pub async fn append(pool: &PgPool, fence: &Fence, effects: &[Effect]) -> Result<bool, Error> {
    let mut tx = crate::begin(pool).await?;
    if !lock_fenced(&mut tx, fence).await? {
        return Ok(false);
    }
    insert(&mut tx, fence, effects).await?;
    tx.commit().await?;
    Ok(true)
}

/// The rows, inside a transaction that already holds the match's fence.
pub(crate) async fn insert(conn: &mut PgConnection, fence: &Fence, effects: &[Effect]) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    let ordinals: Vec<i64> = effects.iter().map(|effect| effect.ordinal).collect();
    let kinds: Vec<String> = effects.iter().map(|effect| effect.body.kind().to_owned()).collect();
    let bodies: Vec<serde_json::Value> = effects
        .iter()
        .map(|effect| effect.body.to_json())
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Corrupt { what: "effect", source })?;
    sqlx::query!(
        "INSERT INTO match_effects (match_id, ordinal, kind, body)
         SELECT $1, ordinal, kind, body FROM UNNEST($2::bigint[], $3::text[], $4::jsonb[]) AS e (ordinal, kind, body)
         ON CONFLICT DO NOTHING",
        fence.match_id,
        &ordinals,
        &kinds,
        &bodies,
    )
    .execute(conn)
    .await?;
    Ok(())
}
