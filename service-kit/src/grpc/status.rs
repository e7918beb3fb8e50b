//! Asobi's error codes inside gRPC statuses: as `google.rpc.ErrorInfo`, reason = the code, domain = "asobi".

use asobi_proto::error::ErrorCode;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const DOMAIN: &str = "asobi";

/// A status that carries the code, for [`error_code`] on the other side. The message is for people: a lower-case
/// sentence without secrets, since it may be logged anywhere.
pub fn status(code: ErrorCode, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, []);
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

/// The code that [`status`] put in, if this is such a status and the code is known to this release.
pub fn error_code(status: &Status) -> Option<ErrorCode> {
    let info = status.get_details_error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    ErrorCode::from_code(&info.reason)
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
