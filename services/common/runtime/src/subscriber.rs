//! By what a caller is counted who is known by nothing but its address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What one subscriber of an access network has: an address of IPv4, or a network of 64 bits of
/// IPv6 (RFC 6177).
pub fn subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
        v4 => v4,
    }
}

/// How many of something each subscriber has, up to a bound; callers without an address count as one.
/// Clones count together.
#[derive(Debug, Clone)]
pub struct PerSubscriber(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    most: usize,
    /// Those that have any.
    now: Mutex<HashMap<Option<IpAddr>, usize>>,
}

/// One that is counted, until dropped.
#[derive(Debug)]
pub struct Counted {
    counts: Arc<Counts>,
    whose: Option<IpAddr>,
}

impl PerSubscriber {
    /// At most `most` of each, and at least one.
    pub fn new(most: usize) -> Self {
        Self(Arc::new(Counts {
            most: most.max(1),
            now: Mutex::default(),
        }))
    }

    /// Counts one more; `None` when its subscriber has too many.
    pub fn count(&self, from: Option<IpAddr>) -> Option<Counted> {
        let whose = from.map(subscriber);
        let mut now = self.0.lock();
        let count = now.entry(whose).or_default();
        if *count >= self.0.most {
            return None;
        }
        *count += 1;
        drop(now);
        let counts = Arc::clone(&self.0);
        Some(Counted { counts, whose })
    }
}

impl Counts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Option<IpAddr>, usize>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut now = self.counts.lock();
        if let Some(count) = now.get_mut(&self.whose) {
            *count -= 1;
            if *count == 0 {
                now.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_of_ipv4_and_one_network_of_ipv6_are_one_subscriber() {
        let of = |text: &str| subscriber(text.parse().unwrap());
        assert_eq!(of("2001:db8:0:1::1"), of("2001:db8:0:1:ffff::"));
        assert_ne!(of("2001:db8:0:1::1"), of("2001:db8:0:2::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    }

    #[test]
    fn each_subscriber_has_its_own_count_and_none_is_kept_of_those_who_left() {
        let counts = PerSubscriber::new(2);
        let [one, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| Some(address.parse().unwrap()));
        let held = (counts.count(one).unwrap(), counts.count(same).unwrap());
        assert!(counts.count(one).is_none());
        drop((counts.count(other).unwrap(), counts.count(None).unwrap()));
        drop(held.0);
        drop(counts.count(same).unwrap());
        drop(held.1);
        assert!(counts.0.lock().is_empty());
    }
}
