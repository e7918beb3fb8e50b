//! The server itself: its release, its clock, how far away it is, who we are there, what a commit promises, and whether others can listen in.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::Row as _;
use time::{Date, macros::date};

use super::{
    Patient,
    finding::Finding,
    reading::{row, rows},
};

/// Supported releases, and when their support ends.
const RELEASES: [(i32, Date); 4] =
    [(15, date!(2027 - 11 - 11)), (16, date!(2028 - 11 - 9)), (17, date!(2029 - 11 - 8)), (18, date!(2030 - 11 - 14))];
/// Clocks of the cluster may differ by that much.
const SKEW: Duration = Duration::from_secs(2);
/// From here on tokens are too young or too old elsewhere.
const BAD_SKEW: Duration = Duration::from_secs(30);
/// A round trip, which every commit that a player waits for takes once or twice.
const FAR: Duration = Duration::from_millis(5);

pub(super) async fn check(patient: &Patient) -> anyhow::Result<Vec<Finding>> {
    let mut session = patient.direct().await?;
    let (mut nearest, mut skew) = (Duration::MAX, 0.0);
    for _ in 0..5 {
        let (asked, at) = (Instant::now(), now());
        let theirs: f64 =
            row(&mut session, "SELECT extract(epoch FROM clock_timestamp())::float8").await?.try_get(0)?;
        let took = asked.elapsed();
        if took < nearest {
            (nearest, skew) = (took, theirs - at - took.as_secs_f64() / 2.0);
        }
    }
    let facts = row(
        &mut session,
        "SELECT current_setting('server_version_num')::int4, current_setting('server_version'), pg_is_in_recovery(),
                coalesce((SELECT rolsuper FROM pg_roles WHERE rolname = current_user), false), current_user::text,
                inet_client_addr() IS NULL OR inet_client_addr() <<= '127.0.0.0/8' OR inet_client_addr() = '::1',
                coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false), current_date,
                current_setting('synchronous_commit'), current_setting('synchronous_standby_names')",
    )
    .await?;
    let mut findings = vec![
        release(facts.try_get(0)?, facts.try_get(1)?, facts.try_get(7)?),
        clock(skew, "the database's clock", "this machine's"),
        distance(nearest),
        role(facts.try_get(4)?, facts.try_get(3)?),
        encryption(facts.try_get(6)?, facts.try_get(5)?, patient.config.database.direct()),
    ];
    if facts.try_get(2)? {
        findings.push(Finding::fail(
            "primary",
            "database.direct_url leads to a standby, where nothing can be written",
            "let database.direct_url follow the primary",
        ));
    }
    let standbys = rows(&mut session, "SELECT sync_state FROM pg_stat_replication").await?;
    let states: Vec<Option<String>> = standbys.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    let (commit, names): (String, String) = (facts.try_get(8)?, facts.try_get(9)?);
    findings.push(promise(&commit, &names, &states));
    Ok(findings)
}

/// Unix time of this machine.
pub(super) fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn release(number: i32, full: &str, today: Date) -> Finding {
    let major = number / 10_000;
    let change = "upgrade the server: pg_upgrade, or a new one that pg_dump and pg_restore fill";
    match RELEASES.iter().find(|(release, _)| *release == major) {
        Some((_, end)) if *end < today => {
            Finding::warn("release", format!("PostgreSQL {full} has had no security fixes since {end}"), change)
        }
        Some((_, end)) if *end < today + time::Duration::days(180) => {
            Finding::warn("release", format!("PostgreSQL {full} gets no more security fixes after {end}"), change)
        }
        Some((_, end)) => Finding::ok("release", format!("PostgreSQL {full}, with security fixes until {end}")),
        None if major < RELEASES[0].0 => {
            Finding::fail("release", format!("PostgreSQL {full} is too old: Asobi needs 15 to 18"), change)
        }
        None => Finding::warn(
            "release",
            format!("PostgreSQL {full} is newer than what Asobi is made for, which is 15 to 18"),
            "run one of these until a release of Asobi names yours",
        ),
    }
}

/// `ahead` seconds of `whose` against `ours`.
pub(super) fn clock(ahead: f64, whose: &str, ours: &str) -> Finding {
    let says = format!("{whose} is {:.2} s {} {ours}", ahead.abs(), if ahead < 0.0 { "behind" } else { "ahead of" });
    let change = "let chrony or systemd-timesyncd keep the clocks of all machines";
    let apart = Duration::try_from_secs_f64(ahead.abs()).unwrap_or(Duration::MAX);
    if apart > BAD_SKEW {
        Finding::fail("clock", format!("{says}: access tokens of one node are not good on another"), change)
    } else if apart > SKEW {
        Finding::warn("clock", format!("{says}; times that players see differ"), change)
    } else {
        Finding::ok("clock", says)
    }
}

fn distance(round_trip: Duration) -> Finding {
    let says = format!("a round trip to it takes {:.1} ms", round_trip.as_secs_f64() * 1e3);
    if round_trip > FAR {
        let says = format!("{says}, which each message, score and ticket waits for at least twice");
        Finding::warn("distance", says, "run the processes in the database's own zone")
    } else {
        Finding::ok("distance", says)
    }
}

fn role(name: &str, superuser: bool) -> Finding {
    if superuser {
        let says = format!("{name} is a superuser: whoever gets hold of a process owns the server");
        return Finding::warn("role", says, "run deploy/postgresql/roles.sql and connect as asobi_service");
    }
    Finding::ok("role", format!("connected as {name}, who is no superuser"))
}

fn encryption(encrypted: bool, local: bool, url: &str) -> Finding {
    let verified = url.contains("sslmode=verify-full");
    match (encrypted, local) {
        (true, _) if verified => {
            Finding::ok("encryption", "the connection is encrypted, and the server's name verified")
        }
        (_, true) => Finding::ok("encryption", "the connection does not leave this machine"),
        (true, _) => Finding::warn(
            "encryption",
            "the connection is encrypted, but nobody has verified whose server it is",
            "add ?sslmode=verify-full&sslrootcert=FILE to the database's URLs",
        ),
        (false, _) => Finding::warn(
            "encryption",
            "passwords of players and all that they say cross the network in the clear",
            "turn on ssl at the server, and add ?sslmode=verify-full&sslrootcert=FILE to the database's URLs",
        ),
    }
}

/// What a commit promises. `standbys`: their states, None where we may not see them.
fn promise(commit: &str, names: &str, standbys: &[Option<String>]) -> Finding {
    let named = !names.trim().is_empty();
    let synchronous = standbys.iter().flatten().any(|state| state == "sync" || state == "quorum");
    let unseen = standbys.iter().any(Option::is_none);
    match commit {
        "off" => Finding::fail(
            "commit",
            "synchronous_commit is off: what was acknowledged to players is lost when the server crashes",
            "ALTER ROLE … RESET synchronous_commit; ALTER DATABASE … RESET synchronous_commit; ALTER SYSTEM SET synchronous_commit = on",
        ),
        "local" if named => Finding::warn(
            "commit",
            "synchronous_commit is local: standbys are not waited for, whatever synchronous_standby_names says",
            "ALTER SYSTEM SET synchronous_commit = on",
        ),
        _ if !named => Finding::ok(
            "commit",
            "nothing acknowledged is lost by a crash; without synchronous standbys a failover may lose the last moments",
        ),
        _ if synchronous || unseen => Finding::ok(
            "commit",
            format!("nothing acknowledged is lost by a crash nor by a failover to one of: {names}"),
        ),
        _ => Finding::fail(
            "commit",
            format!("no standby of {names} is there: every commit waits for one"),
            "start a standby, or ALTER SYSTEM SET synchronous_standby_names = '' and SELECT pg_reload_conf()",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Verdict::*, *};

    #[test]
    fn releases_end() {
        let of = |number, today| release(number, "x", today).verdict;
        assert_eq!(of(150_018, date!(2026 - 1 - 1)), Ok);
        assert_eq!(of(150_018, date!(2027 - 7 - 1)), Warn);
        assert_eq!(of(150_018, date!(2028 - 1 - 1)), Warn);
        assert_eq!(of(140_001, date!(2026 - 1 - 1)), Fail);
        assert_eq!(of(190_000, date!(2026 - 1 - 1)), Warn);
    }

    #[test]
    fn clocks_and_distances() {
        let of = |ahead| clock(ahead, "theirs", "ours");
        assert_eq!((of(0.4).verdict, of(-5.0).verdict, of(31.0).verdict), (Ok, Warn, Fail));
        assert!(of(-5.0).says.starts_with("theirs is 5.00 s behind ours"));
        assert_eq!(distance(Duration::from_millis(1)).verdict, Ok);
        assert_eq!(distance(Duration::from_millis(30)).verdict, Warn);
        assert_eq!((role("a", true).verdict, role("a", false).verdict), (Warn, Ok));
    }

    #[test]
    fn only_a_verified_connection_over_a_network_is_well() {
        let full = "postgres://db/asobi?sslmode=verify-full";
        assert_eq!(encryption(true, false, full).verdict, Ok);
        assert_eq!(encryption(true, false, "postgres://db/asobi").verdict, Warn);
        assert_eq!(encryption(false, false, "postgres://db/asobi").verdict, Warn);
        assert_eq!(encryption(false, true, "postgres://db/asobi").verdict, Ok);
    }

    #[test]
    fn what_a_commit_promises() {
        let state = |state: &str| vec![Some(state.to_owned())];
        assert_eq!(promise("off", "", &[]).verdict, Fail);
        assert_eq!(promise("on", "", &state("async")).verdict, Ok);
        assert_eq!(promise("on", "ANY 1 (a, b)", &state("quorum")).verdict, Ok);
        assert_eq!(promise("on", "ANY 1 (a, b)", &[None]).verdict, Ok);
        assert_eq!(promise("on", "a", &state("async")).verdict, Fail);
        assert_eq!(promise("local", "a", &state("sync")).verdict, Warn);
    }
}
