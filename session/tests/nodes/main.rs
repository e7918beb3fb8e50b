//! Nodes that hold players, over real sockets and a real database: what a client sees of them.

mod chat;
mod client;
mod cluster;
mod host;
mod matches;
mod migration;
mod moderation;
mod moves;
mod presence;
mod revocation;
mod session;
mod valve;
