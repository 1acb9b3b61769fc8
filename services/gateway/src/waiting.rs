//! Bodies that are on their way, by address: whoever sends heads and keeps the bodies back is turned
//! away, and nobody else.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};

use vpnpanel_runtime::rpc::ClientAddress;

/// How many of each address there are; callers without an address count as one.
#[derive(Debug)]
pub(crate) struct Waiting {
    per_address: usize,
    /// As many as there are requests at most.
    now: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// One body on its way, until dropped.
#[derive(Debug)]
pub(crate) struct Waits<'a> {
    waiting: &'a Waiting,
    from: Option<IpAddr>,
}

impl Waiting {
    pub(crate) fn new(per_address: usize) -> Self {
        Self {
            per_address,
            now: Mutex::default(),
        }
    }

    /// Counts one more; `None` when its address has too many.
    pub(crate) fn wait_for(&self, from: Option<ClientAddress>) -> Option<Waits<'_>> {
        let from = from.map(|ClientAddress(address)| network(address));
        let mut now = self.lock();
        let count = now.entry(from).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        Some(Waits {
            waiting: self,
            from,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let mut now = self.waiting.lock();
        if let Some(count) = now.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                now.remove(&self.from);
            }
        }
    }
}

/// What one subscriber of an access network has: an address of IPv4, a network of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 => v4,
    }
}
