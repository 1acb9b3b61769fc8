//! Entity tags (AIP-154): the version of a row, opaque to clients.

use crate::Error;

/// The tag of a version.
pub(crate) fn of(version: u64) -> String {
    format!("v{version}")
}

/// The version that a change expects; `None` when the client sent no tag and takes any.
///
/// # Errors
/// [`Error::Stale`] for a text that was never a tag of ours: it cannot be the current one.
pub(crate) fn expected(etag: &str) -> Result<Option<u64>, Error> {
    if etag.is_empty() {
        return Ok(None);
    }
    let version = etag.strip_prefix('v').and_then(|v| v.parse().ok());
    version.map(Some).ok_or(Error::Stale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip_and_junk_is_stale() {
        assert_eq!(expected(&of(17)).unwrap(), Some(17));
        assert_eq!(expected("").unwrap(), None);
        assert!(matches!(expected("17"), Err(Error::Stale)));
        assert!(matches!(expected("vx"), Err(Error::Stale)));
    }
}
