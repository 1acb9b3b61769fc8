//! What pacing wants: the classes of each device, and the addresses that are put into them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use vpnpanel_domain::{InboundId, Speed, UserId};

use crate::engine::Peer;
use crate::tc::Classes;

/// The users that have a limit, with their peers.
pub(super) type Limited<'a> = BTreeMap<UserId, Vec<&'a Peer>>;

/// The classes of packets to, or from, addresses.
pub(super) type Paces = HashMap<IpAddr, u32>;

/// What should be there.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) classes: BTreeMap<String, Classes>,
    pub(super) down: Paces,
    pub(super) up: Paces,
}

impl Wanted {
    /// For the users that `class` knows a class of: its number on a device, and for packets; packets from them wait on the device `through`.
    pub(super) fn of(
        limited: &Limited<'_>,
        interfaces: &BTreeMap<InboundId, String>,
        through: &str,
        class: impl Fn(UserId) -> Option<(u16, u32)>,
    ) -> Self {
        let mut wanted = Self::default();
        let classes = &mut wanted.classes;
        for (user, peers) in limited {
            let Some((minor, class)) = class(*user) else {
                continue;
            };
            for peer in peers {
                let Some(interface) = interfaces.get(&peer.inbound) else {
                    continue;
                };
                if let Some(speed) = above(peer.speed.down) {
                    let classes = classes.entry(interface.clone()).or_default();
                    classes.insert(minor, speed);
                }
                if let Some(speed) = exactly(peer.speed.up) {
                    let classes = classes.entry(through.to_owned()).or_default();
                    classes.insert(minor, speed);
                    wanted
                        .up
                        .extend(peer.addresses.iter().map(|it| (*it, class)));
                }
                // Also of those who may receive without limit: so a restarted agent knows
                // whose class it is.
                wanted
                    .down
                    .extend(peer.addresses.iter().map(|it| (*it, class)));
            }
        }
        wanted
    }
}

/// What takes addresses from the classes they are in to those they should be in.
pub(super) fn difference(
    present: impl Iterator<Item = (IpAddr, u32)>,
    wanted: &Paces,
) -> Vec<(IpAddr, Option<u32>)> {
    let mut missing = wanted.clone();
    let mut changes = Vec::new();
    for (address, class) in present {
        let should = missing.remove(&address);
        if should != Some(class) {
            changes.push((address, should));
        }
    }
    changes.extend(
        missing
            .into_iter()
            .map(|(address, class)| (address, Some(class))),
    );
    changes
}

/// The speed of a class behind the table: 4 % more, so that whoever goes on sending too fast loses
/// its packets in the table and not, counted already, here.
fn above(speed: Speed) -> Option<u32> {
    let bytes = speed.bytes_per_second()?;
    Some(u32::try_from(bytes + bytes / 25).unwrap_or(u32::MAX))
}

/// The speed of a class that leaves the table nothing to drop.
fn exactly(speed: Speed) -> Option<u32> {
    Some(u32::try_from(speed.bytes_per_second()?).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_over_to_their_classes_and_nothing_else_moves() {
        let address = |n: u8| IpAddr::from([10, 0, 0, n]);
        let present = [(address(1), 1), (address(2), 2), (address(3), 3)];
        let wanted = Paces::from([(address(1), 1), (address(2), 9), (address(4), 4)]);
        let mut changes = difference(present.into_iter(), &wanted);
        changes.sort();
        let expected = [
            (address(2), Some(9)),
            (address(3), None),
            (address(4), Some(4)),
        ];
        assert_eq!(changes, expected);
    }

    #[test]
    fn a_class_to_the_user_is_faster_than_the_table_and_one_from_it_is_not() {
        let speed = Speed::nearest(10_000_000);
        assert_eq!(above(speed), Some(1_300_000));
        assert_eq!(exactly(speed), Some(1_250_000));
        assert_eq!(
            (above(Speed::UNLIMITED), exactly(Speed::UNLIMITED)),
            (None, None)
        );
        assert_eq!(above(Speed::nearest(u64::MAX)), Some(1_300_000_000));
    }
}
