//! A match host: runs games, each match on one thread, and lets the players of the whole cluster play them.
//!
//! [`run`] is the whole process for games in Lua; [`run_with`] lets a program of one's own add games in Rust.

pub mod game;
mod games;
pub mod host;
mod hosted;
mod lease;
pub mod lua;
mod moving;
pub mod outside;
mod relay;
mod service;

pub use service::{run, run_with};
