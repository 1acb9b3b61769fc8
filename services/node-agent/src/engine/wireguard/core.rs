//! The engine's state and operations, blocking: what should be, what is, and how one becomes
//! the other. An address is programmed in the table before its peer may connect, and stays
//! there until after the peer is gone, so no packet passes unbilled.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use ipnet::IpNet;
use vpnpanel_domain::{InboundId, PeerId, Speed, SpeedLimit, UserId};

use super::allowance::Allowances;
use super::cordon::Cordon;
use super::device::{Backend, Device};
use super::names::Names;
use super::pacing::{Pacing, View};
use super::uapi::{InterfaceReport, PeerSettings};
use super::{Running, WireGuardOptions};
use crate::engine::cordon::Reason;
use crate::engine::{Inbound, Listed, Peer, PeerOp, Reading, Session, Status};
use crate::nft::{Entry, Member, Rate, Scope, Table};
use crate::{Error, clock, host};

/// An inbound that is up.
#[derive(Debug)]
struct Interface {
    name: String,
    inbound: Inbound,
    device: Device,
    /// Public keys that WireGuard knows, and their addresses.
    keys: HashMap<[u8; 32], BTreeSet<IpNet>>,
}

impl Interface {
    /// Public keys of peers that have one of these addresses.
    fn keys_of(&self, addresses: &BTreeSet<IpAddr>) -> Vec<[u8; 32]> {
        let has = |networks: &BTreeSet<IpNet>| {
            networks
                .iter()
                .any(|network| addresses.contains(&network.addr()))
        };
        self.keys
            .iter()
            .filter(|(_, nets)| has(nets))
            .map(|(key, _)| *key)
            .collect()
    }
}

#[derive(Debug)]
pub(super) struct Core {
    names: Names,
    folder: PathBuf,
    backend: Option<Backend>,
    version: String,
    table: Option<Table>,
    interfaces: BTreeMap<InboundId, Interface>,
    peers: HashMap<PeerId, Peer>,
    owners: HashMap<IpAddr, PeerId>,
    endpoints: HashMap<PeerId, SocketAddr>,
    allowances: Allowances,
    last: HashMap<PeerId, (u64, u64)>,
    problem: Option<String>,
    cordon: Cordon,
    force_userspace: bool,
    pacing: Pacing,
    /// Peers were told: until then what is paced stays as it is.
    told: bool,
}

impl Core {
    pub(super) fn new(names: Names, options: WireGuardOptions, pacing: Pacing) -> Self {
        let cordon = Cordon::new(names.gate(), &options.folder);
        Self {
            names,
            folder: options.folder,
            backend: None,
            version: "wireguard".to_owned(),
            table: None,
            interfaces: BTreeMap::new(),
            peers: HashMap::new(),
            owners: HashMap::new(),
            endpoints: HashMap::new(),
            allowances: Allowances::new(options.kernel_quota),
            last: HashMap::new(),
            problem: None,
            force_userspace: options.force_userspace,
            pacing,
            told: false,
            cordon,
        }
    }

    pub(super) fn ensure_running(&mut self, wanted: Vec<Inbound>) -> Result<Running, Error> {
        let result = self.try_ensure_running(wanted);
        self.problem = match &result {
            Ok(running) => running.failed.first().map(|(_, error)| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        result
    }

    fn try_ensure_running(&mut self, wanted: Vec<Inbound>) -> Result<Running, Error> {
        let backend = self.backend()?;
        let (wanted, mut failed) = consistent(wanted);
        let first = self.table.is_none();
        self.open_table(&wanted)?;
        self.take_down(&wanted, first, backend)?;
        for inbound in wanted.into_values() {
            let id = inbound.id;
            if let Err(error) = self.bring_up(inbound, backend) {
                failed.push((id, error));
            }
        }
        // A gate that cannot be set stays as it is; tunnels are more important.
        if let Err(error) = self.look_after_cordon() {
            tracing::error!(event = "cordon_not_kept", %error);
        }
        let table = self.table.as_ref().ok_or(Error::Stopped)?;
        Ok(Running {
            incarnation: table.incarnation(),
            failed,
        })
    }

    /// Takes no new sessions any more, or takes them again.
    pub(super) fn cordon(&mut self, reason: Reason, on: bool) -> Result<(), Error> {
        match self.cordon.set(reason, on)? {
            true => self.keep_cordon(),
            false => Ok(()),
        }
    }

    fn look_after_cordon(&mut self) -> Result<(), Error> {
        match self.cordon.is_due()? {
            true => self.keep_cordon(),
            false => Ok(()),
        }
    }

    fn keep_cordon(&mut self) -> Result<(), Error> {
        let sessions = self.sessions()?;
        let ports = self.interfaces.values().map(|one| one.inbound.port);
        let ports: BTreeSet<u16> = ports.filter(|port| *port != 0).collect();
        self.cordon.keep(&ports, &sessions)
    }

    fn backend(&mut self) -> Result<Backend, Error> {
        if let Some(backend) = self.backend {
            return Ok(backend);
        }
        host::preflight()?;
        let backend = if self.force_userspace {
            Backend::Userspace
        } else {
            Backend::detect(&self.names.probe())?
        };
        self.version = backend.version();
        self.backend = Some(backend);
        Ok(backend)
    }

    /// Opens the table, makes it anew when somebody removed it, and keeps its scope right.
    fn open_table(&mut self, wanted: &BTreeMap<InboundId, Inbound>) -> Result<(), Error> {
        let scope = Scope {
            interfaces: wanted.keys().map(|id| self.names.interface(*id)).collect(),
            pools: wanted
                .values()
                .flat_map(|i| i.addresses.iter().map(IpNet::trunc))
                .collect(),
        };
        if let Some(table) = &mut self.table {
            if table.exists()? {
                if table.scope() != &scope {
                    table.set_scope(&scope)?;
                }
                return Ok(());
            }
            tracing::error!(event = "table_lost", table = %self.names.table(),
                "somebody removed our nftables table: counters start anew");
        }
        let ipv6 = scope.pools.iter().any(|pool| matches!(pool, IpNet::V6(_)));
        host::enable_forwarding(ipv6)?;
        let mut table = Table::open(&self.names.table(), &scope)?;
        let changes: Vec<_> = self.peers.values().flat_map(entries_of).collect();
        table.program(&changes, clock::unix_ms())?;
        self.table = Some(table);
        self.last.clear();
        self.allowances.forget_readings();
        Ok(())
    }

    /// Takes down inbounds that are not wanted; at the first call also those that an earlier
    /// agent left.
    fn take_down(
        &mut self,
        wanted: &BTreeMap<InboundId, Inbound>,
        first: bool,
        backend: Backend,
    ) -> Result<(), Error> {
        let unwanted: Vec<_> = self
            .interfaces
            .keys()
            .copied()
            .filter(|id| !wanted.contains_key(id))
            .collect();
        for id in unwanted {
            if let Some(mut interface) = self.interfaces.remove(&id) {
                interface.device.remove()?;
            }
        }
        if first {
            let names: HashSet<_> = wanted.keys().map(|id| self.names.interface(*id)).collect();
            for name in host::interfaces()? {
                if self.names.is_ours(&name) && !names.contains(&name) {
                    tracing::info!(event = "interface_removed", interface = %name,
                        "removed an interface that is not wanted any more");
                    Device::new(backend, &name, &self.folder).remove()?;
                }
            }
        }
        Ok(())
    }

    fn bring_up(&mut self, inbound: Inbound, backend: Backend) -> Result<(), Error> {
        let id = inbound.id;
        let mut interface = match self.interfaces.remove(&id) {
            Some(interface) => interface,
            None => Interface {
                name: self.names.interface(id),
                device: Device::new(backend, &self.names.interface(id), &self.folder),
                // Not configured yet: differs from what is wanted in everything.
                inbound: Inbound {
                    port: 0,
                    ..inbound.clone()
                },
                keys: HashMap::new(),
            },
        };
        let result = self.configure(&mut interface, inbound);
        self.interfaces.insert(id, interface);
        result
    }

    fn configure(&mut self, interface: &mut Interface, inbound: Inbound) -> Result<(), Error> {
        let fresh = interface.device.ensure()?;
        if !fresh && interface.inbound == inbound {
            return Ok(());
        }
        let mut report = interface.device.report()?;
        if !is_configured(&report, &inbound) {
            interface
                .device
                .set_interface(inbound.private_key.bytes(), inbound.port)?;
            report = interface.device.report()?;
        }
        let settings = host::InterfaceSettings {
            addresses: inbound.addresses.clone(),
            mtu: inbound.mtu,
        };
        host::configure(&interface.name, &settings)?;
        self.take_over(interface, report)?;
        let missing: Vec<PeerSettings> = self
            .peers
            .values()
            .filter(|peer| peer.inbound == inbound.id)
            .filter(|peer| !interface.keys.contains_key(&peer.public_key))
            .map(|peer| settings_of(peer, self.endpoints.get(&peer.id).copied()))
            .collect();
        let references: Vec<&PeerSettings> = missing.iter().collect();
        let results = interface.device.set_peers(&references);
        for (settings, result) in missing.iter().zip(results) {
            result?;
            interface
                .keys
                .insert(settings.public_key, networks(settings));
        }
        if fresh && !missing.is_empty() {
            tracing::warn!(event = "peers_restored", interface = %interface.name,
                peers = missing.len(), "set the peers of a new interface");
        }
        // Only now: until here the next call would try again.
        interface.inbound = inbound;
        Ok(())
    }

    /// Takes over the peers that WireGuard knows; those without an address in the table are
    /// nobody's and go.
    fn take_over(&self, interface: &mut Interface, report: InterfaceReport) -> Result<(), Error> {
        let table = self.table.as_ref().ok_or(Error::Stopped)?;
        let known: HashSet<IpAddr> = table.entries().map(|(address, _)| address).collect();
        let (ours, strays): (Vec<_>, Vec<_>) = report.peers.into_iter().partition(|peer| {
            peer.allowed_ips
                .iter()
                .any(|net| known.contains(&net.addr()))
        });
        let strays: Vec<_> = strays.iter().map(|peer| peer.public_key).collect();
        if !strays.is_empty() {
            interface.device.remove_peers(&strays)?;
        }
        interface.keys = ours
            .into_iter()
            .map(|p| (p.public_key, p.allowed_ips))
            .collect();
        Ok(())
    }

    pub(super) fn apply(&mut self, ops: Vec<PeerOp>) -> Vec<Result<(), Error>> {
        let mut results: Vec<Result<(), Error>> = ops.iter().map(|_| Ok(())).collect();
        // Removals first: what they free may be given to others in the same delta.
        let mut set = Vec::new();
        for (index, op) in ops.into_iter().enumerate() {
            match op {
                PeerOp::Remove(peer) => report(&mut results, index, self.remove(peer)),
                PeerOp::Set(peer) => set.push((index, *peer)),
            }
        }
        set.retain(|(index, peer)| {
            let valid = self.admit(peer);
            let admitted = valid.is_ok();
            report(&mut results, *index, valid);
            admitted
        });
        for (index, result) in self.set(set) {
            report(&mut results, index, result);
        }
        if let Some(table) = &mut self.table
            && let Err(error) = table.sweep_quotas()
        {
            tracing::warn!(event = "quotas_not_swept", %error, "unused quotas stay until the next change of peers sweeps them");
        }
        if let Some(table) = &mut self.table
            && let Err(error) = table.sweep_rates()
        {
            tracing::warn!(event = "speeds_not_swept", %error, "unused speed limits stay until the next change of peers sweeps them");
        }
        self.told = true;
        self.pace(&HashSet::new());
        results
    }

    /// Holds users back to their speed, those with traffic by classes.
    fn pace(&mut self, active: &HashSet<UserId>) {
        let Some(table) = self.table.as_mut().filter(|_| self.told) else {
            return;
        };
        let interfaces = self.interfaces.iter();
        let interfaces = interfaces
            .map(|(id, interface)| (*id, interface.name.clone()))
            .collect();
        let view = View {
            peers: &self.peers,
            interfaces: &interfaces,
            active,
        };
        self.pacing.keep(view, table, Instant::now());
    }

    /// Users with a speed limit that had traffic since the last reading.
    fn active(&self, counted: &HashMap<PeerId, (u64, u64)>) -> HashSet<UserId> {
        let moved = |peer: PeerId| {
            self.last
                .get(&peer)
                .is_some_and(|it| Some(it) != counted.get(&peer))
        };
        self.peers
            .values()
            .filter(|peer| peer.speed != SpeedLimit::NONE && moved(peer.id))
            .map(|peer| peer.user)
            .collect()
    }

    /// Checks a peer against the inbounds and the other peers, and claims its addresses.
    fn admit(&mut self, peer: &Peer) -> Result<(), Error> {
        let interface = self.interfaces.get(&peer.inbound).ok_or_else(|| {
            Error::Invalid(format!("inbound {} is not open on this node", peer.inbound))
        })?;
        if peer.addresses.is_empty() {
            return Err(Error::Invalid("the peer has no address".to_owned()));
        }
        for address in &peer.addresses {
            let networks = &interface.inbound.addresses;
            if !networks
                .iter()
                .any(|net| net.contains(address) && net.addr() != *address)
            {
                return Err(Error::Invalid(format!(
                    "address {address} is not in the pool of inbound {}",
                    peer.inbound
                )));
            }
            if let Some(other) = self.owners.get(address).filter(|other| **other != peer.id) {
                return Err(Error::Invalid(format!(
                    "address {address} belongs to peer {other}"
                )));
            }
        }
        for address in &peer.addresses {
            self.owners.insert(*address, peer.id);
        }
        Ok(())
    }

    fn set(&mut self, peers: Vec<(usize, Peer)>) -> Vec<(usize, Result<(), Error>)> {
        let mut changes = Vec::new();
        for (_, peer) in &peers {
            changes.extend(
                self.addresses_of(peer.id)
                    .into_iter()
                    .filter(|address| !peer.addresses.contains(address))
                    .map(|address| (address, None)),
            );
            changes.extend(entries_of(peer));
        }
        if let Err(error) = self.program(&changes) {
            let message = error.to_string();
            return peers
                .into_iter()
                .map(|(index, _)| (index, Err(Error::Invalid(message.clone()))))
                .collect();
        }
        let mut results = Vec::with_capacity(peers.len());
        let mut by_inbound: BTreeMap<InboundId, Vec<(usize, PeerSettings)>> = BTreeMap::new();
        for (index, peer) in peers {
            let before = self.peers.get(&peer.id);
            let same = before.is_some_and(|before| same_settings(before, &peer));
            let known = self
                .interfaces
                .get(&peer.inbound)
                .is_some_and(|interface| interface.keys.contains_key(&peer.public_key));
            let outcome = self.leave_old_place(&peer);
            self.own(&peer);
            if outcome.is_err() || (same && known) {
                results.push((index, outcome));
            } else {
                let settings = settings_of(&peer, None);
                by_inbound
                    .entry(peer.inbound)
                    .or_default()
                    .push((index, settings));
            }
            self.peers.insert(peer.id, peer);
        }
        for (inbound, group) in by_inbound {
            let Some(interface) = self.interfaces.get_mut(&inbound) else {
                continue;
            };
            let references: Vec<&PeerSettings> = group.iter().map(|(_, s)| s).collect();
            let outcomes = interface.device.set_peers(&references);
            for ((index, settings), outcome) in group.into_iter().zip(outcomes) {
                if outcome.is_ok() {
                    interface
                        .keys
                        .insert(settings.public_key, networks(&settings));
                }
                results.push((index, outcome));
            }
        }
        results
    }

    /// Removes the peer from where it is, when it changes its key or its inbound.
    fn leave_old_place(&mut self, peer: &Peer) -> Result<(), Error> {
        let Some(before) = self.peers.get(&peer.id) else {
            return Ok(());
        };
        if before.inbound == peer.inbound && before.public_key == peer.public_key {
            return Ok(());
        }
        if let Some(interface) = self.interfaces.get_mut(&before.inbound) {
            interface.device.remove_peers(&[before.public_key])?;
            interface.keys.remove(&before.public_key);
        }
        Ok(())
    }

    /// Notes whose the peer's quota and addresses are.
    fn own(&mut self, peer: &Peer) {
        let before = self.peers.get(&peer.id);
        let quota = |peer: &Peer| peer.limited.then_some(peer.user);
        self.allowances
            .set_owner(peer.id, before.and_then(quota), quota(peer));
        for address in before.into_iter().flat_map(|before| &before.addresses) {
            if !peer.addresses.contains(address) {
                self.owners.remove(address);
            }
        }
    }

    fn remove(&mut self, id: PeerId) -> Result<(), Error> {
        let addresses = self.addresses_of(id);
        let before = self.peers.get(&id);
        let quota = before.filter(|peer| peer.limited).map(|peer| peer.user);
        let place = before.map(|peer| (peer.inbound, peer.public_key));
        for (inbound, interface) in &mut self.interfaces {
            // A peer of an earlier agent is known by its addresses alone.
            let keys: Vec<[u8; 32]> = match place {
                Some((there, key)) if there == *inbound => vec![key],
                Some(_) => Vec::new(),
                None => interface.keys_of(&addresses),
            };
            if !keys.is_empty() {
                interface.device.remove_peers(&keys)?;
                interface.keys.retain(|known, _| !keys.contains(known));
            }
        }
        let changes: Vec<_> = addresses.iter().map(|address| (*address, None)).collect();
        self.program(&changes)?;
        self.allowances.set_owner(id, quota, None);
        self.peers.remove(&id);
        self.endpoints.remove(&id);
        for address in &addresses {
            self.owners.remove(address);
        }
        Ok(())
    }

    /// Addresses programmed for a peer.
    fn addresses_of(&self, id: PeerId) -> BTreeSet<IpAddr> {
        if let Some(peer) = self.peers.get(&id) {
            return peer.addresses.clone();
        }
        let entries = self.table.iter().flat_map(Table::entries);
        entries
            .filter(|(_, entry)| entry.peer == id)
            .map(|(address, _)| address)
            .collect()
    }

    fn program(&mut self, changes: &[(IpAddr, Option<Entry>)]) -> Result<(), Error> {
        let table = self.table.as_mut().ok_or(Error::Stopped)?;
        table.program(changes, clock::unix_ms())
    }

    pub(super) fn list(&self) -> Result<Vec<Listed>, Error> {
        let table = self.table.as_ref().ok_or(Error::Stopped)?;
        let mut peers: BTreeMap<PeerId, BTreeSet<IpAddr>> = BTreeMap::new();
        for (address, entry) in table.entries() {
            peers.entry(entry.peer).or_default().insert(address);
        }
        Ok(peers
            .into_iter()
            .map(|(peer, addresses)| Listed { peer, addresses })
            .collect())
    }

    pub(super) fn read_counters(&mut self) -> Result<Reading, Error> {
        let table = self.table.as_mut().ok_or(Error::Stopped)?;
        let at_ms = clock::unix_ms();
        let counted = table.read()?;
        self.allowances.observe(&counted);
        let exhausted = counted
            .quotas
            .iter()
            .filter(|(_, (limit, used))| used >= limit)
            .map(|(user, _)| *user)
            .collect();
        let active = self.active(&counted.peers);
        self.last.clone_from(&counted.peers);
        let table = self.table.as_mut().ok_or(Error::Stopped)?;
        if let Err(error) = program_limits(table, &self.allowances) {
            // Users are cut early at worst; the reading counts all the same.
            tracing::error!(event = "quota_failed", %error, "quotas lag behind their allowances");
        }
        let incarnation = table.incarnation();
        self.pace(&active);
        Ok(Reading {
            incarnation,
            at_ms,
            peers: counted.peers,
            exhausted,
        })
    }

    pub(super) fn set_blocked(&mut self, ids: &[PeerId], blocked: bool) -> Result<(), Error> {
        let changes: Vec<_> = ids
            .iter()
            .filter_map(|id| self.peers.get(id))
            .map(|peer| Peer {
                blocked,
                ..peer.clone()
            })
            .flat_map(|peer| entries_of(&peer).collect::<Vec<_>>())
            .collect();
        self.program(&changes)?;
        for id in ids {
            if let Some(peer) = self.peers.get_mut(id) {
                peer.blocked = blocked;
            }
        }
        Ok(())
    }

    pub(super) fn set_allowances(&mut self, remainders: &[(UserId, u64)]) -> Result<(), Error> {
        let table = self.table.as_mut().ok_or(Error::Stopped)?;
        let (mut unread, mut over) = (false, false);
        let mut blocked = Vec::new();
        for (user, remainder) in remainders {
            if !self.allowances.contains(*user) {
                continue;
            }
            self.allowances.allow(*user, &self.last, *remainder);
            if *remainder == 0 {
                blocked.push((*user, 0));
            } else {
                unread |= self.allowances.needs_reading(*user);
                over |= self.allowances.is_over(*user);
            }
        }
        blocked.retain(|(user, limit)| table.quota(*user) != Some(*limit));
        table.set_quotas(&blocked)?;
        if unread {
            self.allowances.observe(&table.read()?);
        }
        program_limits(table, &self.allowances)?;
        if over {
            // What the quota dropped shows now that its limit is higher.
            self.allowances.observe(&table.read()?);
            program_limits(table, &self.allowances)?;
        }
        Ok(())
    }

    pub(super) fn sessions(&mut self) -> Result<Vec<Session>, Error> {
        let ids: HashMap<[u8; 32], PeerId> = self
            .peers
            .values()
            .map(|peer| (peer.public_key, peer.id))
            .collect();
        let mut sessions = Vec::new();
        for interface in self.interfaces.values() {
            for report in interface.device.report()?.peers {
                let Some(peer) = ids.get(&report.public_key).copied() else {
                    continue;
                };
                if let Some(endpoint) = report.endpoint {
                    self.endpoints.insert(peer, endpoint);
                }
                if report.last_handshake > 0 {
                    sessions.push(Session {
                        peer,
                        endpoint: report.endpoint,
                        last_handshake: report.last_handshake,
                    });
                }
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.last_handshake));
        Ok(sessions)
    }

    pub(super) fn status(&self) -> Status {
        Status {
            kind: super::KIND,
            version: self.version.clone(),
            problem: self.problem.clone(),
            shortfall: self.pacing.shortfall().map(ToOwned::to_owned),
            peers: self.peers.len(),
            incarnation: self.table.as_ref().map(Table::incarnation),
        }
    }

    /// Takes the interfaces down. The table stays, with everything it counts and holds back; the
    /// next call of `ensure_running` makes the interfaces anew, with their peers.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        self.interfaces
            .values_mut()
            .try_for_each(|interface| interface.device.remove())
    }

    /// Takes everything of this engine off the host, also what it has counted.
    pub(super) fn destroy(&mut self) -> Result<(), Error> {
        for interface in self.interfaces.values_mut() {
            interface.device.remove()?;
        }
        self.interfaces.clear();
        self.pacing.destroy()?;
        self.table = None;
        for reason in Reason::ALL {
            self.cordon.set(reason, false)?;
        }
        Table::remove(&self.names.table())
    }
}

/// Brings the kernel's quotas to what readings have taught.
fn program_limits(table: &mut Table, allowances: &Allowances) -> Result<(), Error> {
    let limits: Vec<_> = allowances
        .limits()
        .filter(|(user, limit)| table.quota(*user) != Some(*limit))
        .collect();
    table.set_quotas(&limits)
}

fn report(results: &mut [Result<(), Error>], index: usize, result: Result<(), Error>) {
    if let Some(slot) = results.get_mut(index) {
        *slot = result;
    }
}

/// Splits inbounds into those that go together and those that contradict an earlier one.
fn consistent(wanted: Vec<Inbound>) -> (BTreeMap<InboundId, Inbound>, Vec<(InboundId, Error)>) {
    let mut good: BTreeMap<InboundId, Inbound> = BTreeMap::new();
    let mut failed = Vec::new();
    let mut wanted = wanted;
    wanted.sort_by_key(|inbound| inbound.id);
    for inbound in wanted {
        let clash = good.values().find(|other| {
            other.port == inbound.port
                || other.addresses.iter().any(|a| {
                    inbound
                        .addresses
                        .iter()
                        .any(|b| a.contains(&b.network()) || b.contains(&a.network()))
                })
        });
        match clash {
            Some(other) => {
                let message = format!("port or addresses overlap with inbound {}", other.id);
                failed.push((inbound.id, Error::Invalid(message)));
            }
            None => {
                good.insert(inbound.id, inbound);
            }
        }
    }
    (good, failed)
}

fn entries_of(peer: &Peer) -> impl Iterator<Item = (IpAddr, Option<Entry>)> + use<> {
    let entry = Entry {
        peer: peer.id,
        quota: peer.limited.then_some(peer.user),
        up: rate_of(peer, peer.speed.up),
        down: rate_of(peer, peer.speed.down),
        blocked: peer.blocked,
        member: peer.not_after_ms.map_or(Member::Always, Member::Until),
    };
    peer.addresses
        .clone()
        .into_iter()
        .map(move |address| (address, Some(entry.clone())))
}

fn rate_of(peer: &Peer, speed: Speed) -> Option<Rate> {
    speed.bytes_per_second().map(|bytes_per_second| Rate {
        user: peer.user,
        bytes_per_second,
    })
}

fn settings_of(peer: &Peer, endpoint: Option<SocketAddr>) -> PeerSettings {
    PeerSettings {
        public_key: peer.public_key,
        preshared_key: peer
            .preshared_key
            .as_ref()
            .map_or([0; 32], |key| *key.bytes()),
        allowed_ips: peer.addresses.clone(),
        endpoint,
    }
}

fn networks(settings: &PeerSettings) -> BTreeSet<IpNet> {
    settings
        .allowed_ips
        .iter()
        .copied()
        .map(IpNet::from)
        .collect()
}

/// Whether WireGuard needs not be told of a change.
fn same_settings(a: &Peer, b: &Peer) -> bool {
    a.inbound == b.inbound
        && a.public_key == b.public_key
        && a.preshared_key == b.preshared_key
        && a.addresses == b.addresses
}

fn is_configured(report: &InterfaceReport, inbound: &Inbound) -> bool {
    let mut key = *inbound.private_key.bytes();
    // As Curve25519 takes it (RFC 7748, section 5), and WireGuard reports it.
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    report.listen_port == inbound.port && report.private_key == Some(key)
}
