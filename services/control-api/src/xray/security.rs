//! What protects an Xray inbound: certificates that operators bring, and keys that are made here.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use vpnpanel_api::access::v1::{RealitySecurity, TlsSecurity};
use vpnpanel_domain::ShortId;
use vpnpanel_runtime::tls::{
    Credentials, ServerTls, TlsError, certificates_from_pem, certificates_to_pem, key_from_pem,
};
use vpnpanel_store::{XrayReality, XraySecurity, XrayTls};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

use crate::{
    Error,
    wire::{text, time},
    wireguard::keys::{self, SecretKey},
};

/// What a request wants.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'a> {
    None,
    Tls(&'a TlsSecurity),
    Reality(&'a RealitySecurity),
}

/// What becomes of an inbound's secret.
pub(crate) enum Secret {
    /// It stays.
    Keep,
    /// There is none any more.
    Remove,
    /// There is this one.
    Set(Zeroizing<Vec<u8>>),
}

/// Without the secret.
impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keep => "Keep",
            Self::Remove => "Remove",
            Self::Set(_) => "Set(redacted)",
        })
    }
}

/// Reads what is wanted; secrets that are left empty stay as they were `before`, where they were of
/// the same kind. `at` is the path of the field.
pub(super) fn read(
    at: &str,
    wanted: &Wanted<'_>,
    before: Option<&XraySecurity>,
    now_ms: i64,
) -> Result<(XraySecurity, Secret), Error> {
    match *wanted {
        Wanted::None => Ok((XraySecurity::None, Secret::Remove)),
        Wanted::Tls(wire) => {
            let before = match before {
                Some(XraySecurity::Tls(tls)) => Some(tls),
                _ => None,
            };
            // VMess has TLS or nothing, and no field between.
            let at = if at.ends_with(".tls") {
                at.to_owned()
            } else {
                format!("{at}.tls")
            };
            let (tls, secret) = read_tls(&at, wire, before, now_ms)?;
            Ok((XraySecurity::Tls(tls), secret))
        }
        Wanted::Reality(wire) => {
            let before = match before {
                Some(XraySecurity::Reality(reality)) => Some(reality),
                _ => None,
            };
            let (reality, secret) = read_reality(&format!("{at}.reality"), wire, before)?;
            Ok((XraySecurity::Reality(reality), secret))
        }
    }
}

fn read_tls(
    at: &str,
    wire: &TlsSecurity,
    before: Option<&XrayTls>,
    now_ms: i64,
) -> Result<(XrayTls, Secret), Error> {
    let field = |name: &str| format!("{at}.{name}");
    let (mut tls, secret) = match (&*wire.certificate_chain, &*wire.private_key, before) {
        ("", "", Some(before)) => (before.clone(), Secret::Keep),
        ("", ..) => return Err(Error::field(field("certificate_chain"), "is required")),
        (_, "", _) => return Err(Error::field(field("private_key"), "is required")),
        (chain, key, _) => certificate(at, chain, key, now_ms)?,
    };
    if !wire.server_name.is_empty() {
        tls.server_name = text::host(field("server_name"), &wire.server_name)?;
    } else if tls.server_name.is_empty() {
        let named = tls.names.iter().find(|name| !name.starts_with('*'));
        tls.server_name = named.cloned().ok_or_else(|| {
            let only = "is required: the certificate is for wildcards alone";
            Error::field(field("server_name"), only)
        })?;
    }
    if !tls.names.iter().any(|name| covers(name, &tls.server_name)) {
        let names = tls.names.join(", ");
        return Err(Error::field(
            field("server_name"),
            format!("the certificate is not for it but for: {names}"),
        ));
    }
    Ok((tls, secret))
}

/// A certificate with its key, and no name chosen yet.
fn certificate(at: &str, chain: &str, key: &str, now_ms: i64) -> Result<(XrayTls, Secret), Error> {
    let in_chain =
        |error: TlsError| Error::field(format!("{at}.certificate_chain"), error.to_string());
    let in_key = |error: TlsError| Error::field(format!("{at}.private_key"), error.to_string());
    let credentials = Credentials {
        chain: certificates_from_pem(chain.as_bytes()).map_err(in_chain)?,
        key: key_from_pem(key.as_bytes()).map_err(in_key)?,
    };
    let names = credentials.names().map_err(in_chain)?;
    let not_after_ms = credentials.not_after_unix().map_err(in_chain)? * 1_000;
    if not_after_ms <= now_ms {
        return Err(in_chain(TlsError::Ended(not_after_ms / 1_000)));
    }
    // Whatever else is in the text, a key for one, is not stored with it.
    let certificate = certificates_to_pem(&credentials.chain);
    // Whether the key is the certificate's.
    ServerTls::public(credentials).map_err(in_key)?;
    let tls = XrayTls {
        server_name: String::new(),
        certificate,
        names,
        not_after_ms,
    };
    Ok((tls, Secret::Set(Zeroizing::new(key.as_bytes().to_vec()))))
}

/// Whether a name of a certificate is for a host (RFC 9525, section 6.3).
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        None => name.eq_ignore_ascii_case(host),
        Some(parent) => host
            .split_once('.')
            .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
    }
}

fn read_reality(
    at: &str,
    wire: &RealitySecurity,
    before: Option<&XrayReality>,
) -> Result<(XrayReality, Secret), Error> {
    let field = |name: &str| format!("{at}.{name}");
    let mut server_names = Vec::with_capacity(wire.server_names.len());
    for (index, name) in wire.server_names.iter().enumerate() {
        server_names.push(text::host(field(&format!("server_names[{index}]")), name)?);
    }
    let first = server_names
        .first()
        .ok_or_else(|| Error::field(field("server_names"), "at least one is required"))?;
    let target = match wire.target.as_str() {
        "" => format!("{first}:443"),
        target => text::address(field("target"), target)?,
    };
    let (public_key, secret) = match (wire.private_key.as_str(), before) {
        ("", Some(before)) => (before.public_key, Secret::Keep),
        ("", None) => {
            let (private, public) = keys::pair()?;
            (public, Secret::Set(Zeroizing::new(private.to_vec())))
        }
        (text, _) => {
            let private = private_key(text).ok_or_else(|| {
                let form = "must be 32 bytes in URL-safe base64, as `xray x25519` prints them";
                Error::field(field("private_key"), form)
            })?;
            let public = PublicKey::from(&StaticSecret::from(*private)).to_bytes();
            (public, Secret::Set(Zeroizing::new(private.to_vec())))
        }
    };
    let mut short_ids: Vec<ShortId> = Vec::with_capacity(wire.short_ids.len());
    for (index, text) in wire.short_ids.iter().enumerate() {
        let field = || field(&format!("short_ids[{index}]"));
        let id: ShortId = text
            .parse()
            .map_err(|error: vpnpanel_domain::Error| Error::field(field(), error.to_string()))?;
        if short_ids.contains(&id) {
            return Err(Error::field(field(), "is there already"));
        }
        short_ids.push(id);
    }
    if short_ids.is_empty() {
        short_ids = match before {
            Some(before) => before.short_ids.clone(),
            None => vec![new_short_id()?],
        };
    }
    let reality = XrayReality {
        target,
        server_names,
        public_key,
        short_ids,
    };
    Ok((reality, secret))
}

fn private_key(text: &str) -> Option<SecretKey> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()?);
    let mut key = Zeroizing::new([0; 32]);
    if bytes.len() != key.len() {
        return None;
    }
    key.copy_from_slice(&bytes);
    Some(key)
}

/// A key's text, as Xray writes it.
pub(crate) fn key_text(key: &[u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(key)
}

fn new_short_id() -> Result<ShortId, Error> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|error| Error::Random(error.to_string()))?;
    Ok(ShortId::new(id))
}

/// Random bytes.
pub(super) fn random(length: usize) -> Result<Zeroizing<Vec<u8>>, Error> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes)
}

pub(super) fn tls_into_wire(tls: XrayTls) -> TlsSecurity {
    TlsSecurity {
        certificate_chain: String::new(),
        private_key: String::new(),
        server_name: tls.server_name,
        certificate_names: tls.names,
        certificate_expire_time: Some(time::timestamp(tls.not_after_ms)),
    }
}

pub(super) fn reality_into_wire(reality: XrayReality) -> RealitySecurity {
    RealitySecurity {
        target: reality.target,
        server_names: reality.server_names,
        private_key: String::new(),
        public_key: key_text(&reality.public_key),
        short_ids: reality.short_ids.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_for_one_label() {
        for (name, host, is) in [
            ("vpn.example.com", "VPN.example.com", true),
            ("*.example.com", "vpn.example.com", true),
            ("*.example.com", "a.vpn.example.com", false),
            ("*.example.com", "example.com", false),
            ("example.com", "vpn.example.com", false),
        ] {
            assert_eq!(covers(name, host), is, "{name} {host}");
        }
    }
}
