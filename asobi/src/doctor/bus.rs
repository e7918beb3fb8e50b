//! What stands in the way of the notification queue and of vacuum: transactions that are open for long, and slots that nobody reads.

use sqlx::Row as _;

use super::{
    Patient,
    finding::Finding,
    reading::{row, rows},
};

/// Seconds.
const LONG: f64 = 60.0;
const SHOWN: usize = 5;

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut bus = patient.connect(patient.bus()).await?;
    let usage: f64 = row(&mut bus, "SELECT pg_notification_queue_usage()").await?.try_get(0)?;
    let mut session = patient.direct().await?;
    let open = rows(
        &mut session,
        "SELECT pid, coalesce(nullif(application_name, ''), usename, backend_type), extract(epoch FROM now() - xact_start)::float8
         FROM pg_stat_activity WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
           AND backend_type <> 'autovacuum worker' ORDER BY xact_start LIMIT 100",
    )
    .await?;
    let open: Vec<(i32, String, f64)> =
        open.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))).collect::<sqlx::Result<_>>()?;
    let left = rows(
        &mut session,
        "SELECT 'PREPARED ' || gid FROM pg_prepared_xacts WHERE database = current_database() AND prepared < now() - interval '1 minute'
         UNION ALL SELECT 'SLOT ' || slot_name FROM pg_replication_slots WHERE NOT active",
    )
    .await?;
    let left: Vec<String> = left.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(vec![queue(usage), transactions(&open), left_behind(&left)])
}

fn queue(usage: f64) -> Finding {
    let says = format!("the notification queue is {:.1} % full", usage * 100.0);
    let change = "end the listening session that stands still in a transaction: SELECT pid, application_name, xact_start FROM pg_stat_activity ORDER BY xact_start";
    if usage >= 0.5 {
        Finding::fail("notify", format!("{says}; at 100 % every commit that notifies fails"), change)
    } else if usage >= 0.05 {
        Finding::warn("notify", format!("{says}: a listener stands still"), change)
    } else {
        Finding::ok("notify", says)
    }
}

fn transactions(open: &[(i32, String, f64)]) -> Finding {
    let long: Vec<String> = open
        .iter()
        .filter(|(.., seconds)| *seconds > LONG)
        .take(SHOWN)
        .map(|(pid, name, seconds)| format!("{name} (pid {pid}) for {seconds:.0} s"))
        .collect();
    if long.is_empty() {
        return Finding::ok("transactions", format!("none has been open for longer than {LONG:.0} s"));
    }
    Finding::warn(
        "transactions",
        format!(
            "open for long: {}. Meanwhile no dead row is cleaned, and claims of tickets get slower",
            long.join(", ")
        ),
        "SELECT pg_terminate_backend(PID), and idle_in_transaction_session_timeout for who left it open",
    )
}

fn left_behind(left: &[String]) -> Finding {
    let (slots, prepared): (Vec<&String>, Vec<&String>) = left.iter().partition(|what| what.starts_with("SLOT "));
    let names = |list: &[&String]| {
        list.iter()
            .filter_map(|what| what.split_once(' '))
            .map(|(_, name)| name.to_owned())
            .collect::<Vec<_>>()
            .join(", ")
    };
    if !prepared.is_empty() {
        let says = format!("prepared transactions that nobody ends: {}", names(&prepared));
        return Finding::warn("left behind", says, "ROLLBACK PREPARED '…'; Asobi prepares none");
    }
    if !slots.is_empty() {
        let says = format!("replication slots that nobody reads keep the log: {}", names(&slots));
        return Finding::warn("left behind", says, "start their standby, or SELECT pg_drop_replication_slot('…')");
    }
    Finding::ok("left behind", "no prepared transaction and no replication slot without a reader")
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn a_queue_that_fills_is_seen_early() {
        assert_eq!((queue(0.001).verdict, queue(0.1).verdict, queue(0.7).verdict), (Ok, Warn, Fail));
    }

    #[test]
    fn who_holds_things_up_is_named() {
        let open = [(7, "asobi/gateway-0".to_owned(), 0.1), (8, "psql".to_owned(), 90.0)];
        assert_eq!(transactions(&open[..1]).verdict, Ok);
        let found = transactions(&open);
        assert!(found.verdict == Warn && found.says.contains("psql (pid 8) for 90 s"), "{found:?}");
        assert_eq!(left_behind(&[]).verdict, Ok);
        assert!(left_behind(&["SLOT standby_a".into()]).says.ends_with("keep the log: standby_a"));
        assert!(left_behind(&["PREPARED x".into(), "SLOT a".into()]).says.ends_with("nobody ends: x"));
    }
}
