//! Says before anything is tried what the host lacks, in one line each.

use std::fs;

use super::find;
use crate::Error;

/// Bit of CAP_NET_ADMIN in a capability mask (linux/capability.h).
const CAP_NET_ADMIN: u64 = 12;

/// Checks the privileges and tools that the WireGuard engine needs on this host.
///
/// # Errors
/// The first thing that is missing, with what to install or grant.
pub fn preflight() -> Result<(), Error> {
    if !has_net_admin() {
        return Err(Error::MissingPrivilege {
            what: "the agent needs the capability CAP_NET_ADMIN",
        });
    }
    for (program, package) in [("nft", "nftables"), ("ip", "iproute2")] {
        find(program).ok_or(Error::MissingTool { program, package })?;
    }
    Ok(())
}

fn has_net_admin() -> bool {
    // Where /proc cannot be read, the first operation will say what is missing.
    let Ok(status) = fs::read_to_string("/proc/self/status") else {
        return true;
    };
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_none_or(|mask| mask >> CAP_NET_ADMIN & 1 == 1)
}
