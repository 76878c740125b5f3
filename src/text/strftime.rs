//! Python's `strftime` for chat templates, in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::{
    Timestamp,
    fmt::strtime::{BrokenDownTime, Config},
};

/// Most bytes of a date for each byte of its format. The format can widen a field to at most 255 bytes (`%255Y`).
pub(super) const LONGEST_FIELD: u64 = 255 / 5 + 1;

/// Seconds since 1970-01-01, UTC.
pub(super) fn now() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since_epoch.as_secs()
}

/// The time in this format. Sequences that name no field of a date, such as `%é`, are copied as they are.
pub(super) fn at(seconds: u64, format: &str) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    let time = BrokenDownTime::from(Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX));
    // A lenient configuration returns no errors.
    let lenient = Config::new().lenient(true);
    time.to_string_with_config(&lenient, format).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_that_python_gives() {
        // datetime.fromtimestamp(t, timezone.utc).strftime("%A %d %B %Y %y %b %a %m %H:%M:%S %%")
        let format = "%A %d %B %Y %y %b %a %m %H:%M:%S %%";
        assert_eq!(at(0, format), "Thursday 01 January 1970 70 Jan Thu 01 00:00:00 %");
        assert_eq!(
            at(1_709_210_096, format),
            "Thursday 29 February 2024 24 Feb Thu 02 12:34:56 %"
        );
        assert_eq!(
            at(4_107_542_399, format),
            "Sunday 28 February 2100 00 Feb Sun 02 23:59:59 %"
        );
    }

    #[test]
    fn what_is_no_field_stays() {
        assert_eq!(at(0, "100 % %Y, %é%"), "100 % 1970, %é%");
    }

    #[test]
    fn no_format_makes_more_than_is_paid_for() {
        for format in ["%255Y", "%0255d", "%A", "%255A", "%c", "%255c", "%Q"] {
            let most = format.len() as u64 * LONGEST_FIELD;
            assert!(at(0, format).len() as u64 <= most, "{format}");
        }
    }
}
