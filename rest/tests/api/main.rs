//! The REST side over a real database, asked without a network.

mod accounts;
mod documents;
mod play;
mod routes;
