//! What a board takes of memory while it is read and afterwards, by entry, as the system counts it:
//!
//! `cargo bench -p asobi-social-service --features measured --bench memory -- 1000000`

use std::{hint::black_box, time::Duration};

use anyhow::Context as _;
use asobi_social_service::measured::Ladder;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What was only needed while a board was read is given back by then.
const SETTLED: Duration = Duration::from_secs(2);

fn main() -> anyhow::Result<()> {
    let words = std::env::args().skip(1).find(|word| !word.starts_with("--"));
    let entries: i64 = words.map_or(Ok(1_000_000), |word| word.parse()).context("a number of entries")?;
    // What the first board of a process brings with it is no entry's.
    let small = Ladder::of(1_000);
    let before = kilobytes("VmRSS:")?;
    let ladder = Ladder::of(entries);
    let most = kilobytes("VmHWM:")?;
    pause();
    let after = kilobytes("VmRSS:")?;
    let each = |kilobytes: u64| kilobytes as f64 * 1024.0 / entries as f64;
    let (nodes, index) = ladder.bytes();
    println!(
        "{entries} entries, each {:.1} bytes resident, {:.1} at most while it is read;",
        each(after - before),
        each(most - before)
    );
    println!(
        "its nodes take {:.1} of them, its index {:.1}",
        nodes as f64 / entries as f64,
        index as f64 / entries as f64
    );
    black_box((small, ladder));
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "there is no other thread to wait for")]
fn pause() {
    std::thread::sleep(SETTLED);
    // The allocator looks at what is due when somebody asks it for something.
    drop(black_box(vec![0_u8; 1 << 16]));
}

fn kilobytes(of: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("this is not Linux")?;
    let line = status.lines().find_map(|line| line.strip_prefix(of)).context("the kernel does not say")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
