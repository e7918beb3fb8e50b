//! What the service's messages say, checked and put into our own words.

use asobi_proto::{error::ErrorCode, ops_v1};
use asobi_service_kit::grpc::{invalid, status};
use asobi_store::mutes::Mute;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tonic::Status;
use uuid::Uuid;

pub(super) fn player_id(text: &str) -> Result<Uuid, Status> {
    Uuid::parse_str(text).map_err(|_| invalid("player_id", "must be a UUID"))
}

pub(super) fn text<'a>(field: &str, text: &'a str, most: usize) -> Result<&'a str, Status> {
    if text.len() > most || text.contains('\0') {
        return Err(invalid(field, format!("must have at most {most} bytes of text")));
    }
    Ok(text)
}

/// The end of a ban or a mute, as long as time stamps reach.
pub(super) fn end(until: prost_types::Timestamp) -> Result<OffsetDateTime, Status> {
    let nanos = u32::try_from(until.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    OffsetDateTime::from_unix_timestamp(until.seconds)
        .ok()
        .zip(nanos)
        .and_then(|(second, nanos)| second.replace_nanosecond(nanos).ok())
        .ok_or_else(|| invalid("until", "must be a time"))
}

pub(super) fn page_size(asked: i32, default: i64, most: i64) -> Result<i64, Status> {
    match i64::from(asked) {
        0 => Ok(default),
        size if (1..=most).contains(&size) => Ok(size),
        _ => Err(invalid("page_size", format!("must be 0, or 1 to {most}"))),
    }
}

/// A page of mutes goes on after a player and a channel.
pub(super) fn mutes_token(last: &Mute) -> String {
    format!("{}{}", last.player_id.simple(), last.channel_id)
}

pub(super) fn mutes_after(token: &str) -> Result<Option<(Uuid, String)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parts = token.split_at_checked(32).filter(|_| !token.contains('\0'));
    let after = parts.and_then(|(player, channel)| Some((Uuid::try_parse(player).ok()?, channel.to_owned())));
    after.map(Some).ok_or_else(|| invalid("page_token", "must be one that was answered before"))
}

pub(super) fn mute(mute: Mute) -> ops_v1::Mute {
    ops_v1::Mute {
        player_id: mute.player_id.to_string(),
        channel_id: mute.channel_id,
        reason: mute.reason,
        until: mute.until.map(timestamp),
        muted_by: mute.muted_by,
        muted_at: Some(timestamp(mute.muted_at)),
    }
}

fn timestamp(at: OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.unix_timestamp(), nanos: i32::try_from(at.nanosecond()).unwrap_or(0) }
}

/// As the audit writes times.
pub(super) fn rfc3339(at: OffsetDateTime) -> Option<String> {
    at.format(&Rfc3339).ok()
}

pub(super) fn unknown() -> Status {
    status(ErrorCode::PLAYER_NOT_FOUND, "there is no such player")
}

/// The database failed: logged here, said without details.
pub(super) fn unavailable(error: &asobi_store::Error) -> Status {
    tracing::warn!(%error, "What an operator asked could not be read.");
    status(ErrorCode::NOT_READY, "the database does not answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_bans_are_times() {
        let at = |seconds, nanos| end(prost_types::Timestamp { seconds, nanos });
        assert_eq!(at(1_785_312_000, 5).ok().map(OffsetDateTime::unix_timestamp), Some(1_785_312_000));
        assert!(at(i64::MAX, 0).is_err() && at(0, -1).is_err() && at(0, 1_000_000_000).is_err());
    }

    #[test]
    fn pages_go_on_where_they_ended() {
        let mute = |channel_id: &str| Mute {
            player_id: Uuid::from_u128(7),
            channel_id: channel_id.into(),
            reason: String::new(),
            until: None,
            muted_by: "node".into(),
            muted_at: OffsetDateTime::UNIX_EPOCH,
        };
        for channel in ["", "global:lobby", "global:schön"] {
            let token = mutes_token(&mute(channel));
            assert_eq!(mutes_after(&token).unwrap(), Some((Uuid::from_u128(7), channel.to_owned())));
        }
        assert_eq!(mutes_after("").unwrap(), None);
        for wrong in ["x", &"ü".repeat(20), &format!("{}\0", Uuid::nil().simple()), &"z".repeat(40)] {
            assert!(mutes_after(wrong).is_err(), "{wrong:?}");
        }
        assert!(page_size(501, 100, 500).is_err() && page_size(-1, 100, 500).is_err());
        assert_eq!(page_size(0, 100, 500).unwrap(), 100);
    }
}
