//! What a device shows to Xray, derived from 32 bytes that are kept for it: for each inbound and
//! protocol something else, so that a node learns nothing that another inbound takes, and a new
//! protocol needs nothing new to be kept.

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use vpnpanel_domain::{InboundId, XrayProtocol};
use zeroize::Zeroizing;

use crate::Error;

/// Keeps what is derived here apart from whatever else may be derived of the same bytes.
const SALT: &[u8] = b"vpnpanel device credential 1";
/// 192 bits.
const PASSWORD_BYTES: usize = 24;

/// The secret of a device.
#[derive(Clone)]
pub struct DeviceSeed(Zeroizing<[u8; 32]>);

impl DeviceSeed {
    /// A new one.
    ///
    /// # Errors
    /// [`Error::Randomness`].
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| Error::Randomness)?;
        Ok(Self(bytes))
    }

    /// One that was kept.
    ///
    /// # Errors
    /// [`Error::Seed`] for another length.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let mut seed = Zeroizing::new([0; 32]);
        if bytes.len() != seed.len() {
            return Err(Error::Seed);
        }
        seed.copy_from_slice(bytes);
        Ok(Self(seed))
    }

    /// To be sealed.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// What the device shows on an inbound: a UUID for VLESS and VMess, a password for Trojan, a
    /// key in base64 for Shadowsocks.
    ///
    /// # Errors
    /// Never; the derivation's own check is passed on.
    pub fn credential(
        &self,
        inbound: InboundId,
        protocol: XrayProtocol,
    ) -> Result<Zeroizing<String>, Error> {
        let text = match protocol {
            XrayProtocol::Vless { .. } => uuid(*self.derive(inbound, b"vless")?),
            XrayProtocol::Vmess => uuid(*self.derive(inbound, b"vmess")?),
            XrayProtocol::Trojan => hex::encode(
                self.derive::<PASSWORD_BYTES>(inbound, b"trojan")?
                    .as_slice(),
            ),
            XrayProtocol::Shadowsocks { cipher } => {
                let key = self.derive::<32>(inbound, cipher.name().as_bytes())?;
                STANDARD.encode(key.get(..cipher.key_length()).unwrap_or_default())
            }
        };
        Ok(Zeroizing::new(text))
    }

    fn derive<const N: usize>(
        &self,
        inbound: InboundId,
        purpose: &[u8],
    ) -> Result<Zeroizing<[u8; N]>, Error> {
        let mut out = Zeroizing::new([0; N]);
        Salt::new(HKDF_SHA256, SALT)
            .extract(self.0.as_slice())
            .expand(&[inbound.as_bytes(), purpose], Length(N))
            .and_then(|key| key.fill(out.as_mut_slice()))
            .map_err(|_| Error::Seed)?;
        Ok(out)
    }
}

/// Bytes to be derived.
struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A random UUID (RFC 9562, version 4) in its text form. VLESS does not look at bytes 6 and 7; the
/// others tell devices apart well enough.
fn uuid(mut bytes: [u8; 16]) -> String {
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = Zeroizing::new(hex::encode(bytes));
    let part = |from, to| digits.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 16),
        part(16, 20),
        part(20, 32)
    )
}

/// Without the seed.
impl std::fmt::Debug for DeviceSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceSeed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use vpnpanel_domain::ShadowsocksCipher;

    use super::*;

    fn shadowsocks(cipher: ShadowsocksCipher) -> XrayProtocol {
        XrayProtocol::Shadowsocks { cipher }
    }

    fn all() -> [XrayProtocol; 5] {
        [
            XrayProtocol::Vless { vision: false },
            XrayProtocol::Vmess,
            XrayProtocol::Trojan,
            shadowsocks(ShadowsocksCipher::Aes128),
            shadowsocks(ShadowsocksCipher::Aes256),
        ]
    }

    /// By another implementation of HKDF (RFC 5869).
    const EXPECTED: [&str; 5] = [
        "bdb2a3ab-8293-434c-bef7-c013e5e4ba3f",
        "a277e711-b1a1-4225-967d-88f72c439029",
        "2a989a40b18baa4be4a6470d454aea9dd7a04a40b7d36f0e",
        "g1EcgHNVG6QMGVP7HSLFCg==",
        "nDHA51jZRAEAkbwyuSjijFhhOiutooA6H4X5QkUGIJA=",
    ];

    /// Links that were handed out must work for ever: these texts never change.
    #[test]
    fn a_credential_is_the_same_each_time() {
        let seed = DeviceSeed::from_bytes(&[7; 32]).unwrap();
        let inbound = InboundId::from_bytes([9; 16]);
        let said = all().map(|protocol| seed.credential(inbound, protocol).unwrap().to_string());
        assert_eq!(said, EXPECTED);
    }

    #[test]
    fn each_inbound_protocol_and_device_has_its_own() {
        let mut seen = BTreeSet::new();
        for seed in [1, 2] {
            let seed = DeviceSeed::from_bytes(&[seed; 32]).unwrap();
            for inbound in [3, 4] {
                let inbound = InboundId::from_bytes([inbound; 16]);
                for protocol in all() {
                    let said = seed.credential(inbound, protocol).unwrap().to_string();
                    assert!(seen.insert(said), "{protocol:?}");
                }
            }
        }
    }

    #[test]
    fn credentials_have_the_form_that_the_protocol_asks_for() {
        let seed = DeviceSeed::generate().unwrap();
        let inbound = InboundId::from_bytes([9; 16]);
        let said = |protocol| seed.credential(inbound, protocol).unwrap().to_string();
        for protocol in [XrayProtocol::Vless { vision: true }, XrayProtocol::Vmess] {
            let id: uuid::Uuid = said(protocol).parse().unwrap();
            assert_eq!(id.get_version_num(), 4);
            assert_eq!(id.get_variant(), uuid::Variant::RFC4122);
        }
        for cipher in [ShadowsocksCipher::Aes128, ShadowsocksCipher::Aes256] {
            let key = STANDARD.decode(said(shadowsocks(cipher))).unwrap();
            assert_eq!(key.len(), cipher.key_length());
        }
        assert!(said(XrayProtocol::Trojan).len() >= 32);
        assert!(DeviceSeed::from_bytes(&[0; 31]).is_err());
    }
}
