//! The first look of a stream at what its node is to be told. Most streams open with nothing to tell:
//! that is found out for many of them at once, and never wrongly.

use std::collections::{BTreeSet, HashMap, HashSet};

use sea_orm::ConnectionTrait;
use vpnpanel_domain::NodeId;
use vpnpanel_link::{Generation, Revision};

use crate::changes::LogPosition;
use crate::connect::Store;
use crate::error::Result;
use crate::sql;

/// Changes that are looked through for many nodes together. Beyond that each looks for itself.
const SCANNED: u32 = 1_000;

/// A stream that has just opened.
#[derive(Debug, Clone, Copy)]
pub struct FirstLook {
    /// Its node.
    pub node: NodeId,
    /// Its number.
    pub generation: Generation,
    /// The revision at which the agent's state is known to have been what is desired; `None` where
    /// nothing is known.
    pub since: Option<Revision>,
}

/// What was found for a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Nothing that was desired of the node has changed up to this revision; `None` says nothing.
    pub unchanged: Option<Revision>,
    /// The node may have been given commands.
    pub commands: bool,
    /// There may be leases that users of the node lack, or grants that it has not answered.
    pub leases: bool,
}

impl Seen {
    /// Everything has to be looked at.
    pub const NOTHING_IS_KNOWN: Self = Self {
        unchanged: None,
        commands: true,
        leases: true,
    };
}

impl Store {
    /// Looks for many streams. The answers are in their order; `None` for a stream that is not its
    /// node's newest in this database.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn first_looks(&self, streams: &[FirstLook]) -> Result<Vec<Option<Seen>>> {
        let nodes: Vec<NodeId> = streams.iter().map(|stream| stream.node).collect();
        let unchanged = self.unchanged(streams).await?;
        let commands = self
            .having(
                &nodes,
                "EXISTS (SELECT 1 FROM node_commands c
                    WHERE c.node_id = n.id AND c.state IN ('pending', 'sent'))",
            )
            .await?;
        // Grants may have been made after the stream had opened, and before it could be signalled. Of a
        // node that is drained leases are asked back.
        let unanswered = self
            .having(
                &nodes,
                "(n.draining OR EXISTS (SELECT 1 FROM leases l WHERE l.node_id = n.id
                    AND l.state = 'current' AND l.answered_version < l.version))",
            )
            .await?;
        let lack = self.nodes_that_lack_leases(&nodes).await?;
        // Last: what was read before is of the database that the stream was opened in, or this shows
        // that another has taken its place.
        let newest = generations(self.read(), &nodes).await?;
        Ok(streams
            .iter()
            .map(|stream| {
                let is_newest = newest.get(&stream.node) == Some(&stream.generation);
                is_newest.then(|| Seen {
                    unchanged: unchanged.get(&stream.node).copied(),
                    commands: commands.contains(&stream.node),
                    leases: lack.contains(&stream.node) || unanswered.contains(&stream.node),
                })
            })
            .collect())
    }

    /// Nodes that no change concerns since what they have, with the revision up to which that is so.
    async fn unchanged(&self, streams: &[FirstLook]) -> Result<HashMap<NodeId, Revision>> {
        let oldest = streams.iter().filter_map(|stream| stream.since).min();
        let Some(oldest) = oldest else {
            return Ok(HashMap::new());
        };
        let end = Revision(self.log_tail().await?.revision());
        let from = LogPosition::behind(self.read(), oldest.get());
        let read = self.changes_since(from, SCANNED).await?;
        if read.truncated || read.more {
            return Ok(HashMap::new());
        }
        let concerned: BTreeSet<_> = self.nodes_concerned(&read.changes).await?;
        Ok(streams
            .iter()
            // A revision beyond the end is one of another life of the database.
            .filter(|stream| stream.since.is_some_and(|since| since <= end))
            .filter(|stream| !concerned.contains(&stream.node))
            .map(|stream| (stream.node, end))
            .collect())
    }

    /// Those of the nodes (`n`) of which a condition holds.
    async fn having(&self, nodes: &[NodeId], condition: &str) -> Result<HashSet<NodeId>> {
        let db = self.read();
        let text = format!(
            "SELECT n.id FROM nodes n WHERE n.id {} AND {condition}",
            sql::in_ids(db, 1)
        );
        sql::all(db, text, vec![sql::ids(db, nodes.iter().copied())])
            .await?
            .iter()
            .map(|row| Ok(NodeId::new(sql::get(row, 0)?)))
            .collect()
    }
}

/// The newest streams of nodes.
pub(crate) async fn generations(
    db: &impl ConnectionTrait,
    nodes: &[NodeId],
) -> Result<HashMap<NodeId, Generation>> {
    let text = format!(
        "SELECT node_id, generation FROM node_links WHERE node_id {} AND generation > 0",
        sql::in_ids(db, 1)
    );
    sql::all(db, text, vec![sql::ids(db, nodes.iter().copied())])
        .await?
        .iter()
        .map(|row| {
            let generation = Generation(sql::unsigned(sql::get(row, 1)?));
            Ok((NodeId::new(sql::get(row, 0)?), generation))
        })
        .collect()
}
