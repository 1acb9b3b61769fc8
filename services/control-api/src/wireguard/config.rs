//! The configuration of one device for one node, as `wg-quick` reads it (wg-quick(8)), and the
//! same as a QR code, which WireGuard's mobile apps read.

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use qrcode::{EcLevel, QrCode, render::svg};
use zeroize::Zeroizing;

use super::keys::{self, SecretKey};

/// What a device needs to know to connect.
#[derive(Debug)]
pub(crate) struct DeviceConfig {
    /// The device's private key; `None` when only its user has it, and has to add it.
    pub(crate) private_key: Option<SecretKey>,
    /// Mixed into the handshake of this device alone.
    pub(crate) preshared_key: Option<SecretKey>,
    /// The device's address in the tunnel.
    pub(crate) ipv4: Ipv4Addr,
    /// The device's IPv6 address in the tunnel.
    pub(crate) ipv6: Option<Ipv6Addr>,
    /// Resolvers to use while connected.
    pub(crate) dns_servers: Vec<IpAddr>,
    /// Of the interface, in bytes.
    pub(crate) mtu: u16,
    /// The server's public key on this node.
    pub(crate) server_key: [u8; 32],
    /// Networks that go through the tunnel.
    pub(crate) allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; 0 is none.
    pub(crate) keepalive_seconds: u16,
}

impl DeviceConfig {
    /// The text of the configuration file, for a node at a host name or address and a UDP port
    /// there. Holds the private key.
    pub(crate) fn text(&self, address: &str, port: u16) -> Zeroizing<String> {
        let mut text = Zeroizing::new(String::with_capacity(512));
        // Writing to a String cannot fail.
        let _ = self.write(address, port, &mut text);
        text
    }

    fn write(&self, address: &str, port: u16, out: &mut String) -> std::fmt::Result {
        writeln!(out, "[Interface]")?;
        if let Some(key) = &self.private_key {
            writeln!(out, "PrivateKey = {}", keys::text(key).as_str())?;
        }
        write!(out, "Address = {}/32", self.ipv4)?;
        if let Some(ipv6) = self.ipv6 {
            write!(out, ", {ipv6}/128")?;
        }
        writeln!(out)?;
        if !self.dns_servers.is_empty() {
            writeln!(out, "DNS = {}", joined(&self.dns_servers))?;
        }
        writeln!(out, "MTU = {}", self.mtu)?;
        writeln!(out, "\n[Peer]")?;
        writeln!(out, "PublicKey = {}", keys::text(&self.server_key).as_str())?;
        if let Some(key) = &self.preshared_key {
            writeln!(out, "PresharedKey = {}", keys::text(key).as_str())?;
        }
        writeln!(out, "AllowedIPs = {}", joined(&self.allowed_ips))?;
        match address.parse::<Ipv6Addr>() {
            Ok(address) => writeln!(out, "Endpoint = [{address}]:{port}")?,
            Err(_) => writeln!(out, "Endpoint = {address}:{port}")?,
        }
        if self.keepalive_seconds > 0 {
            writeln!(out, "PersistentKeepalive = {}", self.keepalive_seconds)?;
        }
        Ok(())
    }
}

/// An SVG image of the QR code of a configuration; `None` when it is too long for one code
/// (2,953 bytes, ISO/IEC 18004).
pub(crate) fn qr_svg(text: &str) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    Some(
        code.render::<svg::Color<'_>>()
            .min_dimensions(256, 256)
            .build(),
    )
}

fn joined<T: std::fmt::Display>(items: &[T]) -> String {
    items
        .iter()
        .map(T::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> DeviceConfig {
        DeviceConfig {
            private_key: Some(Zeroizing::new([1; 32])),
            preshared_key: Some(Zeroizing::new([2; 32])),
            ipv4: Ipv4Addr::new(10, 64, 0, 2),
            ipv6: Some("fd00::2".parse().unwrap()),
            dns_servers: vec![
                "1.1.1.1".parse().unwrap(),
                "2606:4700::1111".parse().unwrap(),
            ],
            mtu: 1420,
            server_key: [3; 32],
            allowed_ips: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            keepalive_seconds: 25,
        }
    }

    #[test]
    fn the_text_is_what_wg_quick_reads() {
        let expected = "\
[Interface]
PrivateKey = AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
Address = 10.64.0.2/32, fd00::2/128
DNS = 1.1.1.1, 2606:4700::1111
MTU = 1420

[Peer]
PublicKey = AwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwM=
PresharedKey = AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example.com:51820
PersistentKeepalive = 25
";
        let text = config().text("vpn.example.com", 51820);
        assert_eq!(text.as_str(), expected);
    }

    #[test]
    fn an_ipv6_endpoint_is_bracketed_and_what_is_unset_is_left_out() {
        let config = DeviceConfig {
            preshared_key: None,
            ipv6: None,
            dns_servers: Vec::new(),
            keepalive_seconds: 0,
            ..config()
        };
        let text = config.text("2001:db8::1", 51820);
        assert!(text.contains("Endpoint = [2001:db8::1]:51820\n"));
        for absent in ["DNS", "PresharedKey", "PersistentKeepalive", "/128"] {
            assert!(!text.contains(absent), "{absent}");
        }
    }

    #[test]
    fn a_configuration_fits_a_qr_code() {
        let image = qr_svg(&config().text("vpn.example.com", 51820)).unwrap();
        assert!(image.starts_with("<?xml") && image.contains("<svg"));
        assert!(qr_svg(&"x".repeat(5000)).is_none());
    }
}
