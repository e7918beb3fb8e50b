//! Whether the days of chat are made ahead, and whether vacuum keeps up with the tables that change all the time.

use sqlx::Row as _;

use super::{Patient, finding::Finding, reading::rows};

/// Dead rows that are worth a word, and how many there may be for each that lives.
const DEAD: i64 = 10_000;
const DEAD_PER_LIVE: i64 = 5;
/// Transactions since the oldest row was frozen; at 2,000 million the server refuses to write.
const AGE: i64 = 1_000_000_000;

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut session = patient.direct().await?;
    let days = rows(
        &mut session,
        "SELECT ahead FROM generate_series(0, 3) AS ahead WHERE EXISTS (
             SELECT FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = to_regclass('chat_messages')
               AND c.relname = 'chat_messages_' || to_char((now() AT TIME ZONE 'UTC')::date + ahead, 'YYYYMMDD')) ORDER BY 1",
    )
    .await?;
    let days: Vec<i32> = days.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let tables = rows(
        &mut session,
        "SELECT relname::text, n_live_tup, n_dead_tup, coalesce(to_char(last_autovacuum, 'YYYY-MM-DD HH24:MI'), 'never')
         FROM pg_stat_user_tables WHERE schemaname = current_schema() ORDER BY n_dead_tup DESC LIMIT 20",
    )
    .await?;
    let mut findings = vec![ahead(&days)];
    let mut bloated = Vec::new();
    for row in &tables {
        bloated.extend(bloat(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?));
    }
    if bloated.is_empty() {
        bloated.push(Finding::ok("vacuum", "no table has more dead rows than vacuum should leave"));
    }
    findings.extend(bloated);
    let age = rows(&mut session, "SELECT age(datfrozenxid)::int8 FROM pg_database WHERE datname = current_database()")
        .await?;
    let age = age.first().map_or(Ok(0), |row| row.try_get(0))?;
    findings.extend(wraparound(age));
    Ok(findings)
}

/// `days`: those from today on that have a partition.
fn ahead(days: &[i32]) -> Finding {
    let change = "run `asobi migrate`, which makes them; processes do every ten minutes, so see why theirs did not";
    let missing: Vec<&str> = ["today", "tomorrow", "in two days", "in three days"]
        .iter()
        .zip(0..)
        .filter(|(_, day)| !days.contains(day))
        .map(|(name, _)| *name)
        .collect();
    let says = format!("chat has no partition for: {}", missing.join(", "));
    match missing.first() {
        None => Finding::ok("partitions", "chat has a partition for today and for each of the next three days"),
        Some(&("today" | "tomorrow")) => {
            Finding::fail("partitions", format!("{says}; messages of such a day are refused"), change)
        }
        Some(_) => Finding::warn("partitions", says, change),
    }
}

fn bloat(table: String, live: i64, dead: i64, vacuumed: String) -> Option<Finding> {
    (dead > DEAD && dead > live.saturating_mul(DEAD_PER_LIVE)).then(|| {
        Finding::warn(
            "vacuum",
            format!("{table} has {dead} dead rows for {live} that live; autovacuum was there last: {vacuumed}"),
            format!("end transactions that are open for long, then VACUUM {table}; see autovacuum in asobi.conf"),
        )
    })
}

fn wraparound(age: i64) -> Option<Finding> {
    (age > AGE).then(|| {
        Finding::fail(
            "vacuum",
            format!("the oldest row is {age} transactions old; at 2,000 million the server refuses to write"),
            "VACUUM FREEZE, after ending what holds it up: old transactions, prepared ones, unread replication slots",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn days_are_made_ahead() {
        assert_eq!(ahead(&[0, 1, 2, 3]).verdict, Ok);
        assert_eq!((ahead(&[0, 1]).verdict, ahead(&[0, 2, 3]).verdict, ahead(&[]).verdict), (Warn, Fail, Fail));
        assert!(ahead(&[0, 1, 3]).says.ends_with("for: in two days"));
    }

    #[test]
    fn vacuum_keeps_up() {
        let of = |live, dead| bloat("tickets".into(), live, dead, "never".into()).map(|found| found.verdict);
        assert_eq!((of(100, 500), of(1_000_000, 60_000), of(100, 60_000)), (None, None, Some(Warn)));
        assert_eq!((wraparound(1), wraparound(1_500_000_000).map(|found| found.verdict)), (None, Some(Fail)));
    }
}
