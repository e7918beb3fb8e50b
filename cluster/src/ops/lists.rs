//! What all lists and their items have in common.

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc::{invalid, status};
use time::OffsetDateTime;
use tonic::Status;
use uuid::Uuid;

/// Longest key of a list, and so its token.
const TOKEN_BYTES: usize = 256;

/// How many items a page has: `usual` where nothing is asked for, never more than `most`.
///
/// # Errors
/// INVALID_ARGUMENT for a negative one.
pub fn page_size(asked: i32, usual: i64, most: i64) -> Result<i64, Status> {
    match i64::from(asked) {
        0 => Ok(usual),
        size @ 1.. => Ok(size.min(most)),
        _ => Err(invalid("page_size", "must be at least 0")),
    }
}

/// The key of the last item of the page before; empty: from the start.
///
/// # Errors
/// INVALID_ARGUMENT for what is no token of any list.
pub fn page_token(token: &str) -> Result<&str, Status> {
    if token.len() > TOKEN_BYTES || token.contains('\0') {
        return Err(not_a_token());
    }
    Ok(token)
}

/// As [`page_token`], of a list in the order of ids.
pub(super) fn page_after(token: &str) -> Result<Option<Uuid>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    Uuid::try_parse(token).map(Some).map_err(|_| not_a_token())
}

fn not_a_token() -> Status {
    invalid("page_token", "must be one that this list has answered")
}

/// Cuts what was read to the page, of which one more was asked for; the token of the next, empty when there is none.
pub(super) fn next_token<T>(items: &mut Vec<T>, size: i64, key: impl Fn(&T) -> String) -> String {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    if items.len() <= size {
        return String::new();
    }
    items.truncate(size);
    items.last().map(key).unwrap_or_default()
}

/// As the wire has times.
#[must_use]
pub fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    let nanos = i32::try_from(at.nanosecond()).unwrap_or(0);
    prost_types::Timestamp { seconds: at.unix_timestamp(), nanos }
}

/// The id in a field.
pub(super) fn id(text: &str, field: &str) -> Result<Uuid, Status> {
    Uuid::try_parse(text).map_err(|_| invalid(field, "must be a UUID"))
}

/// The id in a field that may be empty.
pub(super) fn optional_id(text: &str, field: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() { Ok(None) } else { id(text, field).map(Some) }
}

/// Text in a field that may be empty, and is then none.
pub(super) fn optional_text(text: String, field: &str, most: usize) -> Result<Option<String>, Status> {
    if text.len() > most || text.contains('\0') {
        return Err(invalid(field, format!("must have at most {most} bytes of text")));
    }
    Ok(Some(text).filter(|text| !text.is_empty()))
}

/// The database failed: logged here, said without details.
pub(super) fn unread(error: impl std::fmt::Display) -> Status {
    tracing::warn!(%error, "What an operator asked could not be read.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_bounded_and_the_next_one_begins_after_its_last() {
        assert_eq!(page_size(0, 50, 200).unwrap(), 50);
        assert_eq!(page_size(1_000, 50, 200).unwrap(), 200);
        assert!(page_size(-1, 50, 200).is_err());
        let mut items = vec![1, 2, 3];
        assert_eq!((next_token(&mut items, 2, ToString::to_string), items.len()), ("2".to_owned(), 2));
        assert_eq!(next_token(&mut items, 2, ToString::to_string), "");
        assert!(page_token(&"x".repeat(257)).is_err() && page_after("x").is_err());
        assert_eq!(page_after("").unwrap(), None);
    }

    #[test]
    fn what_may_be_empty_is_none_then() {
        assert_eq!(optional_id("", "player_id").unwrap(), None);
        assert_eq!(optional_text(String::new(), "mode", 64).unwrap(), None);
        assert!(optional_text("x".repeat(65), "mode", 64).is_err());
        let wrong = optional_id("ada", "player_id").unwrap_err();
        assert!(wrong.message().starts_with("player_id "), "{wrong}");
    }
}
