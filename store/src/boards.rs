//! Leaderboards: a counter per board under its row lock, one row per player and board. Commit order is seq order within a board, so
//! that a replica which has seen every number up to some has seen every change up to there.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Result;

/// Boards the cluster makes room for. Existing ones stay writable when it is reached.
pub const MAX_BOARDS: i64 = 10_000;

/// Longest board id, bytes.
pub const ID_BYTES: usize = 128;

/// What becomes of a player's earlier score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    Last,
    Best,
    Sum,
}

/// How a board ranks and what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The highest score is first.
    pub descending: bool,
    pub operator: Operator,
}

impl Rules {
    // The columns have CHECKs of exactly these words; the defaults stand for what a newer release adds.
    fn of(ordering: &str, operator: &str) -> Self {
        Self {
            descending: ordering != "asc",
            operator: match operator {
                "best" => Operator::Best,
                "sum" => Operator::Sum,
                _ => Operator::Last,
            },
        }
    }

    /// What a player has after submitting `new`; none: what they had stays.
    #[must_use]
    pub fn fold(self, had: Option<(f64, f64)>, new: (f64, f64)) -> Option<(f64, f64)> {
        let Some(had) = had else { return Some(new) };
        match self.operator {
            Operator::Last => Some(new),
            Operator::Best => self.better(new, had).then_some(new),
            // The sum of finite numbers can overflow; a board of infinities ranks nothing.
            Operator::Sum => Some((had.0 + new.0, had.1 + new.1)).filter(|(a, b)| a.is_finite() && b.is_finite()),
        }
    }

    fn better(self, a: (f64, f64), b: (f64, f64)) -> bool {
        if self.descending { a > b } else { a < b }
    }
}

/// A score on its way in. Board id and numbers are checked by the caller: 1 to [`ID_BYTES`] bytes, finite.
#[derive(Debug, Clone, PartialEq)]
pub struct Submission {
    pub board: String,
    pub player_id: Uuid,
    pub score: f64,
    pub sub_score: f64,
}

/// A player's standing on a board.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    pub player_id: Uuid,
    pub score: f64,
    pub sub_score: f64,
    pub seq: i64,
    pub updated_at: OffsetDateTime,
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
}

struct Head {
    rules: Rules,
    seq: i64,
}

/// Applies submissions in their order, inside the caller's transaction; answers one outcome for each. Boards that do not exist are made.
/// Boards are locked in sorted order until the transaction's end.
///
/// # Errors
/// When the database fails; the transaction is then to be rolled back.
pub async fn write(conn: &mut PgConnection, submissions: &[Submission]) -> Result<Vec<Written>> {
    let mut heads = lock(conn, submissions).await?;
    let mut entries = current(conn, submissions).await?;
    let now = sqlx::query_scalar!(r#"SELECT clock_timestamp() AS "now!""#).fetch_one(&mut *conn).await?;
    let mut changed: BTreeSet<(&str, Uuid)> = BTreeSet::new();
    let mut outcomes = Vec::with_capacity(submissions.len());
    for new in submissions {
        let Some(head) = heads.get_mut(new.board.as_str()) else {
            outcomes.push(Written::NoRoom);
            continue;
        };
        let key = (new.board.clone(), new.player_id);
        let had = entries.get(&key).copied();
        let fold = head.rules.fold(had.map(|e| (e.score, e.sub_score)), (new.score, new.sub_score));
        match (fold, had) {
            (Some((score, sub_score)), _) => {
                head.seq += 1;
                let entry = Entry { player_id: new.player_id, score, sub_score, seq: head.seq, updated_at: now };
                entries.insert(key, entry);
                changed.insert((&new.board, new.player_id));
                outcomes.push(Written::Changed(entry));
            }
            (None, Some(entry)) => outcomes.push(Written::Kept(entry)),
            // Without an earlier entry a fold always answers.
            (None, None) => outcomes.push(Written::NoRoom),
        }
    }
    store(conn, &changed, &entries).await?;
    advance(conn, &heads).await?;
    Ok(outcomes)
}

async fn lock(conn: &mut PgConnection, submissions: &[Submission]) -> Result<BTreeMap<String, Head>> {
    let wanted: BTreeSet<&str> = submissions.iter().map(|s| s.board.as_str()).collect();
    let ids: Vec<String> = wanted.iter().map(|id| (*id).to_owned()).collect();
    let known = sqlx::query_scalar!(r#"SELECT count(*) AS "n!" FROM leaderboards WHERE id = ANY($1)"#, &ids)
        .fetch_one(&mut *conn)
        .await?;
    if usize::try_from(known).unwrap_or_default() < ids.len() {
        // Sorted, as the locks below are. Simultaneous makers may overshoot the bound by a batch.
        sqlx::query!(
            "INSERT INTO leaderboards (id)
             SELECT id FROM (SELECT DISTINCT id FROM UNNEST($1::text[]) AS w (id)
                             WHERE NOT EXISTS (SELECT 1 FROM leaderboards b WHERE b.id = w.id) ORDER BY id
                             LIMIT greatest(0, $2 - (SELECT count(*) FROM leaderboards))) AS missing
             ORDER BY id ON CONFLICT DO NOTHING",
            &ids,
            MAX_BOARDS,
        )
        .execute(&mut *conn)
        .await?;
    }
    let rows = sqlx::query!(
        "SELECT id, ordering, operator, seq FROM leaderboards WHERE id = ANY($1) ORDER BY id FOR UPDATE",
        &ids
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.id, Head { rules: Rules::of(&row.ordering, &row.operator), seq: row.seq }))
        .collect())
}

async fn current(conn: &mut PgConnection, submissions: &[Submission]) -> Result<HashMap<(String, Uuid), Entry>> {
    let (boards, players): (Vec<String>, Vec<Uuid>) =
        submissions.iter().map(|s| (s.board.clone(), s.player_id)).unzip();
    let rows = sqlx::query!(
        r#"SELECT e.leaderboard_id, e.player_id, e.score, e.sub_score, e.seq, e.updated_at FROM leaderboard_entries e
           JOIN (SELECT DISTINCT * FROM UNNEST($1::text[], $2::uuid[]) AS w (board, player)) AS w
             ON e.leaderboard_id = w.board AND e.player_id = w.player"#,
        &boards,
        &players,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let entry = Entry {
                player_id: row.player_id,
                score: row.score,
                sub_score: row.sub_score,
                seq: row.seq,
                updated_at: row.updated_at,
            };
            ((row.leaderboard_id, row.player_id), entry)
        })
        .collect())
}

async fn store(
    conn: &mut PgConnection,
    changed: &BTreeSet<(&str, Uuid)>,
    entries: &HashMap<(String, Uuid), Entry>,
) -> Result<()> {
    if changed.is_empty() {
        return Ok(());
    }
    let rows: Vec<(String, Entry)> = changed
        .iter()
        .filter_map(|(board, player)| {
            let board = (*board).to_owned();
            entries.get(&(board.clone(), *player)).map(|entry| (board, *entry))
        })
        .collect();
    let boards: Vec<String> = rows.iter().map(|(board, _)| board.clone()).collect();
    let players: Vec<Uuid> = rows.iter().map(|(_, e)| e.player_id).collect();
    let scores: Vec<f64> = rows.iter().map(|(_, e)| e.score).collect();
    let subs: Vec<f64> = rows.iter().map(|(_, e)| e.sub_score).collect();
    let seqs: Vec<i64> = rows.iter().map(|(_, e)| e.seq).collect();
    let times: Vec<OffsetDateTime> = rows.iter().map(|(_, e)| e.updated_at).collect();
    sqlx::query!(
        "INSERT INTO leaderboard_entries (leaderboard_id, player_id, score, sub_score, seq, updated_at)
         SELECT * FROM UNNEST($1::text[], $2::uuid[], $3::float8[], $4::float8[], $5::bigint[], $6::timestamptz[])
         ON CONFLICT (leaderboard_id, player_id) DO UPDATE SET score = excluded.score, sub_score = excluded.sub_score,
             seq = excluded.seq, updated_at = excluded.updated_at",
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

async fn advance(conn: &mut PgConnection, heads: &BTreeMap<String, Head>) -> Result<()> {
    let (ids, seqs): (Vec<String>, Vec<i64>) = heads.iter().map(|(id, head)| (id.clone(), head.seq)).unzip();
    sqlx::query!(
        "UPDATE leaderboards b SET seq = w.seq FROM UNNEST($1::text[], $2::bigint[]) AS w (id, seq)
         WHERE b.id = w.id AND b.seq <> w.seq",
        &ids,
        &seqs,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A board, or what changed on it, as one snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub rules: Rules,
    /// Every change up to this number is in the rows.
    pub seq: i64,
    pub entries: Vec<Entry>,
}

/// The entries that changed after `seq` (all, for 0); none: there is no such board.
///
/// # Errors
/// When the database fails.
pub async fn since(pool: &PgPool, board: &str, seq: i64) -> Result<Option<Snapshot>> {
    // The head first: an entry that is newer than it may be read with it and is then simply known early.
    let head = sqlx::query!("SELECT ordering, operator, seq FROM leaderboards WHERE id = $1", board)
        .fetch_optional(pool)
        .await?;
    let Some(head) = head else { return Ok(None) };
    let entries = sqlx::query_as!(
        Entry,
        "SELECT player_id, score, sub_score, seq, updated_at FROM leaderboard_entries WHERE leaderboard_id = $1 AND seq > $2",
        board,
        seq,
    )
    .fetch_all(pool)
    .await?;
    Ok(Some(Snapshot { rules: Rules::of(&head.ordering, &head.operator), seq: head.seq, entries }))
}
