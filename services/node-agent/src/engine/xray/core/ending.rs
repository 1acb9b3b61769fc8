//! Ends connections of whoever is not let in, and keeps for a restarted agent whose they are.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::Core;
use crate::Error;
use crate::engine::xray::connections::Record;
use crate::sockets::Sockets;

/// After somebody was cut, connections that stay unexplained are ended for so long: long enough
/// for one that had just been made to count as unexplained.
const CUTTING_SECONDS: u64 = 30;

impl Core {
    /// Ends connections of peers that are not let in.
    pub(super) fn end_connections(&mut self, cutting: bool) -> Result<(), Error> {
        self.read_log()?;
        let mut sockets = Sockets::open()?;
        let now = self.started.elapsed().as_secs();
        if cutting {
            self.cutting_until = now + CUTTING_SECONDS;
        }
        let cutting = now < self.cutting_until;
        let mut seen = HashSet::new();
        for (id, open) in &self.open {
            let there = sockets.on_port(open.port)?;
            seen.extend(there.iter().map(|connection| connection.cookie));
            let users = &open.users;
            let unwanted = self
                .connections
                .unwanted(*id, there, cutting, now, |peer| users.contains_key(&peer));
            for connection in &unwanted {
                sockets.destroy(connection)?;
            }
            if !unwanted.is_empty() {
                tracing::info!(event = "connections_ended", inbound = %id, count = unwanted.len());
            }
        }
        self.connections.retain_unexplained(&seen);
        if self.log.is_long() {
            self.write_record()?;
            self.log.free()?;
        }
        Ok(())
    }

    /// Takes note of what the log says of the inbounds that are open.
    pub(super) fn read_log(&mut self) -> Result<(), Error> {
        let open = self.open.iter().map(|(id, open)| (open.tag.as_str(), *id));
        let open: HashMap<_, _> = open.collect();
        let entries = self.log.read(|tag| open.get(tag).copied())?;
        let now = self.started.elapsed().as_secs();
        self.cordon
            .heard(entries.iter().map(|entry| entry.peer), now);
        self.connections.note(entries);
        Ok(())
    }

    fn record(&self) -> PathBuf {
        self.folder.join("connections.json")
    }

    /// What an earlier agent knew of this Xray's connections. Without it, they are unexplained.
    pub(super) fn read_record(&self, nonce: [u8; 16]) -> Option<Record> {
        let text = std::fs::read(self.record()).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.nonce == nonce).then_some(record)
    }

    fn write_record(&self) -> Result<(), Error> {
        let Some(running) = self.running else {
            return Ok(());
        };
        let record = self.connections.record(self.log.offset(), running.nonce);
        let text =
            serde_json::to_vec(&record).map_err(|error| Error::Invalid(error.to_string()))?;
        let (path, new) = (self.record(), self.folder.join("connections.new"));
        let mut options = std::fs::OpenOptions::new();
        options.create(true).write(true).truncate(true).mode(0o600);
        let mut file = options.open(&new).map_err(Error::file(&new))?;
        std::io::Write::write_all(&mut file, &text).map_err(Error::file(&new))?;
        std::fs::rename(&new, &path).map_err(Error::file(&path))
    }
}

/// Ends every connection on a port that is not served any more.
pub(super) fn destroy_all(port: u16) -> Result<(), Error> {
    let mut sockets = Sockets::open()?;
    for connection in sockets.on_port(port)? {
        sockets.destroy(&connection)?;
    }
    Ok(())
}
