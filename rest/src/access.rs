//! Who may read a channel: the rule the WebSocket side joins by.

use asobi_proto::error::ErrorCode;
use uuid::Uuid;

use crate::{
    Rest,
    error::{ApiError, Result},
};

const CHANNEL_BYTES: usize = 200;

/// # Errors
/// The id is malformed, or this player may not.
pub(crate) async fn check(rest: &Rest, player: Uuid, channel: &str) -> Result<()> {
    let invalid = || ApiError::new(ErrorCode::CHAT_INVALID_CHANNEL_ID, "A channel id is scheme:name.");
    let (scheme, name) = channel.split_once(':').ok_or_else(invalid)?;
    if name.is_empty() || channel.len() > CHANNEL_BYTES || channel.contains('\0') {
        return Err(invalid());
    }
    let allowed = match scheme {
        "global" => rest.config.chat.global_channels.iter().any(|known| known == name),
        "dm" => is_own_dm(player, name),
        "match" => match Uuid::parse_str(name) {
            Ok(match_id) => asobi_store::matches::has_seat(&rest.pool, match_id, player).await?,
            Err(_) => false,
        },
        // Groups and worlds have no members yet.
        "room" | "world" | "zone" | "prox" => false,
        _ => return Err(invalid()),
    };
    if allowed { Ok(()) } else { Err(ApiError::forbidden("This channel is not open to you.")) }
}

/// `a:b`, sorted, one of them the player.
fn is_own_dm(player: Uuid, name: &str) -> bool {
    let Some((a, b)) = name.split_once(':') else { return false };
    let own = player.to_string();
    a <= b && (a == own || b == own) && Uuid::parse_str(a).is_ok() && Uuid::parse_str(b).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_direct_channel_is_its_two_players() {
        let (a, b, c) = (Uuid::from_u128(1), Uuid::from_u128(2), Uuid::from_u128(3));
        assert!(is_own_dm(a, &format!("{a}:{b}")) && is_own_dm(b, &format!("{a}:{b}")));
        assert!(!is_own_dm(c, &format!("{a}:{b}")) && !is_own_dm(a, &format!("{b}:{a}")));
        assert!(!is_own_dm(a, &a.to_string()) && !is_own_dm(a, &format!("{a}:x")));
    }
}
