//! Each stream is an open file on both sides: the limit is raised before the first one opens.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;

/// What a process of the product opens beside its streams.
const OTHERS: u64 = 1_000;

/// Lets this process, and those that it starts, open as many files as `streams` streams need, with
/// `each` files a stream.
pub(crate) fn allow(streams: u32, each: u64) -> Result<(), Error> {
    let needed = u64::from(streams) * each + OTHERS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    if hard >= needed {
        return Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?);
    }
    // Only root may.
    setrlimit(Resource::RLIMIT_NOFILE, needed, needed).map_err(|_| Error::OpenFiles {
        needed,
        allowed: hard,
    })
}
