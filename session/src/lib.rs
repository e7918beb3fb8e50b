//! A player's connection wherever it ends: frame routing, fan-out, chat, presence, inbox, limits, and the [`link`] behind
//! which a match is near or far.

pub mod auth;
pub mod link;
