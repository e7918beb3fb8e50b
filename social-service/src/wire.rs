//! What the services share at their edge.

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc::status;
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;

pub fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status(ErrorCode::INVALID_PAYLOAD, format!("{field} is not a UUID")))
}

pub fn timestamp(at: OffsetDateTime) -> Option<prost_types::Timestamp> {
    let nanos = i32::try_from(at.nanosecond()).unwrap_or(0);
    Some(prost_types::Timestamp { seconds: at.unix_timestamp(), nanos })
}

/// The database failed: logged here, said without details.
pub fn unavailable(error: &asobi_store::Error) -> Status {
    tracing::warn!(%error, "A social call failed at the database.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

/// A client's limit: none given is the most or the default, as the API says.
pub fn limit(asked: i32, default: i32, most: i32) -> i32 {
    if asked == 0 { default } else { asked.clamp(1, most) }
}

/// A JSON object of at most so many bytes; empty text counts as {}.
pub fn json_object(text: &str, field: &str, most: usize) -> Result<serde_json::Value, Status> {
    let invalid = |problem: &str| status(ErrorCode::VALIDATION_FAILED, format!("{field} {problem}"));
    if text.len() > most {
        return Err(invalid(&format!("must have at most {most} bytes")));
    }
    let value = match text {
        "" => return Ok(serde_json::json!({})),
        text => serde_json::from_str::<serde_json::Value>(text).ok().filter(serde_json::Value::is_object),
    };
    let value = value.ok_or_else(|| invalid("must be a JSON object"))?;
    // jsonb holds no NUL.
    if value.to_string().contains("\\u0000") { Err(invalid("must not contain NUL")) } else { Ok(value) }
}
