//! The settings of an Xray inbound, from the wire and back, with their defaults. What would pass
//! in the clear or cannot work is refused here, field by field.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use vpnpanel_api::access::v1::{
    GrpcTransport, ShadowsocksCipher as WireCipher, ShadowsocksSettings, TcpTransport,
    TrojanSettings, VlessSettings, VmessSettings, WebSocketTransport, XraySecurity as WireSecurity,
    XrayTransport as WireTransport, inbound::Settings, xray_security::Kind as SecurityChoice,
    xray_transport::Kind as TransportChoice,
};
use vpnpanel_domain::{ShadowsocksCipher, XrayMisfit, XrayProtocol, XrayTransport, check_xray};
use vpnpanel_store::{Xray, XraySecurity};
use zeroize::Zeroizing;

use super::{
    Planned,
    security::{self, Secret, Wanted},
};
use crate::{
    Error,
    wire::{mask::Mask, text},
};

/// Where nobody wonders about an encrypted connection.
const DEFAULT_PORT: u16 = 443;

/// Fields of each kind that an update can name.
pub(crate) const VLESS: &[&str] = &[
    "vless.port",
    "vless.vision",
    "vless.transport",
    "vless.security",
];
pub(crate) const VMESS: &[&str] = &["vmess.port", "vmess.transport", "vmess.tls"];
pub(crate) const TROJAN: &[&str] = &["trojan.port", "trojan.transport", "trojan.security"];
pub(crate) const SHADOWSOCKS: &[&str] = &[
    "shadowsocks.port",
    "shadowsocks.cipher",
    "shadowsocks.server_key",
];

/// What the messages of the four protocols say, in one form.
struct Parts<'a> {
    kind: &'static str,
    port: u32,
    vision: bool,
    cipher: WireCipher,
    server_key: &'a str,
    transport: Option<&'a WireTransport>,
    security: Wanted<'a>,
}

impl<'a> Parts<'a> {
    /// `None` for what is not Xray's.
    fn of(settings: &'a Settings) -> Option<Self> {
        let nothing = |kind, port| Self {
            kind,
            port,
            vision: false,
            cipher: WireCipher::Unspecified,
            server_key: "",
            transport: None,
            security: Wanted::None,
        };
        Some(match settings {
            Settings::Wireguard(_) => return None,
            Settings::Vless(it) => Self {
                vision: it.vision,
                transport: it.transport.as_ref(),
                security: wanted(it.security.as_ref()),
                ..nothing("vless", it.port)
            },
            Settings::Vmess(it) => Self {
                transport: it.transport.as_ref(),
                security: it.tls.as_ref().map_or(Wanted::None, Wanted::Tls),
                ..nothing("vmess", it.port)
            },
            Settings::Trojan(it) => Self {
                transport: it.transport.as_ref(),
                security: wanted(it.security.as_ref()),
                ..nothing("trojan", it.port)
            },
            Settings::Shadowsocks(it) => Self {
                cipher: it.cipher(),
                server_key: &it.server_key,
                ..nothing("shadowsocks", it.port)
            },
        })
    }

    /// The path of a field in a request.
    fn at(&self, field: &str) -> String {
        format!("inbound.{}.{field}", self.kind)
    }

    /// The field that protects.
    fn security_field(&self) -> &'static str {
        if self.kind == "vmess" {
            "tls"
        } else {
            "security"
        }
    }
}

fn wanted(security: Option<&WireSecurity>) -> Wanted<'_> {
    match security.and_then(|it| it.kind.as_ref()) {
        None => Wanted::None,
        Some(SecurityChoice::Tls(tls)) => Wanted::Tls(tls),
        Some(SecurityChoice::Reality(reality)) => Wanted::Reality(reality),
    }
}

/// The settings of a new inbound.
pub(crate) fn on_create(wire: &Settings, now_ms: i64) -> Result<Planned, Error> {
    let parts =
        &Parts::of(wire).ok_or_else(|| Error::field("inbound.settings", "are not Xray's"))?;
    let protocol = match parts.kind {
        "vless" => XrayProtocol::Vless {
            vision: parts.vision,
        },
        "vmess" => XrayProtocol::Vmess,
        "trojan" => XrayProtocol::Trojan,
        _ => XrayProtocol::Shadowsocks {
            cipher: cipher(parts.cipher),
        },
    };
    let at = parts.at(parts.security_field());
    let (security, mut secret) = security::read(&at, &parts.security, None, now_ms)?;
    if let XrayProtocol::Shadowsocks { cipher } = protocol {
        secret = Secret::Set(server_key(parts, cipher)?);
    }
    let settings = Xray {
        port: port(parts)?,
        protocol,
        transport: transport(parts)?,
        security,
    };
    checked(parts, settings, secret)
}

/// The settings after an update; `None` when it changes none of them.
///
/// `wire` is of the kind that the inbound has; `None` is unset.
pub(crate) fn on_update(
    mask: &Mask<'_>,
    wire: Option<&Settings>,
    before: &Xray,
    now_ms: i64,
) -> Result<Option<Planned>, Error> {
    let unset = unset(before.protocol);
    let Some(parts) = Parts::of(wire.unwrap_or(&unset)) else {
        return Ok(None);
    };
    let takes = |field: &str, is_set| {
        mask.take(&format!("{}.{field}", parts.kind), is_set, ())
            .is_some()
    };
    let mut after = before.clone();
    let mut secret = Secret::Keep;
    if takes("port", parts.port != 0) {
        after.port = port(&parts)?;
    }
    if takes("transport", parts.transport.is_some()) {
        after.transport = transport(&parts)?;
    }
    match &mut after.protocol {
        XrayProtocol::Vless { vision } if takes("vision", parts.vision) => *vision = parts.vision,
        XrayProtocol::Shadowsocks { cipher: is } => {
            let was = *is;
            if takes("cipher", parts.cipher != WireCipher::Unspecified) {
                *is = cipher(parts.cipher);
            }
            let given = !parts.server_key.is_empty() && takes("server_key", true);
            if given || *is != was {
                secret = Secret::Set(server_key(&parts, *is)?);
            }
        }
        _ => {}
    }
    let field = parts.security_field();
    if takes(field, !matches!(parts.security, Wanted::None))
        && !matches!(after.protocol, XrayProtocol::Shadowsocks { .. })
    {
        let at = parts.at(field);
        let before = Some(&before.security);
        (after.security, secret) = security::read(&at, &parts.security, before, now_ms)?;
    }
    if after == *before && matches!(secret, Secret::Keep) {
        return Ok(None);
    }
    checked(&parts, after, secret).map(Some)
}

/// Settings of a kind in which nothing is set.
fn unset(protocol: XrayProtocol) -> Settings {
    match protocol {
        XrayProtocol::Vless { .. } => Settings::Vless(VlessSettings::default()),
        XrayProtocol::Vmess => Settings::Vmess(VmessSettings::default()),
        XrayProtocol::Trojan => Settings::Trojan(TrojanSettings::default()),
        XrayProtocol::Shadowsocks { .. } => Settings::Shadowsocks(ShadowsocksSettings::default()),
    }
}

/// What concerns more than one field.
fn checked(parts: &Parts<'_>, settings: Xray, secret: Secret) -> Result<Planned, Error> {
    let transport = settings.transport.kind();
    let misfit = check_xray(settings.protocol, transport, settings.security.kind());
    if let Err(misfit) = misfit {
        let field = match misfit {
            XrayMisfit::InTheClear => parts.security_field(),
            XrayMisfit::Vision => "vision",
            XrayMisfit::RealityWebSocket | XrayMisfit::Shadowsocks => "transport",
        };
        return Err(Error::field(parts.at(field), misfit.to_string()));
    }
    Ok(Planned { settings, secret })
}

fn port(parts: &Parts<'_>) -> Result<u16, Error> {
    match u16::try_from(parts.port) {
        Ok(0) => Ok(DEFAULT_PORT),
        Ok(port) => Ok(port),
        Err(_) => Err(Error::field(parts.at("port"), "must be at most 65535")),
    }
}

fn cipher(cipher: WireCipher) -> ShadowsocksCipher {
    match cipher {
        WireCipher::Unspecified | WireCipher::Aes128Gcm => ShadowsocksCipher::Aes128,
        WireCipher::Aes256Gcm => ShadowsocksCipher::Aes256,
    }
}

/// The key that was given, or a new one.
fn server_key(parts: &Parts<'_>, cipher: ShadowsocksCipher) -> Result<Zeroizing<Vec<u8>>, Error> {
    let length = cipher.key_length();
    if parts.server_key.is_empty() {
        return security::random(length);
    }
    let key = STANDARD.decode(parts.server_key).map(Zeroizing::new);
    key.ok().filter(|key| key.len() == length).ok_or_else(|| {
        let expected = format!("must be {length} bytes in base64 for {}", cipher.name());
        Error::field(parts.at("server_key"), expected)
    })
}

fn transport(parts: &Parts<'_>) -> Result<XrayTransport, Error> {
    Ok(match parts.transport.and_then(|it| it.kind.as_ref()) {
        None | Some(TransportChoice::Tcp(_)) => XrayTransport::Tcp,
        Some(TransportChoice::Websocket(socket)) => XrayTransport::WebSocket {
            path: match socket.path.as_str() {
                "" => "/".to_owned(),
                path => path.to_owned(),
            },
            host: match socket.host.as_str() {
                "" => String::new(),
                host => text::host(parts.at("transport.websocket.host"), host)?,
            },
        },
        Some(TransportChoice::Grpc(grpc)) => {
            if grpc.service_name.is_empty() {
                let field = parts.at("transport.grpc.service_name");
                return Err(Error::field(field, "is required"));
            }
            XrayTransport::Grpc {
                service: grpc.service_name.clone(),
            }
        }
    })
}

/// What a client is shown: no secret.
pub(crate) fn into_wire(xray: Xray) -> Settings {
    let port = xray.port.into();
    let carried = Some(WireTransport {
        kind: Some(match xray.transport {
            XrayTransport::Tcp => TransportChoice::Tcp(TcpTransport {}),
            XrayTransport::WebSocket { path, host } => {
                TransportChoice::Websocket(WebSocketTransport { path, host })
            }
            XrayTransport::Grpc { service } => TransportChoice::Grpc(GrpcTransport {
                service_name: service,
            }),
        }),
    });
    let security = match xray.security {
        XraySecurity::None => None,
        XraySecurity::Tls(tls) => Some(SecurityChoice::Tls(security::tls_into_wire(tls))),
        XraySecurity::Reality(reality) => Some(SecurityChoice::Reality(
            security::reality_into_wire(reality),
        )),
    };
    match xray.protocol {
        XrayProtocol::Vless { vision } => Settings::Vless(VlessSettings {
            port,
            vision,
            transport: carried,
            security: Some(WireSecurity { kind: security }),
        }),
        XrayProtocol::Vmess => Settings::Vmess(VmessSettings {
            port,
            transport: carried,
            tls: match security {
                Some(SecurityChoice::Tls(tls)) => Some(tls),
                _ => None,
            },
        }),
        XrayProtocol::Trojan => Settings::Trojan(TrojanSettings {
            port,
            transport: carried,
            security: Some(WireSecurity { kind: security }),
        }),
        XrayProtocol::Shadowsocks { cipher } => Settings::Shadowsocks(ShadowsocksSettings {
            port,
            cipher: match cipher {
                ShadowsocksCipher::Aes128 => WireCipher::Aes128Gcm,
                ShadowsocksCipher::Aes256 => WireCipher::Aes256Gcm,
            }
            .into(),
            server_key: String::new(),
        }),
    }
}
