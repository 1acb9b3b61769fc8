//! Engines in the words of the link: inbounds and peers as the control plane names them, each turned
//! into what its engine knows.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::{DesiredInbound, InboundSettings, PeerAccess};

use super::subscribers::{Op, Resident};
use crate::Error;
use crate::engine::xray::{XrayInbound, XrayOp, XrayPeer};
use crate::engine::{Engine, Inbound, Key32, Peer, PeerOp, Reading, Running, Status, XrayEngine};

/// An engine that carries subscribers' traffic.
#[async_trait]
pub(super) trait Carrier: Send + Sync + std::fmt::Debug {
    /// Brings these inbounds up and closes the others; what runs is adopted.
    async fn ensure_running(&self, inbounds: &[DesiredInbound]) -> Result<Running, Error>;

    /// Whether it should be looked at though nobody wants anything of it: it may carry traffic.
    async fn may_run(&self) -> bool;

    /// Takes up what runs just as it is; starts it where nothing does.
    async fn adopt(&self) -> Result<(), Error>;

    /// Changes peers; the results are in the order of the operations.
    async fn apply(&self, ops: Vec<Op>) -> Vec<Result<(), Error>>;

    /// The peers that it has.
    async fn list(&self) -> Result<Vec<PeerId>, Error>;

    /// All counters, of one incarnation.
    async fn read_counters(&self) -> Result<Reading, Error>;

    /// Stops peers, or lets them pass again.
    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error>;

    /// What limited users may pass beyond the last reading.
    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error>;

    /// Stops it; the next look starts it again. Gives the last reading of counters that end with it.
    async fn stop(&self) -> Result<Option<Reading>, Error>;

    /// Takes no new sessions, or takes them again.
    async fn set_cordoned(&self, on: bool) -> Result<(), Error>;

    /// The same by the desired state.
    async fn set_draining(&self, on: bool) -> Result<(), Error>;

    /// How it is.
    async fn status(&self) -> Status;
}

#[async_trait]
impl Carrier for Arc<dyn Engine> {
    async fn ensure_running(&self, inbounds: &[DesiredInbound]) -> Result<Running, Error> {
        let inbounds = inbounds.iter().filter_map(wireguard_inbound).collect();
        Engine::ensure_running(&**self, inbounds).await
    }

    async fn may_run(&self) -> bool {
        // It needs nothing while it has nothing to do.
        true
    }

    async fn adopt(&self) -> Result<(), Error> {
        // A reading takes up what runs. Where nothing was, nothing is taken down by a start.
        match Engine::read_counters(&**self).await {
            Err(_) if Engine::status(&**self).await.incarnation.is_none() => {
                Engine::ensure_running(&**self, Vec::new()).await.map(drop)
            }
            read => read.map(drop),
        }
    }

    async fn apply(&self, ops: Vec<Op>) -> Vec<Result<(), Error>> {
        let ops = each(ops, wireguard_peer, PeerOp::Set, PeerOp::Remove);
        apply_each(ops, |ops| Engine::apply(&**self, ops)).await
    }

    async fn list(&self) -> Result<Vec<PeerId>, Error> {
        let listed = Engine::list(&**self).await?;
        Ok(listed.into_iter().map(|listed| listed.peer).collect())
    }

    async fn read_counters(&self) -> Result<Reading, Error> {
        Engine::read_counters(&**self).await
    }

    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error> {
        Engine::set_blocked(&**self, peers, blocked).await
    }

    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error> {
        Engine::set_allowances(&**self, remainders).await
    }

    async fn stop(&self) -> Result<Option<Reading>, Error> {
        // Its counters do not end.
        Engine::stop(&**self).await.map(|()| None)
    }

    async fn set_cordoned(&self, on: bool) -> Result<(), Error> {
        Engine::set_cordoned(&**self, on).await
    }

    async fn set_draining(&self, on: bool) -> Result<(), Error> {
        Engine::set_draining(&**self, on).await
    }

    async fn status(&self) -> Status {
        Engine::status(&**self).await
    }
}

#[async_trait]
impl Carrier for XrayEngine {
    async fn ensure_running(&self, inbounds: &[DesiredInbound]) -> Result<Running, Error> {
        let inbounds = inbounds.iter().filter_map(xray_inbound).collect();
        Self::ensure_running(self, inbounds).await
    }

    async fn may_run(&self) -> bool {
        self.runs().await.unwrap_or(true)
    }

    async fn adopt(&self) -> Result<(), Error> {
        Self::adopt(self).await
    }

    async fn apply(&self, ops: Vec<Op>) -> Vec<Result<(), Error>> {
        let ops = each(ops, xray_peer, XrayOp::Set, XrayOp::Remove);
        apply_each(ops, |ops| Self::apply(self, ops)).await
    }

    async fn list(&self) -> Result<Vec<PeerId>, Error> {
        Self::list(self).await
    }

    async fn read_counters(&self) -> Result<Reading, Error> {
        Self::read_counters(self).await
    }

    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error> {
        Self::set_blocked(self, peers, blocked).await
    }

    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error> {
        Self::set_allowances(self, remainders).await
    }

    async fn stop(&self) -> Result<Option<Reading>, Error> {
        match self.retire().await {
            Ok(reading) => Ok(Some(reading)),
            Err(error) => {
                tracing::warn!(event = "last_reading_failed", %error,
                    "xray is ended, and what was not read with it");
                Self::stop(self).await.map(|()| None)
            }
        }
    }

    async fn set_cordoned(&self, on: bool) -> Result<(), Error> {
        Self::set_cordoned(self, on).await
    }

    async fn set_draining(&self, on: bool) -> Result<(), Error> {
        Self::set_draining(self, on).await
    }

    async fn status(&self) -> Status {
        Self::status(self).await
    }
}

/// Operations in an engine's own words; `None` is a peer of another kind.
fn each<P, O>(
    ops: Vec<Op>,
    peer: impl Fn(Resident) -> Option<P>,
    set: impl Fn(Box<P>) -> O,
    remove: impl Fn(PeerId) -> O,
) -> Vec<Option<O>> {
    ops.into_iter()
        .map(|op| match op {
            Op::Set(resident) => peer(*resident).map(|peer| set(Box::new(peer))),
            Op::Remove(peer) => Some(remove(peer)),
        })
        .collect()
}

/// Has an engine do what it can; the results are in the order of all of it.
async fn apply_each<O, F: Future<Output = Vec<Result<(), Error>>>>(
    ops: Vec<Option<O>>,
    apply: impl FnOnce(Vec<O>) -> F,
) -> Vec<Result<(), Error>> {
    let known: Vec<bool> = ops.iter().map(Option::is_some).collect();
    let mut results = apply(ops.into_iter().flatten().collect()).await.into_iter();
    let result = |known: bool| {
        if known {
            return results.next().unwrap_or(Err(Error::Stopped));
        }
        Err(Error::Invalid("the peer is of another kind".to_owned()))
    };
    known.into_iter().map(result).collect()
}

fn wireguard_inbound(inbound: &DesiredInbound) -> Option<Inbound> {
    let InboundSettings::WireGuard(wireguard) = &inbound.settings else {
        return None;
    };
    Some(Inbound {
        id: inbound.id,
        private_key: Key32::new(wireguard.private_key.0),
        port: wireguard.port,
        addresses: wireguard
            .addresses
            .iter()
            .filter_map(|a| IpNet::new(a.address, a.prefix).ok())
            .collect(),
        mtu: u32::from(wireguard.mtu),
    })
}

fn xray_inbound(inbound: &DesiredInbound) -> Option<XrayInbound> {
    let InboundSettings::Xray(xray) = &inbound.settings else {
        return None;
    };
    let xray = xray.clone();
    Some(XrayInbound {
        id: inbound.id,
        port: xray.port,
        protocol: xray.protocol,
        transport: xray.transport,
        security: xray.security,
    })
}

fn wireguard_peer(resident: Resident) -> Option<Peer> {
    let PeerAccess::WireGuard {
        public_key,
        preshared_key,
        ipv4,
        ipv6,
    } = resident.peer.access
    else {
        return None;
    };
    let ipv4 = ipv4.map(IpAddr::V4);
    let ipv6 = ipv6.map(IpAddr::V6);
    Some(Peer {
        id: resident.peer.id,
        user: resident.user,
        inbound: resident.peer.inbound,
        public_key,
        preshared_key: preshared_key.map(|secret| Key32::new(secret.0)),
        addresses: ipv4.into_iter().chain(ipv6).collect(),
        blocked: resident.blocked,
        limited: resident.limited,
        not_after_ms: None,
        speed: resident.speed,
    })
}

fn xray_peer(resident: Resident) -> Option<XrayPeer> {
    let PeerAccess::Xray { credential } = resident.peer.access else {
        return None;
    };
    Some(XrayPeer {
        id: resident.peer.id,
        user: resident.user,
        inbound: resident.peer.inbound,
        credential,
        blocked: resident.blocked,
        limited: resident.limited,
        not_after_ms: None,
        devices: resident.devices,
    })
}
