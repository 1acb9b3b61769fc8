//! The disk of a simulated node. It outlives the agent; an agent that was killed writes nothing
//! more to it, not even what its last transaction had begun.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redb::StorageBackend;
use vpnpanel_link::SpoolId;
use vpnpanel_node_agent::spool::{Spool, SpoolError};

const PAGE: usize = 4096;
/// How long a killed agent's last thread may hold the file.
const PATIENCE: Duration = Duration::from_millis(20);
const TRIES: u32 = 500;

/// A disk.
#[derive(Debug, Clone)]
pub(crate) enum Disk {
    File(PathBuf),
    Memory(Memory),
}

impl Disk {
    /// Opens the spool for an agent, which may write as long as it is `alive`.
    pub(crate) async fn open(&self, alive: Arc<AtomicBool>) -> Result<Spool, SpoolError> {
        for _ in 1..TRIES {
            match self.try_open(Arc::clone(&alive)) {
                Err(SpoolError::InUse { .. }) => tokio::time::sleep(PATIENCE).await,
                opened => return opened,
            }
        }
        self.try_open(alive)
    }

    fn try_open(&self, alive: Arc<AtomicBool>) -> Result<Spool, SpoolError> {
        let fresh = SpoolId(rand::random());
        match self {
            Self::File(path) => Spool::open(path, fresh),
            Self::Memory(memory) => {
                let memory = memory.clone();
                Spool::on_storage(Mortal { memory, alive }, fresh)
            }
        }
    }
}

/// Pages that were written; the others are zero.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    length: u64,
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

/// Memory as one life of an agent has it.
#[derive(Debug)]
struct Mortal {
    memory: Memory,
    alive: Arc<AtomicBool>,
}

impl Mortal {
    /// The contents, while the agent lives.
    fn contents(&self) -> io::Result<MutexGuard<'_, Contents>> {
        let contents = self.memory.0.lock();
        if self.alive.load(Ordering::SeqCst) {
            Ok(contents.unwrap_or_else(PoisonError::into_inner))
        } else {
            Err(io::Error::other("the agent was killed"))
        }
    }
}

/// Where the byte at `offset` is: its page, and the place in it.
fn place(offset: u64) -> (u64, usize) {
    let page = PAGE as u64;
    // Less than a page fits in a usize.
    let within = usize::try_from(offset % page).unwrap_or(0);
    (offset / page, within)
}

/// Cuts `offset..offset + length` at the pages: page, place in it, place in the buffer, length.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, usize, usize, usize)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, within) = place(offset + done as u64);
        let piece = (PAGE - within).min(length - done);
        let begin = done;
        done += piece;
        (piece > 0).then_some((page, within, begin, piece))
    })
}

impl StorageBackend for Mortal {
    fn len(&self) -> io::Result<u64> {
        Ok(self.contents()?.length)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let contents = self.contents()?;
        if offset + out.len() as u64 > contents.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (page, within, begin, length) in pieces(offset, out.len()) {
            let to = &mut out[begin..begin + length];
            match contents.pages.get(&page) {
                Some(bytes) => to.copy_from_slice(&bytes[within..within + length]),
                None => to.fill(0),
            }
        }
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let contents = &mut *self.contents()?;
        contents.length = length;
        let (page, within) = place(length);
        drop(contents.pages.split_off(&(page + 1)));
        if let Some(last) = contents.pages.get_mut(&page) {
            last[within..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.contents().map(drop)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let contents = &mut *self.contents()?;
        contents.length = contents.length.max(offset + data.len() as u64);
        for (page, within, begin, length) in pieces(offset, data.len()) {
            let bytes = contents
                .pages
                .entry(page)
                .or_insert_with(|| Box::new([0; PAGE]));
            bytes[within..within + length].copy_from_slice(&data[begin..begin + length]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mortal(memory: &Memory) -> (Mortal, Arc<AtomicBool>) {
        let alive = Arc::new(AtomicBool::new(true));
        let mortal = Mortal {
            memory: memory.clone(),
            alive: Arc::clone(&alive),
        };
        (mortal, alive)
    }

    #[test]
    fn what_was_written_is_read_across_pages_and_the_rest_is_zero() {
        let (disk, _) = mortal(&Memory::default());
        disk.set_len(3 * PAGE as u64).unwrap();
        let data: Vec<u8> = (0..PAGE + 100).map(|n| n as u8).collect();
        disk.write(50, &data).unwrap();
        let mut all = vec![1; 3 * PAGE];
        disk.read(0, &mut all).unwrap();
        assert_eq!(all[..50], [0; 50]);
        assert_eq!(all[50..150 + PAGE], data);
        assert!(all[150 + PAGE..].iter().all(|byte| *byte == 0));
        assert!(disk.read(1, &mut all).is_err());
    }

    #[test]
    fn what_was_cut_off_is_zero_when_it_grows_again() {
        let (disk, _) = mortal(&Memory::default());
        disk.write(0, &[7; 2 * PAGE]).unwrap();
        disk.set_len(10).unwrap();
        disk.set_len(2 * PAGE as u64).unwrap();
        let mut all = vec![1; 2 * PAGE];
        disk.read(0, &mut all).unwrap();
        assert_eq!(all[..10], [7; 10]);
        assert!(all[10..].iter().all(|byte| *byte == 0));
    }

    #[tokio::test]
    async fn a_killed_agent_writes_nothing_more_and_the_next_one_finds_its_disk() {
        let memory = Memory::default();
        let disk = Disk::Memory(memory.clone());
        let first = Arc::new(AtomicBool::new(true));
        let spool = disk.open(Arc::clone(&first)).await.unwrap();
        let named = spool.load().unwrap().spool;
        first.store(false, Ordering::SeqCst);
        let (_, written) = (drop(spool), memory.0.lock().unwrap().pages.len());
        assert!(written > 0);
        let again = disk.open(Arc::new(AtomicBool::new(true))).await.unwrap();
        assert_eq!(again.load().unwrap().spool, named);
    }
}
