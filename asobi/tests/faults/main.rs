//! The long fault plays. They stop, kill and crash what other plays share, so they run one at a time: `./test --faults`.

#[expect(dead_code, reason = "other plays use other parts of it")]
#[path = "../support/mod.rs"]
mod support;

mod access;
mod boards;
mod chat;
mod crowd;
mod hosts;
mod matches;
mod matchmaking;
mod notifications;
mod outage;
mod proxy;
mod rolling;
mod soak;
mod storm;

/// One fault at a time: they take what they can get of two cores, and some are everybody's.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
