//! One file of the log, written by one process from its start to its end. Its name begins with the
//! time of its first entry.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::entry::LogEntry;

const EXTENSION: &str = "certlog";
/// Longest line that is read: an entry names at most some hundred certificates.
const LONGEST_LINE: u64 = 1 << 20;

/// The segment that a process writes.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) began_ms: i64,
    pub(super) bytes: u64,
    file: File,
}

impl Segment {
    /// Makes a file that nobody else has.
    pub(super) fn begin(folder: &Path, now_ms: i64) -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| io::Error::other("no randomness"))?;
        let name = format!("{now_ms:015}-{}.{EXTENSION}", hex::encode(random));
        let path = folder.join(name);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)?;
        Ok(Self {
            path,
            began_ms: now_ms,
            bytes: 0,
            file,
        })
    }

    pub(super) fn append(&mut self, entry: &LogEntry) -> io::Result<()> {
        let line = entry.to_line()?;
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()?;
        self.bytes = self.bytes.saturating_add(line.len() as u64);
        Ok(())
    }
}

/// What a file holds.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) entries: Vec<LogEntry>,
    pub(super) damaged: usize,
}

/// Reads a file line by line. A line that was torn, or is damaged, takes no other along.
pub(super) fn read(path: &Path) -> io::Result<Contents> {
    let mut file = BufReader::new(File::open(path)?);
    let mut contents = Contents::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut file)
            .take(LONGEST_LINE)
            .read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(contents);
        }
        let whole = line.strip_suffix(b"\n");
        let text = whole.and_then(|line| std::str::from_utf8(line).ok());
        match text.and_then(LogEntry::from_line) {
            Some(entry) => contents.entries.push(entry),
            None => contents.damaged += 1,
        }
    }
}

pub(super) fn is_one(path: &Path) -> bool {
    path.extension() == Some(OsStr::new(EXTENSION))
}

/// When its first entry was written, by its name.
pub(super) fn began_ms(path: &Path) -> Option<i64> {
    let name = path.file_stem()?.to_str()?;
    name.split_once('-')?.0.parse().ok()
}
