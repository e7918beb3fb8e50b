//! What people give, and what goes along with an order.

use std::time::Duration;

use prost_types::Timestamp;
use time::OffsetDateTime;
use uuid::Uuid;

/// For an order that is sent to one node after another and carried out once.
pub fn request_id() -> String {
    format!("ctl-{}", Uuid::now_v7())
}

/// To the second.
pub fn timestamp(at: OffsetDateTime) -> Timestamp {
    Timestamp { seconds: at.unix_timestamp(), nanos: 0 }
}

/// A whole number and its unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a number and s, m, h or d, such as 12h".to_owned();
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    // A thousand years, which dates reach.
    let most = 365 * 86_400 * 1_000;
    Some(u64::from(number) * seconds).filter(|s| (1..=most).contains(s)).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_numbers_with_a_unit() {
        for (text, seconds) in [("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)));
        }
        for wrong in ["", "h", "12", "0d", "-1h", "1w", "4294967295d", "12ü"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
