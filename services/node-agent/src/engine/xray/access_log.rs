//! Xray's access log, read as it grows: who is connected from where. What has been read is given
//! back to the disk without a gap in which a line could be lost: the file is never truncated
//! under the writer, its read part becomes a hole.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};
use vpnpanel_domain::{InboundId, PeerId};

use super::wire;
use crate::Error;

/// Read at once; what follows is read the next time.
const PASS: u64 = 16 << 20;
/// A line is shorter, or it is none of Xray's.
const LINE: usize = 4096;
/// Read bytes that are worth a hole.
const HOLE: u64 = 1 << 20;

/// A connection that a peer used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) inbound: InboundId,
    pub(super) remote: SocketAddr,
    pub(super) peer: PeerId,
}

/// The log and how far it has been read.
#[derive(Debug)]
pub(super) struct AccessLog {
    path: PathBuf,
    offset: u64,
    /// Where the hole ends.
    freed: u64,
}

impl AccessLog {
    /// A log, read up to an offset.
    pub(super) fn new(path: PathBuf, offset: u64) -> Self {
        Self {
            path,
            offset,
            freed: offset,
        }
    }

    /// How far it has been read.
    pub(super) const fn offset(&self) -> u64 {
        self.offset
    }

    /// Whether enough has been read to be given back; the reader's own record of it comes first.
    pub(super) const fn is_long(&self) -> bool {
        self.offset >= self.freed + HOLE
    }

    /// What has been written since, up to the last whole line, of inbounds that are told by their
    /// tags.
    pub(super) fn read(
        &mut self,
        inbound_of: impl Fn(&str) -> Option<InboundId>,
    ) -> Result<Vec<Entry>, Error> {
        let mut entries = Vec::new();
        let Some(mut file) = self.open()? else {
            return Ok(entries);
        };
        let length = file.metadata().map_err(Error::file(&self.path))?.len();
        if length < self.offset {
            // Somebody emptied it: it begins anew.
            (self.offset, self.freed) = (0, 0);
        }
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(self.offset))
            .map_err(Error::file(&self.path))?;
        file.take(PASS)
            .read_to_end(&mut bytes)
            .map_err(Error::file(&self.path))?;
        let mut whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |at| at + 1);
        if whole == 0 && bytes.len() > LINE {
            whole = bytes.len();
        }
        let lines = bytes.get(..whole).unwrap_or_default();
        entries.extend(
            lines
                .split(|byte| *byte == b'\n')
                .filter_map(|line| parse(std::str::from_utf8(line).ok()?, &inbound_of)),
        );
        self.offset += whole as u64;
        Ok(entries)
    }

    /// Gives what has been read back to the disk. A file system that cannot make holes keeps it.
    pub(super) fn free(&mut self) -> Result<(), Error> {
        let path = Path::new(&self.path);
        let file = OpenOptions::new()
            .write(true)
            .open(path)
            .map_err(Error::file(path))?;
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let length = i64::try_from(self.offset).map_err(|_| Error::Stopped)?;
        match fallocate(&file, flags, 0, length) {
            Ok(()) | Err(nix::errno::Errno::EOPNOTSUPP) => {
                self.freed = self.offset;
                Ok(())
            }
            Err(error) => Err(Error::file(path)(error.into())),
        }
    }

    fn open(&self) -> Result<Option<File>, Error> {
        match File::open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&self.path)(error)),
        }
    }
}

/// Reads a line: `DATE TIME from SOURCE accepted TARGET [TAG >> WAY] email: KEY`. The key and the
/// tag are taken from the end of the line: what the client chose stands before them.
fn parse(line: &str, inbound_of: impl Fn(&str) -> Option<InboundId>) -> Option<Entry> {
    let mut words = line.splitn(6, ' ');
    let (_date, _time) = (words.next()?, words.next()?);
    let ("from", source, "accepted") = (words.next()?, words.next()?, words.next()?) else {
        return None;
    };
    let rest = words.next()?;
    let (rest, email) = rest.rsplit_once(" email: ")?;
    let (_target, way) = rest.rsplit_once(" [")?;
    let tag = way.split([' ', ']']).next()?;
    let remote: SocketAddr = source.strip_prefix("tcp:").unwrap_or(source).parse().ok()?;
    Some(Entry {
        inbound: inbound_of(tag)?,
        remote: SocketAddr::new(remote.ip().to_canonical(), remote.port()),
        peer: wire::peer_of(email.trim_end())?,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const INBOUND: &str = "inbound-01010101-0101-0101-0101-010101010101-443-0011223344556677";
    const PEER: &str = "02020202-0202-0202-0202-020202020202";

    fn known(tag: &str) -> Option<InboundId> {
        (tag == INBOUND).then_some(InboundId::from_bytes([1; 16]))
    }

    fn line(source: &str) -> String {
        format!(
            "2026/11/26 20:00:00.000001 from {source} accepted tcp:198.51.100.2:80 [{INBOUND} >> direct] email: {PEER}"
        )
    }

    #[test]
    fn a_line_tells_who_is_connected_from_where() {
        for (source, remote) in [
            ("192.0.2.2:5000", "192.0.2.2:5000"),
            ("tcp:192.0.2.2:5000", "192.0.2.2:5000"),
            ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
            ("[::ffff:192.0.2.2]:5000", "192.0.2.2:5000"),
        ] {
            let entry = parse(&line(source), known).unwrap();
            assert_eq!(entry.remote, remote.parse().unwrap());
            assert_eq!(entry.peer, PeerId::from_bytes([2; 16]));
            assert_eq!(entry.inbound, InboundId::from_bytes([1; 16]));
        }
        for other in [
            "",
            "2026/11/26 20:00:00 [Warning] core: Xray started",
            &line("udp:192.0.2.2:5000"),
            &line("192.0.2.2:5000").replace("accepted", "rejected"),
            &line("192.0.2.2:5000").replace(PEER, "somebody"),
            &line("192.0.2.2:5000").replace(INBOUND, "control"),
            // Whoever writes a line into the log does not know the end of the tag.
            &line("192.0.2.2:5000").replace("0011223344556677", "0011223344556678"),
        ] {
            assert_eq!(parse(other, known), None, "{other}");
        }
    }

    #[test]
    fn a_growing_log_is_read_once_and_given_back_without_a_gap() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut log = AccessLog::new(path.clone(), 0);
        assert!(log.read(known).unwrap().is_empty());
        let mut writer = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let text = line("192.0.2.2:5000");
        write!(writer, "{text}\n{}", &text[..40]).unwrap();
        assert_eq!(log.read(known).unwrap().len(), 1);
        log.free().unwrap();
        writeln!(writer, "{}", &text[40..]).unwrap();
        assert_eq!(log.read(known).unwrap().len(), 1);
        assert_eq!(log.offset(), 2 * (text.len() as u64 + 1));
        // A reader that comes later and has no record starts at the hole.
        assert_eq!(AccessLog::new(path, 0).read(known).unwrap().len(), 1);
    }
}
