//! Tokens that carry a player's session to the node of the match: good once, for half a minute, on one incarnation.

use std::collections::HashMap;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{AuthError, Claims, Verifier, token};

/// How long a client has to follow.
pub const LIFE_S: i64 = 30;
/// Tokens remembered as used; past it further ones are refused, and the clients use their access tokens.
const USED: usize = 100_000;

/// What a migration token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Of the session that is carried; its issue time is the original token's, so that revocations find it.
    pub session: Claims,
    pub match_id: Uuid,
    pub epoch: i64,
    /// Those the session had been granted.
    pub capabilities: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct MigrationToken {
    aud: String,
    jti: Uuid,
    exp: i64,
    sub: Uuid,
    fam: Uuid,
    ius: i64,
    /// The access token's expiry.
    xat: i64,
    mid: Uuid,
    epo: i64,
    cap: Vec<String>,
}

/// Whom a token is for.
#[must_use]
pub fn audience(node_id: &str, incarnation: i64) -> String {
    format!("{node_id}#{incarnation}")
}

/// A token for one node's incarnation (see [`audience`]), and when it expires, unix milliseconds.
///
/// # Errors
/// [`AuthError::Invalid`] when this node has no key to sign with.
pub fn mint(verifier: &Verifier, migration: &Migration, audience: &str) -> Result<(String, i64), AuthError> {
    let key = verifier.keys.signing().ok_or(AuthError::Invalid)?;
    let exp = OffsetDateTime::now_utc().unix_timestamp() + LIFE_S;
    let session = migration.session;
    let claims = MigrationToken {
        aud: audience.into(),
        jti: Uuid::now_v7(),
        exp,
        sub: session.player_id,
        fam: session.family,
        ius: session.issued_at,
        xat: session.expires_at,
        mid: migration.match_id,
        epo: migration.epoch,
        cap: migration.capabilities.clone(),
    };
    Ok((token::sign(&key, &claims)?, exp * 1_000))
}

/// Checks a token that was presented here and uses it up. Whether the match is here, at that epoch, is the caller's
/// to check. `audience` is this node's own.
///
/// # Errors
/// [`AuthError`]
pub async fn verify(verifier: &Verifier, text: &str, audience: &str) -> Result<Migration, AuthError> {
    let key = verifier.keys.verifying(token::key_id(text)?).await?;
    let token: MigrationToken = token::open(&key, text, audience)?;
    let session = Claims { player_id: token.sub, family: token.fam, issued_at: token.ius, expires_at: token.xat };
    verifier.refuse_revoked(&session).await?;
    if !verifier.used.take(token.jti, token.exp) {
        return Err(AuthError::Invalid);
    }
    Ok(Migration { session, match_id: token.mid, epoch: token.epo, capabilities: token.cap })
}

/// Which tokens were presented here already. In memory: another incarnation does not accept them anyway.
#[derive(Default)]
pub(super) struct Used {
    /// By token id, until it has expired (unix seconds).
    tokens: Mutex<HashMap<Uuid, i64>>,
}

impl Used {
    /// False when it was taken before, or no more can be remembered.
    fn take(&self, id: Uuid, expires_at: i64) -> bool {
        let mut tokens = self.tokens.lock();
        if tokens.contains_key(&id) || tokens.len() >= USED {
            return false;
        }
        tokens.insert(id, expires_at);
        true
    }

    pub fn forget_expired(&self) {
        let leeway = i64::try_from(token::LEEWAY_S).unwrap_or(0) + 1;
        let now = OffsetDateTime::now_utc().unix_timestamp();
        self.tokens.lock().retain(|_, expires_at| *expires_at + leeway >= now);
    }
}
