//! The span and the steps of a series.

use prost_types::Timestamp;
use vpnpanel_api::usage::v1::Interval;
use vpnpanel_store::UsageQuery;

use super::time;
use crate::Error;

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
const DEFAULT_DAYS: i64 = 30;
const MAX_DAYS: i64 = 400;
/// Most steps of one answer: a series of 400 days goes by days or hours, not by quarters.
const MAX_STEPS: i64 = 10_000;

/// What a request asks for; the last 30 days by the hour, where it says nothing.
///
/// # Errors
/// Times in the wrong order, too long a span, too many steps.
pub(crate) fn read(
    start: Option<&Timestamp>,
    end: Option<&Timestamp>,
    interval: i32,
    now_ms: i64,
) -> Result<UsageQuery, Error> {
    let (from_ms, to_ms) = span(start, end, DEFAULT_DAYS, MAX_DAYS, now_ms)?;
    let step_ms = match Interval::try_from(interval) {
        Ok(Interval::QuarterHour) => 15 * MINUTE_MS,
        Ok(Interval::Hour | Interval::Unspecified) => 60 * MINUTE_MS,
        Ok(Interval::Day) => DAY_MS,
        Err(_) => return Err(Error::field("interval", "is not a value of the enum")),
    };
    if (to_ms - from_ms) / step_ms > MAX_STEPS {
        Err(Error::field(
            "interval",
            format!("makes more than {MAX_STEPS} steps: take a longer one"),
        ))
    } else {
        Ok(UsageQuery {
            from_ms,
            to_ms,
            step_ms,
        })
    }
}

/// From when to when a request asks; where it says nothing, `days` until now.
///
/// # Errors
/// Times in the wrong order, more than `most_days` between them.
pub(crate) fn span(
    start: Option<&Timestamp>,
    end: Option<&Timestamp>,
    days: i64,
    most_days: i64,
    now_ms: i64,
) -> Result<(i64, i64), Error> {
    let to_ms = end.map_or(Ok(now_ms), |time| time::unix_ms("end_time", time))?;
    let from_ms = start.map_or(Ok(to_ms.saturating_sub(days * DAY_MS)), |time| {
        time::unix_ms("start_time", time)
    })?;
    let span = to_ms.saturating_sub(from_ms);
    if span <= 0 {
        Err(Error::field("end_time", "must be after start_time"))
    } else if span > most_days * DAY_MS {
        let why = format!("must be at most {most_days} days after start_time");
        Err(Error::field("end_time", why))
    } else {
        Ok((from_ms, to_ms))
    }
}

/// A span of whole 15 minutes.
pub(crate) fn in_quarters((from_ms, to_ms): (i64, i64)) -> (i64, i64) {
    let quarter = 15 * MINUTE_MS;
    let from = from_ms - from_ms.rem_euclid(quarter);
    (from, to_ms + (-to_ms).rem_euclid(quarter))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_474_800_000;

    fn query(
        start: Option<i64>,
        end: Option<i64>,
        interval: Interval,
    ) -> Result<UsageQuery, Error> {
        let start = start.map(time::timestamp);
        let end = end.map(time::timestamp);
        super::read(start.as_ref(), end.as_ref(), interval as i32, NOW)
    }

    #[test]
    fn nothing_said_is_thirty_days_by_the_hour() {
        let range = query(None, None, Interval::Unspecified).unwrap();
        assert_eq!(range.to_ms, NOW);
        assert_eq!(range.from_ms, NOW - 30 * DAY_MS);
        assert_eq!(range.step_ms, 3_600_000);
    }

    #[test]
    fn spans_are_bounded() {
        assert!(query(Some(NOW), Some(NOW), Interval::Day).is_err());
        assert!(query(Some(NOW - 401 * DAY_MS), Some(NOW), Interval::Day).is_err());
        assert!(query(Some(NOW - 400 * DAY_MS), Some(NOW), Interval::Day).is_ok());
        assert!(query(Some(NOW - 400 * DAY_MS), None, Interval::QuarterHour).is_err());
        assert!(super::read(None, None, 99, NOW).is_err());
    }
}
