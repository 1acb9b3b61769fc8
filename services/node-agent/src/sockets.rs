//! TCP connections of this host by sock_diag: finds those on a port and destroys single ones.
//! A connection is known by its addresses, ports and the kernel's cookie: another that took its
//! place is never meant.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::Error;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// NLM_F_REQUEST with NLM_F_DUMP, or with NLM_F_ACK.
const DUMP: u16 = 0x301;
const ACKNOWLEDGED: u16 = 0x5;
const HEADER: usize = 16;
/// Offset and size of the socket's identity in a listed message.
const IDENTITY: (usize, usize) = (HEADER + 4, 48);
/// Connections that carry, or still may carry, data: established, both FIN_WAITs, CLOSE_WAIT.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;
const TCP: u8 = 6;
const DATAGRAM: usize = 64 << 10;
const TIMEOUT_SECONDS: i64 = 5;

/// A connection that a program of this host accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Connection {
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// The kernel's own number of it, never used again.
    pub(crate) cookie: u64,
    family: u8,
    identity: [u8; 48],
}

#[cfg(test)]
impl Connection {
    /// One that no kernel knows.
    pub(crate) fn of_test(remote: SocketAddr, cookie: u64) -> Self {
        Self {
            remote,
            cookie,
            family: 0,
            identity: [0; 48],
        }
    }
}

/// A sock_diag socket, in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Sockets {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Sockets {
    pub(crate) fn open() -> Result<Self, Error> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )
        .map_err(failed("open"))?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed("open"))?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(TIMEOUT_SECONDS),
        )
        .map_err(failed("open"))?;
        Ok(Self {
            fd,
            buffer: vec![0; DATAGRAM],
            sequence: 0,
        })
    }

    /// The connections whose near end is a port, of both families.
    pub(crate) fn on_port(&mut self, port: u16) -> Result<Vec<Connection>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut identity = [0; 48];
            identity[..2].copy_from_slice(&port.to_be_bytes());
            self.ask(SOCK_DIAG_BY_FAMILY, DUMP, family as u8, &identity, "list")?;
            self.answers("list", |message| found.extend(connection(message)))?;
        }
        Ok(found)
    }

    /// Ends a connection at once, both directions; one that has ended is no error.
    pub(crate) fn destroy(&mut self, connection: &Connection) -> Result<(), Error> {
        let Connection {
            family, identity, ..
        } = connection;
        self.ask(SOCK_DESTROY, ACKNOWLEDGED, *family, identity, "destroy")?;
        match self.answers("destroy", |_| ()) {
            Err(Error::SockDiag {
                source: Errno::ENOENT,
                ..
            }) => Ok(()),
            Err(Error::SockDiag {
                source: Errno::EPERM,
                ..
            }) => Err(Error::MissingPrivilege {
                what: "ending connections needs the capability CAP_NET_ADMIN",
            }),
            result => result,
        }
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        identity: &[u8; 48],
        operation: &'static str,
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut bytes = Vec::with_capacity(72);
        bytes.extend(72_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend([family, TCP, 0, 0]);
        bytes.extend(STATES.to_ne_bytes());
        bytes.extend(identity);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed(operation))?;
        Ok(())
    }

    /// Reads the answer to the last question to its end.
    fn answers(
        &mut self,
        operation: &'static str,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), Error> {
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(failed(operation)(error)),
            };
            let mut rest = self.buffer.get(..length).unwrap_or_default();
            while let Some((message, after)) = split(rest) {
                rest = after;
                if u32_at(message, 8) != Some(self.sequence) {
                    continue;
                }
                match message.get(4..6).map(|kind| [kind[0], kind[1]]) {
                    Some(kind) if u16::from_ne_bytes(kind) == NLMSG_DONE => return Ok(()),
                    Some(kind) if u16::from_ne_bytes(kind) == NLMSG_ERROR => {
                        let code = u32_at(message, HEADER).map_or(0, u32::cast_signed);
                        return match code.wrapping_neg() {
                            0 => Ok(()),
                            code => Err(failed(operation)(Errno::from_raw(code))),
                        };
                    }
                    _ => each(message),
                }
            }
        }
    }
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> Error {
    move |source| Error::SockDiag { operation, source }
}

/// The first message of a datagram, and what follows it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32_at(bytes, 0)?).ok()?;
    let message = bytes.get(..length).filter(|_| length >= HEADER)?;
    Some((
        message,
        bytes.get(length.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

fn connection(message: &[u8]) -> Option<Connection> {
    let (start, size) = IDENTITY;
    let family = *message.get(HEADER)?;
    let identity: [u8; 48] = message.get(start..start + size)?.try_into().ok()?;
    let remote_port = u16::from_be_bytes([identity[2], identity[3]]);
    let address: [u8; 16] = identity.get(20..36)?.try_into().ok()?;
    let address = if i32::from(family) == AddressFamily::Inet as i32 {
        IpAddr::from(Ipv4Addr::new(
            address[0], address[1], address[2], address[3],
        ))
    } else {
        IpAddr::from(Ipv6Addr::from(address)).to_canonical()
    };
    Some(Connection {
        remote: SocketAddr::new(address, remote_port),
        cookie: u64::from_ne_bytes(identity.get(40..48)?.try_into().ok()?),
        family,
        identity,
    })
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let bytes = bytes.get(offset..offset + 4)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects to a port of this process, in a family; the accepting end is what is listed.
    fn pair(
        address: &str,
    ) -> (
        std::net::TcpListener,
        std::net::TcpStream,
        std::net::TcpStream,
    ) {
        let listener = std::net::TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let near = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (far, _) = listener.accept().unwrap();
        (listener, near, far)
    }

    #[test]
    fn connections_are_found_by_port_in_both_families() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (listener, near, _far) = pair(address);
            let port = listener.local_addr().unwrap().port();
            let found = Sockets::open().unwrap().on_port(port).unwrap();
            assert_eq!(found.len(), 1, "{found:?}");
            assert_eq!(found[0].remote, near.local_addr().unwrap());
            assert_ne!(found[0].cookie, 0);
        }
    }

    #[test]
    fn one_connection_is_destroyed_and_its_neighbour_lives_on() {
        use std::io::{Read, Write};
        if !crate::testing::require_root() {
            return;
        }
        for address in ["127.0.0.1:0", "[::]:0"] {
            let (listener, mut near, _far) = pair(address);
            let port = listener.local_addr().unwrap().port();
            let mut neighbour = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut neighbour_far, _) = listener.accept().unwrap();
            let mut sockets = Sockets::open().unwrap();
            let connections = sockets.on_port(port).unwrap();
            let ours = near.local_addr().unwrap();
            let chosen = connections.iter().find(|c| c.remote == ours).unwrap();
            sockets.destroy(chosen).unwrap();
            sockets.destroy(chosen).unwrap();
            assert!(near.read(&mut [0]).is_err());
            neighbour.write_all(b"x").unwrap();
            neighbour_far.read_exact(&mut [0]).unwrap();
        }
    }
}
