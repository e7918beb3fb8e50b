//! What the machine's own `/proc` says of processes: whose children they are, what they have spent and hold.

use std::{fs, path::PathBuf};

use nix::unistd::{SysconfVar, sysconf};

struct Process {
    pid: u32,
    parent: u32,
    name: String,
}

/// The server's processes: descendants of that one whose command is postgres.
pub fn postgres(root: u32) -> Vec<u32> {
    family(root).into_iter().filter(|p| p.name.starts_with("postgres")).map(|p| p.pid).collect()
}

/// A process with all that descend from it.
fn family(root: u32) -> Vec<Process> {
    let processes = processes();
    let mut family = vec![root];
    let mut at = 0;
    while let Some(parent) = family.get(at).copied() {
        family.extend(processes.iter().filter(|p| p.parent == parent).map(|p| p.pid));
        at += 1;
    }
    processes.into_iter().filter(|p| family.contains(&p.pid)).collect()
}

fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let (name, fields) = stat(pid)?;
            Some(Process { pid, name, parent: fields.get(1)?.parse().ok()? })
        })
        .collect()
}

/// The command's name, and the fields of `/proc/PID/stat` behind it (the first is the state).
pub fn stat(pid: u32) -> Option<(String, Vec<String>)> {
    let text = fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    let (name, rest) = text.split_once('(')?.1.rsplit_once(')')?;
    Some((name.to_owned(), rest.split_whitespace().map(str::to_owned).collect()))
}

/// Of the process, and of its children that have ended: PostgreSQL's backends come and go, and what they spent stays with their parent. A child
/// that lives is not in it, so that a sum over a family counts each of its members once.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    ticks(&stat(pid)?.1)
}

/// Of the process and all that descend from it.
pub fn cpu_seconds_of_family(root: u32) -> f64 {
    family(root).into_iter().filter_map(|process| cpu_seconds(process.pid)).sum()
}

/// Where the CPU times begin among the fields behind the command's name: utime, stime, and the same of children that were waited for, the
/// 14th to the 17th of all fields.
const UTIME: usize = 11;

fn ticks(fields: &[String]) -> Option<f64> {
    let ticks = fields.get(UTIME..=UTIME + 3)?.iter().map(|field| field.parse::<u32>().ok()).sum::<Option<u32>>()?;
    let per_second = u32::try_from(sysconf(SysconfVar::CLK_TCK).ok().flatten()?).ok()?;
    Some(f64::from(ticks) / f64::from(per_second))
}

/// Of many processes that share memory, as PostgreSQL's do, each one's part of it; else all that is resident.
pub fn share_kb(pid: u32, of: usize) -> Option<u64> {
    if of < 2 {
        return resident_kb(pid);
    }
    let Ok(rollup) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return resident_kb(pid) };
    let line = rollup.lines().find(|l| l.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Resident memory.
pub fn resident_kb(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that spends some time before it waits for its standard input to end.
    fn busy() -> Child {
        let script = "n=0; while [ $n -lt 100000 ]; do n=$((n + 1)); done; echo spent; read _";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn what_a_child_spent_is_in_the_family_while_it_lives_and_after_it_has_ended() {
        let me = std::process::id();
        let mut child = busy();
        let mut said = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        let (alive, own) = (cpu_seconds(child.id()).unwrap(), cpu_seconds(me).unwrap());
        assert!(alive > 0.0 && cpu_seconds_of_family(me) >= own + alive);
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(cpu_seconds(me).unwrap() >= own + alive, "it has gone, and what it spent has not");
    }
}
