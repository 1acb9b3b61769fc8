//! Each stream is an open file on both sides: the limit is raised before the first one opens.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::Error;
use crate::settings::Fleet;

/// What a process of the product opens beside its streams.
const OTHERS: u64 = 1_000;

/// Files of a relay: its listener, and both ends of what it carries.
const RELAY: u64 = 3;

/// Lets this process, and those that it starts, open as many files as a fleet needs.
pub(crate) fn allow(fleet: &Fleet, relays: bool) -> Result<(), Error> {
    let spool = u64::from(fleet.spools_are_files());
    let each = 1 + spool + if relays { RELAY } else { 0 };
    allow_files(u64::from(fleet.nodes) * each + OTHERS)
}

/// Takes as many as there may be, where there is no telling how many are needed.
pub(crate) fn allow_most() -> Result<(), Error> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

fn allow_files(needed: u64) -> Result<(), Error> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    if hard >= needed {
        return Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?);
    }
    // Only who is privileged may.
    setrlimit(Resource::RLIMIT_NOFILE, needed, needed).map_err(|_| Error::OpenFiles {
        needed,
        allowed: hard,
    })
}
