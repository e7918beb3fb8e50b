//! The texts that notifications are made of, by their ids. What is in a message is the social service's business.

use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::Result;

#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    pub id: String,
    /// Its type, its default language, and the texts of each language.
    pub message: Value,
    pub updated_at: OffsetDateTime,
    pub updated_by: String,
}

/// Stores one, in the place of what has its id. None: there are as many as there may be.
///
/// # Errors
/// When the database fails.
pub async fn put(conn: &mut PgConnection, id: &str, message: &Value, by: &str, most: i64) -> Result<Option<Template>> {
    Ok(sqlx::query_as!(
        Template,
        "INSERT INTO notification_templates AS t (id, message, updated_by)
         SELECT $1, $2, $3 WHERE (SELECT count(*) FROM notification_templates WHERE id <> $1) < $4
         ON CONFLICT (id) DO UPDATE SET message = excluded.message, updated_by = excluded.updated_by, updated_at = now()
         RETURNING id, message, updated_at, updated_by",
        id,
        message,
        by,
        most
    )
    .fetch_optional(conn)
    .await?)
}

/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: &str) -> Result<Option<Template>> {
    Ok(sqlx::query_as!(
        Template,
        "SELECT id, message, updated_at, updated_by FROM notification_templates WHERE id = $1",
        id
    )
    .fetch_optional(pool)
    .await?)
}

/// By id, those after one.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, after: &str, limit: i64) -> Result<Vec<Template>> {
    Ok(sqlx::query_as!(
        Template,
        "SELECT id, message, updated_at, updated_by FROM notification_templates WHERE id > $1 ORDER BY id LIMIT $2",
        after,
        limit
    )
    .fetch_all(pool)
    .await?)
}

/// # Errors
/// When the database fails.
pub async fn delete(conn: &mut PgConnection, id: &str) -> Result<()> {
    sqlx::query!("DELETE FROM notification_templates WHERE id = $1", id).execute(conn).await?;
    Ok(())
}
