//! What inbounds open, of whichever kind, from the wire and back.

use vpnpanel_api::access::v1::inbound::Settings;
use vpnpanel_domain::{InboundId, XrayProtocol};
use vpnpanel_pki::context;
use vpnpanel_store::{InboundSettings, WireGuard};

use crate::{
    Error,
    seal::Vault,
    wire::mask::Mask,
    wireguard,
    xray::{self, Planned, Secret},
};

/// Settings to store, with the secret beside them.
pub(crate) struct Change {
    pub(crate) settings: InboundSettings,
    /// Sealed; `None` leaves it as it is, `Some(None)` is none any more.
    pub(crate) sealed_secret: Option<Option<Vec<u8>>>,
}

impl Change {
    fn of_wireguard(wireguard: WireGuard) -> Self {
        Self {
            settings: InboundSettings::WireGuard(wireguard),
            sealed_secret: None,
        }
    }

    fn of_xray(vault: &Vault, id: InboundId, planned: Planned) -> Result<Self, Error> {
        let sealed_secret = match planned.secret {
            Secret::Keep => None,
            Secret::Remove => Some(None),
            Secret::Set(secret) => Some(Some(vault.seal(&context::inbound_secret(id), &secret)?)),
        };
        Ok(Self {
            settings: InboundSettings::Xray(planned.settings),
            sealed_secret,
        })
    }
}

/// The settings of a new inbound.
pub(crate) fn on_create(
    vault: &Vault,
    id: InboundId,
    wire: Option<&Settings>,
    now_ms: i64,
) -> Result<Change, Error> {
    let wire = wire.ok_or_else(|| {
        let kinds = "one of wireguard, vless, vmess, trojan and shadowsocks is required";
        Error::field("inbound.settings", kinds)
    })?;
    match wire {
        Settings::Wireguard(wire) => wireguard::settings::on_create(wire).map(Change::of_wireguard),
        wire => Change::of_xray(vault, id, xray::settings::on_create(wire, now_ms)?),
    }
}

/// The settings after an update; `None` when it changes none of them.
pub(crate) fn on_update(
    vault: &Vault,
    id: InboundId,
    mask: &Mask<'_>,
    wire: Option<&Settings>,
    before: &InboundSettings,
    now_ms: i64,
) -> Result<Option<Change>, Error> {
    if let Some(other) = wire.map(kind).filter(|kind| *kind != before.kind()) {
        return Err(Error::field(
            format!("inbound.{other}"),
            format!("the inbound is of the kind {}, which stays", before.kind()),
        ));
    }
    match before {
        InboundSettings::WireGuard(before) => {
            let wire = match wire {
                Some(Settings::Wireguard(wire)) => Some(wire),
                _ => None,
            };
            let after = wireguard::settings::on_update(mask, wire, before)?;
            Ok(after.map(Change::of_wireguard))
        }
        InboundSettings::Xray(before) => xray::settings::on_update(mask, wire, before, now_ms)?
            .map(|planned| Change::of_xray(vault, id, planned))
            .transpose(),
    }
}

/// Fields that an update can name.
pub(crate) fn fields(settings: &InboundSettings) -> &'static [&'static str] {
    match settings {
        InboundSettings::WireGuard(_) => wireguard::settings::FIELDS,
        InboundSettings::Xray(xray) => match xray.protocol {
            XrayProtocol::Vless { .. } => xray::settings::VLESS,
            XrayProtocol::Vmess => xray::settings::VMESS,
            XrayProtocol::Trojan => xray::settings::TROJAN,
            XrayProtocol::Shadowsocks { .. } => xray::settings::SHADOWSOCKS,
        },
    }
}

/// What a client is shown.
pub(crate) fn into_wire(settings: InboundSettings) -> Settings {
    match settings {
        InboundSettings::WireGuard(wireguard) => {
            Settings::Wireguard(wireguard::settings::into_wire(wireguard))
        }
        InboundSettings::Xray(xray) => xray::settings::into_wire(xray),
    }
}

/// The kind of settings, as the store names it.
fn kind(wire: &Settings) -> &'static str {
    match wire {
        Settings::Wireguard(_) => "wireguard",
        Settings::Vless(_) => "vless",
        Settings::Vmess(_) => "vmess",
        Settings::Trojan(_) => "trojan",
        Settings::Shadowsocks(_) => "shadowsocks",
    }
}
