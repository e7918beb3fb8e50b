//! What the service's messages say, checked and put into our own words, and back.

use asobi_proto::{
    error::ErrorCode,
    social_v1::{Report as WireReport, ReportState, ReportedMessage, Word as WireWord, WordAction},
};
use asobi_service_kit::grpc::{invalid, status};
use asobi_store::{
    chat::deletions::Which,
    reports::{KIND_BYTES, Report},
    words::{self, WORD_BYTES, Word},
};
use tonic::Status;
use uuid::Uuid;

use crate::wire::{id, timestamp};

pub(super) fn text<'a>(field: &str, text: &'a str, most: usize) -> Result<&'a str, Status> {
    if text.len() > most || text.contains('\0') {
        return Err(invalid(field, format!("must have at most {most} bytes of text")));
    }
    Ok(text)
}

/// Empty: none.
pub(super) fn optional_id(text: &str, field: &str) -> Result<Option<Uuid>, Status> {
    if text.is_empty() {
        Ok(None)
    } else {
        Uuid::parse_str(text).map(Some).map_err(|_| invalid(field, "must be a UUID"))
    }
}

/// By its number, or by its id.
pub(super) fn message(seq: i64, message_id: &str) -> Result<Which, Status> {
    match (seq, message_id) {
        (1.., "") => Ok(Which::Seq(seq)),
        (0, "") => Err(invalid("seq", "or message_id must say which message")),
        (0, message_id) => id(message_id, "message_id").map(Which::Id),
        _ => Err(invalid("seq", "must be above 0, or 0 beside a message_id")),
    }
}

/// The studio's own word for what is wrong.
pub(super) fn kind(kind: &str) -> Result<&str, Status> {
    let is_plain = kind.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if kind.is_empty() || kind.len() > KIND_BYTES || !is_plain {
        return Err(status(ErrorCode::VALIDATION_FAILED, format!("kind must be 1 to {KIND_BYTES} of a-z, 0-9 and _")));
    }
    Ok(kind)
}

pub(super) fn open_only(state: ReportState) -> Option<bool> {
    match state {
        ReportState::Unspecified => None,
        ReportState::Open => Some(true),
        ReportState::Resolved => Some(false),
    }
}

pub(super) fn page_size(asked: i32, default: i64, most: i64) -> Result<i64, Status> {
    match i64::from(asked) {
        0 => Ok(default),
        size if (1..=most).contains(&size) => Ok(size),
        _ => Err(invalid("page_size", format!("must be 0, or 1 to {most}"))),
    }
}

/// A word as it is kept: in lower case, without what surrounds it.
pub(super) fn new_word(given: &str) -> Result<String, Status> {
    let wrong = || invalid("word", format!("must have 1 to {WORD_BYTES} bytes of text"));
    if given.len() > WORD_BYTES || given.contains('\0') {
        return Err(wrong());
    }
    let word = words::lower(given.trim());
    if word.is_empty() || word.len() > WORD_BYTES { Err(wrong()) } else { Ok(word) }
}

pub(super) fn word(word: Word) -> WireWord {
    let action = if word.refuses { WordAction::Refuse } else { WordAction::Mask };
    WireWord {
        word: word.word,
        action: action.into(),
        whole: word.whole,
        added_by: word.added_by,
        added_at: timestamp(word.added_at),
    }
}

pub(super) fn report(report: Report) -> WireReport {
    let message = report.message.map(|message| ReportedMessage {
        channel_id: message.channel_id,
        seq: message.seq,
        message_id: message.message_id.to_string(),
        content: message.content,
        sent_at: timestamp(message.sent_at),
    });
    let state = if report.resolved.is_some() { ReportState::Resolved } else { ReportState::Open };
    let mut wire = WireReport {
        id: report.id.to_string(),
        reporter_id: report.reporter_id.map(|id| id.to_string()).unwrap_or_default(),
        player_id: report.player_id.to_string(),
        kind: report.kind,
        note: report.note,
        message,
        state: state.into(),
        reported_at: timestamp(report.inserted_at),
        ..WireReport::default()
    };
    if let Some(resolved) = report.resolved {
        wire.resolution = resolved.resolution;
        wire.remark = resolved.remark;
        wire.resolved_by = resolved.by;
        wire.resolved_at = timestamp(resolved.at);
    }
    wire
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_named_by_one_of_two() {
        let uuid = Uuid::from_u128(7);
        assert_eq!(message(5, "").unwrap(), Which::Seq(5));
        assert_eq!(message(0, &uuid.to_string()).unwrap(), Which::Id(uuid));
        for (seq, id) in [(0, ""), (-1, ""), (5, "x"), (0, "x"), (-1, "x")] {
            assert!(message(seq, id).is_err(), "{seq} {id:?}");
        }
    }

    #[test]
    fn words_and_kinds_are_plain() {
        assert_eq!(new_word(" Böse ").unwrap(), "böse");
        for wrong in ["", "  ", "a\0", &"ü".repeat(65)] {
            assert!(new_word(wrong).is_err(), "{wrong:?}");
        }
        assert!(kind("hate_speech2").is_ok());
        for wrong in ["", "Spam", "a b", &"x".repeat(33)] {
            assert!(kind(wrong).is_err(), "{wrong:?}");
        }
    }
}
