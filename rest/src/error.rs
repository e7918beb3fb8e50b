//! The error object every failure answers with, and the one place where inner errors become it. Internals are logged
//! here and never sent.

use std::borrow::Cow;

use asobi_proto::error::ErrorCode;
use asobi_session::auth::{AuthError, FieldErrors, IssueError};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

pub(crate) type Result<T, E = ApiError> = std::result::Result<T, E>;

/// A failure in the making. The status is the code's, but for the two that the table of codes does not know.
#[derive(Debug)]
pub(crate) struct ApiError {
    code: ErrorCode,
    status: StatusCode,
    message: Cow<'static, str>,
    details: Map<String, Value>,
    /// What clients of the first release read at the top level.
    repeated: Map<String, Value>,
    retry_after_s: Option<u64>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            code,
            status,
            message: message.into(),
            details: Map::new(),
            repeated: Map::new(),
            // What is busy or away, here or behind a service, may be back in a second.
            retry_after_s: (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1),
        }
    }

    pub fn unauthenticated() -> Self {
        Self::new(ErrorCode::UNAUTHENTICATED, "This needs a valid access token: authorization: Bearer <access_token>.")
    }

    pub fn forbidden(message: &'static str) -> Self {
        Self::new(ErrorCode::FORBIDDEN, message)
    }

    pub fn missing(field: &str, kind: &str) -> Self {
        Self::new(ErrorCode::MISSING_FIELD, format!("The body needs \"{field}\", {kind}."))
    }

    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::INVALID_PAYLOAD, message)
    }

    /// No such path. The closed set of codes has none for it but this.
    pub fn no_route() -> Self {
        Self::new(ErrorCode::RPC_UNKNOWN_METHOD, "There is nothing at this path.").detail("reason", "not_found")
    }

    /// The path is there, the method is not; the `allow` header is the router's.
    pub fn no_method() -> Self {
        let mut error = Self::new(ErrorCode::RPC_UNKNOWN_METHOD, "This path does not answer that method.")
            .detail("reason", "method_not_allowed");
        error.status = StatusCode::METHOD_NOT_ALLOWED;
        error
    }

    /// Worth another try in a second: something we need is away or busy.
    pub fn not_ready(message: &'static str) -> Self {
        Self::new(ErrorCode::NOT_READY, message)
    }

    pub fn rate_limited(wait: std::time::Duration) -> Self {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let mut error = Self::new(ErrorCode::RATE_LIMITED, "Too many requests from this address.");
        error.retry_after_s = Some(seconds.max(1));
        error.details.insert("retry_after".into(), seconds.max(1).into());
        error.repeated.insert("retry_after".into(), seconds.max(1).into());
        error
    }

    /// A 422; `key` is `fields` for register and login, `errors` elsewhere.
    pub fn validation(key: &'static str, errors: &FieldErrors) -> Self {
        let mut error = Self::new(ErrorCode::VALIDATION_FAILED, "A field is not as it must be.");
        error.details.insert(key.into(), json!(errors));
        error.repeated.insert(key.into(), json!(errors));
        error
    }

    /// A 422 about one field.
    pub fn field(field: &'static str, problem: &str) -> Self {
        Self::validation("errors", &FieldErrors::from([(field, vec![problem.to_owned()])]))
    }

    pub fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "A request failed.");
        Self::new(ErrorCode::INTERNAL, "Something went wrong here; it is in the log under the correlation id.")
    }

    pub fn detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.into(), value.into());
        self
    }

    /// In other words.
    pub fn saying(mut self, message: &'static str) -> Self {
        self.message = message.into();
        self
    }

    pub fn is(&self, code: ErrorCode) -> bool {
        self.code == code
    }

    #[cfg(test)]
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = self.repeated;
        body.insert(
            "error".into(),
            json!({"code": self.code.as_str(), "message": self.message, "details": self.details}),
        );
        let mut response = (self.status, Json(Value::Object(body))).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<asobi_store::Error> for ApiError {
    fn from(error: asobi_store::Error) -> Self {
        if is_away(&error) {
            tracing::warn!(%error, "A request failed: the database is away.");
            return Self::not_ready("The database does not answer; please try again.");
        }
        Self::internal(&error)
    }
}

/// Whether trying again later can help.
fn is_away(error: &asobi_store::Error) -> bool {
    use sqlx::Error as Sql;
    match error {
        asobi_store::Error::Deadline(_) => true,
        // A connection that ends before the server's first word, as behind a pooler without its server, is called a matter
        // of the protocol.
        asobi_store::Error::Sql(
            Sql::Io(_) | Sql::Protocol(_) | Sql::PoolTimedOut | Sql::PoolClosed | Sql::Tls(_) | Sql::WorkerCrashed,
        ) => true,
        // Cancelled by a time-out; admin shutdown and its kin; too many connections; read-only after a failover.
        asobi_store::Error::Sql(Sql::Database(error)) => error
            .code()
            .is_some_and(|code| ["57", "08", "53"].iter().any(|class| code.starts_with(class)) || code == "25006"),
        _ => false,
    }
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unavailable(error) => error.into(),
            AuthError::Invalid | AuthError::Revoked => Self::unauthenticated(),
        }
    }
}

impl From<IssueError> for ApiError {
    fn from(error: IssueError) -> Self {
        let code = error.code();
        match error {
            IssueError::Store(error) => error.into(),
            IssueError::Auth(AuthError::Unavailable(error)) => error.into(),
            IssueError::Auth(error) => {
                tracing::error!(%error, "A token could not be signed.");
                Self::new(ErrorCode::AUTH_TOKEN_ISSUE_FAILED, "The token could not be made.")
            }
            IssueError::Fields(errors) => Self::validation("fields", &errors),
            IssueError::Busy => Self::not_ready("Too many logins at once; please try again."),
            IssueError::Banned(ban) => Self::new(code, "This player is banned.")
                .detail("reason", "banned")
                .detail("ban_reason", ban.reason)
                .detail("until", ban.until.map(crate::render::timestamp)),
            error => Self::new(code, sentence(&error.to_string())),
        }
    }
}

/// An error's text as prose for people.
fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| format!("{}{}.", first.to_uppercase(), chars.as_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limit_says_when_in_three_places() {
        let response = ApiError::rate_limited(std::time::Duration::from_millis(200)).into_response();
        assert_eq!(response.status(), 429);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1");
    }

    #[test]
    fn statuses_are_the_codes() {
        assert_eq!(ApiError::no_route().into_response().status(), 404);
        assert_eq!(ApiError::no_method().into_response().status(), 405);
        assert_eq!(ApiError::not_ready("x").into_response().status(), 503);
        assert_eq!(ApiError::from(IssueError::UsernameTaken).code(), ErrorCode::AUTH_USERNAME_TAKEN);
        assert_eq!(sentence("the name is taken"), "The name is taken.");
    }
}
