//! The REST side over a real database, asked without a network.

mod accounts;
mod play;
mod routes;
