//! Making and ending logins. Everything is decided by rows in one transaction; what was revoked is told after its commit.

use std::sync::Arc;

use asobi_bus::Publisher;
use asobi_cluster::erasure;
use asobi_proto::error::ErrorCode;
use asobi_service_kit::config;
use asobi_store::{
    audit,
    bans::{self, Ban},
    players::{self, TakenOr},
    tokens::{self, Refresh},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use rand::RngCore as _;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::{
    AuthError, Claims, Verifier,
    hashing::{Busy, Hasher},
    rules::{self, FieldErrors},
};

/// A fresh pair. `Debug` does not show it.
#[derive(Clone)]
pub struct TokenPair {
    pub access_token: String,
    pub refresh_token: String,
}

impl std::fmt::Debug for TokenPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenPair(…)")
    }
}

/// Who logged in.
#[derive(Debug, Clone)]
pub struct Account {
    pub player_id: Uuid,
    pub username: String,
    pub tokens: TokenPair,
}

#[derive(Debug, Clone)]
pub struct Guest {
    pub account: Account,
    /// The device was new.
    pub created: bool,
}

/// Why a login was not made. [`IssueError::code`] is what the client is told.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("registration is closed")]
    RegistrationClosed,
    #[error("a field is not as it must be")]
    Fields(FieldErrors),
    #[error("the username is taken")]
    UsernameTaken,
    #[error("the username or the password is wrong")]
    Credentials,
    #[error("the refresh token is not valid")]
    RefreshToken,
    #[error("guests are not allowed here")]
    GuestsDisabled,
    #[error("the device id must be 1 to 128 bytes")]
    DeviceId,
    #[error("the device secret must be 32 to 128 random bytes, in base64")]
    WeakDeviceSecret,
    #[error("the device secret is wrong")]
    DeviceSecret,
    #[error("the player is not a guest")]
    NotGuest,
    #[error("the password does not confirm the erasure")]
    Confirmation,
    #[error("the password is needed to confirm the erasure")]
    ConfirmationMissing,
    #[error("there is no such player any more")]
    PlayerGone,
    #[error("the player is banned")]
    Banned(Ban),
    /// Worth another try in a second.
    #[error("too many passwords wait to be checked")]
    Busy,
    #[error(transparent)]
    Auth(#[from] AuthError),
    #[error(transparent)]
    Store(#[from] asobi_store::Error),
}

impl IssueError {
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::RegistrationClosed => ErrorCode::AUTH_REGISTRATION_CLOSED,
            Self::Fields(_) => ErrorCode::VALIDATION_FAILED,
            Self::UsernameTaken => ErrorCode::AUTH_USERNAME_TAKEN,
            Self::Credentials => ErrorCode::AUTH_INVALID_CREDENTIALS,
            Self::RefreshToken => ErrorCode::UNAUTHENTICATED,
            Self::GuestsDisabled => ErrorCode::GUEST_DISABLED,
            Self::DeviceId => ErrorCode::GUEST_INVALID_DEVICE_ID,
            Self::WeakDeviceSecret => ErrorCode::GUEST_WEAK_DEVICE_SECRET,
            Self::DeviceSecret => ErrorCode::GUEST_INVALID_DEVICE_SECRET,
            Self::NotGuest => ErrorCode::GUEST_NOT_UNCLAIMED,
            Self::Confirmation => ErrorCode::PLAYER_CONFIRMATION_FAILED,
            Self::ConfirmationMissing => ErrorCode::MISSING_FIELD,
            Self::PlayerGone => ErrorCode::PLAYER_NOT_FOUND,
            Self::Banned(_) => ErrorCode::FORBIDDEN,
            Self::Busy | Self::Auth(AuthError::Unavailable(_)) => ErrorCode::NOT_READY,
            Self::Auth(_) => ErrorCode::AUTH_TOKEN_ISSUE_FAILED,
            Self::Store(_) => ErrorCode::INTERNAL,
        }
    }
}

impl From<Busy> for IssueError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl From<sqlx::Error> for IssueError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<TakenOr> for IssueError {
    fn from(error: TakenOr) -> Self {
        match error {
            TakenOr::Taken => Self::UsernameTaken,
            TakenOr::Store(error) => Self::Store(error),
        }
    }
}

/// Makes tokens on behalf of one process.
pub struct Issuer {
    pool: PgPool,
    publisher: Publisher,
    verifier: Arc<Verifier>,
    hasher: Hasher,
    /// Keys the hash of device secrets; shared by all nodes.
    pepper: Vec<u8>,
    access_ttl_s: f64,
    refresh_ttl_s: f64,
    registration: bool,
    guests: bool,
}

impl Issuer {
    /// # Errors
    /// When the shared pepper cannot be read.
    pub async fn start(
        pool: PgPool,
        publisher: Publisher,
        verifier: Arc<Verifier>,
        auth: &config::Auth,
    ) -> anyhow::Result<Arc<Self>> {
        let pepper = tokens::cluster_secret(&pool, "device_pepper").await?.ok_or_else(|| {
            anyhow::anyhow!("the database has no device_pepper in cluster_secrets: run `asobi migrate`")
        })?;
        Ok(Arc::new(Self {
            pool,
            publisher,
            verifier,
            hasher: Hasher::new(auth.hashing_threads(), auth.hash_queue)?,
            pepper: pepper.into_bytes(),
            access_ttl_s: auth.access_ttl().as_secs_f64(),
            refresh_ttl_s: auth.refresh_ttl().as_secs_f64(),
            registration: auth.registration,
            guests: auth.guest,
        }))
    }

    /// # Errors
    /// [`IssueError`]
    pub async fn register(
        &self,
        username: &str,
        password: &str,
        display_name: Option<&str>,
    ) -> Result<Account, IssueError> {
        if !self.registration {
            return Err(IssueError::RegistrationClosed);
        }
        rules::check_account(username, password, display_name).map_err(IssueError::Fields)?;
        let hash = self.hasher.hash(password).await?;
        let player_id = Uuid::now_v7();
        let mut tx = asobi_store::begin(&self.pool).await?;
        players::insert(&mut tx, player_id, username, display_name, Some(&hash)).await?;
        let login = self.begin(&mut tx, player_id).await?;
        tx.commit().await?;
        self.account(player_id, username.to_owned(), login)
    }

    /// Tells neither by its answer nor by its time whether the name exists.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn login(&self, username: &str, password: &str) -> Result<Account, IssueError> {
        let found = if username.contains('\0') { None } else { players::by_username(&self.pool, username).await? };
        let stored = found.as_ref().and_then(|player| player.password_hash.as_deref());
        let matches = self.hasher.verify(stored, password).await?;
        let Some(player) = found.filter(|_| matches) else {
            metrics::counter!("asobi_auth_failures_total", "what" => "login").increment(1);
            return Err(IssueError::Credentials);
        };
        self.log_in(player.id, player.username).await
    }

    /// # Errors
    /// [`IssueError::RefreshToken`] for one that is unknown, expired, revoked or was used before; the last revokes the
    /// whole family.
    pub async fn refresh(&self, refresh_token: &str) -> Result<TokenPair, IssueError> {
        let (next, next_hash) = opaque();
        let presented = hashed(refresh_token);
        let outcome =
            tokens::refresh(&self.pool, &presented, &next_hash, self.refresh_ttl_s, self.access_ttl_s).await?;
        match outcome {
            Refresh::Rotated { player_id, family, issued_at } => {
                let access_token = self.verifier.issue(player_id, family, issued_at)?;
                Ok(TokenPair { access_token, refresh_token: next })
            }
            Refresh::Reused(revocation) => {
                tracing::warn!(family.id = %revocation.subject, "A used refresh token was presented: its family is revoked.");
                self.verifier.spread(&self.publisher, revocation);
                Err(IssueError::RefreshToken)
            }
            Refresh::Dead => Err(IssueError::RefreshToken),
            Refresh::Banned(ban) => Err(IssueError::Banned(ban)),
        }
    }

    /// Ends the families of the presented tokens, or with `everywhere` all of the player's, on every node.
    ///
    /// # Errors
    /// Only when it could not be written; tokens that mean nothing are no error.
    pub async fn logout(
        &self,
        presented: Option<&Claims>,
        refresh_token: Option<&str>,
        everywhere: bool,
    ) -> Result<(), IssueError> {
        let mut tx = asobi_store::begin(&self.pool).await?;
        let of_refresh = match refresh_token {
            Some(token) => tokens::family_of_refresh(&mut tx, &hashed(token)).await?,
            None => None,
        };
        let of_access = presented.map(|claims| (claims.family, claims.player_id));
        // In one order always, so that two logouts never wait for each other.
        let mut logins: Vec<_> = [of_refresh, of_access].into_iter().flatten().collect();
        logins.sort_unstable();
        logins.dedup();
        let mut ended = Vec::with_capacity(logins.len());
        if everywhere {
            let mut owners: Vec<_> = logins.iter().map(|(_, player)| *player).collect();
            owners.sort_unstable();
            owners.dedup();
            for player in owners {
                ended.push(tokens::revoke_player(&mut tx, player, "logged_out", self.access_ttl_s).await?);
            }
        } else {
            for (family, _) in logins {
                ended.extend(tokens::revoke_family(&mut tx, family, "logged_out", self.access_ttl_s).await?);
            }
        }
        tx.commit().await?;
        for revocation in ended {
            self.verifier.spread(&self.publisher, revocation);
        }
        Ok(())
    }

    /// The guest of a device, made if it is new.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn guest(&self, device_id: &str, device_secret: &str) -> Result<Guest, IssueError> {
        if !self.guests {
            return Err(IssueError::GuestsDisabled);
        }
        if !rules::device_id_is_valid(device_id) {
            return Err(IssueError::DeviceId);
        }
        let secret = rules::device_secret(device_secret).ok_or(IssueError::WeakDeviceSecret)?;
        let mac = self.device_mac(device_id, &secret)?;
        if let Some(account) = self.known_guest(device_id, &mac).await? {
            return Ok(Guest { account, created: false });
        }
        match self.new_guest(device_id, mac.clone()).await {
            // Another request made it meanwhile: then it is known.
            Err(IssueError::UsernameTaken) => {
                let account = self.known_guest(device_id, &mac).await?.ok_or(IssueError::Busy)?;
                Ok(Guest { account, created: false })
            }
            made => made.map(|account| Guest { account, created: true }),
        }
    }

    async fn known_guest(&self, device_id: &str, mac: &Hmac<Sha256>) -> Result<Option<Account>, IssueError> {
        let Some(device) = players::device(&self.pool, device_id).await? else {
            return Ok(None);
        };
        // Compares in constant time.
        mac.clone().verify_slice(&device.secret_hash).map_err(|_| IssueError::DeviceSecret)?;
        self.log_in(device.player_id, device.username).await.map(Some)
    }

    async fn new_guest(&self, device_id: &str, mac: Hmac<Sha256>) -> Result<Account, IssueError> {
        let player_id = Uuid::now_v7();
        let username = format!("guest_{:016x}", rand::rng().next_u64());
        let mut tx = asobi_store::begin(&self.pool).await?;
        players::insert(&mut tx, player_id, &username, None, None).await?;
        players::insert_device(&mut tx, device_id, player_id, &mac.finalize().into_bytes()).await?;
        let login = self.begin(&mut tx, player_id).await?;
        tx.commit().await?;
        self.account(player_id, username, login)
    }

    /// Makes a guest an account under the same id; every token and socket it had ends.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn upgrade(&self, claims: &Claims, username: &str, password: &str) -> Result<Account, IssueError> {
        let player_id = claims.player_id;
        rules::check_account(username, password, None).map_err(IssueError::Fields)?;
        let hash = self.hasher.hash(password).await?;
        let mut tx = asobi_store::begin(&self.pool).await?;
        let player = players::credentials(&mut tx, player_id).await?.ok_or(IssueError::PlayerGone)?;
        if !player.guest {
            return Err(IssueError::NotGuest);
        }
        players::upgrade(&mut tx, player_id, username, &hash).await?;
        let revocation = tokens::revoke_player(&mut tx, player_id, "upgraded", self.access_ttl_s).await?;
        let login = self.begin_again(&mut tx, player_id).await?;
        tx.commit().await?;
        self.verifier.spread(&self.publisher, revocation);
        self.account(player_id, username.to_owned(), login)
    }

    /// Deletes a player with everything that is theirs. An account confirms with its password, a guest needs none.
    ///
    /// # Errors
    /// [`IssueError`]
    pub async fn erase(&self, claims: &Claims, password: Option<&str>) -> Result<(), IssueError> {
        let player_id = claims.player_id;
        let mut tx = asobi_store::begin(&self.pool).await?;
        let player = players::credentials(&mut tx, player_id).await?.ok_or(IssueError::PlayerGone)?;
        // Hashing is slow: no transaction waits for it.
        tx.rollback().await?;
        if let Some(stored) = player.password_hash.as_deref() {
            let password = password.ok_or(IssueError::ConfirmationMissing)?;
            if !self.hasher.verify(Some(stored), password).await? {
                return Err(IssueError::Confirmation);
            }
        }
        erasure::leave_party(&self.pool, &self.publisher, player_id).await?;
        let mut tx = asobi_store::begin(&self.pool).await?;
        let ended = erasure::erase(&mut tx, player_id, self.access_ttl_s).await?.ok_or(IssueError::PlayerGone)?;
        audit::append(&mut tx, &by_themself(player_id)).await?;
        tx.commit().await?;
        self.verifier.spread(&self.publisher, ended.revocation);
        erasure::withdrawn(&self.publisher, ended.tickets);
        tracing::info!(player.id = %player_id, "A player was erased at their own wish.");
        Ok(())
    }

    async fn log_in(&self, player_id: Uuid, username: String) -> Result<Account, IssueError> {
        let mut tx = asobi_store::begin(&self.pool).await?;
        let login = self.begin_again(&mut tx, player_id).await?;
        tx.commit().await?;
        self.account(player_id, username, login)
    }

    /// For a player who was there before, and so may be banned: asked after the family is in, which waits for a ban.
    async fn begin_again(&self, conn: &mut PgConnection, player_id: Uuid) -> Result<Login, IssueError> {
        let login = self.begin(conn, player_id).await?;
        match bans::of(conn, player_id).await? {
            Some(ban) => Err(IssueError::Banned(ban)),
            None => Ok(login),
        }
    }

    async fn begin(&self, conn: &mut PgConnection, player_id: Uuid) -> Result<Login, IssueError> {
        let family = Uuid::now_v7();
        let (refresh_token, hash) = opaque();
        let issued_at = tokens::begin_family(conn, family, player_id, &hash, self.refresh_ttl_s).await?;
        Ok(Login { family, refresh_token, issued_at })
    }

    fn account(&self, player_id: Uuid, username: String, login: Login) -> Result<Account, IssueError> {
        let access_token = self.verifier.issue(player_id, login.family, login.issued_at)?;
        let tokens = TokenPair { access_token, refresh_token: login.refresh_token };
        Ok(Account { player_id, username, tokens })
    }

    fn device_mac(&self, device_id: &str, secret: &[u8]) -> Result<Hmac<Sha256>, IssueError> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.pepper).map_err(|_| IssueError::Busy)?;
        mac.update(device_id.as_bytes());
        mac.update(&[0]);
        mac.update(secret);
        Ok(mac)
    }
}

/// What the audit says of a player who erased themself.
fn by_themself(player_id: Uuid) -> audit::Entry {
    audit::Entry {
        actor: format!("player:{player_id}"),
        action: "PlayerService/ErasePlayer".into(),
        subject: player_id.to_string(),
        done: true,
        request_id: None,
        detail: serde_json::json!({}),
    }
}

struct Login {
    family: Uuid,
    refresh_token: String,
    issued_at: i64,
}

/// A new refresh token and what is stored of it.
fn opaque() -> (String, Vec<u8>) {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    let text = URL_SAFE_NO_PAD.encode(bytes);
    let hash = hashed(&text);
    (text, hash)
}

/// 256 random bits need no slow hash.
fn hashed(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
