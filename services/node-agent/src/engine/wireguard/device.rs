//! A WireGuard interface, of the kernel's or of wireguard-go's.

use std::path::Path;

use super::kernel::KernelDevice;
use super::uapi::{InterfaceReport, PEERS_PER_REQUEST, PeerSettings};
use super::userspace::UserspaceDevice;
use crate::{Error, host};

/// Whose WireGuard runs on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backend {
    Kernel,
    Userspace,
}

impl Backend {
    /// Finds out by trying: a module that is not loaded may load itself.
    pub(super) fn detect(probe: &str) -> Result<Self, Error> {
        if host::add_wireguard(probe)? {
            host::remove(probe)?;
            return Ok(Self::Kernel);
        }
        match host::find("wireguard-go") {
            None => Err(Error::NoWireGuard("neither is there".to_owned())),
            Some(_) if !Path::new("/dev/net/tun").exists() => {
                Err(Error::NoWireGuard("/dev/net/tun does not exist".to_owned()))
            }
            Some(_) => Ok(Self::Userspace),
        }
    }

    /// Implementation and version.
    pub(super) fn version(self) -> String {
        let path = "/proc/sys/kernel/osrelease";
        match self {
            Self::Kernel => {
                let release = std::fs::read_to_string(path).unwrap_or_default();
                format!("linux {}", release.trim())
            }
            Self::Userspace => host::run("wireguard-go", "wireguard-go", &["--version"], "")
                .ok()
                .and_then(|text| {
                    text.lines()
                        .next()
                        .map(|line| line.trim().replace(" v", " "))
                })
                .unwrap_or_else(|| "wireguard-go".to_owned()),
        }
    }
}

#[derive(Debug)]
pub(super) enum Device {
    Kernel(KernelDevice),
    Userspace(UserspaceDevice),
}

impl Device {
    pub(super) fn new(backend: Backend, interface: &str, folder: &Path) -> Self {
        match backend {
            Backend::Kernel => Self::Kernel(KernelDevice::new(interface)),
            Backend::Userspace => Self::Userspace(UserspaceDevice::new(interface, folder)),
        }
    }

    /// Makes it run unless it does; whether it had to be made, and so knows nothing.
    pub(super) fn ensure(&mut self) -> Result<bool, Error> {
        match self {
            Self::Kernel(device) => device.ensure(),
            Self::Userspace(device) => device.ensure(),
        }
    }

    /// Sets key and port.
    pub(super) fn set_interface(&self, private_key: &[u8; 32], port: u16) -> Result<(), Error> {
        match self {
            Self::Kernel(device) => device.set_interface(private_key, port),
            Self::Userspace(device) => device.uapi().set_interface(private_key, port),
        }
    }

    /// Adds peers or changes them in place; a result for each.
    pub(super) fn set_peers(&self, peers: &[&PeerSettings]) -> Vec<Result<(), Error>> {
        match self {
            Self::Kernel(device) => peers.iter().map(|peer| device.set_peer(peer)).collect(),
            Self::Userspace(device) => peers
                .chunks(PEERS_PER_REQUEST)
                .flat_map(|chunk| match device.uapi().set_peers(chunk) {
                    Ok(()) => chunk.iter().map(|_| Ok(())).collect(),
                    // A request takes effect up to what it fails at: find out at which.
                    Err(_) => chunk
                        .iter()
                        .map(|peer| device.uapi().set_peers(&[peer]))
                        .collect::<Vec<_>>(),
                })
                .collect(),
        }
    }

    /// Removes peers; one that is not there is no error.
    pub(super) fn remove_peers(&self, keys: &[[u8; 32]]) -> Result<(), Error> {
        match self {
            Self::Kernel(device) => keys.iter().try_for_each(|key| device.remove_peer(*key)),
            Self::Userspace(device) => keys
                .chunks(PEERS_PER_REQUEST)
                .try_for_each(|chunk| device.uapi().remove_peers(chunk)),
        }
    }

    pub(super) fn report(&self) -> Result<InterfaceReport, Error> {
        match self {
            Self::Kernel(device) => device.report(),
            Self::Userspace(device) => device.uapi().get(),
        }
    }

    /// Takes the interface down.
    pub(super) fn remove(&mut self) -> Result<(), Error> {
        match self {
            Self::Kernel(device) => device.remove(),
            Self::Userspace(device) => device.stop(),
        }
    }
}
