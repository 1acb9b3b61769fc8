//! The bytes of nf_tables over netlink, as far as the hot path needs them: named counters, quotas
//! and limits, and the elements of sets. The `nft` tool re-reads the whole table before each change
//! (136 ms at 10,000 peers) and prints a reading as JSON (0.5 s); these messages take neither.
//!
//! Formats: linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.

use nix::errno::Errno;

const HEADER: usize = 16;
const NFGEN: usize = 4;
const SUBSYSTEM: u16 = 10;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const F_REQUEST: u16 = 0x1;
const F_ACK: u16 = 0x4;
const F_DUMP: u16 = 0x300;
const F_CREATE: u16 = 0x400;
/// The table changed while it was dumped: the listing is no single moment's.
const F_DUMP_INTR: u16 = 0x10;

const NEW_SET_ELEMENT: u16 = 12;
const GET_SET_ELEMENT: u16 = 13;
const DELETE_SET_ELEMENT: u16 = 14;
const NEW_OBJECT: u16 = 18;
const GET_OBJECT: u16 = 19;
const DELETE_OBJECT: u16 = 20;

/// What `quota over` is on the wire.
const QUOTA_OVER: u32 = 1;
/// What `limit rate over … bytes/second` is on the wire.
const LIMIT_OF_BYTES: u32 = 1;
const LIMIT_OVER: u32 = 1;

/// The kind of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    /// Of packets of the network layer.
    Inet = 1,
    /// Of packets as devices hand them over.
    Netdev = 5,
}

/// Kind of a named object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter = 1,
    Quota = 2,
    Limit = 4,
}

/// A named object as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object<'a> {
    pub(super) name: &'a [u8],
    /// Bytes counted, or the limit of a quota.
    pub(super) bytes: u64,
    /// Bytes that a quota has seen, passed or dropped.
    pub(super) used: u64,
}

/// An element of a set, as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element<'a> {
    pub(super) key: &'a [u8],
    /// Name of the object it refers to, in a map of objects.
    pub(super) object: Option<&'a [u8]>,
    /// What it maps to, in a map of numbers.
    pub(super) number: Option<u32>,
    /// Time after which it goes away, milliseconds from now.
    pub(super) expires_in_ms: Option<u64>,
}

/// Operations that come into force together, or not at all.
#[derive(Debug)]
pub(super) struct Batch {
    family: Family,
    table: Vec<u8>,
    buffer: Vec<u8>,
    sequence: u32,
    last: usize,
}

impl Batch {
    pub(super) fn new(table: &str) -> Self {
        Self::of(Family::Inet, table)
    }

    pub(super) fn of(family: Family, table: &str) -> Self {
        let mut batch = Self {
            family,
            table: table.as_bytes().to_vec(),
            buffer: Vec::with_capacity(4096),
            sequence: 0,
            last: 0,
        };
        batch.frame(BATCH_BEGIN);
        batch
    }

    /// Whether nothing was asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.last == 0
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Makes a counter at zero; one that exists keeps what it has counted.
    pub(super) fn add_counter(&mut self, name: &str) {
        self.object(NEW_OBJECT, F_CREATE, Kind::Counter, name, |message| {
            message.nested(4, |_| ());
        });
    }

    /// Makes a quota, or changes the limit of one that exists: what it has seen is kept.
    pub(super) fn set_quota(&mut self, name: &str, limit: u64) {
        self.object(NEW_OBJECT, F_CREATE, Kind::Quota, name, |message| {
            message.nested(4, |data| {
                data.put(1, &limit.to_be_bytes());
                data.put(2, &QUOTA_OVER.to_be_bytes());
            });
        });
    }

    /// Makes a limit that is over beyond a second's bytes and so many more at once. One that
    /// exists stays as it is: the kernel changes none in place.
    pub(super) fn add_limit(&mut self, name: &str, bytes_per_second: u64, burst: u32) {
        self.object(NEW_OBJECT, F_CREATE, Kind::Limit, name, |message| {
            message.nested(4, |data| {
                data.put(1, &bytes_per_second.to_be_bytes());
                data.put(2, &1_u64.to_be_bytes());
                data.put(3, &burst.to_be_bytes());
                data.put(4, &LIMIT_OF_BYTES.to_be_bytes());
                data.put(5, &LIMIT_OVER.to_be_bytes());
            });
        });
    }

    /// Deletes an object that exists and that no element refers to (any more).
    pub(super) fn delete_object(&mut self, kind: Kind, name: &str) {
        self.object(DELETE_OBJECT, 0, kind, name, |_| ());
    }

    /// Adds an element, with the object it refers to or the time it has left.
    pub(super) fn add_element(
        &mut self,
        set: &str,
        key: &[u8],
        object: Option<&str>,
        timeout_ms: Option<u64>,
    ) {
        self.element(NEW_SET_ELEMENT, F_CREATE, set, |element| {
            element.nested(1, |data| data.put(1, key));
            if let Some(timeout) = timeout_ms {
                element.put(4, &timeout.to_be_bytes());
            }
            if let Some(object) = object {
                element.put_text(9, object.as_bytes());
            }
        });
    }

    /// Maps a key to a number, in a map that does not have the key.
    pub(super) fn add_number(&mut self, map: &str, key: &[u8], number: u32) {
        self.element(NEW_SET_ELEMENT, F_CREATE, map, |element| {
            element.nested(1, |data| data.put(1, key));
            element.nested(2, |data| data.put(1, &number.to_ne_bytes()));
        });
    }

    /// Removes an element that exists.
    pub(super) fn delete_element(&mut self, set: &str, key: &[u8]) {
        self.element(DELETE_SET_ELEMENT, 0, set, |element| {
            element.nested(1, |data| data.put(1, key));
        });
    }

    /// The bytes to send, and the number of the operation whose acknowledgement ends the reply.
    pub(super) fn finish(mut self) -> (Vec<u8>, u32) {
        let acknowledged = self.sequence;
        if let Some(flags) = self.buffer.get_mut(self.last + 6..self.last + 8) {
            let with_ack = u16::from_ne_bytes([flags[0], flags[1]]) | F_ACK;
            flags.copy_from_slice(&with_ack.to_ne_bytes());
        }
        self.frame(BATCH_END);
        (self.buffer, acknowledged)
    }

    fn frame(&mut self, kind: u16) {
        let sequence = self.next();
        let mut message = Message::begin(&mut self.buffer, kind, F_REQUEST, sequence, 0, SUBSYSTEM);
        message.end();
    }

    fn next(&mut self) -> u32 {
        self.sequence += 1;
        self.sequence
    }

    fn object(
        &mut self,
        operation: u16,
        flags: u16,
        kind: Kind,
        name: &str,
        rest: impl FnOnce(&mut Message<'_>),
    ) {
        self.operation(operation, flags, |message, table| {
            message.put_text(1, table);
            message.put_text(2, name.as_bytes());
            message.put(3, &(kind as u32).to_be_bytes());
            rest(message);
        });
    }

    fn element(
        &mut self,
        operation: u16,
        flags: u16,
        set: &str,
        rest: impl FnOnce(&mut Message<'_>),
    ) {
        self.operation(operation, flags, |message, table| {
            message.put_text(1, table);
            message.put_text(2, set.as_bytes());
            message.nested(3, |list| list.nested(1, rest));
        });
    }

    fn operation(
        &mut self,
        operation: u16,
        flags: u16,
        fill: impl FnOnce(&mut Message<'_>, &[u8]),
    ) {
        let sequence = self.next();
        self.last = self.buffer.len();
        let kind = SUBSYSTEM << 8 | operation;
        let mut message = Message::begin(
            &mut self.buffer,
            kind,
            F_REQUEST | flags,
            sequence,
            self.family as u8,
            0,
        );
        fill(&mut message, &self.table);
        message.end();
    }
}

/// A request for all named objects of a kind in a table.
pub(super) fn dump_objects(table: &str, kind: Kind, sequence: u32) -> Vec<u8> {
    dump(GET_OBJECT, sequence, |message| {
        message.put_text(1, table.as_bytes());
        message.put(3, &(kind as u32).to_be_bytes());
    })
}

/// A request for one named object.
pub(super) fn get_object(
    family: Family,
    table: &str,
    kind: Kind,
    name: &str,
    sequence: u32,
) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(128);
    let operation = SUBSYSTEM << 8 | GET_OBJECT;
    let mut message = Message::begin(&mut buffer, operation, F_REQUEST, sequence, family as u8, 0);
    message.put_text(1, table.as_bytes());
    message.put_text(2, name.as_bytes());
    message.put(3, &(kind as u32).to_be_bytes());
    message.end();
    buffer
}

/// A request for all elements of a set.
pub(super) fn dump_elements(table: &str, set: &str, sequence: u32) -> Vec<u8> {
    dump(GET_SET_ELEMENT, sequence, |message| {
        message.put_text(1, table.as_bytes());
        message.put_text(2, set.as_bytes());
    })
}

fn dump(operation: u16, sequence: u32, fill: impl FnOnce(&mut Message<'_>)) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(128);
    let kind = SUBSYSTEM << 8 | operation;
    let mut message = Message::begin(
        &mut buffer,
        kind,
        F_REQUEST | F_DUMP,
        sequence,
        Family::Inet as u8,
        0,
    );
    fill(&mut message);
    message.end();
    buffer
}

/// A message being written at the end of a buffer.
struct Message<'a> {
    buffer: &'a mut Vec<u8>,
    start: usize,
}

impl<'a> Message<'a> {
    fn begin(
        buffer: &'a mut Vec<u8>,
        kind: u16,
        flags: u16,
        sequence: u32,
        family: u8,
        resource: u16,
    ) -> Self {
        let start = buffer.len();
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&kind.to_ne_bytes());
        buffer.extend_from_slice(&flags.to_ne_bytes());
        buffer.extend_from_slice(&sequence.to_ne_bytes());
        buffer.extend_from_slice(&0_u32.to_ne_bytes());
        buffer.extend_from_slice(&[family, 0]);
        buffer.extend_from_slice(&resource.to_be_bytes());
        Self { buffer, start }
    }

    fn end(&mut self) {
        // A batch is far below 4 GiB: the sender bounds it.
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

    fn put_text(&mut self, kind: u16, value: &[u8]) {
        let at = self.open(kind);
        self.buffer.extend_from_slice(value);
        self.buffer.push(0);
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
        // Names and keys are short: an attribute never nears 64 KiB.
        let length = u16::try_from(self.buffer.len() - at).unwrap_or(u16::MAX);
        if let Some(field) = self.buffer.get_mut(at..at + 2) {
            field.copy_from_slice(&length.to_ne_bytes());
        }
        while !self.buffer.len().is_multiple_of(4) {
            self.buffer.push(0);
        }
    }
}

/// What a datagram from the kernel holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply<'a> {
    /// The outcome of an operation.
    Outcome {
        sequence: u32,
        result: Result<(), Errno>,
    },
    /// Attributes of a listed thing.
    Listed {
        sequence: u32,
        attributes: &'a [u8],
        interrupted: bool,
    },
    /// The listing is over.
    Done {
        sequence: u32,
        result: Result<(), Errno>,
        interrupted: bool,
    },
}

/// Splits a datagram into its messages; a malformed rest ends it with `None` in its place.
pub(super) fn replies(mut datagram: &[u8]) -> impl Iterator<Item = Option<Reply<'_>>> {
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

fn reply(datagram: &[u8]) -> Option<(Reply<'_>, &[u8])> {
    let length = usize::try_from(native_u32(datagram, 0)?).ok()?;
    let message = datagram.get(..length).filter(|_| length >= HEADER)?;
    let kind = native_u16(message, 4)?;
    let interrupted = native_u16(message, 6)? & F_DUMP_INTR != 0;
    let sequence = native_u32(message, 8)?;
    let body = message.get(HEADER..)?;
    let reply = match kind {
        NLMSG_ERROR => Reply::Outcome {
            sequence,
            result: outcome(body)?,
        },
        NLMSG_DONE => Reply::Done {
            sequence,
            result: if body.is_empty() {
                Ok(())
            } else {
                outcome(body)?
            },
            interrupted,
        },
        _ => Reply::Listed {
            sequence,
            attributes: body.get(NFGEN..)?,
            interrupted,
        },
    };
    Some((
        reply,
        datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]),
    ))
}

fn outcome(body: &[u8]) -> Option<Result<(), Errno>> {
    let code = i32::from_ne_bytes(body.get(..4)?.try_into().ok()?);
    Some(if code == 0 {
        Ok(())
    } else {
        Err(Errno::from_raw(code.saturating_neg()))
    })
}

/// Reads a listed object.
pub(super) fn object(attributes_of: &[u8]) -> Option<Object<'_>> {
    let mut object = Object {
        name: &[],
        bytes: 0,
        used: 0,
    };
    for (kind, value) in attributes(attributes_of) {
        match kind {
            2 => object.name = text(value),
            4 => {
                for (kind, value) in attributes(value) {
                    match kind {
                        1 => object.bytes = big_u64(value)?,
                        // A limit has something smaller of another meaning there.
                        4 if value.len() == 8 => object.used = big_u64(value)?,
                        _ => (),
                    }
                }
            }
            _ => (),
        }
    }
    (!object.name.is_empty()).then_some(object)
}

/// Reads the elements in a listed piece of a set.
pub(super) fn elements(attributes_of: &[u8]) -> impl Iterator<Item = Option<Element<'_>>> {
    attributes(attributes_of)
        .filter(|(kind, _)| *kind == 3)
        .flat_map(|(_, list)| attributes(list))
        .map(|(_, fields)| {
            let mut element = Element {
                key: &[],
                object: None,
                number: None,
                expires_in_ms: None,
            };
            for (kind, value) in attributes(fields) {
                match kind {
                    1 => element.key = attributes(value).find(|(kind, _)| *kind == 1)?.1,
                    2 => {
                        element.number = attributes(value)
                            .find(|(kind, _)| *kind == 1)
                            .and_then(|(_, number)| native_u32(number, 0));
                    }
                    5 => element.expires_in_ms = Some(big_u64(value)?),
                    9 => element.object = Some(text(value)),
                    _ => (),
                }
            }
            (!element.key.is_empty()).then_some(element)
        })
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(native_u16(bytes, 0)?);
        let kind = native_u16(bytes, 2)? & TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    })
}

fn text(value: &[u8]) -> &[u8] {
    value.split(|byte| *byte == 0).next().unwrap_or(value)
}

fn native_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn native_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn big_u64(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(value.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_framed_and_asks_for_one_acknowledgement() {
        let mut batch = Batch::new("vp_test");
        assert!(batch.is_empty());
        batch.add_counter("u_1");
        batch.set_quota("q_1", 7);
        batch.add_element("up4", &[10, 0, 0, 2], Some("u_1"), Some(1500));
        let (bytes, acknowledged) = batch.finish();
        assert_eq!(acknowledged, 4);
        let messages: Vec<_> = replies(&bytes).collect::<Option<_>>().unwrap();
        assert_eq!(messages.len(), 5);
        let Reply::Listed { attributes, .. } = &messages[2] else {
            panic!("{messages:?}")
        };
        let quota = object(attributes).unwrap();
        assert_eq!((quota.name, quota.bytes), (b"q_1".as_slice(), 7));
        let Reply::Listed { attributes, .. } = &messages[3] else {
            panic!("{messages:?}")
        };
        let element = elements(attributes).next().unwrap().unwrap();
        assert_eq!(element.key, [10, 0, 0, 2]);
        assert_eq!(element.object, Some(b"u_1".as_slice()));
    }

    #[test]
    fn limits_and_numbers_are_read_back_as_they_were_written() {
        let mut batch = Batch::of(Family::Netdev, "vp_test");
        batch.add_limit("sd_1_125000", 125_000, 9);
        batch.add_number("pace4", &[10, 0, 0, 2], 0x7001_0005);
        let (bytes, _) = batch.finish();
        let listed: Vec<_> = replies(&bytes)
            .map(|reply| match reply {
                Some(Reply::Listed { attributes, .. }) => attributes,
                other => panic!("{other:?}"),
            })
            .collect();
        let limit = object(listed[1]).unwrap();
        assert_eq!(
            (limit.name, limit.bytes),
            (b"sd_1_125000".as_slice(), 125_000)
        );
        let element = elements(listed[2]).next().unwrap().unwrap();
        assert_eq!(element.number, Some(0x7001_0005));
        assert_eq!(element.object, None);
    }

    #[test]
    fn truncated_datagrams_are_told_from_complete_ones() {
        let mut batch = Batch::new("vp_test");
        batch.add_counter("u_1");
        let (bytes, _) = batch.finish();
        for cut in 1..bytes.len() {
            let all: Option<Vec<_>> = replies(&bytes[..cut]).collect();
            // A cut at the end of a message is a complete, shorter datagram.
            let complete = [20, bytes.len() - 20].contains(&cut);
            assert_eq!(all.is_some(), complete, "{cut}");
        }
    }
}
