//! What the services share at their edge.

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc::{invalid, status};
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;

pub fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| status(ErrorCode::INVALID_PAYLOAD, format!("{field} is not a UUID")))
}

/// As [`id`]; empty text is none.
pub fn optional_id(text: &str, field: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() { Ok(None) } else { id(text, field).map(Some) }
}

/// A time that was asked for, as long as time stamps of rows reach.
pub fn time(at: prost_types::Timestamp, field: &str) -> Result<OffsetDateTime, Status> {
    let nanos = u32::try_from(at.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let second = OffsetDateTime::from_unix_timestamp(at.seconds).ok();
    second
        .zip(nanos)
        .and_then(|(second, nanos)| second.replace_nanosecond(nanos).ok())
        .ok_or_else(|| invalid(field, "is no time"))
}

/// The size of a page.
pub fn page_size(asked: i32) -> i32 {
    limit(asked, 50, 100)
}

/// Cuts one row more than a page holds off; the token of the page after it, empty when this is the last.
pub fn cut<T>(rows: &mut Vec<T>, size: i32, token: impl Fn(&T) -> String) -> String {
    let size = usize::try_from(size).unwrap_or_default();
    let more = rows.len() > size;
    rows.truncate(size);
    rows.last().filter(|_| more).map(token).unwrap_or_default()
}

/// Any bytes as a page token.
pub fn to_token(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// None: from the start.
pub fn from_token(token: &str) -> Result<Option<Vec<u8>>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    if token.len() > 2_048 || token.len() % 2 == 1 || !token.is_ascii() {
        return Err(bad_token());
    }
    let byte = |at| u8::from_str_radix(&token[at..at + 2], 16).map_err(|_| bad_token());
    (0..token.len()).step_by(2).map(byte).collect::<Result<_, _>>().map(Some)
}

pub fn bad_token() -> Status {
    invalid("page_token", "is none that was answered")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_comes_back_as_it_was() {
        assert_eq!(from_token(&to_token(&[0, 255, 16])).unwrap(), Some(vec![0, 255, 16]));
        assert_eq!(from_token("").unwrap(), None);
        for wrong in ["0", "0g", "ü"] {
            assert!(from_token(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_page_that_is_not_the_last_says_where_the_next_begins() {
        let mut rows = vec![1, 2, 3];
        assert_eq!((cut(&mut rows, 2, ToString::to_string).as_str(), rows.as_slice()), ("2", [1, 2].as_slice()));
        assert_eq!(cut(&mut rows, 2, ToString::to_string), "");
    }
}
