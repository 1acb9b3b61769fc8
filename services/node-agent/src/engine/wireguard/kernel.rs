//! WireGuard of the kernel, by netlink.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_wireguard::{
    WireguardAddressFamily, WireguardAllowedIp, WireguardAllowedIpAttr, WireguardAttribute,
    WireguardPeer, WireguardPeerAttribute, WireguardPeerFlags,
};

use super::genl;
use super::uapi::{InterfaceReport, PeerReport, PeerSettings};
use crate::{Error, host};

/// An interface of the kernel's.
#[derive(Debug)]
pub(super) struct KernelDevice {
    interface: String,
}

impl KernelDevice {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
        }
    }

    /// Makes the interface unless it exists; whether it had to be made.
    pub(super) fn ensure(&self) -> Result<bool, Error> {
        if host::exists(&self.interface)? {
            return Ok(false);
        }
        if host::add_wireguard(&self.interface)? {
            return Ok(true);
        }
        Err(self.failed("the interface cannot be made".to_owned()))
    }

    /// Sets key and port; the peers stay.
    pub(super) fn set_interface(&self, private_key: &[u8; 32], port: u16) -> Result<(), Error> {
        self.set([
            WireguardAttribute::PrivateKey(*private_key),
            WireguardAttribute::ListenPort(port),
        ])
    }

    pub(super) fn set_peer(&self, settings: &PeerSettings) -> Result<(), Error> {
        self.set([WireguardAttribute::Peers(vec![peer(settings)])])
    }

    pub(super) fn remove_peer(&self, public_key: [u8; 32]) -> Result<(), Error> {
        let peer = WireguardPeer(vec![
            WireguardPeerAttribute::PublicKey(public_key),
            WireguardPeerAttribute::Flags(WireguardPeerFlags::RemoveMe),
        ]);
        self.set([WireguardAttribute::Peers(vec![peer])])
    }

    pub(super) fn report(&self) -> Result<InterfaceReport, Error> {
        let parts = genl::get(&self.interface).map_err(|message| self.failed(message))?;
        Ok(report(parts))
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        host::remove(&self.interface)
    }

    fn set<const N: usize>(&self, attributes: [WireguardAttribute; N]) -> Result<(), Error> {
        let name = WireguardAttribute::IfName(self.interface.clone());
        let attributes = std::iter::once(name).chain(attributes).collect();
        genl::set(attributes).map_err(|message| self.failed(message))
    }

    fn failed(&self, message: String) -> Error {
        Error::Kernel {
            interface: self.interface.clone(),
            message,
        }
    }
}

fn peer(settings: &PeerSettings) -> WireguardPeer {
    let mut attributes = vec![
        WireguardPeerAttribute::PublicKey(settings.public_key),
        WireguardPeerAttribute::Flags(WireguardPeerFlags::ReplaceAllowedIps),
        // All zeroes is none, to the kernel too.
        WireguardPeerAttribute::PresharedKey(settings.preshared_key),
        WireguardPeerAttribute::AllowedIps(
            settings
                .allowed_ips
                .iter()
                .copied()
                .map(host_route)
                .collect(),
        ),
    ];
    attributes.extend(settings.endpoint.map(WireguardPeerAttribute::Endpoint));
    WireguardPeer(attributes)
}

fn host_route(address: IpAddr) -> WireguardAllowedIp {
    let (family, length) = match address {
        IpAddr::V4(_) => (WireguardAddressFamily::Ipv4, 32),
        IpAddr::V6(_) => (WireguardAddressFamily::Ipv6, 128),
    };
    WireguardAllowedIp(vec![
        WireguardAllowedIpAttr::Family(family),
        WireguardAllowedIpAttr::IpAddr(address),
        WireguardAllowedIpAttr::Cidr(length),
    ])
}

fn report(parts: Vec<Vec<WireguardAttribute>>) -> InterfaceReport {
    let mut report = InterfaceReport::default();
    // A peer with more addresses than a part can hold goes on in the next one, by its key.
    let mut peers: BTreeMap<[u8; 32], PeerReport> = BTreeMap::new();
    for attribute in parts.into_iter().flatten() {
        match attribute {
            WireguardAttribute::PrivateKey(key) => report.private_key = Some(key),
            WireguardAttribute::ListenPort(port) => report.listen_port = port,
            WireguardAttribute::Peers(listed) => {
                for peer in &listed {
                    add(&mut peers, peer);
                }
            }
            _ => {}
        }
    }
    report.peers = peers.into_values().collect();
    report
}

fn add(peers: &mut BTreeMap<[u8; 32], PeerReport>, peer: &WireguardPeer) {
    let Some(public_key) = peer.iter().find_map(|attribute| match attribute {
        WireguardPeerAttribute::PublicKey(key) => Some(*key),
        _ => None,
    }) else {
        return;
    };
    let report = peers.entry(public_key).or_default();
    report.public_key = public_key;
    for attribute in peer.iter() {
        match attribute {
            WireguardPeerAttribute::Endpoint(endpoint) => report.endpoint = Some(*endpoint),
            WireguardPeerAttribute::LastHandshake(at) => report.last_handshake = at.seconds,
            WireguardPeerAttribute::AllowedIps(addresses) => {
                report
                    .allowed_ips
                    .extend(addresses.iter().filter_map(network));
            }
            _ => {}
        }
    }
}

fn network(listed: &WireguardAllowedIp) -> Option<IpNet> {
    let (mut address, mut length) = (None, None);
    for attribute in listed.iter() {
        match attribute {
            WireguardAllowedIpAttr::IpAddr(found) => address = Some(*found),
            WireguardAllowedIpAttr::Cidr(found) => length = Some(*found),
            _ => {}
        }
    }
    IpNet::new(address?, length?).ok()
}

#[cfg(test)]
mod tests {
    use netlink_packet_wireguard::WireguardTimeSpec;

    use super::*;

    fn settings() -> PeerSettings {
        PeerSettings {
            public_key: [7; 32],
            preshared_key: [9; 32],
            allowed_ips: ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()].into(),
            endpoint: Some("192.0.2.1:51820".parse().unwrap()),
        }
    }

    #[test]
    fn a_peer_is_reported_as_it_was_set() {
        let report = report(vec![vec![
            WireguardAttribute::PrivateKey([1; 32]),
            WireguardAttribute::ListenPort(51820),
            WireguardAttribute::Peers(vec![peer(&settings())]),
        ]]);
        assert_eq!(
            (report.private_key, report.listen_port),
            (Some([1; 32]), 51820)
        );
        let expected = PeerReport {
            public_key: [7; 32],
            allowed_ips: [
                "10.0.0.2/32".parse().unwrap(),
                "fd00::2/128".parse().unwrap(),
            ]
            .into(),
            endpoint: settings().endpoint,
            last_handshake: 0,
        };
        assert_eq!(report.peers, [expected]);
    }

    #[test]
    fn a_peer_told_in_two_parts_is_one_peer() {
        let part = |attribute| {
            vec![WireguardAttribute::Peers(vec![WireguardPeer(vec![
                WireguardPeerAttribute::PublicKey([7; 32]),
                attribute,
            ])])]
        };
        let address = |text: &str| {
            WireguardPeerAttribute::AllowedIps(vec![host_route(text.parse().unwrap())])
        };
        let report = report(vec![
            part(WireguardPeerAttribute::LastHandshake(WireguardTimeSpec {
                seconds: 5,
                nano_seconds: 1,
            })),
            part(address("10.0.0.2")),
            part(address("10.0.0.3")),
        ]);
        assert_eq!(report.peers.len(), 1);
        assert_eq!(report.peers[0].allowed_ips.len(), 2);
        assert_eq!(report.peers[0].last_handshake, 5);
    }
}
