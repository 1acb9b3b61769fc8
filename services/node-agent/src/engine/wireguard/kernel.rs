//! WireGuard of the kernel, by netlink.

use std::collections::BTreeSet;
use std::time::UNIX_EPOCH;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use defguard_wireguard_rs::error::WireguardInterfaceError;
use defguard_wireguard_rs::key::Key;
use defguard_wireguard_rs::net::IpAddrMask;
use defguard_wireguard_rs::peer::Peer;
use defguard_wireguard_rs::{InterfaceConfiguration, Kernel, WGApi, WireguardInterfaceApi};
use ipnet::IpNet;

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
        self.api()?
            .create_interface()
            .map_err(|error| self.failed(&error))?;
        Ok(true)
    }

    /// Sets key and port. The library replaces the peers with none: they have to be set again.
    pub(super) fn set_interface(&self, private_key: &[u8; 32], port: u16) -> Result<(), Error> {
        let configuration = InterfaceConfiguration {
            name: self.interface.clone(),
            prvkey: STANDARD.encode(private_key),
            addresses: Vec::new(),
            port,
            peers: Vec::new(),
            mtu: None,
            fwmark: None,
        };
        self.api()?
            .configure_interface(&configuration)
            .map_err(|error| self.failed(&error))
    }

    pub(super) fn set_peer(&self, settings: &PeerSettings) -> Result<(), Error> {
        let mut peer = Peer::new(Key::new(settings.public_key));
        peer.preshared_key = Some(Key::new(settings.preshared_key));
        peer.endpoint = settings.endpoint;
        peer.allowed_ips = settings
            .allowed_ips
            .iter()
            .copied()
            .map(IpAddrMask::host)
            .collect();
        self.api()?
            .configure_peer(&peer)
            .map_err(|error| self.failed(&error))
    }

    pub(super) fn remove_peer(&self, public_key: [u8; 32]) -> Result<(), Error> {
        self.api()?
            .remove_peer(&Key::new(public_key))
            .map_err(|error| self.failed(&error))
    }

    pub(super) fn report(&self) -> Result<InterfaceReport, Error> {
        let found = self
            .api()?
            .read_interface_data()
            .map_err(|error| self.failed(&error))?;
        Ok(InterfaceReport {
            private_key: found.private_key.map(|key| key.as_array()),
            listen_port: found.listen_port,
            peers: found.peers.into_values().map(peer_report).collect(),
        })
    }

    pub(super) fn remove(&self) -> Result<(), Error> {
        host::remove(&self.interface)
    }

    fn api(&self) -> Result<WGApi<Kernel>, Error> {
        WGApi::new(&self.interface).map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &WireguardInterfaceError) -> Error {
        Error::Kernel {
            interface: self.interface.clone(),
            message: error.to_string(),
        }
    }
}

fn peer_report(peer: Peer) -> PeerReport {
    let networks: BTreeSet<IpNet> = peer
        .allowed_ips
        .iter()
        .filter_map(|mask| IpNet::new(mask.address, mask.cidr).ok())
        .collect();
    let last_handshake = peer
        .last_handshake
        .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        .and_then(|elapsed| i64::try_from(elapsed.as_secs()).ok())
        .unwrap_or(0);
    PeerReport {
        public_key: peer.public_key.as_array(),
        allowed_ips: networks,
        endpoint: peer.endpoint,
        last_handshake,
    }
}
