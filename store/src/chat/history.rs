//! Keeping messages for as long as they are wanted: days made ahead, days dropped, players erased.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgPool};
use time::Date;
use uuid::Uuid;

use crate::{Result, lock_keys};

/// Days for which there is a partition before they begin.
pub const AHEAD: i32 = 3;
/// A writer that has written nothing for so long is gone; nothing of it can still be on its way.
const WRITERS: Duration = Duration::from_secs(24 * 3_600);

/// What one round of upkeep did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// Days that were dropped.
    pub dropped: usize,
    /// Days that wait to be dropped because something still reads them.
    pub left: usize,
}

/// The days after today up to which each has a partition, [`AHEAD`] at most; -1 when today has none.
///
/// # Errors
/// When the database does not answer.
pub async fn days_ahead(pool: &PgPool) -> Result<i32> {
    Ok(sqlx::query_scalar!(
        r#"SELECT coalesce(min(ahead) - 1, $1::int) AS "days!" FROM generate_series(0, $1::int) AS ahead
           WHERE to_regclass('chat_messages_' || to_char((now() AT TIME ZONE 'UTC')::date + ahead, 'YYYYMMDD')) IS NULL"#,
        AHEAD
    )
    .fetch_one(pool)
    .await?)
}

/// Makes the partitions of today and the days to come; at once when they are there. Safe to call from everywhere at the
/// same time.
///
/// # Errors
/// When the database does not answer, or its role may not create tables.
pub async fn make_days(pool: &PgPool) -> Result<()> {
    if days_ahead(pool).await? >= AHEAD {
        return Ok(());
    }
    let mut tx = crate::begin(pool).await?;
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", lock_keys::CHAT_DAYS).execute(&mut *tx).await?;
    sqlx::query!(
        "SELECT chat_partition((now() AT TIME ZONE 'UTC')::date + ahead) FROM generate_series(0, $1::int) AS ahead",
        AHEAD
    )
    .execute(&mut *tx)
    .await?;
    Ok(tx.commit().await?)
}

/// Drops what is older than `retention_days` (0: nothing is) and forgets keys and writers that have expired. None when
/// another node is at it.
///
/// # Errors
/// When the database does not answer. What was begun is finished by the next round.
pub async fn upkeep(pool: &PgPool, retention_days: u32) -> Result<Option<Upkeep>> {
    // The lock's transaction holds nothing else: detaching waits for whoever uses the table, and must not wait for us.
    let mut lock = crate::begin(pool).await?;
    sqlx::query!("SET LOCAL idle_in_transaction_session_timeout = '10min'").execute(&mut *lock).await?;
    let mine = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "mine!""#, lock_keys::MAINTENANCE)
        .fetch_one(&mut *lock)
        .await?;
    if !mine {
        return Ok(None);
    }
    sqlx::query!("DELETE FROM chat_keys WHERE sent_at < now() - interval '10 minutes'").execute(pool).await?;
    let life = WRITERS.as_secs_f64();
    sqlx::query!("DELETE FROM chat_writers WHERE written_at < now() - make_interval(secs => $1)", life)
        .execute(pool)
        .await?;
    let mut done = Upkeep::default();
    if retention_days > 0 {
        for day in expired(pool, retention_days).await? {
            match drop_day(pool, &day).await {
                Ok(()) => done.dropped += 1,
                Err(error) => {
                    tracing::warn!(%error, partition = day.table, "A day of chat is not dropped yet; it is tried again.");
                    done.left += 1;
                }
            }
        }
    }
    lock.commit().await?;
    Ok(Some(done))
}

/// A day that is kept no longer, and how far its end has come.
struct Day {
    table: String,
    date: Date,
    attached: bool,
    /// Detaching was interrupted.
    pending: bool,
    /// Whether this process's role owns the table, and so may detach and drop.
    owned: bool,
}

async fn expired(pool: &PgPool, retention_days: u32) -> Result<Vec<Day>> {
    let rows = sqlx::query!(
        r#"SELECT c.relname::text AS "table!", c.relispartition AS "attached!",
                  coalesce(i.inhdetachpending, false) AS "pending!",
                  (SELECT pg_has_role(m.relowner, 'USAGE') FROM pg_class m WHERE m.oid = 'chat_messages'::regclass) AS "owned!",
                  to_date(right(c.relname::text, 8), 'YYYYMMDD') AS "day!: Date",
                  (now() AT TIME ZONE 'UTC')::date AS "today!: Date"
           FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
           WHERE c.relkind = 'r' AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'chat_messages'::regclass)
             AND c.relname ~ '^chat_messages_[0-9]{8}$'
           ORDER BY 1"#
    )
    .fetch_all(pool)
    .await?;
    let kept = time::Duration::days(i64::from(retention_days));
    let old = rows.into_iter().filter(|row| row.today - row.day > kept);
    let day = old.map(|row| Day {
        table: row.table,
        date: row.day,
        attached: row.attached,
        pending: row.pending,
        owned: row.owned,
    });
    Ok(day.collect())
}

/// Neither step stops readers and writers of the other days, where the role owns the table. Where it does not, a function of the owner
/// drops the day in one step, which waits for them a moment or fails.
async fn drop_day(pool: &PgPool, day: &Day) -> Result<()> {
    let Day { table, date, attached, pending, owned } = day;
    if !owned {
        sqlx::query!("SELECT chat_drop_day($1)", date).execute(pool).await?;
        return Ok(());
    }
    // The name is one that the catalogue gave, of digits.
    if *attached {
        let how = if *pending { "FINALIZE" } else { "CONCURRENTLY" };
        let detach = format!("ALTER TABLE chat_messages DETACH PARTITION {table} {how}");
        sqlx::query(AssertSqlSafe(detach)).execute(pool).await?;
    }
    sqlx::query(AssertSqlSafe(format!("DROP TABLE {table}"))).execute(pool).await?;
    Ok(())
}

/// Deletes a player's messages and what is remembered of them, in the caller's transaction.
///
/// # Errors
/// When the database does not answer.
pub async fn erase(conn: &mut PgConnection, player_id: Uuid) -> Result<()> {
    sqlx::query!(
        "DELETE FROM chat_messages m USING chat_senders s
         WHERE s.sender_id = $1 AND m.channel_id = s.channel_id AND m.sender_id = $1",
        player_id
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!("DELETE FROM chat_keys WHERE sender_id = $1", player_id).execute(&mut *conn).await?;
    sqlx::query!("DELETE FROM chat_senders WHERE sender_id = $1", player_id).execute(conn).await?;
    Ok(())
}
