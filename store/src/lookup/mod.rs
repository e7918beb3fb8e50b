//! What operators' tools look up: players, sessions and matches, page by page. Only reads, each bounded by its page.

pub mod matches;
pub mod players;
