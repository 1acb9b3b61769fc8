//! The host's wall clock.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds of the Unix epoch; a clock before 1970 reads 0.
pub(crate) fn unix_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|elapsed| i64::try_from(elapsed.as_millis()).ok())
        .unwrap_or(0)
}
