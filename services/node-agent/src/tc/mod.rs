//! Traffic control: classes that hold the packets of a user back to a speed, on devices of ours.
//!
//! A packet names its class by its priority, which nf_tables sets; what names none passes as it
//! always did. Each class has a short queue of its own.

mod wire;

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::Error;
use wire::{Reply, Requests};

/// The answers of a batch of requests fit into a buffer of this size.
const BUFFER: usize = 4 << 20;
const DATAGRAM: usize = 64 << 10;
const TIMEOUT_SECONDS: i64 = 5;
/// Classes that are set with one datagram.
const BATCH: usize = 200;
/// What never stands still long enough to be listed is an error, not a loop.
const LISTING_ATTEMPTS: usize = 20;

/// A class waits with so much of its time at most: milliseconds.
const QUEUE_MS: u64 = 150;
/// A queue takes the largest packet that the kernel aggregates.
const LEAST_QUEUE: u64 = 66 << 10;

/// Bytes per second of each class of a device.
pub(crate) type Classes = BTreeMap<u16, u32>;

/// Talks to the packet scheduler of the network namespace in which it was opened, about HTBs of one
/// handle.
#[derive(Debug)]
pub(crate) struct Scheduler {
    fd: OwnedFd,
    buffer: Vec<u8>,
    sequence: u32,
    handle: u32,
}

impl Scheduler {
    /// For HTBs whose handle has this major number.
    pub(crate) fn open(major: u16) -> Result<Self, Error> {
        let failed = failed("open");
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        )
        .map_err(failed)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(failed)?;
        let timeout = TimeVal::seconds(TIMEOUT_SECONDS);
        setsockopt(&fd, sockopt::ReceiveTimeout, &timeout).map_err(failed)?;
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
            sequence: 1,
            handle: u32::from(major) << 16,
        })
    }

    /// The number by which a packet names a class.
    pub(crate) fn class(&self, minor: u16) -> u32 {
        self.handle | u32::from(minor)
    }

    /// The class that a packet names so, if it is one of ours.
    pub(crate) fn minor(&self, class: u32) -> Option<u16> {
        let ours = class & 0xffff_0000 == self.handle;
        u16::try_from(class & 0xffff).ok().filter(|_| ours)
    }

    /// The devices there are, by name.
    pub(crate) fn links(&mut self) -> Result<BTreeMap<String, u32>, Error> {
        let listed = self.list(wire::list_links)?;
        Ok(listed.into_iter().map(|it| (it.name, it.device)).collect())
    }

    /// Devices whose root is an HTB of ours.
    pub(crate) fn devices(&mut self) -> Result<Vec<u32>, Error> {
        let handle = self.handle;
        let listed = self.list(wire::list_qdiscs)?;
        let ours = |it: &wire::Listed| it.is_htb && it.handle == handle && it.parent == wire::ROOT;
        Ok(listed
            .iter()
            .filter(|it| ours(it))
            .map(|it| it.device)
            .collect())
    }

    /// The classes of a device.
    pub(crate) fn classes(&mut self, device: u32) -> Result<Classes, Error> {
        let listed = self.list(|sequence| wire::list_classes(device, sequence))?;
        Ok(listed
            .into_iter()
            .filter(|it| it.device == device)
            .filter_map(|it| Some((self.minor(it.handle)?, it.bytes_per_second?)))
            .collect())
    }

    /// Whether the root of a device is still ours.
    pub(crate) fn is_open(&mut self, device: u32) -> Result<bool, Error> {
        let handle = self.handle;
        match self.one(|requests| requests.find_qdisc(device, handle)) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => Ok(false),
            Err(error) => Err(failed("look for a qdisc")(error)),
        }
    }

    /// Puts an HTB at the root of a device, in the place of the kernel's default and of nothing
    /// else.
    pub(crate) fn open_device(&mut self, device: u32) -> Result<(), Error> {
        let handle = self.handle;
        self.one(|requests| requests.add_root(device, handle))
            .map_err(failed("add htb"))
    }

    /// Takes the HTB of a device away, with its classes; the kernel's default comes back.
    pub(crate) fn close_device(&mut self, device: u32) -> Result<(), Error> {
        let handle = self.handle;
        match self.one(|requests| requests.delete_root(device, handle)) {
            Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => Ok(()),
            Err(error) => Err(failed("delete htb")(error)),
        }
    }

    /// Makes classes, or changes their speed in place.
    pub(crate) fn set_classes(&mut self, device: u32, classes: &[(u16, u32)]) -> Result<(), Error> {
        for slice in classes.chunks(BATCH) {
            let mut requests = self.requests();
            for (minor, speed) in slice {
                let class = self.class(*minor);
                requests.set_class(device, class, *speed);
                requests.set_queue(device, class, queue_of(*speed));
            }
            for result in self.send(requests)? {
                result.map_err(failed("set a class"))?;
            }
        }
        Ok(())
    }

    /// Takes classes away; one that is gone is no error.
    pub(crate) fn delete_classes(&mut self, device: u32, minors: &[u16]) -> Result<(), Error> {
        for slice in minors.chunks(BATCH) {
            let mut requests = self.requests();
            for minor in slice {
                let class = self.class(*minor);
                requests.delete_class(device, class);
            }
            for result in self.send(requests)? {
                match result {
                    Ok(()) | Err(Errno::ENOENT | Errno::EINVAL | Errno::ENODEV) => (),
                    Err(error) => return Err(failed("delete a class")(error)),
                }
            }
        }
        Ok(())
    }

    fn requests(&self) -> Requests {
        Requests::new(self.sequence)
    }

    /// Sends one request; the error is the kernel's.
    fn one(&mut self, fill: impl FnOnce(&mut Requests)) -> Result<(), Errno> {
        let mut requests = self.requests();
        fill(&mut requests);
        match self.send(requests) {
            Ok(results) => results.into_iter().next().unwrap_or(Err(Errno::ENODATA)),
            Err(Error::TrafficControl { source, .. }) => Err(source),
            Err(_) => Err(Errno::EBADMSG),
        }
    }

    /// Sends requests; gives their results in order.
    fn send(&mut self, requests: Requests) -> Result<Vec<Result<(), Errno>>, Error> {
        let failed = failed("change");
        let first = self.sequence;
        let count = requests.count();
        let mut results: Vec<Option<Result<(), Errno>>> = vec![None; count];
        self.sequence = first.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        self.drain();
        send(
            self.fd.as_raw_fd(),
            &requests.into_bytes(),
            MsgFlags::empty(),
        )
        .map_err(failed)?;
        while results.iter().any(Option::is_none) {
            let length = self.receive().map_err(failed)?;
            for reply in wire::replies(self.buffer.get(..length).unwrap_or(&[])) {
                if let Reply::Outcome { sequence, result } = reply.ok_or(malformed())? {
                    let index = sequence.wrapping_sub(first) as usize;
                    if let Some(slot) = results.get_mut(index) {
                        *slot = Some(result);
                    }
                }
            }
        }
        let unanswered = Err(Errno::ENODATA);
        Ok(results
            .into_iter()
            .map(|result| result.unwrap_or(unanswered))
            .collect())
    }

    fn list(&mut self, request: impl Fn(u32) -> Vec<u8>) -> Result<Vec<wire::Listed>, Error> {
        let failed = failed("list");
        for _ in 0..LISTING_ATTEMPTS {
            self.drain();
            self.sequence = self.sequence.wrapping_add(1);
            let bytes = request(self.sequence);
            send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(failed)?;
            if let Some(listed) = self.read_listing()? {
                return Ok(listed);
            }
        }
        Err(failed(Errno::EINTR))
    }

    /// Reads a listing to its end; none when something changed meanwhile.
    fn read_listing(&mut self) -> Result<Option<Vec<wire::Listed>>, Error> {
        let (mut all, mut whole) = (Vec::new(), true);
        loop {
            let length = self.receive().map_err(failed("list"))?;
            for reply in wire::replies(self.buffer.get(..length).unwrap_or(&[])) {
                match reply.ok_or(malformed())? {
                    Reply::Listed {
                        sequence,
                        listed,
                        interrupted,
                    } if sequence == self.sequence => {
                        whole &= !interrupted;
                        all.push(listed);
                    }
                    Reply::Done {
                        sequence,
                        interrupted,
                    } if sequence == self.sequence => {
                        return Ok((whole && !interrupted).then_some(all));
                    }
                    Reply::Outcome {
                        sequence,
                        result: Err(error),
                    } if sequence == self.sequence => return Err(failed("list")(error)),
                    _ => (),
                }
            }
        }
    }

    fn receive(&mut self) -> Result<usize, Errno> {
        loop {
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => (),
                result => return result,
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

/// Bytes that a class may hold back before it drops.
fn queue_of(bytes_per_second: u32) -> u32 {
    let bytes = (u64::from(bytes_per_second) * QUEUE_MS / 1000).max(LEAST_QUEUE);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn failed(operation: &'static str) -> impl Fn(Errno) -> Error + Copy {
    move |source| Error::TrafficControl { operation, source }
}

fn malformed() -> Error {
    failed("read an answer")(Errno::EBADMSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_holds_a_moment_and_at_least_a_packet() {
        assert_eq!(queue_of(8_000), 66 << 10);
        assert_eq!(queue_of(12_500_000), 1_875_000);
        assert_eq!(queue_of(u32::MAX), 644_245_094);
    }
}
