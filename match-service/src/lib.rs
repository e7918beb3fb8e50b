//! A match host: runs games, each match on one thread, and lets the players of the whole cluster play them.

pub mod game;
pub mod lua;
