//! The time, as a value that is passed around, so that tests can drive it: wall time for people and
//! certificates, boot time for intervals (it never jumps, and goes on during suspend).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a [`Clock`] reads.
pub trait TimeSource: Send + Sync + std::fmt::Debug {
    /// Wall time, milliseconds since the Unix epoch. May jump.
    fn unix_millis(&self) -> i64;
    /// Time since the host booted, suspend included (`CLOCK_BOOTTIME`). Never goes back.
    fn since_boot(&self) -> Duration;
}

/// A handle to the time; cheap to clone.
#[derive(Debug, Clone)]
pub struct Clock(Arc<dyn TimeSource>);

impl Clock {
    /// The host's clock.
    pub fn system() -> Self {
        Self(Arc::new(SystemTimeSource))
    }

    /// A clock that stands still until its [`ManualTime`] is moved.
    pub fn manual(unix_millis: i64) -> (Self, ManualTime) {
        let time = ManualTime(Arc::new(ManualState {
            unix_millis: AtomicI64::new(unix_millis),
            boot_millis: AtomicU64::new(0),
        }));
        (Self(Arc::new(time.clone())), time)
    }

    /// A clock that reads from `source`.
    pub fn from_source(source: impl TimeSource + 'static) -> Self {
        Self(Arc::new(source))
    }

    /// Wall time, milliseconds since the Unix epoch.
    pub fn unix_millis(&self) -> i64 {
        self.0.unix_millis()
    }

    /// Wall time.
    pub fn now(&self) -> SystemTime {
        let millis = self.unix_millis();
        let magnitude = Duration::from_millis(millis.unsigned_abs());
        if millis < 0 {
            UNIX_EPOCH - magnitude
        } else {
            UNIX_EPOCH + magnitude
        }
    }

    /// Time since the host booted, suspend included.
    pub fn since_boot(&self) -> Duration {
        self.0.since_boot()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

/// Moves a manual [`Clock`].
#[derive(Debug, Clone)]
pub struct ManualTime(Arc<ManualState>);

#[derive(Debug)]
struct ManualState {
    unix_millis: AtomicI64,
    boot_millis: AtomicU64,
}

impl ManualTime {
    /// Lets time pass: wall and boot time both.
    pub fn advance(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.boot_millis.fetch_add(millis, Ordering::SeqCst);
        self.0
            .unix_millis
            .fetch_add(i64::try_from(millis).unwrap_or(i64::MAX), Ordering::SeqCst);
    }

    /// Sets the wall clock alone, as an operator or NTP would.
    pub fn set_wall(&self, unix_millis: i64) {
        self.0.unix_millis.store(unix_millis, Ordering::SeqCst);
    }
}

impl TimeSource for ManualTime {
    fn unix_millis(&self) -> i64 {
        self.0.unix_millis.load(Ordering::SeqCst)
    }

    fn since_boot(&self) -> Duration {
        Duration::from_millis(self.0.boot_millis.load(Ordering::SeqCst))
    }
}

#[derive(Debug)]
struct SystemTimeSource;

impl TimeSource for SystemTimeSource {
    fn unix_millis(&self) -> i64 {
        let to_millis = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => to_millis(since),
            Err(before) => -to_millis(before.duration()),
        }
    }

    fn since_boot(&self) -> Duration {
        // CLOCK_BOOTTIME exists on every Linux this product supports; the error is unreachable there,
        // and a clock that stands still is safer than one that jumps.
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
            .map_or(Duration::ZERO, Duration::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_only_when_told() {
        let (clock, time) = Clock::manual(1_000);
        time.advance(Duration::from_millis(250));
        assert_eq!(clock.unix_millis(), 1_250);
        time.set_wall(-1);
        assert_eq!(clock.now(), UNIX_EPOCH - Duration::from_millis(1));
        assert_eq!(clock.since_boot(), Duration::from_millis(250));
    }

    #[test]
    fn the_system_clock_reads_wall_and_boot_time() {
        let clock = Clock::system();
        assert!(clock.unix_millis() > 1_700_000_000_000);
        assert!(clock.since_boot() > Duration::ZERO);
    }
}
