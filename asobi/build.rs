//! Makes the released binary small, where the linker is the one that rustc brings. It folds functions whose machine code is the same, since async
//! functions are compiled once more by every crate that awaits them; it leaves out their names, a quarter of the file; and what the loader has to
//! add an address to is a map of bits instead of a list. `ASOBI_KEEP_NAMES=1` keeps the names, for a profiler.

use std::{env, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ASOBI_KEEP_NAMES");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    if !is("ASOBI_KEEP_NAMES", "1") {
        link("--strip-all");
    }
    // One that somebody chose may not know the rest.
    let own = env::var_os("RUSTC_LINKER").is_none()
        && !env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if own && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        link("--icf=all");
        if libc().is_some_and(|version| version >= READS_BITMAPS) {
            link("-z,pack-relative-relocs");
        }
    }
}

fn link(argument: &str) {
    println!("cargo:rustc-link-arg-bins=-Wl,{argument}");
}

/// The release of glibc whose loader reads such maps.
const READS_BITMAPS: (u32, u32) = (2, 36);

/// Of this machine: `glibc 2.36`.
fn libc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let (major, minor) = std::str::from_utf8(&said).ok()?.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
