//! How often mutes, deleted messages and words have changed: what nodes compare with what they have read.
//!
//! ```text
//!  change ──► counter + 1, its row locked ──► the row, under that version ──► commit ──► wake-up
//!  node ──► counters ──► one is ahead of what was read: what has a higher version ──► memory
//! ```
//!
//! Invariant: versions become visible in their order. Who has read up to one has missed nothing below it.

use sqlx::{PgConnection, PgPool};

use crate::{Result, chat, mutes};

/// What has a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Mutes,
    Deletions,
    Words,
}

impl What {
    fn as_str(self) -> &'static str {
        match self {
            Self::Mutes => "mutes",
            Self::Deletions => "deletions",
            Self::Words => "words",
        }
    }
}

/// Where the counters stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Versions {
    pub mutes: i64,
    pub deletions: i64,
    pub words: i64,
}

/// Where the counters stand, all at one moment.
///
/// # Errors
/// When the database does not answer.
pub async fn versions(pool: &PgPool) -> Result<Versions> {
    let rows = sqlx::query!("SELECT what, version FROM moderation_versions").fetch_all(pool).await?;
    let mut versions = Versions::default();
    for row in rows {
        match row.what.as_str() {
            "mutes" => versions.mutes = row.version,
            "deletions" => versions.deletions = row.version,
            "words" => versions.words = row.version,
            _ => {}
        }
    }
    Ok(versions)
}

/// The version of a change that the caller's transaction makes. Whoever changes the same waits from here to its end, so it is taken
/// last.
pub(crate) async fn next(conn: &mut PgConnection, what: What) -> Result<i64> {
    let raise = sqlx::query_scalar!(
        "UPDATE moderation_versions SET version = version + 1 WHERE what = $1 RETURNING version",
        what.as_str()
    );
    Ok(raise.fetch_one(conn).await?)
}

/// Deletes mutes and notes of deletions that no node has to hear of any more. Bounded per call.
///
/// # Errors
/// When the database does not answer.
pub async fn sweep(pool: &PgPool) -> Result<u64> {
    Ok(mutes::sweep(pool).await? + chat::deletions::sweep(pool).await?)
}
