//! A small client of WireGuard's cross-platform control protocol
//! (<https://www.wireguard.com/xplatform/>), over a unix socket: time limits, bounded parsing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::Error;

const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer about a million peers; more is no answer.
const ANSWER: u64 = 512 << 20;
const LINE: u64 = 4096;
/// Peers in one request: a request that fails is repeated peer by peer.
pub(super) const PEERS_PER_REQUEST: usize = 500;

/// What WireGuard should know of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub(super) public_key: [u8; 32],
    /// All zeroes is none.
    pub(super) preshared_key: [u8; 32],
    pub(super) allowed_ips: BTreeSet<IpAddr>,
    /// Where to try first; given only to a WireGuard that knows nothing of the peer yet.
    pub(super) endpoint: Option<SocketAddr>,
}

/// What WireGuard says of a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct PeerReport {
    pub(super) public_key: [u8; 32],
    pub(super) allowed_ips: BTreeSet<IpNet>,
    pub(super) endpoint: Option<SocketAddr>,
    /// Seconds of the Unix epoch; 0 is never.
    pub(super) last_handshake: i64,
}

/// What WireGuard says of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct InterfaceReport {
    pub(super) private_key: Option<[u8; 32]>,
    pub(super) listen_port: u16,
    pub(super) peers: Vec<PeerReport>,
}

/// The control socket of an interface.
#[derive(Debug, Clone)]
pub(super) struct Uapi {
    interface: String,
}

impl Uapi {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
        }
    }

    /// Where wireguard-go listens. The path is one for all network namespaces of the host.
    pub(super) fn path(&self) -> PathBuf {
        Path::new("/var/run/wireguard").join(format!("{}.sock", self.interface))
    }

    /// Whether somebody answers there.
    pub(super) fn answers(&self) -> bool {
        UnixStream::connect(self.path()).is_ok()
    }

    /// Everything it knows.
    pub(super) fn get(&self) -> Result<InterfaceReport, Error> {
        let stream = self.request("get=1\n\n")?;
        parse_report(BufReader::new(stream)).map_err(|failure| self.failed(failure))
    }

    /// Sets the private key and the port; peers and sessions stay.
    pub(super) fn set_interface(&self, private_key: &[u8; 32], port: u16) -> Result<(), Error> {
        let key = zeroize::Zeroizing::new(hex::encode(private_key));
        let text = format!(
            "set=1\nprivate_key={}\nlisten_port={port}\n\n",
            key.as_str()
        );
        self.set(&zeroize::Zeroizing::new(text))
    }

    /// Adds peers, or changes them in place. Each block carries every setting of its peer, so
    /// that none is taken over from the one before.
    pub(super) fn set_peers(&self, peers: &[&PeerSettings]) -> Result<(), Error> {
        let mut text = zeroize::Zeroizing::new(String::from("set=1\n"));
        for peer in peers {
            // Writing to a string does not fail.
            let _ = writeln!(text, "public_key={}", hex::encode(peer.public_key));
            let _ = writeln!(text, "preshared_key={}", hex::encode(peer.preshared_key));
            if let Some(endpoint) = peer.endpoint {
                let _ = writeln!(text, "endpoint={endpoint}");
            }
            text.push_str("replace_allowed_ips=true\n");
            for address in &peer.allowed_ips {
                let _ = writeln!(text, "allowed_ip={}", IpNet::from(*address));
            }
        }
        text.push('\n');
        self.set(&text)
    }

    /// Removes peers; one that is not there is no error.
    pub(super) fn remove_peers(&self, keys: &[[u8; 32]]) -> Result<(), Error> {
        let mut text = String::from("set=1\n");
        for key in keys {
            let _ = writeln!(text, "public_key={}\nremove=true", hex::encode(key));
        }
        text.push('\n');
        self.set(&text)
    }

    fn set(&self, text: &str) -> Result<(), Error> {
        let stream = self.request(text)?;
        parse_outcome(BufReader::new(stream)).map_err(|failure| self.failed(failure))
    }

    fn request(&self, text: &str) -> Result<UnixStream, Error> {
        let open = || -> std::io::Result<UnixStream> {
            let mut stream = UnixStream::connect(self.path())?;
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.write_all(text.as_bytes())?;
            Ok(stream)
        };
        open().map_err(|error| self.failed(Failure::Socket(error)))
    }

    fn failed(&self, failure: Failure) -> Error {
        let interface = self.interface.clone();
        match failure {
            Failure::Socket(source) => Error::UapiSocket { interface, source },
            Failure::Refused(errno) => Error::UapiRefused { interface, errno },
            Failure::Malformed(what) => Error::UapiMalformed { interface, what },
        }
    }
}

#[derive(Debug)]
enum Failure {
    Socket(std::io::Error),
    Refused(i64),
    Malformed(&'static str),
}

/// Reads the outcome of a `set`.
fn parse_outcome(answer: impl BufRead) -> Result<(), Failure> {
    parse_lines(answer, |_, _| Ok(()))
}

/// Reads the answer to a `get`.
fn parse_report(answer: impl BufRead) -> Result<InterfaceReport, Failure> {
    let mut report = InterfaceReport::default();
    parse_lines(answer, |key, value| {
        if key == "public_key" {
            let public_key = key32(value).ok_or(Failure::Malformed("public_key"))?;
            report.peers.push(PeerReport {
                public_key,
                ..PeerReport::default()
            });
            return Ok(());
        }
        match (key, report.peers.last_mut()) {
            ("private_key", None) => {
                report.private_key = Some(key32(value).ok_or(Failure::Malformed("private_key"))?);
            }
            ("listen_port", None) => {
                report.listen_port = value
                    .parse()
                    .map_err(|_| Failure::Malformed("listen_port"))?;
            }
            ("allowed_ip", Some(peer)) => {
                let network = value
                    .parse()
                    .map_err(|_| Failure::Malformed("allowed_ip"))?;
                peer.allowed_ips.insert(network);
            }
            ("endpoint", Some(peer)) => {
                // An address with an interface zone is no SocketAddr: unknown, not malformed.
                peer.endpoint = value.parse().ok();
            }
            ("last_handshake_time_sec", Some(peer)) => {
                peer.last_handshake = value
                    .parse()
                    .map_err(|_| Failure::Malformed("last_handshake_time_sec"))?;
            }
            // Diagnostic counters, keepalives, and what a newer version adds.
            _ => (),
        }
        Ok(())
    })?;
    Ok(report)
}

/// Hands over the lines of an answer up to its `errno`; an answer that ends before is torn.
fn parse_lines(
    answer: impl BufRead,
    mut each: impl FnMut(&str, &str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut answer = answer.take(ANSWER);
    let mut line = Vec::new();
    loop {
        line.clear();
        (&mut answer)
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(Failure::Socket)?;
        let Some(text) = line.strip_suffix(b"\n") else {
            return Err(Failure::Malformed("the answer ends early"));
        };
        let text = std::str::from_utf8(text).map_err(|_| Failure::Malformed("not text"))?;
        let Some((key, value)) = text.split_once('=') else {
            return Err(Failure::Malformed("a line without a value"));
        };
        if key == "errno" {
            return match value.parse() {
                Ok(0) => Ok(()),
                Ok(errno) => Err(Failure::Refused(errno)),
                Err(_) => Err(Failure::Malformed("errno")),
            };
        }
        each(key, value)?;
    }
}

fn key32(digits: &str) -> Option<[u8; 32]> {
    hex::decode(digits).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Result<InterfaceReport, Failure> {
        parse_report(text.as_bytes())
    }

    #[test]
    fn an_answer_is_read_peer_by_peer() {
        let (a, b) = ("aa".repeat(32), "bb".repeat(32));
        let text = format!(
            "private_key={a}\nlisten_port=51820\npublic_key={a}\nallowed_ip=10.0.0.2/32\n\
             endpoint=[2001:db8::1]:7\nlast_handshake_time_sec=12\nlast_handshake_time_nsec=3\n\
             rx_bytes=5\npublic_key={b}\nallowed_ip=10.0.0.3/32\nallowed_ip=fd00::3/128\n\
             protocol_version=1\nerrno=0\n\n"
        );
        let report = answer(&text).unwrap();
        assert_eq!(report.listen_port, 51820);
        assert_eq!(report.peers.len(), 2);
        assert_eq!(report.peers[0].last_handshake, 12);
        assert_eq!(report.peers[0].endpoint.unwrap().port(), 7);
        assert_eq!(report.peers[1].allowed_ips.len(), 2);
    }

    #[test]
    fn a_torn_answer_is_an_error_and_never_an_empty_list() {
        let key = "aa".repeat(32);
        let text = format!("listen_port=1\npublic_key={key}\nallowed_ip=10.0.0.2/32\nerrno=0\n\n");
        for cut in 0..text.len() - 2 {
            assert!(answer(&text[..cut]).is_err(), "{cut}");
        }
    }

    #[test]
    fn refusals_and_junk_are_told_apart() {
        assert!(matches!(
            answer("errno=-22\n\n"),
            Err(Failure::Refused(-22))
        ));
        assert!(matches!(
            answer("errno=x\n\n"),
            Err(Failure::Malformed("errno"))
        ));
        assert!(matches!(
            answer("nonsense\nerrno=0\n\n"),
            Err(Failure::Malformed(_))
        ));
        assert!(answer(&format!("{}=1\nerrno=0\n", "k".repeat(9000))).is_err());
        assert!(answer("public_key=00\nerrno=0\n").is_err());
    }
}
