//! The signed tokens' text: JWT, HS256, the key named in the header.

use jsonwebtoken::{Algorithm, Header, Validation};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{AuthError, keys::Key};

/// Seconds by which two clocks may differ when an expiry is judged.
pub(super) const LEEWAY_S: u64 = 5;

/// Longer ones are not looked at.
const MAX_BYTES: usize = 4_096;

pub(super) fn sign(key: &Key, claims: &impl Serialize) -> Result<String, AuthError> {
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some(key.id.to_string());
    jsonwebtoken::encode(&header, claims, &key.encoding).map_err(|_| AuthError::Invalid)
}

/// The id of the key that a token claims to be signed with.
pub(super) fn key_id(token: &str) -> Result<Uuid, AuthError> {
    if token.len() > MAX_BYTES {
        return Err(AuthError::Invalid);
    }
    let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Invalid)?;
    header.kid.and_then(|kid| Uuid::parse_str(&kid).ok()).ok_or(AuthError::Invalid)
}

/// Checks signature, algorithm, audience and expiry.
pub(super) fn open<T: DeserializeOwned>(key: &Key, token: &str, audience: &str) -> Result<T, AuthError> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud"]);
    validation.leeway = LEEWAY_S;
    jsonwebtoken::decode::<T>(token, &key.decoding, &validation).map(|data| data.claims).map_err(|_| AuthError::Invalid)
}
