//! The bytes of traffic control over rtnetlink, as far as it is needed: an HTB qdisc at the root of
//! a device, its classes, and a queue of bytes in each. The `tc` tool would need a process for each
//! batch and prints what it lists for people.
//!
//! Formats: linux/netlink.h, linux/rtnetlink.h, linux/pkt_sched.h.

use nix::errno::Errno;

const HEADER: usize = 16;
const TCMSG: usize = 20;
const IFINFOMSG: usize = 16;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
const NEW_CLASS: u16 = 40;
const DELETE_CLASS: u16 = 41;
const GET_CLASS: u16 = 42;

const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_DUMP: u16 = 0x300;
const F_REPLACE: u16 = 0x100;
const F_EXCLUSIVE: u16 = 0x200;
const F_CREATE: u16 = 0x400;
/// The kernel changed while it was listed.
const F_DUMP_INTR: u16 = 0x10;

const KIND: u16 = 1;
const OPTIONS: u16 = 2;
const LINK_NAME: u16 = 3;
const HTB_PARAMETERS: u16 = 1;
const HTB_INIT: u16 = 2;

/// The parent of a qdisc at the root of a device.
pub(super) const ROOT: u32 = u32::MAX;
/// The version of HTB's parameters.
const HTB_VERSION: u32 = 3;
const ETHERNET: u8 = 1;
/// What a class may send in its turn: a matter of classes that share, which ours do not.
const QUANTUM: u32 = 10_000;
/// A tick of the packet scheduler.
const TICK_NANOSECONDS: u64 = 64;
/// A class may send so much of its time at once.
const BURST: u64 = 10_000_000;

/// Requests, each with an answer of its own.
#[derive(Debug, Default)]
pub(super) struct Requests {
    buffer: Vec<u8>,
    /// Number of the first and of the next request.
    first: u32,
    next: u32,
}

impl Requests {
    pub(super) fn new(first: u32) -> Self {
        Self {
            buffer: Vec::new(),
            first,
            next: first,
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        (self.next - self.first) as usize
    }

    /// An HTB at the root of a device where none but the kernel's default stands. What names no
    /// class of it is not held up.
    pub(super) fn add_root(&mut self, device: u32, handle: u32) {
        let flags = F_CREATE | F_EXCLUSIVE;
        self.request(NEW_QDISC, flags, device, (handle, ROOT), |message| {
            message.put(KIND, b"htb\0");
            message.nested(OPTIONS, |options| {
                let init: Vec<u8> = [HTB_VERSION, 10, 0, 0, 0]
                    .iter()
                    .flat_map(|word| word.to_ne_bytes())
                    .collect();
                options.put(HTB_INIT, &init);
            });
        });
    }

    /// Takes the root of a device away: the kernel's default comes back.
    pub(super) fn delete_root(&mut self, device: u32, handle: u32) {
        self.request(DELETE_QDISC, 0, device, (handle, ROOT), |_| ());
    }

    /// A class under the root, or its new speed; what it queues stays.
    pub(super) fn set_class(&mut self, device: u32, class: u32, bytes_per_second: u32) {
        let parent = class & 0xffff_0000;
        self.request(NEW_CLASS, F_CREATE, device, (class, parent), |message| {
            message.put(KIND, b"htb\0");
            message.nested(OPTIONS, |options| {
                options.put(HTB_PARAMETERS, &parameters(bytes_per_second));
            });
        });
    }

    /// The queue of a class, or its new size in bytes.
    pub(super) fn set_queue(&mut self, device: u32, class: u32, bytes: u32) {
        // Within a device the classes' numbers are the queues' too.
        let handle = class << 16;
        let flags = F_CREATE | F_REPLACE;
        self.request(NEW_QDISC, flags, device, (handle, class), |message| {
            message.put(KIND, b"bfifo\0");
            message.put(OPTIONS, &bytes.to_ne_bytes());
        });
    }

    /// Takes a class away, with its queue and what is in it.
    pub(super) fn delete_class(&mut self, device: u32, class: u32) {
        self.request(
            DELETE_CLASS,
            0,
            device,
            (class, class & 0xffff_0000),
            |_| (),
        );
    }

    /// Succeeds when the device has a qdisc of this handle.
    pub(super) fn find_qdisc(&mut self, device: u32, handle: u32) {
        self.request(GET_QDISC, 0, device, (handle, 0), |_| ());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.buffer
    }

    fn request(
        &mut self,
        operation: u16,
        flags: u16,
        device: u32,
        (handle, parent): (u32, u32),
        fill: impl FnOnce(&mut Message<'_>),
    ) {
        let flags = F_REQUEST | F_ACK | flags;
        let sequence = self.next;
        self.next += 1;
        let mut message = Message::begin(&mut self.buffer, operation, flags, sequence);
        message.target(device, handle, parent);
        fill(&mut message);
        message.end();
    }
}

/// A request for the qdiscs of all devices.
pub(super) fn list_qdiscs(sequence: u32) -> Vec<u8> {
    list(GET_QDISC, 0, sequence)
}

/// A request for the classes of a device.
pub(super) fn list_classes(device: u32, sequence: u32) -> Vec<u8> {
    list(GET_CLASS, device, sequence)
}

/// A request for all devices.
pub(super) fn list_links(sequence: u32) -> Vec<u8> {
    list(GET_LINK, 0, sequence)
}

fn list(operation: u16, device: u32, sequence: u32) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(HEADER + TCMSG);
    let mut message = Message::begin(&mut buffer, operation, F_REQUEST | F_DUMP, sequence);
    message.target(device, 0, 0);
    message.end();
    buffer
}

/// `struct tc_htb_opt`: a speed that is its own ceiling.
fn parameters(bytes_per_second: u32) -> Vec<u8> {
    let mut rate = [0; 12];
    rate[1] = ETHERNET;
    rate[8..].copy_from_slice(&bytes_per_second.to_ne_bytes());
    let mut all = Vec::with_capacity(44);
    all.extend_from_slice(&rate);
    all.extend_from_slice(&rate);
    let burst = u32::try_from(BURST / TICK_NANOSECONDS).unwrap_or(u32::MAX);
    for word in [burst, burst, QUANTUM, 0, 0] {
        all.extend_from_slice(&word.to_ne_bytes());
    }
    all
}

/// A message being written at the end of a buffer.
struct Message<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Message<'a> {
    fn begin(buffer: &'a mut Vec<u8>, kind: u16, flags: u16, sequence: u32) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&kind.to_ne_bytes());
        buffer.extend_from_slice(&flags.to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        Self { buffer, start }
    }

    /// `struct tcmsg`.
    fn target(&mut self, device: u32, handle: u32, parent: u32) {
        for word in [0, device, handle, parent, 0] {
            self.buffer.extend_from_slice(&word.to_ne_bytes());
        }
    }

    fn end(&mut self) {
        // A message is far below 4 GiB.
        let length = u32::try_from(self.buffer.len() - self.start).unwrap_or(u32::MAX);
        if let Some(field) = self.buffer.get_mut(self.start..self.start + 4) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        let at = self.open(kind);
        self.buffer.extend_from_slice(value);
        self.close(at);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Message<'_>)) {
        let at = self.open(kind | NESTED);
        fill(self);
        self.close(at);
    }

    fn open(&mut self, kind: u16) -> usize {
        let at = self.buffer.len();
        self.buffer.extend_from_slice(&0_u16.to_ne_bytes());
        self.buffer.extend_from_slice(&kind.to_ne_bytes());
        at
    }

    fn close(&mut self, at: usize) {
        // Attributes are short.
        let length = u16::try_from(self.buffer.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.buffer.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }
}

/// A qdisc or a class, as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) device: u32,
    pub(super) handle: u32,
    pub(super) parent: u32,
    pub(super) is_htb: bool,
    /// Of a class of an HTB.
    pub(super) bytes_per_second: Option<u32>,
    /// Of a device.
    pub(super) name: String,
}

/// What a datagram from the kernel holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The answer to a request.
    Outcome {
        sequence: u32,
        result: Result<(), Errno>,
    },
    Listed {
        sequence: u32,
        listed: Listed,
        interrupted: bool,
    },
    /// The listing is over.
    Done { sequence: u32, interrupted: bool },
}

/// Splits a datagram into its messages; a malformed rest ends it with `None` in its place.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Option<Reply>> {
    std::iter::from_fn(move || {
        if datagram.is_empty() {
            return None;
        }
        let Some((reply, rest)) = reply(datagram) else {
            datagram = &[];
            return Some(None);
        };
        datagram = rest;
        Some(Some(reply))
    })
}

fn reply(datagram: &[u8]) -> Option<(Reply, &[u8])> {
    let length = usize::try_from(word(datagram, 0)?).ok()?;
    let message = datagram.get(..length).filter(|_| length >= HEADER)?;
    let interrupted = half(message, 6)? & F_DUMP_INTR != 0;
    let sequence = word(message, 8)?;
    let body = message.get(HEADER..)?;
    let reply = match half(message, 4)? {
        NLMSG_ERROR => {
            let code = word(body, 0)?.cast_signed();
            let result = match code {
                0 => Ok(()),
                code => Err(Errno::from_raw(code.saturating_neg())),
            };
            Reply::Outcome { sequence, result }
        }
        NLMSG_DONE => Reply::Done {
            sequence,
            interrupted,
        },
        kind => Reply::Listed {
            sequence,
            listed: if kind == NEW_LINK {
                link(body)?
            } else {
                listed(body)?
            },
            interrupted,
        },
    };
    let rest = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some((reply, rest))
}

fn listed(body: &[u8]) -> Option<Listed> {
    let mut listed = Listed {
        device: word(body, 4)?,
        handle: word(body, 8)?,
        parent: word(body, 12)?,
        is_htb: false,
        bytes_per_second: None,
        name: String::new(),
    };
    for (kind, value) in attributes(body.get(TCMSG..)?) {
        match kind {
            KIND => listed.is_htb = value == b"htb\0",
            OPTIONS => {
                listed.bytes_per_second = attributes(value)
                    .find(|(kind, _)| *kind == HTB_PARAMETERS)
                    .and_then(|(_, parameters)| word(parameters, 8));
            }
            _ => (),
        }
    }
    Some(listed)
}

fn link(body: &[u8]) -> Option<Listed> {
    let name = attributes(body.get(IFINFOMSG..)?)
        .find(|(kind, _)| *kind == LINK_NAME)
        .map(|(_, name)| String::from_utf8_lossy(name));
    Some(Listed {
        device: word(body, 4)?,
        handle: 0,
        parent: 0,
        is_htb: false,
        bytes_per_second: None,
        name: name?.trim_end_matches('\0').to_owned(),
    })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(half(bytes, 0)?);
        let kind = half(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(bytes: &[u8]) -> Vec<Listed> {
        replies(bytes)
            .map(|reply| match reply {
                Some(Reply::Listed { listed, .. }) => listed,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_class_is_read_back_as_it_was_written() {
        let mut requests = Requests::new(7);
        requests.set_class(3, 0x7001_0005, 1_250_000);
        requests.add_root(3, 0x7001_0000);
        requests.set_queue(3, 0x7001_0005, 40_000);
        assert_eq!(requests.count(), 3);
        let messages = parsed(&requests.into_bytes());
        let class = Listed {
            device: 3,
            handle: 0x7001_0005,
            parent: 0x7001_0000,
            is_htb: true,
            bytes_per_second: Some(1_250_000),
            name: String::new(),
        };
        assert_eq!(messages[0], class);
        let root = &messages[1];
        assert_eq!((root.handle, root.parent), (0x7001_0000, ROOT));
        assert!(root.is_htb && root.bytes_per_second.is_none());
        let queue = &messages[2];
        assert_eq!((queue.handle, queue.parent), (0x0005_0000, 0x7001_0005));
        assert!(!queue.is_htb);
    }

    #[test]
    fn parameters_fill_the_kernels_structure() {
        let bytes = parameters(1_250_000);
        assert_eq!(bytes.len(), 44);
        assert_eq!(word(&bytes, 8), Some(1_250_000));
        assert_eq!(bytes[..12], bytes[12..24]);
        // 10 ms in ticks of 64 ns.
        assert_eq!(word(&bytes, 24), Some(156_250));
    }

    #[test]
    fn a_cut_datagram_is_no_datagram() {
        let mut requests = Requests::new(1);
        requests.set_class(3, 0x7001_0005, 1);
        let bytes = requests.into_bytes();
        for cut in 1..bytes.len() {
            assert_eq!(replies(&bytes[..cut]).last(), Some(None), "{cut}");
        }
    }

    #[test]
    fn an_answer_says_which_request_and_what() {
        let mut bytes = Vec::new();
        for word in [36, 0, 9, 0, (-2_i32).cast_unsigned(), 0, 0, 0, 0_u32] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes[4] = 2;
        let all: Vec<_> = replies(&bytes).collect();
        let refused = Reply::Outcome {
            sequence: 9,
            result: Err(Errno::ENOENT),
        };
        assert_eq!(all, [Some(refused)]);
    }
}
