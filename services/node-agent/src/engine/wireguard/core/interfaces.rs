//! Interfaces: brought up as they should be, taken over from an earlier agent, taken down.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;
use vpnpanel_domain::InboundId;

use super::peers::{entries_of, settings_of};
use super::{Core, Interface};
use crate::engine::Inbound;
use crate::engine::wireguard::device::{Backend, Device};
use crate::engine::wireguard::uapi::{InterfaceReport, PeerSettings};
use crate::nft::{Scope, Table};
use crate::{Error, clock, host};

impl Core {
    pub(super) fn backend(&mut self) -> Result<Backend, Error> {
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
    pub(super) fn open_table(
        &mut self,
        wanted: &BTreeMap<InboundId, Inbound>,
    ) -> Result<(), Error> {
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
    pub(super) fn take_down(
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

    pub(super) fn bring_up(&mut self, inbound: Inbound, backend: Backend) -> Result<(), Error> {
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

    pub(super) fn configure(
        &mut self,
        interface: &mut Interface,
        inbound: Inbound,
    ) -> Result<(), Error> {
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
    pub(super) fn take_over(
        &self,
        interface: &mut Interface,
        report: InterfaceReport,
    ) -> Result<(), Error> {
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
}

/// Splits inbounds into those that go together and those that contradict an earlier one.
pub(super) fn consistent(
    wanted: Vec<Inbound>,
) -> (BTreeMap<InboundId, Inbound>, Vec<(InboundId, Error)>) {
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

pub(super) fn is_configured(report: &InterfaceReport, inbound: &Inbound) -> bool {
    let mut key = *inbound.private_key.bytes();
    // As Curve25519 takes it (RFC 7748, section 5), and WireGuard reports it.
    key[0] &= 248;
    key[31] = key[31] & 127 | 64;
    report.listen_port == inbound.port && report.private_key == Some(key)
}

pub(super) fn networks(settings: &PeerSettings) -> BTreeSet<IpNet> {
    settings
        .allowed_ips
        .iter()
        .copied()
        .map(IpNet::from)
        .collect()
}
