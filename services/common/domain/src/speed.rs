//! How fast a user may be on a node, over all of its devices there.

use crate::Error;

/// Bits per second that let an ordinary page load still.
const LEAST_BPS: u64 = 64_000;
/// More than a user can have of one node.
const MOST_BPS: u64 = 10_000_000_000;

/// A bound on the speed of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Speed(Option<u64>);

impl Speed {
    /// No bound.
    pub const UNLIMITED: Self = Self(None);

    /// Takes bits per second, where 0 is no bound.
    ///
    /// # Errors
    /// [`Error::Speed`] for what is no sensible bound.
    pub const fn new(bps: u64) -> Result<Self, Error> {
        match bps {
            0 => Ok(Self::UNLIMITED),
            LEAST_BPS..=MOST_BPS => Ok(Self(Some(bps))),
            _ => Err(Error::Speed(bps)),
        }
    }

    /// Takes bits per second that come from elsewhere, where 0 is no bound: what is out of range
    /// becomes the nearest bound that is not.
    pub fn nearest(bps: u64) -> Self {
        Self((bps != 0).then(|| bps.clamp(LEAST_BPS, MOST_BPS)))
    }

    /// Bits per second; 0 is no bound.
    pub const fn bps(self) -> u64 {
        match self.0 {
            Some(bps) => bps,
            None => 0,
        }
    }

    /// Whole bytes per second, where there is a bound.
    pub fn bytes_per_second(self) -> Option<u64> {
        self.0.map(|bps| bps / 8)
    }
}

/// The bounds of both directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SpeedLimit {
    /// From the user.
    pub up: Speed,
    /// To the user.
    pub down: Speed,
}

impl SpeedLimit {
    /// Neither direction is bounded.
    pub const NONE: Self = Self {
        up: Speed::UNLIMITED,
        down: Speed::UNLIMITED,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_nothing_or_sensible() {
        assert_eq!(Speed::new(0), Ok(Speed::UNLIMITED));
        for good in [LEAST_BPS, MOST_BPS] {
            assert_eq!(Speed::new(good).map(Speed::bps), Ok(good));
        }
        for bad in [1, LEAST_BPS - 1, MOST_BPS + 1, u64::MAX] {
            assert_eq!(Speed::new(bad), Err(Error::Speed(bad)));
        }
    }

    #[test]
    fn a_foreign_bound_stays_one() {
        assert_eq!(Speed::nearest(0), Speed::UNLIMITED);
        assert_eq!(Speed::nearest(1).bps(), LEAST_BPS);
        assert_eq!(Speed::nearest(u64::MAX).bps(), MOST_BPS);
        assert_eq!(Speed::nearest(1_000_000).bytes_per_second(), Some(125_000));
    }
}
