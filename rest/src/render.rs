//! How values look in REST answers.

use asobi_proto::error::ErrorCode;
use asobi_service_kit::grpc;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// RFC 3339, UTC, to the millisecond.
pub(crate) fn timestamp(at: OffsetDateTime) -> Value {
    let at = at.to_offset(time::UtcOffset::UTC);
    let at = at.replace_millisecond(at.millisecond()).unwrap_or(at);
    at.format(&Rfc3339).map_or(Value::Null, Value::String)
}

/// As [`timestamp`], of a protobuf one.
pub(crate) fn proto_timestamp(at: Option<prost_types::Timestamp>) -> Value {
    at.and_then(|at| {
        let nanos = i128::from(at.seconds) * 1_000_000_000 + i128::from(at.nanos);
        OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()
    })
    .map_or(Value::Null, timestamp)
}

/// Whole numbers without a point: 10, not 10.0.
pub(crate) fn number(value: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and within 2^53")]
        return Value::from(value as i64);
    }
    Value::from(value)
}

/// Unix milliseconds.
pub(crate) fn unix_ms(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default()
}

/// What a gRPC failure is to the client.
pub(crate) fn grpc_error(status: &tonic::Status) -> crate::error::ApiError {
    use crate::error::ApiError;
    use tonic::Code;
    if let Some(code) = grpc::error_code(status) {
        if code == ErrorCode::VALIDATION_FAILED {
            // Of the request as a whole: what is said of one field was refused before it was sent.
            return ApiError::field("base", status.message());
        }
        return ApiError::new(code, status.message().to_owned());
    }
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::ResourceExhausted => {
            tracing::warn!(%status, "The social service did not answer.");
            ApiError::not_ready("The social service does not answer; please try again.")
        }
        Code::InvalidArgument => ApiError::invalid(status.message().to_owned()),
        _ => ApiError::internal(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use time::macros::datetime;

    #[test]
    fn values_look_as_recorded() {
        assert_eq!(timestamp(datetime!(2026-11-22 12:16:42 UTC)), "2026-11-22T12:16:42Z");
        assert_eq!(timestamp(datetime!(2026-11-22 13:16:42.123_456 +1)), "2026-11-22T12:16:42.123Z");
        assert_eq!(number(10.0).to_string(), "10");
        assert_eq!(number(-0.5).to_string(), "-0.5");
        assert_eq!(number(1e300).to_string(), "1e+300");
        assert_eq!(unix_ms(datetime!(1970-01-01 0:00:01.5 UTC)), 1_500);
    }
}
