//! Connections against what the server has.

use sqlx::Row as _;

use super::{Patient, finding::Finding, reading::row};

/// Beside its pool each process has a listener, a heartbeat, a notifier, and a chat writer or a candidate for the lead.
pub(super) const BESIDE: u64 = 4;
/// For migrations, people, monitoring and backups.
pub(super) const OTHERS: u64 = 20;

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut session = patient.direct().await?;
    let facts = row(
        &mut session,
        "SELECT current_setting('max_connections')::int8 - current_setting('superuser_reserved_connections')::int8
                - coalesce(current_setting('reserved_connections', true)::int8, 0),
                -- Everybody sees these; of others' sessions a role without pg_read_all_stats sees nothing.
                (SELECT sum(numbackends)::int8 FROM pg_stat_database), to_regclass('nodes') IS NOT NULL",
    )
    .await?;
    let nodes: i64 = if facts.try_get(2)? {
        row(&mut session, "SELECT count(*) FROM nodes WHERE lease_until > now()").await?.try_get(0)?
    } else {
        0
    };
    let number = |value: i64| u64::try_from(value).unwrap_or_default();
    let (most, used, nodes) = (number(facts.try_get(0)?), number(facts.try_get(1)?), number(nodes));
    let pool = u64::from(patient.config.database.max_connections);
    Ok(vec![connections(most, used, nodes, pool)])
}

/// `most`: for everybody but superusers. `pool`: of each node, as this configuration has it.
fn connections(most: u64, used: u64, nodes: u64, pool: u64) -> Finding {
    let budget = nodes * (pool + BESIDE) + OTHERS;
    let says = format!(
        "{nodes} nodes may take {nodes} × ({pool} + {BESIDE}) + {OTHERS} = {budget} connections of {most}, and {used} are taken"
    );
    let change = format!(
        "ALTER SYSTEM SET max_connections = {}, then restart the server; or a smaller database.max_connections; or a pooler",
        (budget + 3).next_multiple_of(50)
    );
    if used * 10 > most * 9 {
        Finding::fail("connections", format!("{says}: soon nobody can connect"), change)
    } else if budget > most {
        Finding::warn("connections", format!("{says}: under load some cannot connect"), change)
    } else {
        Finding::ok("connections", says)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn the_sum_of_the_pools_fits() {
        assert_eq!(connections(197, 60, 8, 10).verdict, Ok);
        let found = connections(97, 60, 8, 10);
        assert!(found.verdict == Warn && found.change.contains("max_connections = 150"), "{found:?}");
        assert_eq!(connections(97, 90, 4, 10).verdict, Fail);
    }
}
