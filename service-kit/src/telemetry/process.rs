//! The process's own metrics, under Prometheus's usual names, from /proc. Where there is no /proc they are missing.

use std::fs;

use metrics::gauge;

/// Clock ticks per second in /proc: fixed in Linux's interface to programs.
const TICKS: f64 = 100.0;

pub(super) fn record() {
    if let Some(bytes) = resident_bytes() {
        gauge!("process_resident_memory_bytes").set(bytes);
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        #[expect(clippy::cast_precision_loss, reason = "a process has at most some million descriptors")]
        gauge!("process_open_fds").set(entries.count() as f64);
    }
    if let Some(most) = max_fds() {
        gauge!("process_max_fds").set(most);
    }
    let Some((cpu_ticks, start_ticks)) = stat() else { return };
    gauge!("process_cpu_seconds_total").set(cpu_ticks / TICKS);
    if let Some(boot) = boot_time() {
        gauge!("process_start_time_seconds").set(boot + start_ticks / TICKS);
    }
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0)
}

/// Of which there are as many as the soft limit says.
fn max_fds() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// CPU time and start time, in ticks.
fn stat() -> Option<(f64, f64)> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the name in parentheses, which may contain anything.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
    Some((field(14)? + field(15)?, field(22)?))
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}
