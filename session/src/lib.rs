//! A player's connection wherever it ends: frame routing, fan-out, chat, presence, inbox, limits, and the [`link`] behind
//! which a match is near or far. [`hub::Hub`] is all of it for one node.

mod admission;
mod asyncapi;
pub mod auth;
mod batch;
pub mod chat;
pub mod close;
mod conn;
mod count;
pub mod frame;
mod frames;
pub mod hub;
mod inbox;
pub mod link;
mod look_ups;
#[cfg(feature = "measured")]
#[doc(hidden)]
pub mod measured;
pub mod moderation;
pub mod modes;
mod order;
mod presence;
pub mod queue;
mod quick_play;
mod relay;
mod seat;
mod together;

pub use asyncapi::asyncapi;
pub use conn::{Bounds, Push};
