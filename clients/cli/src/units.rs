//! Units as people write them: `20GB`, `30d`. Bytes are decimal unless the unit says `i`
//! (`GiB`), as the panel and the plans count.

use jiff::{SignedDuration, Timestamp};

/// A number of bytes: `500MB`, `1.5GiB`, `0`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size; write it like 500MB, 20GB or 1.5GiB");
    let at = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(wrong);
    }
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let bytes = number * factor as f64;
    if !bytes.is_finite() || bytes >= u64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes.round() as u64)
}

/// Bytes in the largest decimal unit that leaves a whole part: `20 GB`.
pub(crate) fn shown_bytes(bytes: u64) -> String {
    let units = [
        ("TB", 1_000_000_000_000_u64),
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("kB", 1_000),
    ];
    for (unit, factor) in units {
        if bytes >= factor {
            let tenths = bytes / (factor / 10);
            return match tenths % 10 {
                0 => format!("{} {unit}", tenths / 10),
                rest => format!("{}.{rest} {unit}", tenths / 10),
            };
        }
    }
    format!("{bytes} B")
}

/// Seconds of a span: `90s`, `15m`, `12h`, `30d`, `2w`.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let wrong = || format!("{text:?} is no span; write it like 15m, 12h, 30d or 2w");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let factor = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return Err(wrong()),
    };
    let number: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    Ok(i64::from(number) * factor)
}

/// A moment: a span from `now` (`30d`), or a time of RFC 3339.
pub(crate) fn moment(text: &str, now: Timestamp, past: bool) -> Result<String, String> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time.to_string());
    }
    let wrong = || format!("{text:?} is no time; write it like 30d or 2027-01-31T00:00:00Z");
    let span = SignedDuration::from_secs(seconds(text).map_err(|_| wrong())?);
    let time = if past {
        now.checked_sub(span)
    } else {
        now.checked_add(span)
    };
    Ok(time.map_err(|_| wrong())?.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_decimal_and_binary_units() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("20GB"), Ok(20_000_000_000));
        assert_eq!(bytes("1.5GiB"), Ok(1_610_612_736));
        assert_eq!(bytes("7 mb"), Ok(7_000_000));
        for wrong in ["", "GB", "-1", "3XB", "99999999999TB", "1.2.3GB"] {
            bytes(wrong).unwrap_err();
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        assert_eq!(shown_bytes(0), "0 B");
        assert_eq!(shown_bytes(999), "999 B");
        assert_eq!(shown_bytes(20_000_000_000), "20 GB");
        assert_eq!(shown_bytes(1_550_000), "1.5 MB");
    }

    #[test]
    fn moments_are_spans_from_now_or_times() {
        let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let at = |text, past| moment(text, now, past);
        assert_eq!(at("30d", false).unwrap(), "2027-01-31T00:00:00Z");
        assert_eq!(at("1h", true).unwrap(), "2026-12-31T23:00:00Z");
        assert_eq!(
            at("2027-05-01T00:00:00Z", false).unwrap(),
            "2027-05-01T00:00:00Z"
        );
        for wrong in ["", "d", "30", "soon", "-1d", "é"] {
            at(wrong, false).unwrap_err();
        }
    }
}
