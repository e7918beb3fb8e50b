//! The bodies of requests and answers, for their description. Handlers read and write JSON themselves, because clients of the
//! first release send what no type would take; the tests hold every answer against these.

#![expect(dead_code, reason = "they describe; nothing is made of them")]

mod accounts;
mod boards;
mod circles;
mod play;
mod talk;

use serde_json::Value;
use utoipa::ToSchema;

pub(crate) use accounts::*;
pub(crate) use boards::*;
pub(crate) use circles::*;
pub(crate) use play::*;
pub(crate) use talk::*;

/// What goes into every failure.
#[derive(ToSchema)]
pub(crate) struct ErrorBody {
    /// One of a closed set; what a program decides by.
    #[schema(example = "player.not_found")]
    code: String,
    /// Prose for people; it may change.
    message: String,
    #[schema(value_type = Object)]
    details: Value,
}

#[derive(ToSchema)]
pub(crate) struct Failure {
    error: ErrorBody,
    /// With a 429, seconds until another try can succeed.
    #[schema(minimum = 1)]
    retry_after: Option<u32>,
    /// With a 422 of register and login, the problems of each field.
    #[schema(value_type = Option<Object>)]
    fields: Option<Value>,
    /// With any other 422, the problems of each field.
    #[schema(value_type = Option<Object>)]
    errors: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct Success {
    success: bool,
}

#[derive(ToSchema)]
pub(crate) struct Alive {
    /// `alive`
    status: String,
}

#[derive(ToSchema)]
pub(crate) struct Readiness {
    /// `ready` or `not_ready`
    status: String,
    /// What is missing.
    reasons: Option<Vec<String>>,
}

#[derive(ToSchema)]
pub(crate) struct Health {
    /// `healthy` or `unhealthy`
    status: String,
    node: String,
    sockets: u64,
    uptime_seconds: u64,
    /// By name, the state of what this node needs.
    #[schema(value_type = Object)]
    dependencies: Value,
}
