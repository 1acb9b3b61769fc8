//! The log of certificates that were issued and revoked, in files that are no part of the database
//! and of its backup: after an older backup was restored, it says what the database has forgotten.
//! Nothing in it is secret. Whoever can write to it cannot make a certificate by it: what was issued
//! is in it as it was signed.

mod entry;
mod segment;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

pub use entry::{EndedCertificate, IssuedEntry, LogEntry, RevokedEntry};

use self::segment::Segment;

/// How long after its end a node's certificate may still be renewed, and so matters.
pub const RENEWAL_GRACE_MS: i64 = 14 * DAY_MS;

const DAY_MS: i64 = 86_400_000;
/// A segment is followed by another when it is this large, or this old: only whole segments go.
const SEGMENT_BYTES: u64 = 4 << 20;
const SEGMENT_AGE_MS: i64 = DAY_MS;
/// When no certificate of a segment that cannot be read can matter any more: the longest life is
/// 90 days.
const UNREADABLE_KEPT_MS: i64 = 120 * DAY_MS;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the log of certificates, {path}: {source}")]
pub struct LogError {
    path: String,
    source: io::Error,
}

impl LogError {
    fn of(path: &Path) -> impl FnOnce(io::Error) -> Self {
        |source| Self {
            path: path.display().to_string(),
            source,
        }
    }
}

/// What a folder holds that still matters.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct LogContents {
    /// Entries in the order of their times.
    pub entries: Vec<LogEntry>,
    /// Lines that are not as they were written; the last one of a process that was killed is one.
    pub damaged: usize,
}

/// The log of one process: a segment of its own at a time, in a folder that processes may share.
#[derive(Debug)]
pub struct CertificateLog {
    folder: PathBuf,
    segment: Option<Segment>,
    /// Serials that this process has written down.
    issued: HashSet<Vec<u8>>,
}

impl CertificateLog {
    /// Opens the log in a folder, made where there is none.
    ///
    /// # Errors
    /// A folder that cannot be made.
    pub fn open(folder: &Path) -> Result<Self, LogError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(LogError::of(folder))?;
        Ok(Self {
            folder: folder.to_owned(),
            segment: None,
            issued: HashSet::new(),
        })
    }

    /// Writes an entry; it is on the disk when this returns. A certificate that is handed out again is
    /// written once.
    ///
    /// # Errors
    /// A disk that does not take it: what it is about must not be answered then.
    pub fn append(&mut self, entry: &LogEntry, now_ms: i64) -> Result<(), LogError> {
        let issued = match entry {
            LogEntry::Issued(issued) if self.issued.contains(&issued.serial) => return Ok(()),
            LogEntry::Issued(issued) => Some(issued.serial.clone()),
            LogEntry::Revoked(_) => None,
        };
        let is_open = |segment: &Segment| {
            segment.bytes < SEGMENT_BYTES
                && now_ms.saturating_sub(segment.began_ms) < SEGMENT_AGE_MS
        };
        let mut segment = match self.segment.take().filter(is_open) {
            Some(segment) => segment,
            None => self.begin(now_ms)?,
        };
        // One that could not be written may end in half a line: nothing is written behind that.
        segment
            .append(entry)
            .map_err(LogError::of(&segment.path.clone()))?;
        self.segment = Some(segment);
        self.issued.extend(issued);
        Ok(())
    }

    /// What the folder holds that still matters, of all processes.
    ///
    /// # Errors
    /// A folder or a file that cannot be read.
    pub fn read(&self, now_ms: i64) -> Result<LogContents, LogError> {
        let mut contents = LogContents::default();
        for path in self.segments()? {
            let read = segment::read(&path).map_err(LogError::of(&path))?;
            contents.damaged += read.damaged;
            let matters = |entry: &LogEntry| !entry.is_over(now_ms);
            contents
                .entries
                .extend(read.entries.into_iter().filter(matters));
        }
        contents.entries.sort_by_key(LogEntry::at_ms);
        Ok(contents)
    }

    /// Begins another segment, and removes those in which nothing matters any more.
    fn begin(&mut self, now_ms: i64) -> Result<Segment, LogError> {
        self.issued.clear();
        for path in self.segments()? {
            if is_over(&path, now_ms).map_err(LogError::of(&path))? {
                match fs::remove_file(&path) {
                    // Another process was faster.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed.map_err(LogError::of(&path))?,
                }
            }
        }
        let segment = Segment::begin(&self.folder, now_ms).map_err(LogError::of(&self.folder))?;
        self.sync_folder()?;
        Ok(segment)
    }

    fn segments(&self) -> Result<Vec<PathBuf>, LogError> {
        let failed = LogError::of(&self.folder);
        let list = || -> io::Result<Vec<PathBuf>> {
            fs::read_dir(&self.folder)?
                .map(|file| Ok(file?.path()))
                .filter(|path| path.as_ref().map_or(true, |path| segment::is_one(path)))
                .collect()
        };
        let mut paths = list().map_err(failed)?;
        paths.sort();
        Ok(paths)
    }

    /// A new name is on the disk when its folder is.
    fn sync_folder(&self) -> Result<(), LogError> {
        File::open(&self.folder)
            .and_then(|folder| folder.sync_all())
            .map_err(LogError::of(&self.folder))
    }
}

fn is_over(path: &Path, now_ms: i64) -> io::Result<bool> {
    // Another process has removed it meanwhile.
    let read = match segment::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        read => read?,
    };
    let began_ms = segment::began_ms(path).unwrap_or(now_ms);
    let open = now_ms.saturating_sub(began_ms) < 2 * SEGMENT_AGE_MS;
    let unreadable = read.damaged > 0 && now_ms.saturating_sub(began_ms) < UNREADABLE_KEPT_MS;
    Ok(!open && !unreadable && read.entries.iter().all(|entry| entry.is_over(now_ms)))
}

#[cfg(test)]
mod tests;
