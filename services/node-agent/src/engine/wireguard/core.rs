//! The engine's state and operations, blocking: what should be, what is, and how one becomes
//! the other. An address is programmed in the table before its peer may connect, and stays
//! there until after the peer is gone, so no packet passes unbilled.

mod interfaces;
mod peers;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Instant;

use ipnet::IpNet;
use vpnpanel_domain::{InboundId, PeerId, SpeedLimit, UserId};

use self::interfaces::consistent;
use self::peers::entries_of;
use super::allowance::Allowances;
use super::cordon::Cordon;
use super::device::{Backend, Device};
use super::names::Names;
use super::pacing::{Pacing, View};
use super::{Running, WireGuardOptions};
use crate::engine::cordon::Reason;
use crate::engine::{Inbound, Listed, Peer, Reading, Session, Status};
use crate::nft::Table;
use crate::{Error, clock};

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
