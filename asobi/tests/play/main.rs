//! Plays over a whole cluster of real processes: what a player, a friend and an opponent see.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod accounts;
mod bad_input;
mod balancer;
mod boards;
mod bus;
mod chat;
mod matches;
mod metrics;
mod moderation;
mod old_schema;
mod parties;
mod postgres;
mod presence;
mod queue;
mod revocation;
mod shutdown;
mod social;
mod storm;
mod takeover;
mod trace;
