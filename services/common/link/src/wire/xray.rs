//! An inbound of Xray in its encoded form.

use super::desired::{key, small};
use super::pb;
use super::pb::desired_xray::{Protocol, Security, Transport};
use crate::{
    Error, Secret, SecretText, ShadowsocksMethod, XrayInbound, XrayProtocol, XraySecurity,
    XrayTransport,
};

pub(super) fn xray_to_wire(inbound: &XrayInbound) -> pb::DesiredXray {
    pb::DesiredXray {
        port: u32::from(inbound.port),
        protocol: Some(protocol_to_wire(&inbound.protocol)),
        transport: Some(transport_to_wire(&inbound.transport)),
        security: Some(security_to_wire(&inbound.security)),
    }
}

/// An inbound whose parts are all known; whether they fit together is the engine's to say.
pub(super) fn xray_from_wire(inbound: pb::DesiredXray) -> Result<XrayInbound, Error> {
    let protocol = inbound.protocol.ok_or(Error::Missing("xray.protocol"))?;
    let transport = inbound.transport.ok_or(Error::Missing("xray.transport"))?;
    let security = inbound.security.ok_or(Error::Missing("xray.security"))?;
    Ok(XrayInbound {
        port: small("xray.port", inbound.port)?,
        protocol: protocol_from_wire(protocol)?,
        transport: transport_from_wire(transport),
        security: security_from_wire(security)?,
    })
}

fn protocol_to_wire(protocol: &XrayProtocol) -> Protocol {
    match protocol {
        XrayProtocol::Vless { vision } => Protocol::Vless(pb::DesiredVless { vision: *vision }),
        XrayProtocol::Vmess => Protocol::Vmess(pb::DesiredVmess {}),
        XrayProtocol::Trojan => Protocol::Trojan(pb::DesiredTrojan {}),
        XrayProtocol::Shadowsocks { method, key } => {
            let method = match method {
                ShadowsocksMethod::Aes128 => pb::ShadowsocksMethod::Aes128Gcm,
                ShadowsocksMethod::Aes256 => pb::ShadowsocksMethod::Aes256Gcm,
            };
            Protocol::Shadowsocks(pb::DesiredShadowsocks {
                method: method.into(),
                key: key.text().to_owned(),
            })
        }
    }
}

fn protocol_from_wire(protocol: Protocol) -> Result<XrayProtocol, Error> {
    Ok(match protocol {
        Protocol::Vless(vless) => XrayProtocol::Vless {
            vision: vless.vision,
        },
        Protocol::Vmess(_) => XrayProtocol::Vmess,
        Protocol::Trojan(_) => XrayProtocol::Trojan,
        Protocol::Shadowsocks(shadowsocks) => {
            let method = match shadowsocks.method() {
                pb::ShadowsocksMethod::Aes128Gcm => ShadowsocksMethod::Aes128,
                pb::ShadowsocksMethod::Aes256Gcm => ShadowsocksMethod::Aes256,
                pb::ShadowsocksMethod::Unspecified => {
                    return Err(Error::Missing("shadowsocks.method"));
                }
            };
            XrayProtocol::Shadowsocks {
                method,
                key: SecretText::new(shadowsocks.key),
            }
        }
    })
}

fn transport_to_wire(transport: &XrayTransport) -> Transport {
    match transport {
        XrayTransport::Tcp => Transport::Tcp(pb::DesiredTcp {}),
        XrayTransport::WebSocket { path, host } => Transport::Websocket(pb::DesiredWebSocket {
            path: path.clone(),
            host: host.clone(),
        }),
        XrayTransport::Grpc { service } => Transport::Grpc(pb::DesiredGrpc {
            service: service.clone(),
        }),
    }
}

fn transport_from_wire(transport: Transport) -> XrayTransport {
    match transport {
        Transport::Tcp(_) => XrayTransport::Tcp,
        Transport::Websocket(pb::DesiredWebSocket { path, host }) => {
            XrayTransport::WebSocket { path, host }
        }
        Transport::Grpc(pb::DesiredGrpc { service }) => XrayTransport::Grpc { service },
    }
}

fn security_to_wire(security: &XraySecurity) -> Security {
    match security {
        XraySecurity::None => Security::NoSecurity(pb::DesiredNoSecurity {}),
        XraySecurity::Tls { certificate, key } => Security::Tls(pb::DesiredTls {
            certificate_chain: certificate.clone(),
            private_key: key.text().to_owned(),
        }),
        XraySecurity::Reality {
            target,
            server_names,
            private_key,
            short_ids,
        } => Security::Reality(pb::DesiredReality {
            target: target.clone(),
            server_names: server_names.clone(),
            private_key: private_key.0.to_vec(),
            short_ids: short_ids.iter().map(|id| id.to_vec()).collect(),
        }),
    }
}

fn security_from_wire(security: Security) -> Result<XraySecurity, Error> {
    Ok(match security {
        Security::NoSecurity(_) => XraySecurity::None,
        Security::Tls(tls) => XraySecurity::Tls {
            certificate: tls.certificate_chain,
            key: SecretText::new(tls.private_key),
        },
        Security::Reality(reality) => XraySecurity::Reality {
            target: reality.target,
            server_names: reality.server_names,
            private_key: Secret(key("reality.private_key", &reality.private_key)?),
            short_ids: reality
                .short_ids
                .iter()
                .map(|id| short_id(id))
                .collect::<Result<_, _>>()?,
        },
    })
}

fn short_id(bytes: &[u8]) -> Result<[u8; 8], Error> {
    bytes.try_into().map_err(|_| Error::WrongLength {
        what: "reality.short_ids",
        expected: 8,
        found: bytes.len(),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn inbound(
        protocol: XrayProtocol,
        transport: XrayTransport,
        security: XraySecurity,
    ) -> XrayInbound {
        XrayInbound {
            port: 443,
            protocol,
            transport,
            security,
        }
    }

    #[test]
    fn every_inbound_comes_through_as_it_was() {
        let reality = XraySecurity::Reality {
            target: "example.com:443".to_owned(),
            server_names: vec!["example.com".to_owned()],
            private_key: Secret([1; 32]),
            short_ids: BTreeSet::from([[0; 8], [7; 8]]),
        };
        let tls = XraySecurity::Tls {
            certificate: "chain".to_owned(),
            key: SecretText::new("key"),
        };
        let shadowsocks = |method| XrayProtocol::Shadowsocks {
            method,
            key: SecretText::new("own"),
        };
        let socket = XrayTransport::WebSocket {
            path: "/path".to_owned(),
            host: "host".to_owned(),
        };
        let grpc = XrayTransport::Grpc {
            service: "service".to_owned(),
        };
        for inbound in [
            inbound(
                XrayProtocol::Vless { vision: true },
                XrayTransport::Tcp,
                reality,
            ),
            inbound(XrayProtocol::Trojan, grpc, tls),
            inbound(XrayProtocol::Vmess, socket, XraySecurity::None),
            inbound(
                shadowsocks(ShadowsocksMethod::Aes128),
                XrayTransport::Tcp,
                XraySecurity::None,
            ),
            inbound(
                shadowsocks(ShadowsocksMethod::Aes256),
                XrayTransport::Tcp,
                XraySecurity::None,
            ),
        ] {
            assert_eq!(xray_from_wire(xray_to_wire(&inbound)), Ok(inbound));
        }
    }

    #[test]
    fn a_part_that_is_not_known_is_not_taken_for_its_absence() {
        let known = xray_to_wire(&inbound(
            XrayProtocol::Vmess,
            XrayTransport::Tcp,
            XraySecurity::None,
        ));
        let unprotected = pb::DesiredXray {
            security: None,
            ..known.clone()
        };
        assert_eq!(
            xray_from_wire(unprotected),
            Err(Error::Missing("xray.security"))
        );
        let port = pb::DesiredXray {
            port: 70_000,
            ..known
        };
        assert!(xray_from_wire(port).is_err());
    }
}
