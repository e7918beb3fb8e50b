//! Reading request bodies: JSON objects, of a bounded size, with missing and mistyped fields told apart.

use asobi_proto::error::ErrorCode;
use axum::{
    body::Body,
    extract::{FromRequest, Request},
    http::{HeaderMap, header},
};
use futures_util::StreamExt as _;
use serde_json::{Map, Value};

use crate::error::{ApiError, Result};

/// The largest body.
pub(crate) const BODY_BYTES: usize = 1024 * 1024;
/// What is read (and dropped) of a larger one, so that its sender gets to read the refusal.
const DRAIN_BYTES: usize = 16 * 1024 * 1024;

/// A body's fields. An empty body, and one that is not sent as JSON, has none.
#[derive(Debug)]
pub(crate) struct Fields {
    fields: Map<String, Value>,
    /// False: JSON, but not an object.
    is_object: bool,
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _state: &S) -> Result<Self> {
        let is_json = is_json(request.headers());
        let bytes = read(request.into_body()).await?;
        if !is_json {
            return Ok(Self { fields: Map::new(), is_object: true });
        }
        Self::parse(&bytes)
    }
}

impl Fields {
    fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self { fields: Map::new(), is_object: true });
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self { fields, is_object: true }),
            Ok(_) => Ok(Self { fields: Map::new(), is_object: false }),
            Err(_) => Err(ApiError::new(ErrorCode::INVALID_JSON, "The body is not JSON.")),
        }
    }

    /// For routes where no field is required and still the body must make sense.
    pub fn object(self) -> Result<Self> {
        if self.is_object { Ok(self) } else { Err(ApiError::invalid("The body must be a JSON object.")) }
    }

    /// A value that is there and not null.
    pub fn get(&self, field: &str) -> Option<&Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// A field that is there, perhaps as null.
    pub fn given(&self, field: &str) -> Option<&Value> {
        self.fields.get(field)
    }

    /// A required string; missing and mistyped are one error.
    pub fn string(&self, field: &str) -> Result<&str> {
        self.get(field).and_then(Value::as_str).ok_or_else(|| ApiError::missing(field, "a string"))
    }

    /// An optional string; a mistyped one is none.
    pub fn optional_string(&self, field: &str) -> Option<&str> {
        self.get(field).and_then(Value::as_str)
    }

    pub fn flag(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool).unwrap_or(false)
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
        .is_some_and(|kind| kind == "application/json" || (kind.starts_with("application/") && kind.ends_with("+json")))
}

/// Whether a request announces more than it may send.
pub(crate) fn announces_too_much(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse::<u64>().ok())
        .is_some_and(|length| length > BODY_BYTES as u64)
}

/// Reads a body to its end, or refuses it.
pub(crate) async fn read(body: Body) -> Result<Vec<u8>> {
    let mut stream = body.into_data_stream();
    let (mut bytes, mut total) = (Vec::new(), 0_usize);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|_| ApiError::new(ErrorCode::INVALID_JSON, "The body ended early."))?;
        total += chunk.len();
        if total <= BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if total > DRAIN_BYTES {
            break;
        }
    }
    if total > BODY_BYTES {
        return Err(ApiError::new(ErrorCode::PAYLOAD_TOO_LARGE, "The body is larger than 1 MiB."));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(bytes: &[u8], field: &str) -> &'static str {
        match Fields::parse(bytes).and_then(|f| f.string(field).map(str::to_owned)) {
            Ok(_) => "ok",
            Err(error) => error.code().as_str(),
        }
    }

    #[test]
    fn bodies_are_told_apart() {
        assert_eq!(code(br#"{"username":"#, "username"), "invalid_json");
        assert_eq!(code(b"[1,2]", "username"), "missing_field");
        assert_eq!(code(b"", "username"), "missing_field");
        assert_eq!(code(br#"{"username":5}"#, "username"), "missing_field");
        assert_eq!(code(br#"{"username":null}"#, "username"), "missing_field");
        assert_eq!(code(br#"{"username":"ada"}"#, "username"), "ok");
        assert!(Fields::parse(b"7").and_then(Fields::object).is_err());
    }

    #[tokio::test]
    async fn a_body_past_the_bound_is_refused() {
        assert!(read(Body::from(vec![b'x'; BODY_BYTES])).await.is_ok());
        let error = read(Body::from(vec![b'x'; BODY_BYTES + 1])).await.expect_err("too large");
        assert_eq!(error.code(), ErrorCode::PAYLOAD_TOO_LARGE);
    }
}
