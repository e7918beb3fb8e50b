//! What each process takes of the machine: memory and file descriptors, before everything and when it is over.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    fs,
};

use anyhow::Context as _;

use super::schedule::ROLES;
use crate::support::{Cluster, until};

/// A debug build's allocator keeps what was needed once.
const MORE_MEMORY_MB: u64 = 64;
/// Connections to PostgreSQL and to others, which come and go within their pools' bounds.
const MORE_DESCRIPTORS: usize = 24;

#[derive(Debug, Clone, Copy)]
pub struct Level {
    pub pid: i32,
    memory_mb: u64,
    descriptors: usize,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MB, {} descriptors", self.memory_mb, self.descriptors)
    }
}

pub struct Levels(BTreeMap<String, Level>);

impl Levels {
    pub fn measure(cluster: &Cluster) -> anyhow::Result<Self> {
        let nodes = ROLES.iter().flat_map(|(role, _, _)| cluster.processes(role));
        nodes.map(|node| Ok((node.node_id, level(node.pid)?))).collect::<anyhow::Result<_>>().map(Self)
    }

    /// Waits until each process that has lived since then is back near its level; what they were and are.
    pub async fn are_back(&self, cluster: &Cluster) -> anyhow::Result<String> {
        let mut said = String::new();
        let back = until("memory and descriptors are back at their level", async || {
            let now = Self::measure(cluster)?;
            let mut high = false;
            said.clear();
            for (node, now) in &now.0 {
                let before = self.0.get(node).filter(|before| before.pid == now.pid);
                match before {
                    Some(before) => {
                        let much = now.memory_mb > before.memory_mb + before.memory_mb / 2 + MORE_MEMORY_MB;
                        let many = now.descriptors > before.descriptors + MORE_DESCRIPTORS;
                        high |= much || many;
                        writeln!(
                            said,
                            "{node:12}  {before}; now {now}{}",
                            if much || many { ": too much" } else { "" }
                        )?;
                    }
                    None => writeln!(said, "{node:12}  started again; now {now}")?,
                }
            }
            Ok(!high)
        })
        .await;
        back.with_context(|| said.clone())?;
        Ok(said)
    }
}

fn level(pid: i32) -> anyhow::Result<Level> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kilobytes: u64 = resident.trim().trim_end_matches(" kB").parse()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok(Level { pid, memory_mb: kilobytes / 1024, descriptors })
}
