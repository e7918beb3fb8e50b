//! What matches do to the world outside, on its way out: the rows a host writes. They are applied elsewhere, each once.

use asobi_proto::effect::EffectBody;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::Error;

/// One effect of a match. Ordinals count from 1 and never repeat within a match, so writing one twice does nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Effect {
    pub ordinal: i64,
    pub body: EffectBody,
}

/// The rows, inside a transaction that already holds the match's fence.
pub(crate) async fn insert(conn: &mut PgConnection, match_id: Uuid, effects: &[Effect]) -> Result<(), Error> {
    let effects: Vec<(Uuid, &Effect)> = effects.iter().map(|effect| (match_id, effect)).collect();
    insert_many(conn, &effects).await
}

/// The rows of many matches, inside a transaction that already holds their fences.
pub(crate) async fn insert_many(conn: &mut PgConnection, effects: &[(Uuid, &Effect)]) -> Result<(), Error> {
    if effects.is_empty() {
        return Ok(());
    }
    let matches: Vec<Uuid> = effects.iter().map(|(match_id, _)| *match_id).collect();
    let ordinals: Vec<i64> = effects.iter().map(|(_, effect)| effect.ordinal).collect();
    let kinds: Vec<String> = effects.iter().map(|(_, effect)| effect.body.kind().to_owned()).collect();
    let bodies: Vec<serde_json::Value> = effects
        .iter()
        .map(|(_, effect)| effect.body.to_json())
        .collect::<Result<_, _>>()
        .map_err(|source| Error::Corrupt { what: "effect", source })?;
    sqlx::query!(
        "INSERT INTO match_effects (match_id, ordinal, kind, body)
         SELECT match_id, ordinal, kind, body
         FROM UNNEST($1::uuid[], $2::bigint[], $3::text[], $4::jsonb[]) AS e (match_id, ordinal, kind, body)
         ON CONFLICT DO NOTHING",
        &matches,
        &ordinals,
        &kinds,
        &bodies,
    )
    .execute(conn)
    .await?;
    Ok(())
}
