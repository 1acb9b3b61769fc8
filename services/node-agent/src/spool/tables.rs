//! The tables of the spool's file. Keys are fixed-size bytes; values are postcard records, but for
//! batches, which are a digest followed by exactly the bytes that are sent.

use redb::TableDefinition;

use super::{CounterKey, PeriodId, UserId};
use vpnpanel_domain::PeerId;
use vpnpanel_link::{EngineKind, Incarnation};

/// Single records.
pub(super) const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
/// (incarnation, peer) → the books of a counter.
pub(super) const COUNTERS: TableDefinition<'static, [u8; 32], &[u8]> =
    TableDefinition::new("counters");
/// (user, period) → lease.
pub(super) const LEASES: TableDefinition<'static, [u8; 32], &[u8]> = TableDefinition::new("leases");
/// Order of an epoch → epoch.
pub(super) const EPOCHS: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("epochs");
/// (order of the epoch, number) → digest and payload.
pub(super) const BATCHES: TableDefinition<'static, (u64, u64), &[u8]> =
    TableDefinition::new("batches");

/// User → its part of the desired state, encoded as it came.
pub(super) const TARGET_USERS: TableDefinition<'static, [u8; 16], &[u8]> =
    TableDefinition::new("target_users");

/// Command that was seen → what came of it.
pub(super) const COMMANDS: TableDefinition<'static, [u8; 16], &[u8]> =
    TableDefinition::new("commands");

pub(super) const META_SPOOL: &str = "spool";
const META_INCARNATION: &str = "incarnation";
pub(super) const META_ANCHOR: &str = "anchor";
pub(super) const META_TARGET: &str = "target_state";
pub(super) const META_TARGET_HEAD: &str = "target_head";
pub(super) const META_APPLIED: &str = "applied";
pub(super) const META_WELCOMED: &str = "welcomed";
pub(super) const META_NODE: &str = "node";

/// Where the life of an engine's counters is. That of WireGuard's has the name which it had on disks
/// that know of no other engine.
pub(super) fn incarnation_key(kind: EngineKind) -> String {
    match kind {
        EngineKind::WireGuard => META_INCARNATION.to_owned(),
        other => format!("{META_INCARNATION}_{other}"),
    }
}

/// Where it is noted since when an engine could not be read.
pub(super) fn unread_key(kind: EngineKind) -> String {
    format!("unread_{kind}")
}

pub(super) fn counter_key(key: CounterKey) -> [u8; 32] {
    pair(key.incarnation.into_bytes(), key.peer.into_bytes())
}

pub(super) fn read_counter_key(key: [u8; 32]) -> CounterKey {
    let (mut incarnation, mut peer) = ([0; 16], [0; 16]);
    incarnation.copy_from_slice(&key[..16]);
    peer.copy_from_slice(&key[16..]);
    CounterKey {
        incarnation: Incarnation(incarnation),
        peer: PeerId::from_bytes(peer),
    }
}

pub(super) fn lease_key(user: UserId, period: PeriodId) -> [u8; 32] {
    pair(user.into_bytes(), period.into_bytes())
}

fn pair(first: [u8; 16], second: [u8; 16]) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&first);
    key[16..].copy_from_slice(&second);
    key
}
