//! Instants and durations: milliseconds in the core, protobuf's well-known types on the wire.

use prost_types::{Duration, Timestamp};

use crate::Error;

/// The wire's form of milliseconds of the Unix epoch.
pub(crate) fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp {
        seconds: unix_ms.div_euclid(1000),
        // Below a thousand, so that the product fits.
        nanos: (unix_ms.rem_euclid(1000) as i32) * 1_000_000,
    }
}

/// Milliseconds of the Unix epoch; finer parts are cut off.
pub(crate) fn unix_ms(field: &'static str, time: &Timestamp) -> Result<i64, Error> {
    time.seconds
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(i64::from(time.nanos / 1_000_000)))
        .ok_or_else(|| Error::field(field, "is out of range"))
}

/// The wire's form of a duration.
pub(crate) fn duration(of: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        // Below 10⁹, so that it fits.
        nanos: of.subsec_nanos() as i32,
    }
}

/// The wire's form of milliseconds that are not negative.
pub(crate) fn duration_of_ms(ms: i64) -> Duration {
    Duration {
        seconds: ms / 1000,
        // Below a thousand, so that the product fits.
        nanos: (ms % 1000) as i32 * 1_000_000,
    }
}

/// Milliseconds of a duration, which is not negative; finer parts are cut off.
pub(crate) fn duration_ms(of: &Duration) -> i64 {
    of.seconds
        .saturating_mul(1000)
        .saturating_add(i64::from(of.nanos / 1_000_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_round_trip_before_and_after_1970() {
        for ms in [-1, 0, 1, 1_795_474_800_123] {
            assert_eq!(unix_ms("t", &timestamp(ms)).unwrap(), ms);
        }
        let far = Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert!(unix_ms("t", &far).is_err());
    }
}
