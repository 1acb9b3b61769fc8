//! Figures for people.

use std::fmt;
use std::time::Duration;

/// Times that something took.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, times: impl IntoIterator<Item = Duration>) {
        self.0.extend(times);
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else {
            return f.write_str("none");
        };
        let at = |share: usize| {
            let index = (sorted.len() * share).div_ceil(100).saturating_sub(1);
            milliseconds(sorted.get(index).copied().unwrap_or(*last))
        };
        write!(
            f,
            "min {}, median {}, p99 {}, max {} ({} times)",
            milliseconds(*first),
            at(50),
            at(99),
            milliseconds(*last),
            sorted.len()
        )
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

/// Bytes with a unit, and to the byte.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut value, mut unit) = (self.0 as f64, "B");
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        if unit == "B" {
            write!(f, "{} B", self.0)
        } else {
            write!(f, "{value:.1} {unit} ({} bytes)", self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_what_was_seen() {
        let mut times = Times::default();
        assert_eq!(times.to_string(), "none");
        times.extend((1..=100).rev().map(Duration::from_millis));
        assert_eq!(
            times.to_string(),
            "min 1.0 ms, median 50.0 ms, p99 99.0 ms, max 100.0 ms (100 times)"
        );
    }

    #[test]
    fn bytes_are_shown_with_a_unit_and_to_the_byte() {
        assert_eq!(Bytes(1023).to_string(), "1023 B");
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB (1536 bytes)");
    }
}
