//! Asobi's error codes inside gRPC statuses: as `google.rpc.ErrorInfo`, reason = the code, domain = "asobi".

use std::time::Duration;

use asobi_proto::error::ErrorCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const DOMAIN: &str = "asobi";
/// The reason of whoever would have to lead to answer: another replica may know.
pub const NOT_LEADING: &str = "not_leading";

/// A status that carries the code, for [`error_code`] on the other side, and a `google.rpc.RetryInfo` where trying again helps. The message is for people: a lower-case
/// sentence without secrets, since it may be logged anywhere.
pub fn status(code: ErrorCode, message: impl Into<String>) -> Status {
    let mut details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, []);
    if let Some(wait) = retry_after(code) {
        details.set_retry_info(Some(wait));
    }
    Status::with_error_details(grpc_code(code), message, details)
}

/// INVALID_ARGUMENT for one field of the request, named in a `google.rpc.BadRequest`. The description goes on from the field's name.
pub fn invalid(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let message = format!("{field} {description}");
    let mut details = ErrorDetails::with_bad_request_violation(field, description);
    details.set_error_info(ErrorCode::INVALID_PAYLOAD.as_str(), DOMAIN, []);
    Status::with_error_details(Code::InvalidArgument, message, details)
}

/// FAILED_PRECONDITION with a reason of the client protocol that has no code of its own, as [`status`] carries codes.
pub fn refusal(reason: &str, message: impl Into<String>) -> Status {
    Status::with_error_details(Code::FailedPrecondition, message, ErrorDetails::with_error_info(reason, DOMAIN, []))
}

/// After what time the same request may do better; none: not by waiting.
fn retry_after(code: ErrorCode) -> Option<Duration> {
    match code {
        ErrorCode::NOT_READY | ErrorCode::RATE_LIMITED | ErrorCode::JOIN_RATE_LIMITED => Some(Duration::from_secs(1)),
        ErrorCode::MATCHMAKER_QUEUE_FULL | ErrorCode::GUEST_RATE_LIMITED | ErrorCode::GUEST_UNAVAILABLE => {
            Some(Duration::from_secs(2))
        }
        ErrorCode::WORLD_CAPACITY_REACHED | ErrorCode::GUEST_CAPACITY_REACHED => Some(Duration::from_secs(5)),
        _ => None,
    }
}

/// The code that [`status`] put in, if this is such a status and the code is known to this release.
pub fn error_code(status: &Status) -> Option<ErrorCode> {
    ErrorCode::from_code(&reason(status)?)
}

/// The reason that [`status`] or [`refusal`] put in, whether this release knows it or not.
pub fn reason(status: &Status) -> Option<String> {
    status.get_details_error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason)
}

fn grpc_code(code: ErrorCode) -> Code {
    match code.http_status() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 | 410 => Code::NotFound,
        409 | 412 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        501 => Code::Unimplemented,
        502 | 503 => Code::Unavailable,
        504 => Code::DeadlineExceeded,
        400..=499 => Code::InvalidArgument,
        _ => Code::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_may_try_again_is_told_when() {
        let wait = |code| status(code, "x").get_details_retry_info().and_then(|info| info.retry_delay);
        assert_eq!(wait(ErrorCode::NOT_READY), Some(Duration::from_secs(1)));
        assert_eq!(wait(ErrorCode::MATCHMAKER_QUEUE_FULL), Some(Duration::from_secs(2)));
        for code in [ErrorCode::FORBIDDEN, ErrorCode::CHAT_TOO_MANY_CHANNELS, ErrorCode::INTERNAL] {
            assert_eq!(wait(code), None, "{code}");
            assert_eq!(error_code(&status(code, "x")), Some(code));
        }
    }

    #[test]
    fn a_wrong_field_is_named() {
        let wrong = invalid("page_size", "is above 500");
        assert_eq!((wrong.code(), wrong.message()), (Code::InvalidArgument, "page_size is above 500"));
        let fields = wrong.get_details_bad_request().expect("details").field_violations;
        assert_eq!((fields[0].field.as_str(), fields[0].description.as_str()), ("page_size", "is above 500"));
        assert_eq!(error_code(&wrong), Some(ErrorCode::INVALID_PAYLOAD));
    }
}
