//! A netlink socket to nf_tables: sends batches and reads listings, blocking, within bounds.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::wire::{self, Batch, Element, Family, Kind, Object, Reply};
use crate::Error;

/// A batch is one datagram: the kernel takes it whole from a buffer of this size.
const BUFFER: usize = 8 << 20;
const DATAGRAM: usize = 256 << 10;
const TIMEOUT_SECONDS: i64 = 5;
/// A table that never stands still long enough to be listed is an error, not a loop.
const LISTING_ATTEMPTS: usize = 20;

/// The socket stays in the network namespace in which it was opened.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
}

impl Socket {
    pub(super) fn open() -> Result<Self, Error> {
        let failed = |source| Error::Netlink {
            operation: "open",
            source,
        };
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        setsockopt(
            &fd,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(TIMEOUT_SECONDS),
        )
        .map_err(failed)?;
        for result in [
            setsockopt(&fd, sockopt::SndBufForce, &BUFFER),
            setsockopt(&fd, sockopt::RcvBufForce, &BUFFER),
        ] {
            result.map_err(|_| Error::MissingPrivilege {
                what: "netlink needs the capability CAP_NET_ADMIN",
            })?;
        }
        Ok(Self {
            fd,
            buffer: vec![0; DATAGRAM],
            sequence: 1 << 24,
        })
    }

    /// Brings a batch into force: all of it, or nothing and the first error.
    pub(super) fn commit(&mut self, batch: Batch) -> Result<(), Error> {
        let failed = |source| Error::Netlink {
            operation: "change",
            source,
        };
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, last) = batch.finish();
        self.drain();
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed)?;
        // The kernel has done its work when send returns: every outcome is in the buffer.
        let (mut acknowledged, mut first_error) = (false, None);
        loop {
            match recv(
                self.fd.as_raw_fd(),
                &mut self.buffer,
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(length) => {
                    for reply in wire::replies(self.buffer.get(..length).unwrap_or(&[])) {
                        match reply.ok_or(Error::MalformedNetlink)? {
                            Reply::Outcome {
                                result: Err(error), ..
                            } => {
                                first_error.get_or_insert(error);
                            }
                            Reply::Outcome { sequence, .. } => acknowledged |= sequence == last,
                            _ => (),
                        }
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => (),
                Err(error) => return Err(failed(error)),
            }
        }
        match first_error {
            Some(Errno::EPERM) => Err(Error::MissingPrivilege {
                what: "changing nftables needs the capability CAP_NET_ADMIN",
            }),
            Some(error) => Err(failed(error)),
            None if acknowledged => Ok(()),
            None => Err(failed(Errno::ENODATA)),
        }
    }

    /// Lists the objects of a kind, as they were at one moment, each read by `take`.
    pub(super) fn objects<T>(
        &mut self,
        table: &str,
        kind: Kind,
        take: impl Fn(Object<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.listing(
            |sequence| wire::dump_objects(table, kind, sequence),
            |attributes, found| {
                let object = wire::object(attributes).ok_or(Error::MalformedNetlink)?;
                found.extend(take(object));
                Ok(())
            },
        )
    }

    /// Whether an object exists.
    pub(super) fn has_object(
        &mut self,
        family: Family,
        table: &str,
        kind: Kind,
        name: &str,
    ) -> Result<bool, Error> {
        let failed = |source| Error::Netlink {
            operation: "list",
            source,
        };
        self.drain();
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = wire::get_object(family, table, kind, name, self.sequence);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed)?;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(failed(error)),
            };
            for reply in wire::replies(self.buffer.get(..length).unwrap_or(&[])) {
                match reply.ok_or(Error::MalformedNetlink)? {
                    Reply::Listed { sequence, .. } if sequence == self.sequence => return Ok(true),
                    Reply::Outcome { sequence, result } if sequence == self.sequence => {
                        return match result {
                            Err(Errno::ENOENT) => Ok(false),
                            Err(error) => Err(failed(error)),
                            Ok(()) => Ok(true),
                        };
                    }
                    _ => (),
                }
            }
        }
    }

    /// Lists the elements of a set, as they were at one moment, each read by `take`.
    pub(super) fn elements<T>(
        &mut self,
        table: &str,
        set: &str,
        take: impl Fn(Element<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        self.listing(
            |sequence| wire::dump_elements(table, set, sequence),
            |attributes, found| {
                for element in wire::elements(attributes) {
                    found.extend(take(element.ok_or(Error::MalformedNetlink)?));
                }
                Ok(())
            },
        )
    }

    fn listing<T>(
        &mut self,
        request: impl Fn(u32) -> Vec<u8>,
        each: impl Fn(&[u8], &mut Vec<T>) -> Result<(), Error>,
    ) -> Result<Vec<T>, Error> {
        let mut found = Vec::new();
        for _ in 0..LISTING_ATTEMPTS {
            found.clear();
            self.drain();
            self.sequence = self.sequence.wrapping_add(1);
            let bytes = request(self.sequence);
            send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|source| {
                Error::Netlink {
                    operation: "list",
                    source,
                }
            })?;
            if self.read_listing(&each, &mut found)? {
                return Ok(found);
            }
        }
        Err(Error::Netlink {
            operation: "list",
            source: Errno::EINTR,
        })
    }

    /// Reads one listing to its end; false when the table changed meanwhile.
    fn read_listing<T>(
        &mut self,
        each: &impl Fn(&[u8], &mut Vec<T>) -> Result<(), Error>,
        found: &mut Vec<T>,
    ) -> Result<bool, Error> {
        let failed = |source| Error::Netlink {
            operation: "list",
            source,
        };
        let mut whole = true;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(error) => return Err(failed(error)),
            };
            for reply in wire::replies(self.buffer.get(..length).unwrap_or(&[])) {
                match reply.ok_or(Error::MalformedNetlink)? {
                    Reply::Listed {
                        sequence,
                        attributes,
                        interrupted,
                    } if sequence == self.sequence => {
                        whole &= !interrupted;
                        each(attributes, found)?;
                    }
                    Reply::Done {
                        sequence,
                        result,
                        interrupted,
                    } if sequence == self.sequence => {
                        result.map_err(failed)?;
                        return Ok(whole && !interrupted);
                    }
                    Reply::Outcome {
                        sequence,
                        result: Err(error),
                    } if sequence == self.sequence => {
                        return Err(failed(error));
                    }
                    _ => (),
                }
            }
        }
    }

    /// Throws away what an aborted reading left in the buffer.
    fn drain(&mut self) {
        while recv(
            self.fd.as_raw_fd(),
            &mut self.buffer,
            MsgFlags::MSG_DONTWAIT,
        )
        .is_ok()
        {}
    }
}
