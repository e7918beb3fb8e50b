//! Boards as operators see them: what is right of their settings, and how those look on the wire.

use asobi_proto::social_v1::{self as wire, BoardOperator, BoardOrder, BoardSettings};
use asobi_service_kit::grpc::invalid;
use asobi_store::boards::{Board, Operator, Period, Rules, SCHEDULE_BYTES, Settings, is_schedule};
use prost_types::FieldMask;
use tonic::Status;

use crate::wire::{json_object, timestamp};

const TITLE_BYTES: usize = 256;
const METADATA_BYTES: usize = 4_096;

/// The names of all settings, as a mask has them.
const FIELDS: [&str; 9] = [
    "title",
    "metadata_json",
    "order",
    "operator",
    "reset_schedule",
    "min_score",
    "max_score",
    "client_submit",
    "periods_kept",
];

/// All settings of a new board.
pub(super) fn read(given: BoardSettings) -> Result<Settings, Status> {
    let mut settings = Settings::default();
    for field in FIELDS {
        take(&mut settings, &given, field)?;
    }
    check(&settings)?;
    Ok(settings)
}

/// The fields that a mask names.
pub(super) fn fields(mask: Option<FieldMask>) -> Result<Vec<&'static str>, Status> {
    let paths = mask.unwrap_or_default().paths;
    if paths.is_empty() || paths.len() > FIELDS.len() {
        return Err(invalid("update_mask", format!("must name one to {} settings", FIELDS.len())));
    }
    let known = |path: &String| FIELDS.into_iter().find(|field| field == path);
    let wrong = || invalid("update_mask", format!("must name settings, which are {}", FIELDS.join(", ")));
    paths.iter().map(|path| known(path).ok_or_else(wrong)).collect()
}

/// Changes the settings that are named to what is given.
pub(super) fn change(settings: &mut Settings, given: &BoardSettings, fields: &[&'static str]) -> Result<(), Status> {
    for field in fields {
        take(settings, given, field)?;
    }
    check(settings)
}

fn take(settings: &mut Settings, given: &BoardSettings, field: &str) -> Result<(), Status> {
    let of = |field: &str| format!("settings.{field}");
    match field {
        "title" => settings.title.clone_from(&given.title),
        "metadata_json" => {
            settings.metadata = json_object(&given.metadata_json, &of(field), METADATA_BYTES)?;
        }
        "order" => {
            let order = BoardOrder::try_from(given.order).map_err(|_| invalid(&of(field), "is none that is known"))?;
            settings.rules.descending = order != BoardOrder::Low;
        }
        "operator" => {
            let unknown = |_| invalid(&of(field), "is none that is known");
            settings.rules.operator = match BoardOperator::try_from(given.operator).map_err(unknown)? {
                BoardOperator::Best => Operator::Best,
                BoardOperator::Sum => Operator::Sum,
                BoardOperator::Last | BoardOperator::Unspecified => Operator::Last,
            };
        }
        "reset_schedule" => {
            settings.reset_schedule = Some(given.reset_schedule.trim().to_owned()).filter(|text| !text.is_empty());
        }
        "min_score" => settings.min_score = given.min_score,
        "max_score" => settings.max_score = given.max_score,
        "client_submit" => settings.client_submit = given.client_submit,
        "periods_kept" => settings.periods_kept = given.periods_kept,
        _ => return Err(invalid("update_mask", format!("names {field}, which is no setting"))),
    }
    Ok(())
}

/// Whether settings are right, each and together.
fn check(settings: &Settings) -> Result<(), Status> {
    if settings.title.len() > TITLE_BYTES || settings.title.contains('\0') {
        return Err(invalid("settings.title", format!("must have at most {TITLE_BYTES} bytes of text")));
    }
    if settings.reset_schedule.as_deref().is_some_and(|schedule| !is_schedule(schedule)) {
        let what = format!(
            "must be a cron pattern of five fields, such as \"0 0 * * MON\", of at most {SCHEDULE_BYTES} bytes"
        );
        return Err(invalid("settings.reset_schedule", what));
    }
    for (field, bound) in [("settings.min_score", settings.min_score), ("settings.max_score", settings.max_score)] {
        if bound.is_some_and(|bound| !bound.is_finite()) {
            return Err(invalid(field, "must be finite"));
        }
    }
    if let (Some(min), Some(max)) = (settings.min_score, settings.max_score)
        && min > max
    {
        return Err(invalid("settings.min_score", "must not be above settings.max_score"));
    }
    if settings.periods_kept.is_some_and(|kept| kept < 0) {
        return Err(invalid("settings.periods_kept", "must not be negative"));
    }
    Ok(())
}

pub(super) fn board(board: &Board) -> wire::Board {
    let settings = &board.settings;
    let Rules { descending, operator } = settings.rules;
    let order = if descending { BoardOrder::High } else { BoardOrder::Low };
    let operator = match operator {
        Operator::Best => BoardOperator::Best,
        Operator::Last => BoardOperator::Last,
        Operator::Sum => BoardOperator::Sum,
    };
    wire::Board {
        leaderboard_id: board.id.clone(),
        settings: Some(BoardSettings {
            title: settings.title.clone(),
            metadata_json: settings.metadata.to_string(),
            order: order.into(),
            operator: operator.into(),
            reset_schedule: settings.reset_schedule.clone().unwrap_or_default(),
            min_score: settings.min_score,
            max_score: settings.max_score,
            client_submit: settings.client_submit,
            periods_kept: settings.periods_kept,
        }),
        period: board.period,
        period_began_at: timestamp(board.period_began),
        next_reset_at: board.next_reset_at.and_then(timestamp),
        created_at: timestamp(board.inserted_at),
        sequence: board.seq,
        declared: board.declared,
    }
}

pub(super) fn period(period: &Period) -> wire::BoardPeriod {
    wire::BoardPeriod {
        period: period.period,
        began_at: timestamp(period.began_at),
        ended_at: timestamp(period.ended_at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given() -> BoardSettings {
        BoardSettings {
            title: "Weekly".into(),
            order: BoardOrder::Low.into(),
            operator: BoardOperator::Best.into(),
            reset_schedule: " @weekly ".into(),
            min_score: Some(0.0),
            max_score: Some(10.0),
            ..BoardSettings::default()
        }
    }

    #[test]
    fn settings_are_read_and_checked_together() {
        let settings = read(given()).expect("right");
        assert_eq!(settings.rules, Rules { descending: false, operator: Operator::Best });
        assert_eq!(settings.reset_schedule.as_deref(), Some("@weekly"));
        for wrong in [
            BoardSettings { title: "x".repeat(257), ..given() },
            BoardSettings { metadata_json: "[]".into(), ..given() },
            BoardSettings { order: 7, ..given() },
            BoardSettings { operator: 7, ..given() },
            BoardSettings { reset_schedule: "weekly".into(), ..given() },
            BoardSettings { min_score: Some(11.0), ..given() },
            BoardSettings { max_score: Some(f64::NAN), ..given() },
            BoardSettings { periods_kept: Some(-1), ..given() },
        ] {
            assert!(read(wrong.clone()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn only_what_the_mask_names_changes() {
        let mut settings = read(given()).expect("right");
        let mask = |paths: &[&str]| Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() });
        let named = fields(mask(&["max_score", "client_submit"])).expect("known");
        change(&mut settings, &BoardSettings { client_submit: true, ..BoardSettings::default() }, &named)
            .expect("right");
        assert_eq!((settings.max_score, settings.client_submit, settings.title.as_str()), (None, true, "Weekly"));
        for wrong in [None, mask(&[]), mask(&["size"])] {
            assert!(fields(wrong).is_err());
        }
        let named = fields(mask(&["max_score"])).expect("known");
        let below = BoardSettings { max_score: Some(-1.0), ..BoardSettings::default() };
        assert!(change(&mut settings, &below, &named).is_err(), "below the minimum that is there");
    }
}
