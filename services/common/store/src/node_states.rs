//! How nodes are: connected or not, what their engines say, how far they have applied their
//! desired state. Liveness is written for many nodes at once. Every write of a stream is fenced by
//! its generation: a stream that was superseded changes nothing here.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use vpnpanel_domain::NodeId;
use vpnpanel_link::{AppliedState, Digest, Generation, Pace, Revision};

use crate::certificates::renewal_overdue;
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::restore::{self, Lock};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeState {
    /// Its agent has a stream.
    pub connected: bool,
    /// When it was last heard of.
    pub seen_at_ms: Option<i64>,
    /// Since when it has no stream.
    pub offline_at_ms: Option<i64>,
    /// Version of its agent.
    pub agent_version: String,
    /// Its engines.
    pub engines: Vec<Engine>,
    /// Why it is quarantined, where it is.
    pub quarantined: Option<String>,
    /// The revision that it was told last.
    pub desired: Option<Revision>,
    /// When; where it has not answered what it was told before either, when it was told of that.
    pub desired_at_ms: Option<i64>,
    /// What it has applied.
    pub applied: Option<AppliedState>,
    /// When.
    pub applied_at_ms: Option<i64>,
    /// The last revision of which it could not apply everything; 0 is none.
    pub refused_revision: u64,
    /// What of it.
    pub refused: Vec<ResourceError>,
    /// Batches that wait for acknowledgement on its disk.
    pub unacked_batches: u64,
    /// Their bytes.
    pub unacked_bytes: u64,
    /// When its current certificate ends.
    pub certificate_expires_at_ms: Option<i64>,
    /// It should have been renewed by now.
    pub certificate_overdue: bool,
    /// The database does not know what it holds: it gets no grants before it has reported.
    pub awaited: bool,
    /// What it alone has said that proves the database to be an older one.
    pub suspicion: Option<String>,
}

/// A data plane on a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engine {
    /// For example "wireguard".
    pub kind: String,
    /// Implementation and version.
    pub version: String,
    /// It runs and is configured.
    pub healthy: bool,
    /// What is wrong and what to do.
    pub problem: String,
}

/// A resource that a node could not apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceError {
    /// "inbound" or "peer".
    pub kind: String,
    /// Its id.
    pub id: String,
    /// What was wrong and what to do.
    pub message: String,
}

/// A sign of life.
#[derive(Debug, Clone)]
pub struct Liveness {
    /// The node.
    pub node_id: NodeId,
    /// The stream it came on.
    pub generation: Generation,
    /// When it came.
    pub seen_at_ms: i64,
    /// Until when the node counts as connected without another.
    pub good_until_ms: i64,
    /// Version of the agent.
    pub agent_version: String,
    /// Its engines.
    pub engines: Vec<Engine>,
    /// Batches that wait for acknowledgement.
    pub unacked_batches: u64,
    /// Their bytes.
    pub unacked_bytes: u64,
}

/// How far a node has come with its desired state.
#[derive(Debug, Clone)]
pub struct Progress {
    /// The node.
    pub node_id: NodeId,
    /// The stream.
    pub generation: Generation,
    /// The revision that it was told since the last write.
    pub told: Option<Revision>,
    /// What it has answered since.
    pub applied: Option<Answered>,
}

/// What a node has answered to a desired state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What it has in force.
    pub state: AppliedState,
    /// That is what was desired at its revision: what has changed since can build on it.
    pub settled: bool,
    /// What of it could not be applied; `None` leaves on record what it answered to the same content
    /// before.
    pub errors: Option<Vec<ResourceError>>,
}

/// How long a sign of life is good: twice as long as collectors listen to silence before they cut a
/// stream, and longer than they leave out that a node is as it was.
#[must_use]
pub fn good_for_ms(pace: Pace) -> i64 {
    let heard_by_then = pace.health_ms.saturating_mul(12);
    i64::try_from(heard_by_then)
        .unwrap_or(i64::MAX / 4)
        .clamp(60_000, i64::MAX / 4)
}

/// Only while the stream is the node's newest.
const FENCE: &str = "EXISTS (SELECT 1 FROM node_links l
    WHERE l.node_id = node_states.node_id AND l.generation =";

impl Store {
    /// Writes signs of life of many nodes; a node comes once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_liveness(&self, signs: &[Liveness]) -> Result<()> {
        let tx = self.begin().await?;
        let mut rows = RowSet::new(
            &*tx,
            &[
                ("node_id", Column::Id),
                ("generation", Column::Big),
                ("seen_at", Column::Big),
                ("good_until", Column::Big),
                ("agent_version", Column::Text),
                ("engines", Column::Json),
                ("batches", Column::Big),
                ("bytes", Column::Big),
            ],
        );
        let mut sorted: Vec<_> = signs.iter().collect();
        sorted.sort_by_key(|sign| sign.node_id);
        for sign in sorted {
            let engines = serde_json::json!(sign.engines).to_string();
            rows.push([
                Cell::Id(sign.node_id.uuid()),
                Cell::Big(sql::signed(sign.generation.get())),
                Cell::Big(sign.seen_at_ms),
                Cell::Big(sign.good_until_ms),
                Cell::Text(&sign.agent_version),
                Cell::Text(&engines),
                Cell::Big(sql::signed(sign.unacked_batches)),
                Cell::Big(sql::signed(sign.unacked_bytes)),
            ]);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let text = format!(
            "UPDATE node_states SET connected = $1, seen_at = s.seen_at,
                connected_until = s.good_until, offline_at = NULL, agent_version = s.agent_version, engines = s.engines,
                unacked_batches = s.batches, unacked_bytes = s.bytes
             FROM {} WHERE node_states.node_id = s.node_id AND {FENCE} s.generation)",
            rows.source(2)
        );
        let mut values = vec![true.into()];
        values.extend(rows.into_values());
        sql::run(&*tx, text, values).await?;
        tx.commit().await
    }

    /// Notes that streams have ended; a node comes once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_disconnected(&self, streams: &[(NodeId, Generation)]) -> Result<()> {
        let tx = self.begin().await?;
        let mut rows = RowSet::new(
            &*tx,
            &[("node_id", Column::Id), ("generation", Column::Big)],
        );
        let mut sorted = streams.to_vec();
        sorted.sort_unstable();
        for (node, generation) in sorted {
            rows.push([
                Cell::Id(node.uuid()),
                Cell::Big(sql::signed(generation.get())),
            ]);
        }
        if rows.is_empty() {
            return Ok(());
        }
        let text = format!(
            "UPDATE node_states SET connected = $1,
                offline_at = CASE WHEN connected THEN $2 ELSE offline_at END
             FROM {} WHERE node_states.node_id = s.node_id AND {FENCE} s.generation)",
            rows.source(3)
        );
        let mut values = vec![false.into(), tx.now.into()];
        values.extend(rows.into_values());
        sql::run(&*tx, text, values).await?;
        tx.commit().await
    }

    /// Notes what many nodes were told and what they have applied; a node comes once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn record_progress(&self, nodes: &[Progress]) -> Result<()> {
        let tx = self.begin().await?;
        // The installation's lock comes before those of nodes.
        restore::standing(&tx, Lock::Shared).await?;
        let mut sorted: Vec<_> = nodes.iter().collect();
        sorted.sort_by_key(|node| node.node_id);
        // What it has answered first: what it was told since is then the first thing it has not.
        record_applied(&tx, &sorted).await?;
        record_told(&tx, &sorted).await?;
        tx.commit().await
    }

    /// How nodes are; one that was never heard of is left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn node_states(&self, nodes: &[NodeId]) -> Result<BTreeMap<NodeId, NodeState>> {
        let db = self.read();
        let text = format!(
            "SELECT s.node_id, s.connected, s.seen_at, s.agent_version, s.engines,
                    l.quarantine_reason, s.desired_revision, s.desired_at, s.applied_revision,
                    s.applied_digest, s.applied_at, s.refused_revision,
                    s.refused_errors, s.unacked_batches, s.unacked_bytes,
                    c.not_after, c.not_before,
                    COALESCE(l.reported_epoch, i.state_epoch) < i.state_epoch
                        OR l.suspicion IS NOT NULL,
                    l.suspicion, s.offline_at
             FROM node_states s JOIN installation i ON TRUE LEFT JOIN node_links l ON l.node_id = s.node_id
             LEFT JOIN node_certificates c ON c.node_id = s.node_id AND c.state = 'current'
             WHERE s.node_id {}",
            sql::in_ids(db, 1)
        );
        let ids = sql::ids(db, nodes.iter().copied());
        let now = self.now_ms();
        let mut states = BTreeMap::new();
        for row in &sql::all(db, text, vec![ids]).await? {
            let (begins, ends): (Option<i64>, Option<i64>) =
                (sql::get(row, 16)?, sql::get(row, 15)?);
            let state = NodeState {
                connected: sql::get(row, 1)?,
                seen_at_ms: sql::get(row, 2)?,
                agent_version: sql::get(row, 3)?,
                engines: serde_json::from_value(sql::get(row, 4)?)
                    .map_err(|error| StoreError::corrupt("node_states.engines", error))?,
                quarantined: sql::get(row, 5)?,
                desired: Some(Revision(sql::unsigned(sql::get(row, 6)?)))
                    .filter(|revision| revision.get() > 0),
                desired_at_ms: sql::get(row, 7)?,
                applied: named(sql::get(row, 8)?, &sql::get::<Vec<u8>>(row, 9)?)?,
                applied_at_ms: sql::get(row, 10)?,
                refused_revision: sql::unsigned(sql::get(row, 11)?),
                refused: serde_json::from_value(sql::get(row, 12)?)
                    .map_err(|error| StoreError::corrupt("node_states.refused_errors", error))?,
                unacked_batches: sql::unsigned(sql::get(row, 13)?),
                unacked_bytes: sql::unsigned(sql::get(row, 14)?),
                certificate_expires_at_ms: ends,
                certificate_overdue: begins
                    .zip(ends)
                    .is_some_and(|(begins, ends)| renewal_overdue(begins, ends) <= now),
                awaited: sql::get(row, 17)?,
                suspicion: sql::get(row, 18)?,
                offline_at_ms: sql::get(row, 19)?,
            };
            states.insert(NodeId::new(sql::get(row, 0)?), state);
        }
        Ok(states)
    }

    /// Takes a collector's nodes for disconnected: it has just started, or is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn disconnect_all(&self, collector: &str) -> Result<u64> {
        let tx = self.begin().await?;
        let count = sql::run(
            &*tx,
            "UPDATE node_states SET connected = $2, offline_at = COALESCE(seen_at, $3)
             WHERE collector = $1 AND connected",
            vec![collector.into(), false.into(), tx.now.into()],
        )
        .await?;
        tx.commit().await?;
        Ok(count)
    }
}

async fn record_told(tx: &Write, nodes: &[&Progress]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("generation", Column::Big),
            ("revision", Column::Big),
        ],
    );
    for node in nodes {
        let Some(revision) = node.told else { continue };
        rows.push([
            Cell::Id(node.node_id.uuid()),
            Cell::Big(sql::signed(node.generation.get())),
            Cell::Big(sql::signed(revision.get())),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "UPDATE node_states SET desired_revision = s.revision,
            desired_at = CASE WHEN desired_revision > applied_revision AND desired_at IS NOT NULL
                THEN desired_at ELSE $1 END
         FROM {} WHERE node_states.node_id = s.node_id AND {FENCE} s.generation)",
        rows.source(2)
    );
    let mut values = vec![tx.now.into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

/// A state that was found to be in force is also what the node was told.
async fn record_applied(tx: &Write, nodes: &[&Progress]) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("generation", Column::Big),
            ("revision", Column::Big),
            ("digest", Column::Bytes),
            ("refused", Column::Big),
            ("errors", Column::Json),
            ("known", Column::Big),
        ],
    );
    for node in nodes {
        let Some(Answered {
            state,
            settled,
            errors,
        }) = &node.applied
        else {
            continue;
        };
        let revision = sql::signed(state.revision.get());
        let text = serde_json::json!(errors.as_deref().unwrap_or_default()).to_string();
        let refused = match errors.as_deref() {
            Some([]) => 0,
            Some(_) => revision,
            None => -1,
        };
        rows.push([
            Cell::Id(node.node_id.uuid()),
            Cell::Big(sql::signed(node.generation.get())),
            Cell::Big(revision),
            Cell::Bytes(state.digest.as_bytes()),
            Cell::Big(refused),
            Cell::Text(&text),
            Cell::Big(i64::from(*settled)),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "UPDATE node_states SET applied_unknown = (s.known = 0), applied_revision = s.revision, applied_digest = s.digest,
            applied_at = $1,
            refused_revision = CASE WHEN s.refused >= 0 THEN s.refused
                WHEN node_states.applied_digest = s.digest THEN refused_revision ELSE 0 END,
            refused_errors = CASE WHEN s.refused < 0 AND node_states.applied_digest = s.digest
                THEN refused_errors ELSE s.errors END,
            desired_at = CASE WHEN desired_revision < s.revision THEN $1 ELSE desired_at END,
            desired_revision = CASE WHEN desired_revision < s.revision
                THEN s.revision ELSE desired_revision END
         FROM {} WHERE node_states.node_id = s.node_id AND {FENCE} s.generation)",
        rows.source(2)
    );
    let mut values = vec![tx.now.into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    settle(tx, nodes).await
}

/// Notes of nodes that they have what an older database wants them to have: from now on its changes
/// are changes like any other.
async fn settle(tx: &Write, nodes: &[&Progress]) -> Result<()> {
    let standing = restore::standing(tx, Lock::Shared).await?;
    let mut rows = RowSet::new(
        &**tx,
        &[("node_id", Column::Id), ("generation", Column::Big)],
    );
    for node in nodes {
        let settled = node.applied.as_ref().is_some_and(|answer| answer.settled);
        // A stream of an earlier life of the database knows nothing of this one.
        if settled && node.generation.get() >= standing.epoch.floor() {
            rows.push([
                Cell::Id(node.node_id.uuid()),
                Cell::Big(sql::signed(node.generation.get())),
            ]);
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "UPDATE node_links SET settled_epoch = $1 FROM {}
         WHERE node_links.node_id = s.node_id AND node_links.generation = s.generation
            AND node_links.settled_epoch < $1",
        rows.source(2)
    );
    let mut values = vec![sql::signed(standing.epoch.get()).into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

/// The desired state that a node last answered, where changes can build on it.
pub(crate) async fn applied(tx: &Write, nodes: &[NodeId]) -> Result<HashMap<NodeId, AppliedState>> {
    let text = format!(
        "SELECT node_id, applied_revision, applied_digest FROM node_states
         WHERE node_id {} AND NOT applied_unknown",
        sql::in_ids(&**tx, 1)
    );
    let ids = sql::ids(&**tx, nodes.iter().copied());
    let mut applied = HashMap::with_capacity(nodes.len());
    for row in &sql::all(&**tx, text, vec![ids]).await? {
        let node = NodeId::new(sql::get(row, 0)?);
        let state = named(sql::get(row, 1)?, &sql::get::<Vec<u8>>(row, 2)?)?;
        applied.extend(state.map(|state| (node, state)));
    }
    Ok(applied)
}

fn named(revision: i64, digest: &[u8]) -> Result<Option<AppliedState>> {
    if digest.is_empty() {
        return Ok(None);
    }
    Ok(Some(AppliedState {
        revision: Revision(sql::unsigned(revision)),
        digest: Digest::try_from(digest)
            .map_err(|error| StoreError::corrupt("node_states digest", error))?,
    }))
}
