//! How much one transaction takes. On SQLite there is one writer, and whoever creates a user waits
//! for it: transactions shrink until they fit the slice. On Postgres nobody waits, and they are as
//! large as the settings allow.

use std::time::Duration;

/// Rows that a transaction takes at least.
const LEAST: u32 = 128;

/// The size of the next transaction, learned from those before.
#[derive(Debug)]
pub(super) struct Slice {
    /// How long a transaction should take; `None` is not bounded.
    target: Option<Duration>,
    most: u32,
    rows: u32,
}

impl Slice {
    /// Begins with a guess that fits a slow disk, where there is a target.
    pub(super) fn new(target: Option<Duration>, most: u32) -> Self {
        let rows = if target.is_some() {
            most.min(1_024)
        } else {
            most
        };
        Self { target, most, rows }
    }

    /// Rows that the next transaction may take. One submission is always taken whole.
    pub(super) fn rows(&self) -> u32 {
        self.rows
    }

    /// Learns from a transaction of `rows` that took `elapsed`.
    pub(super) fn learn(&mut self, rows: u32, elapsed: Duration) {
        let Some(target) = self.target else { return };
        let target = target.as_secs_f64();
        let elapsed = elapsed.as_secs_f64().max(0.000_1);
        if elapsed > target {
            // straight to what would have fitted, with some to spare
            let fits = f64::from(rows) * target / elapsed * 0.8;
            self.rows = (fits as u32).clamp(LEAST.min(self.most), self.most);
        } else if rows >= self.rows / 2 && elapsed < target * 0.7 {
            self.rows = self.rows.saturating_add(self.rows / 4).min(self.most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A database that commits so many rows per second.
    fn settle(slice: &mut Slice, per_second: f64) -> Duration {
        let mut took = Duration::ZERO;
        for _ in 0..50 {
            took = Duration::from_secs_f64(f64::from(slice.rows()) / per_second);
            slice.learn(slice.rows(), took);
        }
        took
    }

    #[test]
    fn transactions_settle_below_the_slice_on_fast_and_slow_disks() {
        let target = Duration::from_millis(50);
        for per_second in [5_000.0, 50_000.0, 1_000_000.0] {
            let mut slice = Slice::new(Some(target), 16_384);
            let took = settle(&mut slice, per_second);
            assert!(took <= target, "{per_second} rows/s took {took:?}");
            assert!(slice.rows() >= LEAST);
        }
    }

    #[test]
    fn a_disk_that_slows_down_is_noticed_at_once_and_forgotten_later() {
        let mut slice = Slice::new(Some(Duration::from_millis(50)), 16_384);
        settle(&mut slice, 100_000.0);
        let before = slice.rows();
        slice.learn(before, Duration::from_secs(1));
        assert!(slice.rows() < before / 10);
        settle(&mut slice, 100_000.0);
        assert!(slice.rows() > before / 2);
    }

    #[test]
    fn without_a_target_transactions_are_as_large_as_allowed() {
        let mut slice = Slice::new(None, 16_384);
        slice.learn(16_384, Duration::from_secs(9));
        assert_eq!(slice.rows(), 16_384);
    }
}
