//! Modes as match hosts announce them.

use asobi_proto::mode::ModeSettings;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, types::Json};

use crate::Error;

/// A mode as the rows tell of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Mode {
    pub name: String,
    /// The script's, with the operator's over them.
    pub settings: ModeSettings,
    /// Takes tickets and keeps them, and forms no match.
    pub paused: bool,
    /// Players who wait, as the leader counted them last.
    pub queued: i32,
    /// As the leader reckoned last; none: unknown.
    pub estimated_wait_ms: Option<i64>,
}

struct ModeRow {
    mode: String,
    settings: Value,
    operator_settings: Value,
    paused: bool,
    queued: i32,
    estimated_wait_ms: Option<i64>,
}

impl ModeRow {
    /// None, and logged: this release cannot read what the hosts announced. An override it cannot read does not count.
    fn read(self) -> Option<Mode> {
        let settings = match merged(&self.settings, &self.operator_settings) {
            Ok(settings) => settings,
            Err(error) => {
                tracing::warn!(mode = self.mode, %error, "The operator's settings of a mode cannot be read and do not count.");
                match serde_json::from_value(self.settings) {
                    Ok(settings) => settings,
                    Err(error) => {
                        tracing::warn!(mode = self.mode, %error, "left out a mode whose settings cannot be read");
                        return None;
                    }
                }
            }
        };
        let (name, estimated_wait_ms) = (self.mode, self.estimated_wait_ms);
        Some(Mode { name, settings, paused: self.paused, queued: self.queued, estimated_wait_ms })
    }
}

/// A script's settings with an operator's over them, both JSON objects.
///
/// # Errors
/// The result is not what settings look like.
pub fn merged(script: &Value, operator: &Value) -> Result<ModeSettings, serde_json::Error> {
    let mut all = script.clone();
    if let (Some(all), Some(over)) = (all.as_object_mut(), operator.as_object()) {
        all.extend(over.iter().map(|(name, value)| (name.clone(), value.clone())));
    }
    serde_json::from_value(all)
}

/// The settings of every mode that some host announced, by name. A mode whose row this release cannot read is left out and logged.
///
/// # Errors
/// The database did not answer.
pub async fn all(pool: &PgPool) -> Result<Vec<(String, ModeSettings)>, Error> {
    Ok(list(pool).await?.into_iter().map(|mode| (mode.name, mode.settings)).collect())
}

/// Every mode that some host announced, by name, as [`all`] but whole.
///
/// # Errors
/// The database did not answer.
pub async fn list(pool: &PgPool) -> Result<Vec<Mode>, Error> {
    let rows = sqlx::query_as!(
        ModeRow,
        "SELECT mode, settings, operator_settings, paused, queued, estimated_wait_ms FROM modes ORDER BY mode"
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(ModeRow::read).collect())
}

/// One mode; none: nobody announced it, or this release cannot read it.
///
/// # Errors
/// The database did not answer.
pub async fn get(pool: &PgPool, mode: &str) -> Result<Option<Mode>, Error> {
    let row = sqlx::query_as!(
        ModeRow,
        "SELECT mode, settings, operator_settings, paused, queued, estimated_wait_ms FROM modes WHERE mode = $1",
        mode,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.and_then(ModeRow::read))
}

/// Pauses or resumes a mode; false: nobody announced it. The caller wakes [`Topic::Modes`](asobi_proto::bus::Topic::Modes) afterwards.
///
/// # Errors
/// The database did not answer.
pub async fn set_paused(pool: &PgPool, mode: &str, paused: bool) -> Result<bool, Error> {
    let done = sqlx::query!("UPDATE modes SET paused = $2 WHERE mode = $1", mode, paused).execute(pool).await?;
    Ok(done.rows_affected() == 1)
}

/// Replaces an operator's settings of a mode (a JSON object that the caller has checked by [`merged`]); false: nobody announced the mode.
/// The caller wakes [`Topic::Modes`](asobi_proto::bus::Topic::Modes) afterwards.
///
/// # Errors
/// The database did not answer.
pub async fn set_operator_settings(pool: &PgPool, mode: &str, settings: &Value) -> Result<bool, Error> {
    let done =
        sqlx::query!("UPDATE modes SET operator_settings = $2, updated_at = now() WHERE mode = $1", mode, settings)
            .execute(pool)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// What the hosts announced for a mode, as JSON, to lay an operator's settings over; none: nobody announced it.
///
/// # Errors
/// The database did not answer.
pub async fn announced(pool: &PgPool, mode: &str) -> Result<Option<Value>, Error> {
    Ok(sqlx::query_scalar!("SELECT settings FROM modes WHERE mode = $1", mode).fetch_optional(pool).await?)
}

/// Announces the modes of one incarnation of a host: their settings, the version of its script of each, and that it serves these and no others.
/// An empty version: unknown, or of no importance.
/// Of two hosts that announce different settings for one mode, the last one's count. The caller wakes [`Topic::Modes`](asobi_proto::bus::Topic::Modes) afterwards.
///
/// # Errors
/// The database did not answer, or the node is not registered.
pub async fn publish(
    pool: &PgPool,
    node_id: &str,
    incarnation: i64,
    modes: &[(String, ModeSettings, String)],
) -> Result<(), Error> {
    let mut sorted: Vec<&(String, ModeSettings, String)> = modes.iter().collect();
    // Hosts start together: one order of row locks.
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    let mut tx = crate::begin(pool).await?;
    for (mode, settings, _) in &sorted {
        put_mode(&mut tx, mode, settings).await?;
    }
    let names: Vec<String> = sorted.iter().map(|(mode, ..)| mode.clone()).collect();
    let versions: Vec<String> = sorted.iter().map(|(_, _, version)| version.clone()).collect();
    sqlx::query!(
        "DELETE FROM host_modes WHERE node_id = $1 AND NOT (incarnation = $2 AND mode = ANY($3))",
        node_id,
        incarnation,
        &names,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "INSERT INTO host_modes (node_id, incarnation, mode, version)
         SELECT $1, $2, mode, version FROM UNNEST($3::text[], $4::text[]) AS m (mode, version)
         ON CONFLICT (node_id, mode) DO UPDATE SET incarnation = excluded.incarnation, version = excluded.version",
        node_id,
        incarnation,
        &names,
        &versions,
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
