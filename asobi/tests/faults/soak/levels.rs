//! What each process takes of the machine: file descriptors before anybody is there, memory when everybody is, and both when all have
//! left. Most processes are others by then, so who was started again is held against its role.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
};

use anyhow::Context as _;

use super::schedule::ROLES;
use crate::support::{Cluster, until};

/// A debug build's allocator keeps what was needed once.
const MORE_MEMORY_MB: u64 = 32;
/// Connections to PostgreSQL and to others, which come and go within their pools' bounds.
const MORE_DESCRIPTORS: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Level {
    pid: i32,
    memory_mb: u64,
    descriptors: usize,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB, {} descriptors", self.memory_mb, self.descriptors)
    }
}

/// Of each node.
type Nodes = BTreeMap<String, Level>;

pub struct Levels {
    /// Nobody's sockets are among the descriptors.
    empty: Nodes,
    /// Memory that people need is had once, and kept.
    full: Nodes,
}

impl Levels {
    /// Before anybody is there.
    pub fn of_the_empty(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self { empty: measure(cluster)?, full: Nodes::new() })
    }

    /// When everybody is there.
    pub fn and_of_the_full(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.full = measure(cluster)?;
        Ok(())
    }

    /// Waits until each process is back near its level; what they were and are.
    pub async fn are_back(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let mut said = String::new();
        let back = until("memory and descriptors are back at their level", async || {
            let all_low;
            (all_low, said) = self.judge(&measure(cluster)?)?;
            Ok(all_low)
        })
        .await;
        back.with_context(|| said.clone())?;
        Ok(said)
    }

    /// Whether all are near their level, and a line for each.
    fn judge(&self, now: &Nodes) -> anyhow::Result<(bool, String)> {
        let (mut all_low, mut said) = (true, String::new());
        for (node, now) in now {
            let memory_mb = level_of(&self.full, node, now, |level| level.memory_mb).context("memory")?;
            let descriptors = level_of(&self.empty, node, now, |level| level.descriptors).context("descriptors")?;
            let much = now.memory_mb > memory_mb + MORE_MEMORY_MB;
            let many = now.descriptors > descriptors + MORE_DESCRIPTORS;
            all_low &= !much && !many;
            let verdict = if much || many { ": too much" } else { "" };
            writeln!(said, "{node:12}  {memory_mb} MB, {descriptors} descriptors; now {now}{verdict}")?;
        }
        Ok((all_low, said))
    }
}

/// What a process had, or where it was started since then the most that one of its role had.
fn level_of<T: Ord>(nodes: &Nodes, node: &str, now: &Level, of: impl Fn(&Level) -> T) -> Option<T> {
    let role = |node: &str| node.rsplit_once('-').map(|(role, _)| role.to_owned());
    match nodes.get(node).filter(|level| level.pid == now.pid) {
        Some(level) => Some(of(level)),
        None => nodes.iter().filter(|(other, _)| role(other) == role(node)).map(|(_, level)| of(level)).max(),
    }
}

fn measure(cluster: &Cluster) -> anyhow::Result<Nodes> {
    let nodes = ROLES.iter().flat_map(|(role, _, _)| cluster.processes(role));
    nodes.map(|node| Ok((node.node_id, level(node.pid)?))).collect()
}

fn level(pid: i32) -> anyhow::Result<Level> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Level { pid, memory_mb: kilobytes / 1024, descriptors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes<const N: usize>(levels: [(&str, i32, u64, usize); N]) -> Nodes {
        levels
            .map(|(node, pid, memory_mb, descriptors)| (node.to_owned(), Level { pid, memory_mb, descriptors }))
            .into()
    }

    #[test]
    fn who_was_started_again_is_held_against_its_role() {
        let levels = Levels {
            empty: nodes([("match-0", 1, 20, 10), ("match-1", 2, 20, 12), ("gateway-0", 3, 20, 90)]),
            full: nodes([("match-0", 1, 70, 50), ("match-1", 2, 80, 50), ("gateway-0", 3, 900, 90)]),
        };
        let is_low = |now| levels.judge(&nodes([now])).unwrap().0;
        let (own, of_role) =
            ((70 + MORE_MEMORY_MB, 10 + MORE_DESCRIPTORS), (80 + MORE_MEMORY_MB, 12 + MORE_DESCRIPTORS));
        for (pid, (memory_mb, descriptors)) in [(1, own), (9, of_role)] {
            assert!(is_low(("match-0", pid, memory_mb, descriptors)));
            assert!(!is_low(("match-0", pid, memory_mb + 1, descriptors)), "{pid}");
            assert!(!is_low(("match-0", pid, memory_mb, descriptors + 1)), "{pid}");
        }
    }
}
