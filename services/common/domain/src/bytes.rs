//! Billable bytes. A node's multiplier is a fixed-point number, and products are kept unrounded
//! in micro-bytes, so that sums over rows, nodes and days are equal to the bit, in any order.

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign};

use serde::{Deserialize, Serialize};

use crate::Error;

/// Micro-bytes in a byte: the denominator of a [`Multiplier`].
pub const MICRO: u128 = 1_000_000;

/// Billed bytes for each raw byte, in millionths: 1_000_000 is 1.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Multiplier(u32);

impl Multiplier {
    /// Every raw byte is billed as one byte.
    pub const ONE: Self = Self(1_000_000);
    /// The largest multiplier, 1000.0.
    pub const MAX: Self = Self(1_000_000_000);

    /// Takes millionths.
    ///
    /// # Errors
    /// [`Error::MultiplierTooLarge`] above [`Multiplier::MAX`].
    pub const fn from_ppm(ppm: u32) -> Result<Self, Error> {
        if ppm > Self::MAX.0 {
            Err(Error::MultiplierTooLarge(ppm))
        } else {
            Ok(Self(ppm))
        }
    }

    /// The multiplier in millionths.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// What `raw` bytes cost.
    pub const fn bill(self, raw: u64) -> MicroBytes {
        MicroBytes(raw as u128 * self.0 as u128)
    }

    /// How many raw bytes fit into `billable`, rounded down: what a kernel quota is set to so
    /// that the bill stays within the allowance. A multiplier of zero fits everything.
    pub fn raw_within(self, billable: MicroBytes) -> u64 {
        match billable.0.checked_div(u128::from(self.0)) {
            None => u64::MAX,
            Some(raw) => u64::try_from(raw).unwrap_or(u64::MAX),
        }
    }
}

impl Default for Multiplier {
    fn default() -> Self {
        Self::ONE
    }
}

/// Billable bytes × 10⁶, unrounded. Sums saturate: 2¹²⁸ micro-bytes are never reached by
/// counting, only by a damaged input, and must not wrap to "nothing used" then.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MicroBytes(u128);

impl MicroBytes {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// More than can be counted.
    pub const MAX: Self = Self(u128::MAX);

    /// Takes micro-bytes.
    pub const fn new(micro: u128) -> Self {
        Self(micro)
    }

    /// Takes whole bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes as u128 * MICRO)
    }

    /// The micro-bytes.
    pub const fn get(self) -> u128 {
        self.0
    }

    /// Whole bytes, rounded down: what people are shown.
    pub fn floor_bytes(self) -> u64 {
        u64::try_from(self.0 / MICRO).unwrap_or(u64::MAX)
    }

    /// High and low 64 bits: the form on the wire.
    pub const fn to_halves(self) -> (u64, u64) {
        ((self.0 >> 64) as u64, self.0 as u64)
    }

    /// From high and low 64 bits.
    pub const fn from_halves(high: u64, low: u64) -> Self {
        Self((high as u128) << 64 | low as u128)
    }

    /// `self - other`, or zero where that would be negative.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl Add for MicroBytes {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for MicroBytes {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sum for MicroBytes {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// In bytes, with the millionths where there are any: `1500000.25 B`.
impl fmt::Display for MicroBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / MICRO, self.0 % MICRO);
        if part == 0 {
            write!(f, "{whole} B")
        } else {
            let digits = format!("{part:06}");
            write!(f, "{whole}.{} B", digits.trim_end_matches('0'))
        }
    }
}

/// The most that a user may use in a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// No limit; the wire and the database write it as 0.
    #[default]
    None,
    /// So many billable bytes.
    Bytes(u64),
}

impl Limit {
    /// From the form on the wire and in the database, where 0 is no limit.
    pub const fn from_wire(bytes: u64) -> Self {
        if bytes == 0 {
            Self::None
        } else {
            Self::Bytes(bytes)
        }
    }

    /// To the form on the wire and in the database, where 0 is no limit.
    pub const fn to_wire(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Bytes(bytes) => bytes,
        }
    }

    /// The limit in micro-bytes; `None` is no limit.
    pub const fn micro(self) -> Option<MicroBytes> {
        match self {
            Self::None => None,
            Self::Bytes(bytes) => Some(MicroBytes::from_bytes(bytes)),
        }
    }

    /// Whether a period with `used` is used up.
    pub fn is_reached(self, used: MicroBytes) -> bool {
        self.micro().is_some_and(|limit| used >= limit)
    }

    /// What is left; `None` is no limit.
    pub fn remaining(self, used: MicroBytes) -> Option<MicroBytes> {
        self.micro().map(|limit| limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bills_without_rounding() {
        let third = Multiplier::from_ppm(333_333).unwrap();
        let one_by_one: MicroBytes = (0..3).map(|_| third.bill(1)).sum();
        assert_eq!(one_by_one, third.bill(3));
        assert_eq!(one_by_one.floor_bytes(), 0);
        assert_eq!(one_by_one.to_string(), "0.999999 B");
    }

    #[test]
    fn raw_within_never_costs_more_than_the_allowance() {
        for ppm in [1, 333_333, 1_000_000, 1_500_000, 1_000_000_000] {
            let multiplier = Multiplier::from_ppm(ppm).unwrap();
            for bytes in [0, 1, 1_000, 123_456_789] {
                let allowance = MicroBytes::from_bytes(bytes);
                let raw = multiplier.raw_within(allowance);
                assert!(multiplier.bill(raw) <= allowance);
                assert!(multiplier.bill(raw + 1) > allowance);
            }
        }
        assert_eq!(
            Multiplier::from_ppm(0)
                .unwrap()
                .raw_within(MicroBytes::ZERO),
            u64::MAX
        );
    }

    #[test]
    fn halves_round_trip() {
        let value = MicroBytes::new((5 << 64) | 9);
        assert_eq!(value.to_halves(), (5, 9));
        assert_eq!(MicroBytes::from_halves(5, 9), value);
    }

    #[test]
    fn a_limit_is_reached_at_its_last_byte() {
        let limit = Limit::from_wire(20);
        assert!(!limit.is_reached(MicroBytes::new(20_000_000 - 1)));
        assert!(limit.is_reached(MicroBytes::from_bytes(20)));
        assert_eq!(
            limit.remaining(MicroBytes::from_bytes(30)),
            Some(MicroBytes::ZERO)
        );
        assert_eq!(Limit::from_wire(0), Limit::None);
        assert!(!Limit::None.is_reached(MicroBytes::MAX));
    }

    #[test]
    fn multipliers_are_bounded() {
        assert!(Multiplier::from_ppm(1_000_000_001).is_err());
    }
}
