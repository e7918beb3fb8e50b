//! Plays over a whole cluster of real processes: what a player, a friend and an opponent see.

#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod bad_input;
mod chat;
mod matches;
mod presence;
mod shutdown;
mod takeover;
