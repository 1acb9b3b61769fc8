//! The last lines that this process has logged, for whoever asks it directly. They are the bytes that
//! were written out: what the log does not show is not in here either.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

/// Bytes that are remembered.
const KEPT: usize = 64 * 1024;

static RECENT: Recent = Recent::new();

/// The last whole lines of this process's log, at most 64 KiB.
pub fn recent() -> String {
    RECENT.lines()
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

struct Recent(Mutex<VecDeque<u8>>);

impl Recent {
    const fn new() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }

    fn push(&self, line: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(line);
        let over = kept.len().saturating_sub(KEPT);
        if over > 0 {
            // The line that is cut goes whole.
            let cut = kept.iter().skip(over - 1).position(|byte| *byte == b'\n');
            let until = cut.map_or(kept.len(), |end| over + end);
            kept.drain(..until);
        }
    }

    fn lines(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.as_slices();
        String::from_utf8_lossy(&[front, back].concat()).into_owned()
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
        assert_eq!(recent.lines(), "first\nsecond\n");
        let long = [vec![b'x'; KEPT - 8], b"\n".to_vec()].concat();
        recent.push(&long);
        assert_eq!(
            recent.lines(),
            format!("second\n{}", "x".repeat(KEPT - 8) + "\n")
        );
        recent.push(b"y\n");
        assert!(
            recent.lines().starts_with('x'),
            "nothing is left of a line that is cut"
        );
        recent.push(&vec![b'z'; 2 * KEPT]);
        assert_eq!(recent.lines(), "");
    }
}
