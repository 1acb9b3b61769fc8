//! The agent's disk: the records that the link's machine works with, in one redb file, changed only
//! by its transactions. A commit is durable (fsync) before it returns, or did not happen.
//!
//! Blocking: call it from a thread that may wait.

mod tables;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;
use vpnpanel_domain::{CommandId, NodeId, PeriodId, UserId};
use vpnpanel_link::agent::{BatchRecord, Durable, EpochNumber, Transaction, Write};
use vpnpanel_link::{CounterKey, Digest, EngineKind, Incarnation, Seq, SpoolId};

use tables::{
    BATCHES, COMMANDS, COUNTERS, EPOCHS, LEASES, META, META_ANCHOR, META_APPLIED, META_NODE,
    META_SPOOL, META_TARGET, META_TARGET_HEAD, META_WELCOMED, TARGET_USERS, counter_key,
    incarnation_key, lease_key, read_counter_key, unread_key,
};

/// Pages kept in memory; the image in [`Durable`] serves the reads.
const CACHE_BYTES: usize = 4 << 20;

/// What is wrong with the spool.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpoolError {
    /// Another agent has the file open.
    #[error("{path}: another agent of this host is using it")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The database failed: disk full, disk broken, file damaged.
    #[error("spool: {0}")]
    Database(#[from] redb::Error),
    /// A record does not decode.
    #[error("spool: a record of {table} is damaged")]
    Damaged {
        /// Its table.
        table: &'static str,
    },
    /// The thread that waited for the disk ended.
    #[error("spool: interrupted")]
    Interrupted,
    /// The folder cannot be made.
    #[error("{path}: {source}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
}

/// The spool of one node.
#[derive(Debug)]
pub struct Spool {
    database: Database,
}

impl Spool {
    /// Opens the file, or makes it. `fresh` names the life of a disk that was empty.
    ///
    /// # Errors
    /// A file that is in use, damaged or cannot be made.
    pub fn open(path: &Path, fresh: SpoolId) -> Result<Self, SpoolError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|source| SpoolError::Folder {
                path: folder.to_owned(),
                source,
            })?;
        }
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create(path)
            .map_err(|error| match error {
                redb::DatabaseError::DatabaseAlreadyOpen => SpoolError::InUse {
                    path: path.to_owned(),
                },
                other => SpoolError::Database(other.into()),
            })?;
        Self::in_database(database, fresh)
    }

    /// Opens the spool of a node. A file that another node of this host has left behind is put aside:
    /// what it remembers says nothing about this one, and what it has not sent is still in it.
    ///
    /// # Errors
    /// As [`Spool::open`], and a file that cannot be renamed.
    pub fn of_node(path: &Path, node: NodeId, fresh: SpoolId) -> Result<Self, SpoolError> {
        let spool = Self::open(path, fresh)?;
        match spool.node()? {
            Some(owner) if owner != node => {
                drop(spool);
                let aside = path.with_extension(format!("{owner}.redb"));
                tracing::warn!(event = "spool_put_aside", former = %owner, aside = %aside.display(),
                    "this host was another node: its spool is kept and not sent");
                std::fs::rename(path, &aside).map_err(|source| SpoolError::Folder {
                    path: aside,
                    source,
                })?;
                let spool = Self::open(path, fresh)?;
                spool.belongs_to(node)?;
                Ok(spool)
            }
            Some(_) => Ok(spool),
            None => {
                spool.belongs_to(node)?;
                Ok(spool)
            }
        }
    }

    fn node(&self) -> Result<Option<NodeId>, SpoolError> {
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        let name = meta.get(META_NODE).map_err(redb::Error::from)?;
        decode_optional(name.map(|name| name.value().to_vec()))
    }

    fn belongs_to(&self, node: NodeId) -> Result<(), SpoolError> {
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        put_meta(&write, META_NODE, &encode(&node, "meta")?)?;
        write.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// The same on storage that is no file of this host: a simulated disk.
    ///
    /// # Errors
    /// Storage that is damaged or fails.
    pub fn on_storage(
        storage: impl redb::StorageBackend,
        fresh: SpoolId,
    ) -> Result<Self, SpoolError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(storage)
            .map_err(redb::Error::from)?;
        Self::in_database(database, fresh)
    }

    fn in_database(database: Database, fresh: SpoolId) -> Result<Self, SpoolError> {
        let spool = Self { database };
        spool.prepare(fresh)?;
        Ok(spool)
    }

    /// Everything but the payloads.
    ///
    /// # Errors
    /// A disk that cannot be read, a record that does not decode.
    pub fn load(&self) -> Result<Durable, SpoolError> {
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let meta = read.open_table(META).map_err(redb::Error::from)?;
        let value = |key: &str| -> Result<Option<Vec<u8>>, SpoolError> {
            Ok(meta
                .get(key)
                .map_err(redb::Error::from)?
                .map(|v| v.value().to_vec()))
        };
        let spool = value(META_SPOOL)?.ok_or(SpoolError::Damaged { table: "meta" })?;
        let mut durable = Durable::new(decode(&spool, "meta")?);
        for kind in EngineKind::ALL {
            let life: Option<Incarnation> = decode_optional(value(&incarnation_key(kind))?)?;
            durable.incarnations.extend(life.map(|life| (kind, life)));
            let unread: Option<i64> = decode_optional(value(&unread_key(kind))?)?;
            durable.unread.extend(unread.map(|since| (kind, since)));
        }
        durable.anchor = decode_optional(value(META_ANCHOR)?)?;
        durable.target = decode_optional(value(META_TARGET)?)?;
        durable.target_head = value(META_TARGET_HEAD)?
            .map(Bytes::from)
            .unwrap_or_default();
        durable.applied = decode_optional(value(META_APPLIED)?)?;
        durable.welcomed = decode_optional(value(META_WELCOMED)?)?;
        let users = read.open_table(TARGET_USERS).map_err(redb::Error::from)?;
        for entry in users.iter().map_err(redb::Error::from)? {
            let (id, bytes) = entry.map_err(redb::Error::from)?;
            let bytes = Bytes::copy_from_slice(bytes.value());
            durable
                .target_users
                .insert(UserId::from_bytes(id.value()), bytes);
        }

        let counters = read.open_table(COUNTERS).map_err(redb::Error::from)?;
        for entry in counters.iter().map_err(redb::Error::from)? {
            let (key, record) = entry.map_err(redb::Error::from)?;
            durable.counters.insert(
                read_counter_key(key.value()),
                decode(record.value(), "counters")?,
            );
        }
        let epochs = read.open_table(EPOCHS).map_err(redb::Error::from)?;
        for entry in epochs.iter().map_err(redb::Error::from)? {
            let (number, record) = entry.map_err(redb::Error::from)?;
            durable
                .epochs
                .insert(number.value(), decode(record.value(), "epochs")?);
        }
        let batches = read.open_table(BATCHES).map_err(redb::Error::from)?;
        for entry in batches.iter().map_err(redb::Error::from)? {
            let (key, stored) = entry.map_err(redb::Error::from)?;
            let (epoch, seq) = key.value();
            let (digest, payload) = split(stored.value())?;
            let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            durable
                .batches
                .insert((epoch, Seq(seq)), BatchRecord { digest, bytes });
        }
        let leases = read.open_table(LEASES).map_err(redb::Error::from)?;
        for entry in leases.iter().map_err(redb::Error::from)? {
            let (_, record) = entry.map_err(redb::Error::from)?;
            let lease: vpnpanel_link::LeaseState = decode(record.value(), "leases")?;
            durable.leases.insert((lease.user, lease.period), lease);
        }
        let commands = read.open_table(COMMANDS).map_err(redb::Error::from)?;
        for entry in commands.iter().map_err(redb::Error::from)? {
            let (id, record) = entry.map_err(redb::Error::from)?;
            let id = CommandId::from_bytes(id.value());
            durable
                .commands
                .insert(id, decode(record.value(), "commands")?);
        }
        Ok(durable)
    }

    /// Makes the writes durable, all or none.
    ///
    /// # Errors
    /// A disk that is full or broken: nothing was written then.
    pub fn commit(&self, transaction: &Transaction) -> Result<(), SpoolError> {
        if transaction.is_empty() {
            return Ok(());
        }
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        for each in &transaction.writes {
            apply(&write, each)?;
        }
        write.commit().map_err(redb::Error::from)?;
        Ok(())
    }

    /// The stored bytes of a batch.
    ///
    /// # Errors
    /// A disk that cannot be read.
    pub fn payload(&self, epoch: EpochNumber, seq: Seq) -> Result<Option<Bytes>, SpoolError> {
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let batches = read.open_table(BATCHES).map_err(redb::Error::from)?;
        let Some(stored) = batches.get((epoch, seq.get())).map_err(redb::Error::from)? else {
            return Ok(None);
        };
        let (_, payload) = split(stored.value())?;
        Ok(Some(Bytes::copy_from_slice(payload)))
    }

    /// Makes the tables, and names the disk's life when it has none.
    fn prepare(&self, fresh: SpoolId) -> Result<(), SpoolError> {
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        for table in [COUNTERS, LEASES] {
            write.open_table(table).map_err(redb::Error::from)?;
        }
        write.open_table(EPOCHS).map_err(redb::Error::from)?;
        write.open_table(BATCHES).map_err(redb::Error::from)?;
        write.open_table(TARGET_USERS).map_err(redb::Error::from)?;
        write.open_table(COMMANDS).map_err(redb::Error::from)?;
        {
            let mut meta = write.open_table(META).map_err(redb::Error::from)?;
            if meta.get(META_SPOOL).map_err(redb::Error::from)?.is_none() {
                let name = encode(&fresh, "meta")?;
                meta.insert(META_SPOOL, name.as_slice())
                    .map_err(redb::Error::from)?;
            }
        }
        write.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

fn apply(write: &WriteTransaction, each: &Write) -> Result<(), SpoolError> {
    match each {
        Write::Incarnation(kind, name) => {
            put_meta(write, &incarnation_key(*kind), &encode(name, "meta")?)
        }
        Write::Unread(kind, Some(since)) => {
            put_meta(write, &unread_key(*kind), &encode(since, "meta")?)
        }
        Write::Unread(kind, None) => drop_meta(write, &unread_key(*kind)),
        Write::Anchor(anchor) => put_meta(write, META_ANCHOR, &encode(anchor, "meta")?),
        Write::Applied(state) => put_meta(write, META_APPLIED, &encode(state, "meta")?),
        Write::Welcomed(stream) => put_meta(write, META_WELCOMED, &encode(stream, "meta")?),
        Write::Target { state, head, users } => {
            put_meta(write, META_TARGET, &encode(state, "meta")?)?;
            put_meta(write, META_TARGET_HEAD, head)?;
            write
                .delete_table(TARGET_USERS)
                .map_err(redb::Error::from)?;
            put_users(write, users)
        }
        Write::TargetUsers {
            state,
            users,
            removed,
        } => {
            put_meta(write, META_TARGET, &encode(state, "meta")?)?;
            let mut table = write.open_table(TARGET_USERS).map_err(redb::Error::from)?;
            for user in removed {
                table.remove(user.into_bytes()).map_err(redb::Error::from)?;
            }
            drop(table);
            put_users(write, users)
        }
        Write::Counter(key, record) => put(
            write,
            COUNTERS,
            &counter_key(*key),
            &encode(record, "counters")?,
        ),
        Write::DropCounter(key) => drop_record(write, COUNTERS, &counter_key(*key)),
        Write::Lease(lease) => {
            let record = encode(lease, "leases")?;
            put(write, LEASES, &lease_key(lease.user, lease.period), &record)
        }
        Write::DropLease(user, period) => drop_record(write, LEASES, &lease_key(*user, *period)),
        Write::Epoch(number, record) => {
            let record = encode(record, "epochs")?;
            let mut table = write.open_table(EPOCHS).map_err(redb::Error::from)?;
            table
                .insert(number, record.as_slice())
                .map_err(redb::Error::from)?;
            Ok(())
        }
        Write::Command(id, record) => {
            let record = encode(record, "commands")?;
            let mut table = write.open_table(COMMANDS).map_err(redb::Error::from)?;
            table
                .insert(id.into_bytes(), record.as_slice())
                .map_err(redb::Error::from)?;
            Ok(())
        }
        Write::DropCommand(id) => {
            let mut table = write.open_table(COMMANDS).map_err(redb::Error::from)?;
            table.remove(id.into_bytes()).map_err(redb::Error::from)?;
            Ok(())
        }
        Write::DropEpoch(number) => {
            let mut table = write.open_table(EPOCHS).map_err(redb::Error::from)?;
            table.remove(number).map_err(redb::Error::from)?;
            Ok(())
        }
        Write::Batch {
            epoch,
            seq,
            digest,
            payload,
        } => {
            let mut stored = Vec::with_capacity(digest.as_bytes().len() + payload.len());
            stored.extend_from_slice(digest.as_bytes());
            stored.extend_from_slice(payload);
            let mut table = write.open_table(BATCHES).map_err(redb::Error::from)?;
            table
                .insert((*epoch, seq.get()), stored.as_slice())
                .map_err(redb::Error::from)?;
            Ok(())
        }
        Write::DropBatch(epoch, seq) => {
            let mut table = write.open_table(BATCHES).map_err(redb::Error::from)?;
            table
                .remove((*epoch, seq.get()))
                .map_err(redb::Error::from)?;
            Ok(())
        }
    }
}

type Keyed = TableDefinition<'static, [u8; 32], &'static [u8]>;

fn put(
    write: &WriteTransaction,
    table: Keyed,
    key: &[u8; 32],
    value: &[u8],
) -> Result<(), SpoolError> {
    let mut table = write.open_table(table).map_err(redb::Error::from)?;
    table.insert(key, value).map_err(redb::Error::from)?;
    Ok(())
}

fn drop_record(write: &WriteTransaction, table: Keyed, key: &[u8; 32]) -> Result<(), SpoolError> {
    let mut table = write.open_table(table).map_err(redb::Error::from)?;
    table.remove(key).map_err(redb::Error::from)?;
    Ok(())
}

fn put_users(write: &WriteTransaction, users: &[(UserId, Bytes)]) -> Result<(), SpoolError> {
    let mut table = write.open_table(TARGET_USERS).map_err(redb::Error::from)?;
    for (user, bytes) in users {
        table
            .insert(user.into_bytes(), &**bytes)
            .map_err(redb::Error::from)?;
    }
    Ok(())
}

fn put_meta(write: &WriteTransaction, key: &str, value: &[u8]) -> Result<(), SpoolError> {
    let mut table = write.open_table(META).map_err(redb::Error::from)?;
    table.insert(key, value).map_err(redb::Error::from)?;
    Ok(())
}

fn drop_meta(write: &WriteTransaction, key: &str) -> Result<(), SpoolError> {
    let mut table = write.open_table(META).map_err(redb::Error::from)?;
    table.remove(key).map_err(redb::Error::from)?;
    Ok(())
}

fn split(stored: &[u8]) -> Result<(Digest, &[u8]), SpoolError> {
    let damaged = || SpoolError::Damaged { table: "batches" };
    let (digest, payload) = stored.split_at_checked(32).ok_or_else(damaged)?;
    Ok((Digest::try_from(digest).map_err(|_| damaged())?, payload))
}

fn encode<T: Serialize>(record: &T, table: &'static str) -> Result<Vec<u8>, SpoolError> {
    postcard::to_stdvec(record).map_err(|_| SpoolError::Damaged { table })
}

fn decode<T: DeserializeOwned>(bytes: &[u8], table: &'static str) -> Result<T, SpoolError> {
    postcard::from_bytes(bytes).map_err(|_| SpoolError::Damaged { table })
}

fn decode_optional<T: DeserializeOwned>(bytes: Option<Vec<u8>>) -> Result<Option<T>, SpoolError> {
    bytes.map(|bytes| decode(&bytes, "meta")).transpose()
}

#[cfg(test)]
mod tests;
