//! Figures as people read them.

use maud::{Markup, html};

use super::texts::Texts;

/// An amount of bytes, to three digits, the unit apart.
pub(super) fn amount(bytes: u64, texts: &Texts) -> Markup {
    let (figure, unit) = scaled(bytes);
    let unit = texts.units.get(unit).copied().unwrap_or_default();
    html! { bdi { (figure) " " span.unit { (unit) } } }
}

/// The figure, and how many times a thousand it is: at most a million millions.
pub(in crate::subscription) fn scaled(bytes: u64) -> (String, usize) {
    // A figure for people: of more than three digits nothing is seen.
    #[allow(clippy::cast_precision_loss)]
    let mut figure = bytes as f64;
    let mut unit = 0;
    while figure >= 999.5 && unit < 4 {
        figure /= 1000.0;
        unit += 1;
    }
    let text = match (unit, figure) {
        (0, _) => format!("{figure:.0}"),
        (_, figure) if figure < 9.995 => format!("{figure:.2}"),
        (_, figure) if figure < 99.95 => format!("{figure:.1}"),
        _ => format!("{figure:.0}"),
    };
    (text, unit)
}

/// A moment, to the minute; `None` beyond the years that people count.
pub(super) fn moment(unix_ms: i64) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(unix_ms).ok()?;
    Some(time.strftime("%Y-%m-%d %H:%M UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_three_digits() {
        for (bytes, figure, unit) in [
            (0, "0", 0),
            (999, "999", 0),
            (1_000, "1.00", 1),
            (9_996, "10.0", 1),
            (999_600, "1.00", 2),
            (15_000_000_000, "15.0", 3),
            (123_456_000_000, "123", 3),
            (20_000_000_000_000_000, "20000", 4),
        ] {
            assert_eq!(scaled(bytes), (figure.to_owned(), unit));
        }
    }

    #[test]
    fn a_moment_that_is_none_is_left_out() {
        assert_eq!(moment(0).as_deref(), Some("1970-01-01 00:00 UTC"));
        assert_eq!(moment(i64::MAX), None);
    }
}
