//! Questions to a database, in the simple protocol: it needs nothing of the session but the answer, so it works through any pooler.

use sqlx::{Executor as _, PgConnection, postgres::PgRow};

/// The rows of one statement.
///
/// # Errors
/// When the server refuses or does not answer.
pub async fn rows(session: &mut PgConnection, statement: &'static str) -> sqlx::Result<Vec<PgRow>> {
    session.fetch_all(sqlx::raw_sql(statement)).await
}

/// Its only row.
///
/// # Errors
/// As [`rows`]; also where there is none.
pub async fn row(session: &mut PgConnection, statement: &'static str) -> sqlx::Result<PgRow> {
    session.fetch_one(sqlx::raw_sql(statement)).await
}
