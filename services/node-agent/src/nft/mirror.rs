//! What is programmed for each address: a copy of the table's elements, so that a change sends
//! only what differs.

use std::collections::HashMap;
use std::net::IpAddr;

use vpnpanel_domain::{PeerId, UserId};

use super::Name;
use super::schema::{self, Pair};
use super::socket::Socket;
use super::wire::{Batch, Element};
use crate::Error;

/// Two ends of a membership closer than this are the same: what the kernel reports back is
/// rounded.
const SAME_END_MS: i64 = 3_000;

/// What an address of a subscriber may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Whose counters count.
    pub peer: PeerId,
    /// Whose quota holds; none is without limit.
    pub quota: Option<UserId>,
    /// How fast it may send; none is without limit.
    pub up: Option<Rate>,
    /// How fast it may receive; none is without limit.
    pub down: Option<Rate>,
    /// Traffic is dropped, and nothing is counted.
    pub blocked: bool,
    /// How long the address is one at all.
    pub member: Member,
}

/// A speed in one direction, that all addresses of a user share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rate {
    /// Who shares it.
    pub user: UserId,
    /// How fast.
    pub bytes_per_second: u64,
}

/// Membership of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Member {
    /// Without an end.
    Always,
    /// Until this instant, milliseconds of the Unix epoch; the kernel ends it by itself.
    Until(i64),
}

#[derive(Debug, Default)]
pub(super) struct Mirror {
    entries: HashMap<IpAddr, Entry>,
    /// Classes that packets to an address are put into.
    paces: HashMap<IpAddr, u32>,
}

impl Mirror {
    /// Reads the elements of a table.
    pub(super) fn read(socket: &mut Socket, table: &str) -> Result<Self, Error> {
        let mut mirror = Self::default();
        let now_ms = crate::clock::unix_ms();
        for address in listed(socket, table, schema::UP, |object, _| {
            match Name::parse(object?)? {
                Name::Up(peer) => Some(peer),
                _ => None,
            }
        })? {
            // Not a member until it is found among the members, below.
            let entry = Entry {
                peer: address.1,
                quota: None,
                up: None,
                down: None,
                blocked: false,
                member: Member::Until(0),
            };
            mirror.entries.insert(address.0, entry);
        }
        for (address, user) in listed(socket, table, schema::QUOTA, |object, _| match Name::parse(
            object?,
        )? {
            Name::Quota(user) => Some(user),
            _ => None,
        })? {
            mirror.at(address, |entry| entry.quota = Some(user));
        }
        for (address, name) in listed(socket, table, schema::SPEED_UP, |object, _| {
            Name::parse(object?)
        })? {
            mirror.at(address, |entry| entry.up = name.rate());
        }
        for (address, name) in listed(socket, table, schema::SPEED_DOWN, |object, _| {
            Name::parse(object?)
        })? {
            mirror.at(address, |entry| entry.down = name.rate());
        }
        mirror.paces = numbers(socket, table, schema::PACE)?.into_iter().collect();
        for (address, expires) in
            listed(socket, table, schema::MEMBERS, |_, expires| Some(expires))?
        {
            let member = expires.map_or(Member::Always, |after| {
                Member::Until(now_ms.saturating_add_unsigned(after))
            });
            mirror.at(address, |entry| entry.member = member);
        }
        for (address, ()) in listed(socket, table, schema::BLOCKED, |_, _| Some(()))? {
            mirror.at(address, |entry| entry.blocked = true);
        }
        Ok(mirror)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (IpAddr, &Entry)> {
        self.entries
            .iter()
            .map(|(address, entry)| (*address, entry))
    }

    /// Appends what turns an address from what it is into what it should be.
    pub(super) fn change(
        &self,
        batch: &mut Batch,
        address: IpAddr,
        wanted: Option<&Entry>,
        now_ms: i64,
    ) {
        let present = self.entries.get(&address);
        let key = Key::of(address);
        let peers = (present.map(|e| e.peer), wanted.map(|e| e.peer));
        for (set, prefix) in [(schema::UP, "u_"), (schema::DOWN, "d_")] {
            let name = |peer: PeerId| format!("{prefix}{}", peer.uuid().simple());
            key.map_to(batch, set, (peers.0.map(name), peers.1.map(name)));
        }
        let name = |user: UserId| super::quota_name(user);
        let quotas = (present.and_then(|e| e.quota), wanted.and_then(|e| e.quota));
        key.map_to(
            batch,
            schema::QUOTA,
            (quotas.0.map(name), quotas.1.map(name)),
        );

        for (map, prefix, rate) in [
            (
                schema::SPEED_UP,
                "su",
                (|e: &Entry| e.up) as fn(&Entry) -> _,
            ),
            (schema::SPEED_DOWN, "sd", |e: &Entry| e.down),
        ] {
            let name = |entry: Option<&Entry>| Some(super::rate_name(prefix, rate(entry?)?));
            key.map_to(batch, map, (name(present), name(wanted)));
        }

        let blocked = (
            present.is_some_and(|e| e.blocked),
            wanted.is_some_and(|e| e.blocked),
        );
        match blocked {
            (false, true) => key.add(batch, schema::BLOCKED, None, None),
            (true, false) => key.delete(batch, schema::BLOCKED),
            _ => (),
        }
        let members = (present.map(|e| e.member), wanted.map(|e| e.member));
        if !same_membership(members.0, members.1, now_ms) {
            if members
                .0
                .is_some_and(|member| remaining(member, now_ms).is_some())
            {
                key.delete(batch, schema::MEMBERS);
            }
            if let Some(timeout) = members.1.and_then(|member| remaining(member, now_ms)) {
                key.add(batch, schema::MEMBERS, None, timeout);
            }
        }
    }

    /// Notes that a change is in force.
    pub(super) fn changed(&mut self, address: IpAddr, wanted: Option<&Entry>) {
        match wanted {
            Some(entry) => self.entries.insert(address, entry.clone()),
            None => self.entries.remove(&address),
        };
    }

    pub(super) fn paces(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.paces.iter().map(|(address, class)| (*address, *class))
    }

    /// Appends what puts packets to an address into another class, or into none.
    pub(super) fn pace(&self, batch: &mut Batch, address: IpAddr, class: Option<u32>) {
        pace(batch, address, (self.paces.get(&address).copied(), class));
    }

    /// Notes that a class is in force.
    pub(super) fn paced(&mut self, address: IpAddr, class: Option<u32>) {
        match class {
            Some(class) => self.paces.insert(address, class),
            None => self.paces.remove(&address),
        };
    }

    fn at(&mut self, address: IpAddr, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = self.entries.get_mut(&address) {
            change(entry);
        }
    }
}

/// Appends what takes an address from a class to another.
pub(super) fn pace(
    batch: &mut Batch,
    address: IpAddr,
    (present, wanted): (Option<u32>, Option<u32>),
) {
    if present == wanted {
        return;
    }
    let key = Key::of(address);
    if present.is_some() {
        key.delete(batch, schema::PACE);
    }
    if let Some(class) = wanted {
        let (map, key) = key.parts(schema::PACE);
        batch.add_number(map, key, class);
    }
}

/// The time a membership has left: none when it is over, else a time-out or none for ever.
fn remaining(member: Member, now_ms: i64) -> Option<Option<u64>> {
    match member {
        Member::Always => Some(None),
        Member::Until(end) if end > now_ms => Some(Some(end.abs_diff(now_ms))),
        Member::Until(_) => None,
    }
}

fn same_membership(present: Option<Member>, wanted: Option<Member>, now_ms: i64) -> bool {
    let over = |member: Option<Member>| member.and_then(|m| remaining(m, now_ms)).is_none();
    match (present, wanted) {
        (Some(Member::Until(a)), Some(Member::Until(b))) => {
            over(present) == over(wanted)
                && (over(present) || a.abs_diff(b) < SAME_END_MS.unsigned_abs())
        }
        (Some(Member::Always), Some(Member::Always)) => true,
        _ => over(present) && over(wanted),
    }
}

/// An address as the key of a set's element.
enum Key {
    V4([u8; 4]),
    V6([u8; 16]),
}

impl Key {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) => Self::V6(address.octets()),
        }
    }

    fn parts(&self, set: Pair) -> (&'static str, &[u8]) {
        match self {
            Self::V4(octets) => (set.0, octets),
            Self::V6(octets) => (set.1, octets),
        }
    }

    fn add(&self, batch: &mut Batch, set: Pair, object: Option<&str>, timeout: Option<u64>) {
        let (set, key) = self.parts(set);
        batch.add_element(set, key, object, timeout);
    }

    fn delete(&self, batch: &mut Batch, set: Pair) {
        let (set, key) = self.parts(set);
        batch.delete_element(set, key);
    }

    fn map_to(&self, batch: &mut Batch, map: Pair, objects: (Option<String>, Option<String>)) {
        let (present, wanted) = objects;
        if present == wanted {
            return;
        }
        if present.is_some() {
            self.delete(batch, map);
        }
        if let Some(object) = wanted {
            self.add(batch, map, Some(&object), None);
        }
    }
}

/// All elements of a pair of sets, each read by `take` from its object and the time it has left.
fn listed<T>(
    socket: &mut Socket,
    table: &str,
    set: Pair,
    take: impl Fn(Option<&[u8]>, Option<u64>) -> Option<T>,
) -> Result<Vec<(IpAddr, T)>, Error> {
    each(socket, table, set, |element| {
        take(element.object, element.expires_in_ms)
    })
}

/// All elements of a pair of maps to numbers.
fn numbers(socket: &mut Socket, table: &str, map: Pair) -> Result<Vec<(IpAddr, u32)>, Error> {
    each(socket, table, map, |element| element.number)
}

fn each<T>(
    socket: &mut Socket,
    table: &str,
    set: Pair,
    take: impl Fn(Element<'_>) -> Option<T>,
) -> Result<Vec<(IpAddr, T)>, Error> {
    let mut all = Vec::new();
    for name in [set.0, set.1] {
        all.extend(socket.elements(table, name, |element| {
            let address = match element.key.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(element.key).ok()?),
                _ => IpAddr::from(<[u8; 16]>::try_from(element.key).ok()?),
            };
            Some((address, take(element)?))
        })?);
    }
    Ok(all)
}
