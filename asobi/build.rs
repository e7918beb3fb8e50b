//! Makes the released binary small. The linker folds functions whose machine code is the same, since async functions are compiled once more by
//! every crate that awaits them; and it leaves out their names, a quarter of the file. `ASOBI_KEEP_NAMES=1` keeps those, for a profiler.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=ASOBI_KEEP_NAMES");
    let is = |key: &str, value: &str| env::var(key).is_ok_and(|found| found == value);
    if !is("PROFILE", "release") || !is("CARGO_CFG_TARGET_OS", "linux") {
        return;
    }
    if !is("ASOBI_KEEP_NAMES", "1") {
        println!("cargo:rustc-link-arg-bins=-Wl,--strip-all");
    }
    // Where rustc brings its own linker, which can. One that somebody chose may not.
    let own = env::var_os("RUSTC_LINKER").is_none()
        && !env::var("CARGO_ENCODED_RUSTFLAGS").is_ok_and(|flags| flags.contains("link"));
    if own && is("CARGO_CFG_TARGET_ARCH", "x86_64") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
    }
}
