//! Which hosts can take matches, and how they compare: the matchmaker places by it, and so does a host that gives its matches away.

use std::collections::HashMap;

use sqlx::PgPool;
use uuid::Uuid;

use crate::Result;

/// What an unlimited host's load is measured against.
const NOMINAL: i64 = 5_000;

/// A host that can take matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub node_id: String,
    pub incarnation: i64,
    pub grpc_addr: String,
    /// Empty: it does not say.
    pub region: String,
    /// 0: not limited.
    pub capacity: i32,
    /// Its open matches, as the rows say.
    pub open: i64,
    /// The modes it serves, each with the version of its script; an empty version: unknown.
    pub modes: HashMap<String, String>,
}

impl Host {
    #[must_use]
    pub fn serves(&self, mode: &str) -> bool {
        self.modes.contains_key(mode)
    }

    /// Whether a match that started with that version of the mode's script may go on here: with the same one, or where either is unknown.
    /// `version` empty: any will do.
    #[must_use]
    pub fn continues(&self, mode: &str, version: &str) -> bool {
        self.modes.get(mode).is_some_and(|mine| version.is_empty() || mine.is_empty() || mine == version)
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.capacity > 0 && self.open >= i64::from(self.capacity)
    }

    /// Load in parts per million of the capacity.
    #[must_use]
    pub fn load_ppm(&self) -> i64 {
        let capacity = if self.capacity > 0 { i64::from(self.capacity) } else { NOMINAL };
        self.open.saturating_mul(1_000_000) / capacity
    }

    /// What the least of is the least loaded host for its capacity; of equals the one with fewer matches, then the first by name.
    #[must_use]
    pub fn burden(&self) -> (i64, i64, String) {
        (self.load_ppm(), self.open, self.node_id.clone())
    }
}

/// The least loaded host, for its capacity, where a match of that mode and version may go on and that is not full. `version` empty: any
/// will do. Whoever gives it a match counts it in [`Host::open`], until the hosts are read again.
pub fn least_loaded<'a>(
    hosts: impl IntoIterator<Item = &'a mut Host>,
    mode: &str,
    version: &str,
) -> Option<&'a mut Host> {
    hosts.into_iter().filter(|host| host.continues(mode, version) && !host.is_full()).min_by_key(|host| host.burden())
}

/// Hosts that are ready and whose lease is valid by the database's clock, with what they serve.
///
/// # Errors
/// When the database fails.
pub async fn hosts(pool: &PgPool) -> Result<Vec<Host>> {
    let rows = sqlx::query!(
        r#"SELECT n.node_id, n.incarnation, n.grpc_addr AS "grpc_addr!", n.region, n.capacity,
             (SELECT count(*) FROM matches m WHERE m.host_node = n.node_id AND m.state IN ('allocating', 'running')) AS "open!",
             h.modes AS "modes!", h.versions AS "versions!"
           FROM nodes n
           JOIN (SELECT node_id, incarnation, array_agg(mode ORDER BY mode) AS modes, array_agg(version ORDER BY mode) AS versions
                 FROM host_modes GROUP BY node_id, incarnation) AS h ON h.node_id = n.node_id AND h.incarnation = n.incarnation
           WHERE n.role = 'match' AND n.state = 'ready' AND n.lease_until > now() AND n.grpc_addr IS NOT NULL"#
    )
    .fetch_all(pool)
    .await?;
    let hosts = rows.into_iter().map(|row| Host {
        node_id: row.node_id,
        incarnation: row.incarnation,
        grpc_addr: row.grpc_addr,
        region: row.region,
        capacity: row.capacity,
        open: row.open,
        modes: row.modes.into_iter().zip(row.versions).collect(),
    });
    Ok(hosts.collect())
}

/// A running match as whoever moves it needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movable {
    pub id: Uuid,
    pub mode: String,
    /// Of the script it started with; empty: unknown, or of no importance.
    pub version: String,
    /// Where its host may be, the best first; empty: anywhere.
    pub regions: Vec<String>,
}

/// Running matches of one incarnation of a host that their players know of, the youngest first.
///
/// # Errors
/// When the database fails.
pub async fn movable(pool: &PgPool, host_node: &str, host_incarnation: i64, limit: i64) -> Result<Vec<Movable>> {
    Ok(sqlx::query_as!(
        Movable,
        "SELECT id, mode, version, regions FROM matches
         WHERE host_node = $1 AND host_incarnation = $2 AND state = 'running' AND told ORDER BY id DESC LIMIT $3",
        host_node,
        host_incarnation,
        limit,
    )
    .fetch_all(pool)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(node: &str, open: i64, capacity: i32, version: &str) -> Host {
        Host {
            node_id: node.into(),
            incarnation: 1,
            grpc_addr: format!("{node}:1"),
            region: String::new(),
            capacity,
            open,
            modes: [("arena".to_owned(), version.to_owned())].into(),
        }
    }

    #[test]
    fn the_least_loaded_for_its_capacity_that_knows_the_script_is_taken() {
        let mut hosts = [host("a", 5, 10, "v1"), host("b", 8, 100, "v2"), host("c", 9, 100, ""), host("d", 1, 1, "v1")];
        let mut choose = |mode: &str, version: &str| least_loaded(&mut hosts, mode, version).map(|h| h.node_id.clone());
        assert_eq!(choose("arena", "").as_deref(), Some("b"), "any version will do");
        assert_eq!(choose("arena", "v1").as_deref(), Some("c"), "an unknown version is no other");
        assert_eq!(choose("arena", "v2").as_deref(), Some("b"));
        assert_eq!(choose("chess", ""), None);
        assert_eq!(least_loaded(&mut hosts[3..], "arena", "v1"), None, "it is full");
    }
}
