//! Desired state and its changes in their encoded form.

use std::net::IpAddr;

use bytes::Bytes;
use prost::Message;
use vpnpanel_domain::{Multiplier, PeriodId, Speed, SpeedLimit, UserId};

use super::xray::{xray_from_wire, xray_to_wire};
use super::{decode, pb};
use crate::{
    DesiredDelta, DesiredInbound, DesiredPeer, DesiredPeriod, DesiredState, DesiredUser, Error,
    InboundSettings, InterfaceAddress, PeerAccess, Secret, SecretText, WireGuardInbound,
};

/// Encodes a state; equal states give equal bytes once they are sorted.
pub fn encode_state(state: &DesiredState) -> Bytes {
    pb::DesiredState {
        inbounds: state.inbounds.iter().map(inbound_to_wire).collect(),
        users: state.users.iter().map(user_to_wire).collect(),
        multiplier_ppm: state.multiplier.ppm(),
        draining: state.draining,
    }
    .encode_to_vec()
    .into()
}

/// Decodes a state.
///
/// # Errors
/// For anything that no correct control plane writes.
pub fn decode_state(bytes: &[u8]) -> Result<DesiredState, Error> {
    let state: pb::DesiredState = decode("desired state", bytes)?;
    Ok(DesiredState {
        multiplier: Multiplier::from_ppm(state.multiplier_ppm)?,
        draining: state.draining,
        inbounds: state
            .inbounds
            .into_iter()
            .map(inbound_from_wire)
            .collect::<Result<_, _>>()?,
        users: state
            .users
            .into_iter()
            .map(user_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

/// Encodes what has changed.
pub fn encode_delta(delta: &DesiredDelta) -> Bytes {
    let id = |id: &UserId| id.into_bytes().to_vec();
    pb::DesiredDelta {
        users: delta.users.iter().map(user_to_wire).collect(),
        removed: delta.removed.iter().map(id).collect(),
    }
    .encode_to_vec()
    .into()
}

fn inbound_to_wire(inbound: &DesiredInbound) -> pb::DesiredInbound {
    let settings = match &inbound.settings {
        InboundSettings::WireGuard(wireguard) => {
            pb::desired_inbound::Settings::Wireguard(pb::DesiredWireGuard {
                private_key: wireguard.private_key.0.to_vec(),
                port: u32::from(wireguard.port),
                addresses: wireguard
                    .addresses
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                mtu: u32::from(wireguard.mtu),
            })
        }
        InboundSettings::Xray(xray) => pb::desired_inbound::Settings::Xray(xray_to_wire(xray)),
    };
    pb::DesiredInbound {
        id: inbound.id.into_bytes().to_vec(),
        settings: Some(settings),
    }
}

pub(super) fn inbound_from_wire(inbound: pb::DesiredInbound) -> Result<DesiredInbound, Error> {
    let settings = match inbound.settings.ok_or(Error::Missing("inbound.settings"))? {
        pb::desired_inbound::Settings::Wireguard(wireguard) => {
            InboundSettings::WireGuard(WireGuardInbound {
                private_key: Secret(key("wireguard.private_key", &wireguard.private_key)?),
                port: small("wireguard.port", wireguard.port)?,
                addresses: wireguard
                    .addresses
                    .iter()
                    .map(|text| interface_address(text))
                    .collect::<Result<_, _>>()?,
                mtu: small("wireguard.mtu", wireguard.mtu)?,
            })
        }
        pb::desired_inbound::Settings::Xray(xray) => InboundSettings::Xray(xray_from_wire(xray)?),
    };
    Ok(DesiredInbound {
        id: inbound.id.as_slice().try_into()?,
        settings,
    })
}

fn user_to_wire(user: &DesiredUser) -> pb::DesiredUser {
    let next = user.next_period;
    pb::DesiredUser {
        id: user.id.into_bytes().to_vec(),
        period_id: user.period.id.into_bytes().to_vec(),
        blocked: user.blocked,
        limited: user.limited,
        not_after_ms: user.not_after_ms.unwrap_or(0),
        peers: user.peers.iter().map(peer_to_wire).collect(),
        period_ends_ms: user.period.ends_ms.unwrap_or(0),
        next_period_id: next
            .map(|next| next.id.into_bytes().to_vec())
            .unwrap_or_default(),
        next_period_ends_ms: next.and_then(|next| next.ends_ms).unwrap_or(0),
        speed_limit_up_bps: user.speed.up.bps(),
        speed_limit_down_bps: user.speed.down.bps(),
        device_limit: user.devices,
        period_spent: user.period.spent,
        next_period_spent: next.is_some_and(|next| next.spent),
    }
}

pub(super) fn user_from_wire(user: pb::DesiredUser) -> Result<DesiredUser, Error> {
    let next_period = if user.next_period_id.is_empty() {
        None
    } else {
        let spent = user.next_period_spent;
        Some(period(
            &user.next_period_id,
            user.next_period_ends_ms,
            spent,
        )?)
    };
    Ok(DesiredUser {
        id: user.id.as_slice().try_into()?,
        period: period(&user.period_id, user.period_ends_ms, user.period_spent)?,
        next_period,
        blocked: user.blocked,
        limited: user.limited,
        not_after_ms: instant(user.not_after_ms),
        // A bound that a newer control plane may give is kept as nearly as can be.
        speed: SpeedLimit {
            up: Speed::nearest(user.speed_limit_up_bps),
            down: Speed::nearest(user.speed_limit_down_bps),
        },
        devices: user.device_limit,
        peers: user
            .peers
            .into_iter()
            .map(peer_from_wire)
            .collect::<Result<_, _>>()?,
    })
}

fn peer_to_wire(peer: &DesiredPeer) -> pb::DesiredPeer {
    let named = pb::DesiredPeer {
        id: peer.id.into_bytes().to_vec(),
        inbound_id: peer.inbound.into_bytes().to_vec(),
        ..pb::DesiredPeer::default()
    };
    match &peer.access {
        PeerAccess::WireGuard {
            public_key,
            preshared_key,
            ipv4,
            ipv6,
        } => pb::DesiredPeer {
            public_key: public_key.to_vec(),
            preshared_key: preshared_key
                .as_ref()
                .map(|key| key.0.to_vec())
                .unwrap_or_default(),
            ipv4: ipv4.map(|address| address.to_string()).unwrap_or_default(),
            ipv6: ipv6.map(|address| address.to_string()).unwrap_or_default(),
            ..named
        },
        PeerAccess::Xray { credential } => pb::DesiredPeer {
            xray_credential: credential.text().to_owned(),
            ..named
        },
    }
}

fn peer_from_wire(peer: pb::DesiredPeer) -> Result<DesiredPeer, Error> {
    Ok(DesiredPeer {
        id: peer.id.as_slice().try_into()?,
        inbound: peer.inbound_id.as_slice().try_into()?,
        access: access_from_wire(peer)?,
    })
}

fn access_from_wire(peer: pb::DesiredPeer) -> Result<PeerAccess, Error> {
    if !peer.xray_credential.is_empty() {
        if !peer.public_key.is_empty() {
            return Err(Error::Invalid {
                what: "peer.xray_credential",
                reason: "comes beside a public key of WireGuard",
            });
        }
        return Ok(PeerAccess::Xray {
            credential: SecretText::new(peer.xray_credential),
        });
    }
    let preshared_key = if peer.preshared_key.is_empty() {
        None
    } else {
        Some(Secret(key("peer.preshared_key", &peer.preshared_key)?))
    };
    Ok(PeerAccess::WireGuard {
        public_key: key("peer.public_key", &peer.public_key)?,
        preshared_key,
        ipv4: address("peer.ipv4", &peer.ipv4)?,
        ipv6: address("peer.ipv6", &peer.ipv6)?,
    })
}

fn period(id: &[u8], ends_ms: i64, spent: bool) -> Result<DesiredPeriod, Error> {
    Ok(DesiredPeriod {
        id: PeriodId::try_from(id)?,
        ends_ms: instant(ends_ms),
        spent,
    })
}

/// On the wire 0 is never.
fn instant(unix_ms: i64) -> Option<i64> {
    (unix_ms != 0).then_some(unix_ms)
}

pub(super) fn key(what: &'static str, bytes: &[u8]) -> Result<[u8; 32], Error> {
    bytes.try_into().map_err(|_| Error::WrongLength {
        what,
        expected: 32,
        found: bytes.len(),
    })
}

pub(super) fn small(what: &'static str, number: u32) -> Result<u16, Error> {
    number.try_into().map_err(|_| Error::Invalid {
        what,
        reason: "is above 65535",
    })
}

fn address<A: std::str::FromStr>(what: &'static str, text: &str) -> Result<Option<A>, Error> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = |_| Error::Invalid {
        what,
        reason: "is no address of its family",
    };
    text.parse().map(Some).map_err(invalid)
}

fn interface_address(text: &str) -> Result<InterfaceAddress, Error> {
    let invalid = Error::Invalid {
        what: "wireguard.addresses",
        reason: "is not address/prefix",
    };
    let Some((address, prefix)) = text.split_once('/') else {
        return Err(invalid);
    };
    let (Ok(address), Ok(prefix)) = (address.parse::<IpAddr>(), prefix.parse::<u8>()) else {
        return Err(invalid);
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    if prefix > most {
        Err(invalid)
    } else {
        Ok(InterfaceAddress { address, prefix })
    }
}
