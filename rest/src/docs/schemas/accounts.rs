//! Accounts, their log-ins, and players as others see them.

use serde_json::Value;
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(ToSchema)]
pub(crate) struct Registration {
    /// Of `A-Za-z0-9_-`.
    #[schema(min_length = 3, max_length = 32)]
    username: String,
    #[schema(min_length = 8)]
    password: String,
    display_name: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Credentials {
    username: String,
    password: String,
}

#[derive(ToSchema)]
pub(crate) struct GuestDevice {
    #[schema(min_length = 1, max_length = 128)]
    device_id: String,
    /// 32 to 128 random bytes that never leave the device, as base64.
    device_secret: String,
}

#[derive(ToSchema)]
pub(crate) struct Account {
    player_id: Uuid,
    #[schema(required = true)]
    username: Option<String>,
    access_token: String,
    refresh_token: String,
    /// Of a guest's log-in: true.
    guest: Option<bool>,
    /// True when this log-in made the guest.
    created: Option<bool>,
    /// True when this turned a guest into an account.
    upgraded: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct RefreshToken {
    refresh_token: String,
}

#[derive(ToSchema)]
pub(crate) struct Tokens {
    access_token: String,
    /// Single use: whoever presents it twice loses the whole family.
    refresh_token: String,
}

#[derive(ToSchema)]
pub(crate) struct Logout {
    refresh_token: Option<String>,
    /// Ends every log-in of the player.
    everywhere: Option<bool>,
}

#[derive(ToSchema)]
pub(crate) struct Player {
    id: Uuid,
    #[schema(required = true)]
    username: Option<String>,
    #[schema(required = true)]
    display_name: Option<String>,
    #[schema(required = true)]
    avatar_url: Option<String>,
    #[schema(value_type = Object)]
    metadata: Value,
    inserted_at: OffsetDateTime,
    updated_at: OffsetDateTime,
}

#[derive(ToSchema)]
pub(crate) struct PlayerChanges {
    /// Null empties it.
    #[schema(max_length = 64)]
    display_name: Option<String>,
    #[schema(max_length = 2048)]
    avatar_url: Option<String>,
    /// At most 16 KiB of JSON.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
}

#[derive(ToSchema)]
pub(crate) struct Confirmation {
    /// Needed where the account has one.
    password: Option<String>,
}

#[derive(ToSchema)]
pub(crate) struct Deleted {
    deleted: bool,
}
