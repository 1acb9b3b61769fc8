//! Our table in nf_tables: who may pass, how much of it and how fast, and what is billed.
//!
//! Its counters are the billing source, and its nonce is their incarnation: they outlive the
//! agent and WireGuard. The fixed part is a script for `nft` ([`schema`]); everything that
//! changes with peers goes over netlink ([`wire`]). A mirror of the elements is kept, so that
//! only differences are sent; it is read back from the kernel when the table is adopted, and
//! whenever the kernel contradicts it.

mod mirror;
mod redirect;
mod schema;
mod socket;
mod wire;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use nix::errno::Errno;
use vpnpanel_domain::{PeerId, UserId};

pub use mirror::{Entry, Member, Rate};
pub(crate) use redirect::Redirect;
pub use schema::Scope;

use crate::Error;
use crate::host;
use mirror::Mirror;
use socket::Socket;
use wire::{Batch, Family, Kind};

/// Size at which a transaction is closed and the next one begun.
const TRANSACTION: usize = 512 << 10;

/// Bytes that a limited user may be ahead of a second's worth: the largest packet that the kernel
/// aggregates passes also at the slowest speed.
const BURST: u32 = 66 << 10;

/// What the table has counted, at one moment under one incarnation.
#[derive(Debug, Clone, Default)]
pub struct Counted {
    /// Bytes of each peer since its counters were made: (up, down).
    pub peers: HashMap<PeerId, (u64, u64)>,
    /// Limit and use of each user's quota, read *before* the counters. The use includes bytes
    /// that were dropped because the quota was over.
    pub quotas: HashMap<UserId, (u64, u64)>,
}

/// The table; its operations block for milliseconds.
#[derive(Debug)]
pub struct Table {
    name: String,
    scope: Scope,
    incarnation: [u8; 16],
    socket: Socket,
    mirror: Mirror,
    counters: HashSet<PeerId>,
    quotas: HashMap<UserId, u64>,
    rates: HashSet<(Direction, Rate)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Direction {
    Up,
    Down,
}

impl Table {
    /// Makes the table, or adopts the one that is there with everything it has counted.
    ///
    /// # Errors
    /// A missing tool or privilege, or what the kernel refused.
    pub fn open(name: &str, scope: &Scope) -> Result<Self, Error> {
        let mut socket = Socket::open()?;
        let incarnation = match read_incarnation(&mut socket, name)? {
            Some(found) => {
                nft(&schema::script(name, scope, None))?;
                found
            }
            None => {
                let mut nonce = [0; 16];
                getrandom::fill(&mut nonce).map_err(|_| Error::Stopped)?;
                let script = schema::script(name, scope, Some(&incarnation_name(&nonce)));
                // What has our name and no incarnation is a torso of nobody's.
                nft(&format!(
                    "add table inet {name}\ndelete table inet {name}\n{script}"
                ))?;
                nonce
            }
        };
        let mut table = Self {
            name: name.to_owned(),
            scope: scope.clone(),
            incarnation,
            socket,
            mirror: Mirror::default(),
            counters: HashSet::new(),
            quotas: HashMap::new(),
            rates: HashSet::new(),
        };
        table.refresh()?;
        Ok(table)
    }

    /// Removes a table and all it has counted; one that does not exist is no error.
    pub fn remove(name: &str) -> Result<(), Error> {
        nft(&format!(
            "add table inet {name}\ndelete table inet {name}\n"
        ))
    }

    /// The nonce of the counters.
    pub fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// Addresses that are programmed.
    pub fn entries(&self) -> impl Iterator<Item = (IpAddr, &Entry)> {
        self.mirror.entries()
    }

    /// Changes which interfaces and networks the table is about.
    pub fn set_scope(&mut self, scope: &Scope) -> Result<(), Error> {
        nft(&schema::script(&self.name, scope, None))?;
        self.scope = scope.clone();
        Ok(())
    }

    /// The interfaces and networks it is about.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Whether it is still there with its incarnation: others may remove it, by reloading the
    /// whole ruleset for example.
    pub fn exists(&mut self) -> Result<bool, Error> {
        self.socket.has_object(
            Family::Inet,
            &self.name,
            Kind::Counter,
            &incarnation_name(&self.incarnation),
        )
    }

    /// Makes addresses belong to peers as given, or to nobody. Each address changes at once;
    /// addresses that are right already are not touched. Counters of peers that lose their
    /// addresses stay, and go on when the peer comes back.
    pub fn program(
        &mut self,
        changes: &[(IpAddr, Option<Entry>)],
        now_ms: i64,
    ) -> Result<(), Error> {
        match self.try_program(changes, now_ms) {
            // An element expired, or somebody else changed the table: look, and try once more.
            Err(Error::Netlink {
                source: Errno::ENOENT | Errno::EEXIST | Errno::EBUSY,
                ..
            }) => {
                self.refresh()?;
                self.try_program(changes, now_ms)
            }
            result => result,
        }
    }

    /// Sets the limits of users' quotas in place; what they have seen is kept, so that a raised
    /// limit lets traffic on and there is no moment without one.
    pub fn set_quotas(&mut self, limits: &[(UserId, u64)]) -> Result<(), Error> {
        for slice in limits.chunks(2000) {
            let mut batch = Batch::new(&self.name);
            for (user, limit) in slice {
                batch.set_quota(&quota_name(*user), *limit);
            }
            self.socket.commit(batch)?;
            self.quotas.extend(slice.iter().copied());
        }
        Ok(())
    }

    /// The limit of a user's quota, if it has one.
    pub fn quota(&self, user: UserId) -> Option<u64> {
        self.quotas.get(&user).copied()
    }

    /// Deletes quotas that no address refers to any more.
    pub fn sweep_quotas(&mut self) -> Result<(), Error> {
        let in_use: HashSet<UserId> = self
            .mirror
            .entries()
            .filter_map(|(_, entry)| entry.quota)
            .collect();
        let idle: Vec<_> = self
            .quotas
            .keys()
            .copied()
            .filter(|user| !in_use.contains(user))
            .collect();
        for slice in idle.chunks(2000) {
            let mut batch = Batch::new(&self.name);
            for user in slice {
                batch.delete_object(Kind::Quota, &quota_name(*user));
            }
            self.socket.commit(batch)?;
            for user in slice {
                self.quotas.remove(user);
            }
        }
        Ok(())
    }

    /// Deletes speeds that no address refers to any more.
    pub fn sweep_rates(&mut self) -> Result<(), Error> {
        if self.rates.is_empty() {
            return Ok(());
        }
        let in_use: HashSet<_> = self
            .mirror
            .entries()
            .flat_map(|(_, entry)| rates_of(entry))
            .collect();
        let idle: Vec<_> = self.rates.difference(&in_use).copied().collect();
        for slice in idle.chunks(2000) {
            let mut batch = Batch::new(&self.name);
            for (direction, rate) in slice {
                batch.delete_object(Kind::Limit, &rate_name(direction.prefix(), *rate));
            }
            self.socket.commit(batch)?;
            for rate in slice {
                self.rates.remove(rate);
            }
        }
        Ok(())
    }

    /// The classes that packets to addresses are put into.
    pub(crate) fn paces(&self) -> impl Iterator<Item = (IpAddr, u32)> {
        self.mirror.paces()
    }

    /// Puts packets to addresses into classes, or into none.
    pub(crate) fn pace(&mut self, changes: &[(IpAddr, Option<u32>)]) -> Result<(), Error> {
        for slice in changes.chunks(2000) {
            let mut batch = Batch::new(&self.name);
            for (address, class) in slice {
                self.mirror.pace(&mut batch, *address, *class);
            }
            self.socket.commit(batch)?;
            for (address, class) in slice {
                self.mirror.paced(*address, *class);
            }
        }
        Ok(())
    }

    /// Reads all quotas, then all counters.
    ///
    /// # Errors
    /// [`Error::TableReplaced`] when these are not the counters of this table's incarnation.
    pub fn read(&mut self) -> Result<Counted, Error> {
        let quotas = if self.quotas.is_empty() {
            HashMap::new()
        } else {
            self.read_quotas()?
        };
        let mut peers: HashMap<PeerId, (u64, u64)> = HashMap::with_capacity(self.counters.len());
        let mut ours = false;
        // The incarnation is an object of the same listing, which the kernel guarantees to be
        // of one generation of the table: it was in force before and after the counters.
        let listed = self.socket.objects(&self.name, Kind::Counter, |object| {
            Some((Name::parse(object.name)?, object.bytes))
        });
        for (name, bytes) in self.not_replaced(listed)? {
            match name {
                Name::Incarnation(nonce) => ours = nonce == self.incarnation,
                Name::Up(peer) => peers.entry(peer).or_default().0 = bytes,
                Name::Down(peer) => peers.entry(peer).or_default().1 = bytes,
                Name::Quota(_) | Name::Speed(..) => (),
            }
        }
        if !ours {
            return Err(Error::TableReplaced(self.name.clone()));
        }
        Ok(Counted { peers, quotas })
    }

    /// Reads limit and use of all quotas.
    pub fn read_quotas(&mut self) -> Result<HashMap<UserId, (u64, u64)>, Error> {
        let listed = self.socket.objects(&self.name, Kind::Quota, |object| {
            match Name::parse(object.name)? {
                Name::Quota(user) => Some((user, (object.bytes, object.used))),
                _ => None,
            }
        });
        Ok(self.not_replaced(listed)?.into_iter().collect())
    }

    fn not_replaced<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| match error {
            Error::Netlink {
                source: Errno::ENOENT,
                ..
            } => Error::TableReplaced(self.name.clone()),
            error => error,
        })
    }

    fn try_program(
        &mut self,
        changes: &[(IpAddr, Option<Entry>)],
        now_ms: i64,
    ) -> Result<(), Error> {
        let mut rest = changes;
        while !rest.is_empty() {
            let mut batch = Batch::new(&self.name);
            let (mut counters, mut quotas) = (HashSet::new(), HashSet::new());
            let mut rates = HashSet::new();
            let mut taken = 0;
            while batch.len() < TRANSACTION
                && let Some((address, wanted)) = rest.get(taken)
            {
                taken += 1;
                if let Some(entry) = wanted {
                    if !self.counters.contains(&entry.peer) && counters.insert(entry.peer) {
                        let peer = entry.peer.uuid().simple();
                        batch.add_counter(&format!("u_{peer}"));
                        batch.add_counter(&format!("d_{peer}"));
                    }
                    if let Some(user) = entry.quota
                        && !self.quotas.contains_key(&user)
                        && quotas.insert(user)
                    {
                        // Nothing passes until a limit is set.
                        batch.set_quota(&quota_name(user), 0);
                    }
                    for rate in rates_of(entry) {
                        if !self.rates.contains(&rate) && rates.insert(rate) {
                            let name = rate_name(rate.0.prefix(), rate.1);
                            batch.add_limit(&name, rate.1.bytes_per_second, BURST);
                        }
                    }
                }
                self.mirror
                    .change(&mut batch, *address, wanted.as_ref(), now_ms);
            }
            let (done, later) = rest.split_at(taken);
            self.socket.commit(batch)?;
            self.counters.extend(counters);
            self.quotas.extend(quotas.into_iter().map(|user| (user, 0)));
            self.rates.extend(rates);
            for (address, wanted) in done {
                self.mirror.changed(*address, wanted.as_ref());
            }
            rest = later;
        }
        Ok(())
    }

    /// Reads back from the kernel what is programmed.
    fn refresh(&mut self) -> Result<(), Error> {
        let counters = self
            .socket
            .objects(&self.name, Kind::Counter, |object| Name::parse(object.name))?;
        self.counters = counters
            .into_iter()
            .filter_map(|name| match name {
                Name::Up(peer) => Some(peer),
                _ => None,
            })
            .collect();
        self.quotas = self
            .read_quotas()?
            .into_iter()
            .map(|(user, (limit, _))| (user, limit))
            .collect();
        let rates = self
            .socket
            .objects(&self.name, Kind::Limit, |object| Name::parse(object.name))?;
        self.rates = rates
            .into_iter()
            .filter_map(|name| match name {
                Name::Speed(direction, rate) => Some((direction, rate)),
                _ => None,
            })
            .collect();
        self.mirror = Mirror::read(&mut self.socket, &self.name)?;
        Ok(())
    }
}

/// The incarnation of a table, if it exists.
fn read_incarnation(socket: &mut Socket, table: &str) -> Result<Option<[u8; 16]>, Error> {
    let listed = socket.objects(table, Kind::Counter, |object| {
        match Name::parse(object.name)? {
            Name::Incarnation(nonce) => Some(nonce),
            _ => None,
        }
    });
    match listed {
        Ok(found) => Ok(found.first().copied()),
        Err(Error::Netlink {
            source: Errno::ENOENT,
            ..
        }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the name of an object says.
enum Name {
    Incarnation([u8; 16]),
    Up(PeerId),
    Down(PeerId),
    Quota(UserId),
    Speed(Direction, Rate),
}

impl Name {
    fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let id = |digits: &str| -> Option<[u8; 16]> { hex::decode(digits).ok()?.try_into().ok() };
        if let Some(nonce) = text.strip_prefix(schema::INCARNATION) {
            return id(nonce).map(Self::Incarnation);
        }
        let (kind, digits) = text.split_once('_')?;
        let (digits, speed) = match digits.split_once('_') {
            Some((digits, speed)) => (digits, speed.parse().ok()),
            None => (digits, None),
        };
        let bytes = id(digits)?;
        let rate = |bytes_per_second| Rate {
            user: UserId::from_bytes(bytes),
            bytes_per_second,
        };
        match kind {
            "su" => Some(Self::Speed(Direction::Up, rate(speed?))),
            "sd" => Some(Self::Speed(Direction::Down, rate(speed?))),
            "u" => Some(Self::Up(PeerId::from_bytes(bytes))),
            "d" => Some(Self::Down(PeerId::from_bytes(bytes))),
            "q" => Some(Self::Quota(UserId::from_bytes(bytes))),
            _ => None,
        }
    }

    fn rate(self) -> Option<Rate> {
        match self {
            Self::Speed(_, rate) => Some(rate),
            _ => None,
        }
    }
}

impl Direction {
    fn prefix(self) -> &'static str {
        match self {
            Self::Up => "su",
            Self::Down => "sd",
        }
    }
}

fn rates_of(entry: &Entry) -> impl Iterator<Item = (Direction, Rate)> + use<> {
    let up = entry.up.map(|rate| (Direction::Up, rate));
    let down = entry.down.map(|rate| (Direction::Down, rate));
    up.into_iter().chain(down)
}

fn incarnation_name(nonce: &[u8; 16]) -> String {
    format!("{}{}", schema::INCARNATION, hex::encode(nonce))
}

fn quota_name(user: UserId) -> String {
    format!("q_{}", user.uuid().simple())
}

/// The speed is a part of the name: another speed is another object, and addresses go over to it at
/// one moment.
fn rate_name(prefix: &str, rate: Rate) -> String {
    let user = rate.user.uuid().simple();
    format!("{prefix}_{user}_{}", rate.bytes_per_second)
}

fn nft(script: &str) -> Result<(), Error> {
    host::run("nft", "nftables", &["-f", "-"], script).map(drop)
}
