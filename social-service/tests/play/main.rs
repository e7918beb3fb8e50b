//! Friends, groups, notifications and boards, played over a real PostgreSQL with real services and their gRPC APIs.

mod board_ops;
mod boards;
mod effects;
mod friends;
mod groups;
mod invites;
mod jobs;
mod moderation;
mod notifications;
mod replica;
mod stage;
