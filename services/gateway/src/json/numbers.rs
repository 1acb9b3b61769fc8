//! Decimal and calendar forms of numbers, written without going through `fmt`: usage lists are
//! mostly numbers and timestamps.

/// Appends `value` in decimal.
pub(crate) fn push_u64(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Appends `value` in decimal.
pub(crate) fn push_i64(out: &mut Vec<u8>, value: i64) {
    if value < 0 {
        out.push(b'-');
    }
    push_u64(out, value.unsigned_abs());
}

/// Appends an instant in RFC 3339, UTC, with 0, 3, 6 or 9 digits of fraction. False when it lies
/// outside the years 1 to 9999, which is all that protojson can say.
pub(crate) fn push_timestamp(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> bool {
    const FIRST: i64 = -62_135_596_800;
    const LAST: i64 = 253_402_300_799;
    let Some(nanos) = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000) else {
        return false;
    };
    if !(FIRST..=LAST).contains(&seconds) {
        return false;
    }
    let (year, month, day) = civil(seconds.div_euclid(86_400));
    let second = seconds.rem_euclid(86_400).unsigned_abs();
    push_padded(out, year, 4);
    out.push(b'-');
    push_padded(out, month, 2);
    out.push(b'-');
    push_padded(out, day, 2);
    out.push(b'T');
    push_padded(out, second / 3600, 2);
    out.push(b':');
    push_padded(out, second / 60 % 60, 2);
    out.push(b':');
    push_padded(out, second % 60, 2);
    push_fraction(out, nanos);
    out.push(b'Z');
    true
}

/// Appends a duration as seconds with an `s`. False when it is out of the ±10,000 years of
/// google.protobuf.Duration, or its parts disagree in sign.
pub(crate) fn push_duration(out: &mut Vec<u8>, seconds: i64, nanos: i32) -> bool {
    const MOST: u64 = 315_576_000_000;
    let disagree = (seconds > 0 && nanos < 0) || (seconds < 0 && nanos > 0);
    if disagree || seconds.unsigned_abs() > MOST || nanos.unsigned_abs() >= 1_000_000_000 {
        return false;
    }
    if seconds < 0 || nanos < 0 {
        out.push(b'-');
    }
    push_u64(out, seconds.unsigned_abs());
    push_fraction(out, nanos.unsigned_abs());
    out.push(b's');
    true
}

fn push_fraction(out: &mut Vec<u8>, nanos: u32) {
    if nanos == 0 {
        return;
    }
    out.push(b'.');
    if nanos.is_multiple_of(1_000_000) {
        push_padded(out, u64::from(nanos / 1_000_000), 3);
    } else if nanos.is_multiple_of(1_000) {
        push_padded(out, u64::from(nanos / 1_000), 6);
    } else {
        push_padded(out, u64::from(nanos), 9);
    }
}

fn push_padded(out: &mut Vec<u8>, value: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    let mut value = value;
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Year, month and day of a day counted from 1970-01-01 (Gregorian calendar). Years are counted
/// from March, so that the leap day is the last of its year.
fn civil(days: i64) -> (u64, u64, u64) {
    // 400-year eras since 0000-03-01; the callers' range keeps `days` positive here.
    let days = (days + 719_468).unsigned_abs();
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Option<String> {
        let mut out = Vec::new();
        write(&mut out).then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn timestamps_over_the_whole_range_read_as_the_calendar_says() {
        for (seconds, nanos, expected) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_795_474_097, 120_000_000, "2026-11-23T22:48:17.120Z"),
            (-1, 999_999_999, "1969-12-31T23:59:59.999999999Z"),
            (-62_135_596_800, 1_000, "0001-01-01T00:00:00.000001Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
            (4_107_542_399, 0, "2100-02-28T23:59:59Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
        ] {
            let got = text(|out| push_timestamp(out, seconds, nanos));
            assert_eq!(got.as_deref(), Some(expected));
        }
        assert_eq!(text(|out| push_timestamp(out, -62_135_596_801, 0)), None);
        assert_eq!(text(|out| push_timestamp(out, 253_402_300_800, 0)), None);
        assert_eq!(text(|out| push_timestamp(out, 0, -1)), None);
        assert_eq!(text(|out| push_timestamp(out, 0, 1_000_000_000)), None);
    }

    #[test]
    fn durations_keep_their_sign_and_precision() {
        for (seconds, nanos, expected) in [
            (0, 0, "0s"),
            (3, 500_000_000, "3.500s"),
            (0, -1_000, "-0.000001s"),
            (-7, -1, "-7.000000001s"),
            (315_576_000_000, 0, "315576000000s"),
        ] {
            let got = text(|out| push_duration(out, seconds, nanos));
            assert_eq!(got.as_deref(), Some(expected));
        }
        assert_eq!(text(|out| push_duration(out, 1, -1)), None);
        assert_eq!(text(|out| push_duration(out, i64::MIN, 0)), None);
        assert_eq!(text(|out| push_duration(out, 0, i32::MIN)), None);
    }

    #[test]
    fn integers_at_their_ends() {
        let mut out = Vec::new();
        push_u64(&mut out, u64::MAX);
        out.push(b' ');
        push_i64(&mut out, i64::MIN);
        out.push(b' ');
        push_i64(&mut out, 0);
        assert_eq!(out, b"18446744073709551615 -9223372036854775808 0");
    }
}
