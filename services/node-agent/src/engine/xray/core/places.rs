//! From where a user comes, of all of its peers. The same credentials may be on many hosts: beyond
//! the user's limit of devices the addresses that came last have no room, until an earlier one has
//! made no connection for some time.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use vpnpanel_domain::UserId;

/// How long an address counts after its last new connection.
const COUNTS_SECONDS: u64 = 180;
/// Addresses that are told apart for a user; the limit is at most a hundred.
const MOST: usize = 256;

#[derive(Debug)]
struct Place {
    address: IpAddr,
    heard: u64,
}

/// The addresses of users, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Places {
    of_user: HashMap<UserId, Vec<Place>>,
}

impl Places {
    /// A user has made a connection from there.
    pub(super) fn heard(&mut self, user: UserId, from: IpAddr, now: u64) {
        let places = self.of_user.entry(user).or_default();
        let address = network(from);
        let known = places.iter_mut().find(|place| place.address == address);
        if let Some(place) = known {
            place.heard = now;
        } else if places.len() < MOST {
            places.push(Place {
                address,
                heard: now,
            });
        }
    }

    /// Forgets addresses that count no longer.
    pub(super) fn forget(&mut self, now: u64) {
        self.of_user.retain(|_, places| {
            places.retain(|place| now.saturating_sub(place.heard) < COUNTS_SECONDS);
            !places.is_empty()
        });
    }

    /// Whether an address is among as many as there may be; 0 is no limit.
    pub(super) fn has_room(&self, user: UserId, from: IpAddr, limit: u32) -> bool {
        let Some(places) = self.of_user.get(&user).filter(|_| limit > 0) else {
            return true;
        };
        let address = network(from);
        let at = places.iter().position(|place| place.address == address);
        at.unwrap_or(places.len()) < limit as usize
    }
}

/// What counts as one place: an IPv4 address, or the /64 of an IPv6 address, in which a host
/// chooses addresses as it likes (RFC 8981).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => Ipv6Addr::from_bits(six.to_bits() >> 64 << 64).into(),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: UserId = UserId::from_bytes([1; 16]);

    fn room(places: &Places, from: &str, limit: u32) -> bool {
        places.has_room(USER, from.parse().unwrap(), limit)
    }

    #[test]
    fn the_address_that_came_last_has_no_room_until_another_is_quiet_for_long() {
        let mut places = Places::default();
        for (from, at) in [("192.0.2.1", 0), ("192.0.2.2", 1), ("192.0.2.3", 2)] {
            places.heard(USER, from.parse().unwrap(), at);
        }
        places.heard(USER, "192.0.2.2".parse().unwrap(), 100);
        assert!(room(&places, "192.0.2.1", 2) && room(&places, "192.0.2.2", 2));
        assert!(!room(&places, "192.0.2.3", 2) && !room(&places, "192.0.2.4", 3));
        assert!(room(&places, "192.0.2.3", 3) && room(&places, "192.0.2.3", 0));
        places.forget(180);
        assert!(room(&places, "192.0.2.2", 2) && room(&places, "192.0.2.3", 2));
        assert!(!room(&places, "192.0.2.1", 2));
        places.forget(500);
        assert!(places.of_user.is_empty());
    }

    #[test]
    fn a_network_of_ipv6_is_one_place_and_a_mapped_address_its_ipv4_one() {
        let mut places = Places::default();
        places.heard(USER, "2001:db8::1".parse().unwrap(), 0);
        assert!(room(&places, "2001:db8::ffff:1", 1) && !room(&places, "2001:db8:0:1::1", 1));
        let mut places = Places::default();
        places.heard(USER, "::ffff:192.0.2.1".parse().unwrap(), 0);
        assert!(room(&places, "192.0.2.1", 1));
    }

    #[test]
    fn one_user_takes_no_room_of_another_and_no_more_memory_than_there_is() {
        let mut places = Places::default();
        for n in 0..1_000_u32 {
            places.heard(USER, IpAddr::from(n.to_be_bytes()), 0);
        }
        assert_eq!(places.of_user[&USER].len(), MOST);
        assert!(!room(&places, "192.0.2.1", 100));
        let other = UserId::from_bytes([2; 16]);
        assert!(places.has_room(other, "192.0.2.1".parse().unwrap(), 1));
    }
}
