//! The last lines that this process has logged, for whoever asks it directly. They are the bytes that
//! were written out: what the log does not show is not in here either.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Bytes that are remembered.
const KEPT: usize = 64 * 1024;

static RECENT: Recent = Recent::new();

/// The last whole lines of this process's log, at most 64 KiB.
pub fn recent() -> String {
    RECENT.after(0).lines
}

/// Reads this process's log on from the lines that are remembered.
pub fn follow() -> Follower {
    Follower {
        log: &RECENT,
        position: RECENT.lock().start(),
    }
}

/// Lines of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lines {
    /// Whole lines.
    pub lines: String,
    /// Bytes of lines that went by unread just before these.
    pub missed_bytes: u64,
}

/// A reader of the log. One that is slow keeps nobody waiting: it misses lines, and is told so.
#[derive(Debug)]
pub struct Follower {
    log: &'static Recent,
    position: u64,
}

impl Follower {
    /// What has been written since the last call; waits for it when that is nothing.
    pub async fn next(&mut self) -> Lines {
        loop {
            let grew = self.log.grew.notified();
            let lines = self.read();
            if lines != Lines::default() {
                return lines;
            }
            grew.await;
        }
    }

    /// What has been written since the last call.
    pub fn read(&mut self) -> Lines {
        let read = self.log.after(self.position);
        self.position = read.end;
        Lines {
            lines: read.lines,
            missed_bytes: read.missed,
        }
    }
}

/// Writes to another writer, and remembers what it wrote.
#[derive(Debug)]
pub(super) struct Remember<W>(pub(super) W);

impl<W: Write> Write for Remember<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        RECENT.push(line);
        self.0.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The last lines, and how much was ever written: positions in a log count its bytes.
#[derive(Debug)]
struct Recent {
    kept: Mutex<Kept>,
    grew: Notify,
}

#[derive(Debug)]
struct Kept {
    bytes: VecDeque<u8>,
    end: u64,
}

/// What was read, and up to where.
struct Read {
    lines: String,
    missed: u64,
    end: u64,
}

impl Kept {
    /// Position of the first byte that is remembered.
    fn start(&self) -> u64 {
        self.end.saturating_sub(self.bytes.len() as u64)
    }
}

impl Recent {
    const fn new() -> Self {
        Self {
            kept: Mutex::new(Kept {
                bytes: VecDeque::new(),
                end: 0,
            }),
            grew: Notify::const_new(),
        }
    }

    fn push(&self, line: &[u8]) {
        let mut kept = self.lock();
        kept.end = kept.end.saturating_add(line.len() as u64);
        let kept = &mut kept.bytes;
        kept.extend(line);
        let over = kept.len().saturating_sub(KEPT);
        if over > 0 {
            // The line that is cut goes whole.
            let cut = kept.iter().skip(over - 1).position(|byte| *byte == b'\n');
            let until = cut.map_or(kept.len(), |end| over + end);
            kept.drain(..until);
        }
        self.grew.notify_waiters();
    }

    /// Whole lines behind a position that was read up to, which is where a line begins.
    fn after(&self, position: u64) -> Read {
        let kept = self.lock();
        let from = kept.start().max(position);
        let skipped = usize::try_from(from - kept.start()).unwrap_or(usize::MAX);
        let unread: Vec<u8> = kept.bytes.iter().skip(skipped).copied().collect();
        let missed = match position {
            0 => 0,
            position => from.saturating_sub(position),
        };
        Read {
            lines: String::from_utf8_lossy(&unread).into_owned(),
            missed,
            end: kept.end,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole() {
        let recent = Recent::new();
        recent.push(b"first\n");
        recent.push(b"second\n");
        assert_eq!(recent.after(0).lines, "first\nsecond\n");
        let long = [vec![b'x'; KEPT - 8], b"\n".to_vec()].concat();
        recent.push(&long);
        assert_eq!(
            recent.after(0).lines,
            format!("second\n{}", "x".repeat(KEPT - 8) + "\n")
        );
        recent.push(b"y\n");
        assert!(
            recent.after(0).lines.starts_with('x'),
            "nothing is left of a line that is cut"
        );
        recent.push(&vec![b'z'; 2 * KEPT]);
        assert_eq!(recent.after(0).lines, "");
    }

    #[tokio::test]
    async fn a_follower_reads_on_and_is_told_what_it_missed() {
        let log: &'static Recent = Box::leak(Box::new(Recent::new()));
        log.push(b"before\n");
        let mut follower = Follower {
            log,
            position: log.lock().start(),
        };
        assert_eq!(follower.next().await.lines, "before\n");
        assert_eq!(follower.read(), Lines::default());
        let waiting = tokio::spawn(async move {
            let first = follower.next().await;
            (first, follower)
        });
        tokio::task::yield_now().await;
        log.push(b"new\n");
        let (first, mut follower) = waiting.await.unwrap();
        assert_eq!(first.lines, "new\n");

        let line = [vec![b'x'; KEPT / 2], b"\n".to_vec()].concat();
        for _ in 0..3 {
            log.push(&line);
        }
        let late = follower.next().await;
        assert_eq!(late.lines.len(), line.len());
        assert_eq!(late.missed_bytes, 2 * line.len() as u64);
    }
}
