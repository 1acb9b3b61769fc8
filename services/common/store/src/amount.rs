//! Billed amounts in two columns: whole bytes, and the millionths of a byte. Exact on both
//! databases, and what a limit is compared with is a plain integer.

use sea_orm::{DbErr, QueryResult};
use vpnpanel_domain::MicroBytes;
use vpnpanel_domain::bytes::MICRO;

use crate::error::Result;
use crate::sql;

/// The two columns of an amount.
///
/// # Errors
/// [`crate::StoreError::InvalidArgument`] for one that they cannot hold: it is refused, never cut.
pub(crate) fn split(amount: MicroBytes) -> Result<(i64, i64)> {
    let bytes = u64::try_from(amount.get() / MICRO).unwrap_or(u64::MAX);
    let micro = i64::try_from(amount.get() % MICRO).unwrap_or(0);
    Ok((sql::stored(bytes)?, micro))
}

/// An amount out of its two columns. They may be sums of many, and differences, in which `micro` has
/// a sign of its own; what is below nothing is nothing.
pub(crate) fn join(bytes: i64, micro: i64) -> MicroBytes {
    MicroBytes::new(u128::try_from(difference(bytes, micro)).unwrap_or(0))
}

/// As [`join`], where less than nothing is to be told from nothing.
pub(crate) fn difference(bytes: i64, micro: i64) -> i128 {
    i128::from(bytes) * MICRO.cast_signed() + i128::from(micro)
}

/// Reads an amount at `index` and `index + 1`.
pub(crate) fn get(row: &QueryResult, index: usize) -> Result<MicroBytes, DbErr> {
    let bytes: i64 = sql::get(row, index)?;
    let micro: i32 = sql::get(row, index + 1)?;
    Ok(join(bytes, i64::from(micro)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_survives_its_columns() {
        for micro in [0, 1, 999_999, 1_000_000, 123_456_789_012_345_678_901] {
            let amount = MicroBytes::new(micro);
            let (bytes, rest) = split(amount).unwrap();
            assert_eq!(join(bytes, rest), amount);
        }
        assert!(split(MicroBytes::MAX).is_err());
        assert_eq!(join(1, 2_500_000), MicroBytes::new(3_500_000));
        assert_eq!(join(1, -1), MicroBytes::new(999_999));
        assert_eq!(join(0, -1), MicroBytes::ZERO);
    }
}
