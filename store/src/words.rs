//! What chat must not say.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::{
    Result,
    moderation::{self, What},
};

/// How many there may be.
pub const MOST: i64 = 10_000;
/// Of one.
pub const WORD_BYTES: usize = 128;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// In lower case.
    pub word: String,
    /// Else it is masked.
    pub refuses: bool,
    /// Only as a word of its own, else wherever it stands.
    pub whole: bool,
    /// As the audit names them.
    pub added_by: String,
    pub added_at: OffsetDateTime,
}

/// All of them, in alphabetical order.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool) -> Result<Vec<Word>> {
    let all = sqlx::query_as!(
        Word,
        "SELECT word, refuses, whole, added_by, added_at FROM chat_words ORDER BY word LIMIT $1",
        MOST
    );
    Ok(all.fetch_all(pool).await?)
}

/// Adds a word, or replaces what is there. None: there are as many as there may be. The caller wakes the nodes after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn add(conn: &mut PgConnection, word: &str, refuses: bool, whole: bool, by: &str) -> Result<Option<Word>> {
    // First here: under its lock the count is what it is.
    moderation::next(conn, What::Words).await?;
    let added = sqlx::query_as!(
        Word,
        "INSERT INTO chat_words (word, refuses, whole, added_by)
         SELECT $1, $2, $3, $4 WHERE (SELECT count(*) FROM chat_words) < $5 OR EXISTS (SELECT 1 FROM chat_words WHERE word = $1)
         ON CONFLICT (word) DO UPDATE SET refuses = excluded.refuses, whole = excluded.whole, added_by = excluded.added_by,
             added_at = now()
         RETURNING word, refuses, whole, added_by, added_at",
        word,
        refuses,
        whole,
        by,
        MOST
    );
    Ok(added.fetch_optional(conn).await?)
}

/// Takes a word out, if it is there. The caller wakes the nodes after the commit.
///
/// # Errors
/// When the database does not answer.
pub async fn remove(conn: &mut PgConnection, word: &str) -> Result<()> {
    moderation::next(conn, What::Words).await?;
    sqlx::query!("DELETE FROM chat_words WHERE word = $1", word).execute(conn).await?;
    Ok(())
}

/// A text in lower case, as words are kept and texts are held against them: character by character, so that each can be found again.
#[must_use]
pub fn lower(text: &str) -> String {
    let mut lower = String::with_capacity(text.len());
    text.chars().for_each(|c| push_lower(&mut lower, c));
    lower
}

/// See [`lower`].
pub fn push_lower(text: &mut String, c: char) {
    text.extend(c.to_lowercase());
}
