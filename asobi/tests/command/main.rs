//! The command line: what it says, what it starts, and that everything it has started ends.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod access;
mod bench;
mod child;
mod ctl;
mod dev;
mod flags;
mod games;
mod ops;
mod services;
mod tls;
