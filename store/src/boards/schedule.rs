//! When a board begins anew: a cron pattern of five fields, in UTC.

use chrono::{DateTime, Utc};
use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
use time::OffsetDateTime;

/// Longest pattern, bytes.
pub const SCHEDULE_BYTES: usize = 128;

/// The first time after `after` that a pattern names; none: it names no time any more, or is no pattern.
#[must_use]
pub fn next(schedule: &str, after: OffsetDateTime) -> Option<OffsetDateTime> {
    let after = DateTime::<Utc>::from_timestamp(after.unix_timestamp(), after.nanosecond())?;
    let next = parse(schedule)?.find_next_occurrence(&after, false).ok()?;
    OffsetDateTime::from_unix_timestamp(next.timestamp()).ok()
}

/// Whether a pattern can be read: minute, hour, day of the month, month, day of the week. Names such as `MON` and `@weekly` will do.
#[must_use]
pub fn is_schedule(schedule: &str) -> bool {
    parse(schedule).is_some()
}

fn parse(schedule: &str) -> Option<Cron> {
    if schedule.len() > SCHEDULE_BYTES || !schedule.is_ascii() {
        return None;
    }
    // A board is not reset more often than once a minute.
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build().parse(schedule).ok()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn patterns_name_times_in_utc() {
        let tuesday = datetime!(2026-11-24 10:30 UTC);
        for (schedule, expected) in [
            ("0 0 * * MON", datetime!(2026-11-30 0:00 UTC)),
            ("@weekly", datetime!(2026-11-29 0:00 UTC)),
            ("0 4 1 * *", datetime!(2026-12-01 4:00 UTC)),
            ("*/15 * * * *", datetime!(2026-11-24 10:45 UTC)),
            // Later than, not at.
            ("30 10 * * *", datetime!(2026-11-25 10:30 UTC)),
        ] {
            assert_eq!(next(schedule, tuesday), Some(expected), "{schedule}");
        }
        // Whoever asks in another zone means the same moment.
        assert_eq!(next("0 0 * * *", datetime!(2026-11-25 1:30 +2)), Some(datetime!(2026-11-25 0:00 UTC)));
    }

    #[test]
    fn what_is_no_pattern_names_nothing() {
        for wrong in ["", "weekly", "* * * *", "60 * * * *", "0 0 0 * * *", "0 0 * * * * 2030", "0 0 31 2 * x"] {
            assert!(!is_schedule(wrong), "{wrong:?}");
        }
        assert!(!is_schedule(&format!("0 0 * * {}", "1,".repeat(100))));
        // A pattern, and no day will ever be like that.
        assert_eq!(next("0 0 31 2 *", datetime!(2026-11-24 0:00 UTC)), None);
    }
}
