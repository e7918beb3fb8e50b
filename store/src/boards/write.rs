//! Submissions: folded under the board's row lock, in their order.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Entry, MAX_BOARDS, Rules, periods};
use crate::Result;

/// A score on its way in. Board id and numbers are checked by the caller: 1 to [`super::ID_BYTES`] bytes, finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    pub board: String,
    pub player_id: Uuid,
    pub score: f64,
    pub sub_score: f64,
    /// A client asks, which the board's settings have to allow. It makes no board.
    pub by_client: bool,
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub enum Written {
    /// The player's entry is this now, under a number of its own.
    Changed(Entry),
    /// The board kept what the player had.
    Kept(Entry),
    /// There is no room for another board.
    NoRoom,
    /// The score is not within the board's bounds.
    OutOfBounds,
    /// The board, if there is one, takes no scores from clients.
    ClosedToClients,
}

/// What a transaction of submissions did.
#[derive(Debug, Default)]
pub struct Wrote {
    /// One for each submission.
    pub outcomes: Vec<Written>,
    /// Boards that were due to begin anew, and did.
    pub reset: Vec<String>,
}

/// A board's row while it is locked.
pub(super) struct Locked {
    pub rules: Rules,
    pub seq: i64,
    pub period: i64,
    pub period_began: OffsetDateTime,
    pub period_seq: i64,
    pub gone_seq: i64,
    pub min_score: Option<f64>,
    pub max_score: Option<f64>,
    pub client_submit: bool,
    pub reset_schedule: Option<String>,
    pub next_reset_at: Option<OffsetDateTime>,
    pub periods_kept: Option<i32>,
    pub deleted: bool,
    /// As it was read.
    seq_before: i64,
}

impl Locked {
    /// Why a submission comes to nothing, whatever the player had.
    fn refuses(&self, new: &Submission) -> Option<Written> {
        if new.by_client && (self.deleted || !self.client_submit) {
            return Some(Written::ClosedToClients);
        }
        let low = self.min_score.is_some_and(|min| new.score < min);
        let high = self.max_score.is_some_and(|max| new.score > max);
        (low || high).then_some(Written::OutOfBounds)
    }
}

/// The row a player has on a board, of whichever period.
#[derive(Clone, Copy)]
struct Known {
    entry: Entry,
    removed: bool,
}

type Key = (String, Uuid);

/// Applies submissions in their order, inside the caller's transaction. Boards that do not exist are made; those whose reset is due begin
/// anew first, so that what comes after its time counts for the new period whoever noticed. Boards are locked in sorted order until the
/// transaction's end.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn write(conn: &mut PgConnection, submissions: &[Submission]) -> Result<Wrote> {
    let mut heads = lock(conn, submissions).await?;
    let known = current(conn, submissions).await?;
    // After the locks: what waited for a lock until a reset was due is of the new period.
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&mut *conn).await?;
    let mut reset = Vec::new();
    for (id, head) in &mut heads {
        if head.next_reset_at.is_some_and(|due| due <= now) {
            periods::begin(conn, id, head, now).await?;
            head.seq_before = head.seq;
            reset.push(id.clone());
        }
    }
    let mut standing: HashMap<Key, Entry> = known
        .iter()
        .filter(|((board, _), row)| {
            !row.removed && heads.get(board).is_some_and(|head| row.entry.seq > head.period_seq)
        })
        .map(|(key, row)| (key.clone(), row.entry))
        .collect();
    let mut changed: BTreeSet<Key> = BTreeSet::new();
    let mut outcomes = Vec::with_capacity(submissions.len());
    for new in submissions {
        let Some(head) = heads.get_mut(&new.board) else {
            outcomes.push(if new.by_client { Written::ClosedToClients } else { Written::NoRoom });
            continue;
        };
        outcomes.push(fold(head, new, &mut standing, &mut changed, now));
    }
    archive(conn, &changed, &known, &heads).await?;
    store(conn, &changed, &standing).await?;
    advance(conn, &heads).await?;
    Ok(Wrote { outcomes, reset })
}

fn fold(
    head: &mut Locked,
    new: &Submission,
    standing: &mut HashMap<Key, Entry>,
    changed: &mut BTreeSet<Key>,
    now: OffsetDateTime,
) -> Written {
    if let Some(refusal) = head.refuses(new) {
        return refusal;
    }
    let key = (new.board.clone(), new.player_id);
    let had = standing.get(&key).copied();
    match (head.rules.fold(had.map(|e| (e.score, e.sub_score)), (new.score, new.sub_score)), had) {
        (Some((score, sub_score)), _) => {
            head.seq += 1;
            let entry = Entry { player_id: new.player_id, score, sub_score, seq: head.seq, updated_at: now };
            standing.insert(key.clone(), entry);
            changed.insert(key);
            Written::Changed(entry)
        }
        (None, Some(entry)) => Written::Kept(entry),
        // Without an earlier entry a fold always answers.
        (None, None) => Written::OutOfBounds,
    }
}

async fn lock(conn: &mut PgConnection, submissions: &[Submission]) -> Result<BTreeMap<String, Locked>> {
    let wanted: BTreeSet<&str> = submissions.iter().map(|s| s.board.as_str()).collect();
    let wanted: Vec<String> = wanted.into_iter().map(str::to_owned).collect();
    let makes: BTreeSet<&str> = submissions.iter().filter(|s| !s.by_client).map(|s| s.board.as_str()).collect();
    let makes: Vec<String> = makes.into_iter().map(str::to_owned).collect();
    let mut heads = lock_rows(conn, &wanted).await?;
    // Most of the time all are there. The sweep may take one away between a look and its lock.
    for _ in 0..2 {
        if makes.iter().all(|id| heads.contains_key(id)) {
            break;
        }
        make(conn, &makes).await?;
        heads = lock_rows(conn, &wanted).await?;
    }
    Ok(heads)
}

/// Makes the boards that are missing, as far as there is room.
async fn make(conn: &mut PgConnection, ids: &[String]) -> Result<()> {
    // Sorted, as the locks are. Simultaneous makers may overshoot the bound by a batch.
    sqlx::query!(
        "INSERT INTO leaderboards (id)
         SELECT id FROM (SELECT DISTINCT id FROM UNNEST($1::text[]) AS w (id)
                         WHERE NOT EXISTS (SELECT 1 FROM leaderboards b WHERE b.id = w.id) ORDER BY id
                         LIMIT greatest(0, $2 - (SELECT count(*) FROM leaderboards WHERE NOT declared))) AS missing
         ORDER BY id ON CONFLICT DO NOTHING",
        ids,
        MAX_BOARDS,
    )
    .execute(conn)
    .await?;
    Ok(())
}

pub(super) async fn lock_rows(conn: &mut PgConnection, ids: &[String]) -> Result<BTreeMap<String, Locked>> {
    let rows = sqlx::query!(
        "SELECT id, ordering, operator, seq, period, period_began, period_seq, gone_seq, min_score, max_score, client_submit,
                reset_schedule, next_reset_at, periods_kept, deleted_at
         FROM leaderboards WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        ids
    )
    .fetch_all(conn)
    .await?;
    let locked = rows.into_iter().map(|row| {
        let locked = Locked {
            rules: Rules::of(&row.ordering, &row.operator),
            seq: row.seq,
            period: row.period,
            period_began: row.period_began,
            period_seq: row.period_seq,
            gone_seq: row.gone_seq,
            min_score: row.min_score,
            max_score: row.max_score,
            client_submit: row.client_submit,
            reset_schedule: row.reset_schedule,
            next_reset_at: row.next_reset_at,
            periods_kept: row.periods_kept,
            deleted: row.deleted_at.is_some(),
            seq_before: row.seq,
        };
        (row.id, locked)
    });
    Ok(locked.collect())
}

async fn current(conn: &mut PgConnection, submissions: &[Submission]) -> Result<HashMap<Key, Known>> {
    let (boards, players): (Vec<String>, Vec<Uuid>) =
        submissions.iter().map(|s| (s.board.clone(), s.player_id)).unzip();
    let rows = sqlx::query!(
        r#"SELECT e.leaderboard_id, e.player_id, e.score, e.sub_score, e.seq, e.updated_at, e.removed
           FROM leaderboard_entries e
           JOIN (SELECT DISTINCT * FROM UNNEST($1::text[], $2::uuid[]) AS w (board, player)) AS w
             ON e.leaderboard_id = w.board AND e.player_id = w.player"#,
        &boards,
        &players,
    )
    .fetch_all(conn)
    .await?;
    let known = rows.into_iter().map(|row| {
        let entry = Entry {
            player_id: row.player_id,
            score: row.score,
            sub_score: row.sub_score,
            seq: row.seq,
            updated_at: row.updated_at,
        };
        ((row.leaderboard_id, row.player_id), Known { entry, removed: row.removed })
    });
    Ok(known.collect())
}

/// Keeps the entries of past periods that are about to be written over.
async fn archive(
    conn: &mut PgConnection,
    changed: &BTreeSet<Key>,
    known: &HashMap<Key, Known>,
    heads: &BTreeMap<String, Locked>,
) -> Result<()> {
    let past = |key: &&Key| {
        let (Some(row), Some(head)) = (known.get(*key), heads.get(&key.0)) else { return false };
        !row.removed && row.entry.seq <= head.period_seq && row.entry.seq > head.gone_seq
    };
    let (boards, players): (Vec<String>, Vec<Uuid>) = changed.iter().filter(past).cloned().unzip();
    if boards.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO leaderboard_past (leaderboard_id, seq, player_id, score, sub_score, updated_at)
         SELECT e.leaderboard_id, e.seq, e.player_id, e.score, e.sub_score, e.updated_at FROM leaderboard_entries e
         JOIN UNNEST($1::text[], $2::uuid[]) AS w (board, player) ON e.leaderboard_id = w.board AND e.player_id = w.player
         ON CONFLICT DO NOTHING",
        &boards,
        &players,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn store(conn: &mut PgConnection, changed: &BTreeSet<Key>, standing: &HashMap<Key, Entry>) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<(&str, Entry)> =
        changed.iter().filter_map(|key| standing.get(key).map(|entry| (key.0.as_str(), *entry))).collect();
    let boards: Vec<String> = rows.iter().map(|(board, _)| (*board).to_owned()).collect();
    let players: Vec<Uuid> = rows.iter().map(|(_, e)| e.player_id).collect();
    let scores: Vec<f64> = rows.iter().map(|(_, e)| e.score).collect();
    let subs: Vec<f64> = rows.iter().map(|(_, e)| e.sub_score).collect();
    let seqs: Vec<i64> = rows.iter().map(|(_, e)| e.seq).collect();
    let times: Vec<OffsetDateTime> = rows.iter().map(|(_, e)| e.updated_at).collect();
    sqlx::query!(
        "INSERT INTO leaderboard_entries (leaderboard_id, player_id, score, sub_score, seq, updated_at)
         SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::float8[], $4::float8[], $5::bigint[], $6::timestamptz[])
         ON CONFLICT (leaderboard_id, player_id) DO UPDATE SET score = excluded.score, sub_score = excluded.sub_score,
             seq = excluded.seq, updated_at = excluded.updated_at, removed = false",
        &boards,
        &players,
        &scores,
        &subs,
        &seqs,
        &times,
    )
    .execute(conn)
    .await?;
    Ok(())
}

async fn advance(conn: &mut PgConnection, heads: &BTreeMap<String, Locked>) -> Result<()> {
    let (ids, seqs): (Vec<String>, Vec<i64>) =
        heads.iter().filter(|(_, head)| head.seq != head.seq_before).map(|(id, head)| (id.clone(), head.seq)).unzip();
    // A board that was deleted, and not swept yet, is made anew by its first score.
    sqlx::query!(
        "UPDATE leaderboards b SET seq = w.seq, deleted_at = NULL FROM UNNEST($1::text[], $2::bigint[]) AS w (id, seq)
         WHERE b.id = w.id",
        &ids,
        &seqs,
    )
    .execute(conn)
    .await?;
    Ok(())
}
