//! Modes as match hosts announce them.

use asobi_proto::mode::ModeSettings;
use sqlx::{PgConnection, PgPool, types::Json};

use crate::Error;

/// Every mode that some host announced, by name. A mode whose row this release cannot read is left out and logged.
///
/// # Errors
/// The database did not answer.
pub async fn all(pool: &PgPool) -> Result<Vec<(String, ModeSettings)>, Error> {
    let rows = sqlx::query!("SELECT mode, settings FROM modes ORDER BY mode").fetch_all(pool).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match serde_json::from_value(row.settings) {
            Ok(settings) => Some((row.mode, settings)),
            Err(error) => {
                tracing::warn!(mode = row.mode, %error, "left out a mode whose settings cannot be read");
                None
            }
        })
        .collect())
}

/// Announces the modes of one incarnation of a host: their settings, and that it serves these and no others.
/// Of two hosts that announce different settings for one mode, the last one's count. The caller wakes [`Topic::Modes`](asobi_proto::bus::Topic::Modes) afterwards.
///
/// # Errors
/// The database did not answer, or the node is not registered.
pub async fn publish(
    pool: &PgPool,
    node_id: &str,
    incarnation: i64,
    modes: &[(String, ModeSettings)],
) -> Result<(), Error> {
    let mut sorted: Vec<&(String, ModeSettings)> = modes.iter().collect();
    // Hosts start together: one order of row locks.
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut tx = pool.begin().await?;
    for (mode, settings) in &sorted {
        put_mode(&mut tx, mode, settings).await?;
    }
    let names: Vec<String> = sorted.iter().map(|(mode, _)| mode.clone()).collect();
    sqlx::query!(
        "DELETE FROM host_modes WHERE node_id = $1 AND NOT (incarnation = $2 AND mode = ANY($3))",
        node_id,
        incarnation,
        &names,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO host_modes (node_id, incarnation, mode) SELECT $1, $2, unnest($3::text[])
         ON CONFLICT (node_id, mode) DO UPDATE SET incarnation = excluded.incarnation",
        node_id,
        incarnation,
        &names,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

async fn put_mode(conn: &mut PgConnection, mode: &str, settings: &ModeSettings) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO modes (mode, settings) VALUES ($1, $2)
         ON CONFLICT (mode) DO UPDATE SET settings = excluded.settings, updated_at = now()
         WHERE modes.settings IS DISTINCT FROM excluded.settings",
        mode,
        Json(settings) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// The live hosts that serve a mode: `(node_id, incarnation)`, least loaded first. Live means ready, with an unexpired lease and room.
///
/// # Errors
/// The database did not answer.
pub async fn hosts(pool: &PgPool, mode: &str) -> Result<Vec<(String, i64)>, Error> {
    let rows = sqlx::query!(
        "SELECT n.node_id, n.incarnation FROM host_modes h
         JOIN nodes n ON n.node_id = h.node_id AND n.incarnation = h.incarnation
         WHERE h.mode = $1 AND n.state = 'ready' AND n.lease_until > now() AND (n.capacity = 0 OR n.load < n.capacity)
         ORDER BY n.load, n.node_id",
        mode,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.node_id, row.incarnation)).collect())
}
