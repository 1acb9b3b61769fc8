//! What streams that open are decided by, read for many nodes at once.

use std::collections::{BTreeSet, HashMap};

use sea_orm::ConnectionTrait;
use uuid::Uuid;
use vpnpanel_domain::{LeaseId, Multiplier, NodeId, PeerId, PeriodId, UserId};
use vpnpanel_link::collector::lease;
use vpnpanel_link::collector::open::StreamFacts;
use vpnpanel_link::collector::{Cursor, NodeFacts, Standing, Witnesses};
use vpnpanel_link::{
    AppliedState, Attribution, CounterKey, CounterMark, Epoch, Grant, Revision, Totals,
};

use super::super::load;
use super::Greeting;
use super::rows::make_rows;
use crate::error::Result;
use crate::restore;
use crate::transaction::Write;
use crate::{changes, node_states, sql};

/// Grants and marks that one Welcome repeats at most; the rest follows with the usage.
const MOST: i64 = 16_384;

/// Everything that was read, to be handed out node by node.
pub(super) struct Gathered {
    standing: Standing,
    head: Revision,
    nodes: HashMap<NodeId, NodeFacts>,
    cursors: HashMap<NodeId, HashMap<Epoch, Cursor>>,
    versions: HashMap<NodeId, HashMap<LeaseId, u64>>,
    /// Periods of leases, and whether they are over.
    periods: HashMap<PeriodId, bool>,
    witnesses: HashMap<NodeId, Witnesses>,
    marks: HashMap<NodeId, Vec<CounterMark>>,
    awaited: HashMap<NodeId, Vec<CounterMark>>,
    unanswered: HashMap<NodeId, Vec<Grant>>,
    applied: HashMap<NodeId, AppliedState>,
}

impl Gathered {
    /// Reads it, the nodes' links locked. Each node comes once.
    pub(super) async fn read(
        tx: &Write,
        greetings: &[(usize, &Greeting)],
        standing: Standing,
    ) -> Result<Self> {
        let ids: Vec<NodeId> = greetings.iter().map(|(_, one)| one.node).collect();
        let nodes = nodes(tx, &ids).await?;
        let owners = nodes.iter().map(|(node, facts)| (*node, facts.tenant));
        let leases: Vec<_> = greetings
            .iter()
            .flat_map(|(_, one)| one.hello.leases.iter().map(|lease| (one.node, lease)))
            .collect();
        Ok(Self {
            standing,
            head: Revision(changes::head(&**tx).await?),
            cursors: cursors(tx, greetings).await?,
            versions: restore::versions(tx, &leases).await?,
            periods: restore::periods(tx, &leases).await?,
            witnesses: restore::witnesses(tx, owners.collect(), standing.epoch).await?,
            marks: asked_marks(tx, greetings).await?,
            awaited: awaited(tx, &ids).await?,
            unanswered: unanswered(&**tx, &ids).await?,
            applied: node_states::applied(tx, &ids).await?,
            nodes,
        })
    }

    /// What one stream is decided by; `None` for a node that was deleted.
    pub(super) fn facts(&mut self, greeting: &Greeting) -> Option<StreamFacts> {
        let node = &greeting.node;
        let leased = greeting.hello.leases.iter().map(|lease| lease.period);
        Some(StreamFacts {
            periods: leased
                .filter_map(|period| Some((period, *self.periods.get(&period)?)))
                .collect(),
            node: self.nodes.remove(node)?,
            cursors: self.cursors.remove(node).unwrap_or_default(),
            marks: self.marks.remove(node).unwrap_or_default(),
            awaited: self.awaited.remove(node).unwrap_or_default(),
            unanswered: self.unanswered.remove(node).unwrap_or_default(),
            standing: self.standing,
            versions: self.versions.remove(node).unwrap_or_default(),
            head: Some(self.head),
            witnesses: self.witnesses.remove(node).unwrap_or_default(),
            applied: self.applied.remove(node),
        })
    }
}

/// Links of nodes that were not deleted, locked; of a node that never had one it is made.
async fn nodes(tx: &Write, ids: &[NodeId]) -> Result<HashMap<NodeId, NodeFacts>> {
    let mut known = load::nodes(tx, ids).await?;
    let missing: Vec<_> = ids.iter().filter(|id| !known.contains_key(id)).collect();
    if !missing.is_empty() {
        let missing: Vec<_> = missing.into_iter().copied().collect();
        make_rows(tx, &missing).await?;
        known.extend(load::nodes(tx, &missing).await?);
    }
    Ok(known)
}

async fn cursors(
    tx: &Write,
    greetings: &[(usize, &Greeting)],
) -> Result<HashMap<NodeId, HashMap<Epoch, Cursor>>> {
    let keys: Vec<_> = greetings
        .iter()
        .flat_map(|(_, one)| one.hello.epochs.iter().map(|said| (one.node, said.epoch)))
        .collect();
    let mut cursors: HashMap<_, HashMap<_, _>> = HashMap::new();
    for ((node, epoch), cursor) in load::cursors(tx, &keys).await? {
        cursors.entry(node).or_default().insert(epoch, cursor);
    }
    Ok(cursors)
}

/// Marks of counters whose baseline the agent lost. One that was never billed has zero totals,
/// and belongs to whom its peer belongs.
async fn asked_marks(
    tx: &Write,
    greetings: &[(usize, &Greeting)],
) -> Result<HashMap<NodeId, Vec<CounterMark>>> {
    let keys: Vec<(NodeId, CounterKey)> = greetings
        .iter()
        .flat_map(|(_, one)| {
            let asked = one.hello.unknown_baselines.iter();
            asked.map(|counter| (one.node, *counter))
        })
        .collect();
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let known = load::marks(tx, &keys).await?;
    let owners = owners(tx, keys.iter().map(|(_, counter)| counter.peer)).await?;
    let multipliers = multipliers(tx, keys.iter().map(|(node, _)| *node)).await?;
    let mut marks: HashMap<_, Vec<_>> = HashMap::new();
    for key in keys {
        let (node, counter) = key;
        let mark = match known.get(&key) {
            Some(mark) => Some((mark.totals, mark.attribution)),
            None => owners.get(&counter.peer).zip(multipliers.get(&node)).map(
                |(&(user, period), &multiplier)| {
                    let attribution = Attribution {
                        user,
                        period,
                        multiplier,
                        // A disk that asks for marks holds no leases.
                        leased: false,
                    };
                    (Totals::default(), attribution)
                },
            ),
        };
        if let Some((totals, attribution)) = mark {
            marks.entry(node).or_default().push(CounterMark {
                counter,
                totals,
                attribution: Some(attribution),
            });
        }
    }
    Ok(marks)
}

/// Whose peers are, and what their traffic belongs to now.
async fn owners(
    tx: &Write,
    peers: impl Iterator<Item = PeerId>,
) -> Result<HashMap<PeerId, (UserId, PeriodId)>> {
    let text = format!(
        "SELECT p.id, p.user_id, u.period_id FROM peers p
         JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id WHERE p.id {}",
        sql::in_ids(&**tx, 1)
    );
    sql::all(&**tx, text, vec![sql::ids(&**tx, peers)])
        .await?
        .iter()
        .map(|row| {
            let (user, period) = (sql::get(row, 1)?, sql::get(row, 2)?);
            let owner = (UserId::new(user), PeriodId::new(period));
            Ok((PeerId::new(sql::get::<Uuid>(row, 0)?), owner))
        })
        .collect()
}

async fn multipliers(
    tx: &Write,
    nodes: impl Iterator<Item = NodeId>,
) -> Result<HashMap<NodeId, Multiplier>> {
    let nodes: BTreeSet<_> = nodes.collect();
    let text = format!(
        "SELECT id, multiplier_ppm FROM nodes WHERE id {}",
        sql::in_ids(&**tx, 1)
    );
    sql::all(&**tx, text, vec![sql::ids(&**tx, nodes)])
        .await?
        .iter()
        .map(|row| {
            let multiplier = load::multiplier(sql::get(row, 1)?)?;
            Ok((NodeId::new(sql::get(row, 0)?), multiplier))
        })
        .collect()
}

/// Marks that await segments, up to [`MOST`] of each node.
async fn awaited(tx: &Write, nodes: &[NodeId]) -> Result<HashMap<NodeId, Vec<CounterMark>>> {
    let text = format!(
        "SELECT {mark} FROM (SELECT m.*, ROW_NUMBER() OVER
            (PARTITION BY m.node_id ORDER BY m.incarnation, m.peer_id) AS place
            FROM marks m WHERE m.node_id {of_nodes} AND m.awaited_up IS NOT NULL) m
         WHERE m.place <= $2 ORDER BY m.node_id, m.place",
        mark = load::MARK,
        of_nodes = sql::in_ids(&**tx, 1),
    );
    let ids = sql::ids(&**tx, nodes.iter().copied());
    let mut awaited: HashMap<_, Vec<_>> = HashMap::new();
    for row in &sql::all(&**tx, text, vec![ids, MOST.into()]).await? {
        let (node, counter, mark) = load::mark(row)?;
        awaited.entry(node).or_default().push(CounterMark {
            counter,
            totals: mark.totals,
            attribution: Some(mark.attribution),
        });
    }
    Ok(awaited)
}

/// Grants whose newest version the nodes have not answered, up to [`MOST`] of each.
pub(in crate::ledger) async fn unanswered(
    db: &impl ConnectionTrait,
    nodes: &[NodeId],
) -> Result<HashMap<NodeId, Vec<Grant>>> {
    let text = format!(
        "SELECT {lease} FROM (SELECT l.*, ROW_NUMBER() OVER
            (PARTITION BY l.node_id ORDER BY l.period_id) AS place
            FROM leases l WHERE l.node_id {of_nodes} AND l.state = 'current'
                AND l.answered_version < l.version
                AND EXISTS (SELECT 1 FROM node_links k JOIN installation i ON TRUE
                    WHERE k.node_id = l.node_id AND k.reported_epoch >= i.state_epoch
                        AND k.suspicion IS NULL)) l
         WHERE l.place <= $2 ORDER BY l.node_id, l.place",
        lease = load::LEASE,
        of_nodes = sql::in_ids(db, 1),
    );
    let ids = sql::ids(db, nodes.iter().copied());
    let mut grants: HashMap<_, Vec<_>> = HashMap::new();
    for row in &sql::all(db, text, vec![ids, MOST.into()]).await? {
        let ((node, period), facts) = load::lease(row)?;
        let grant = lease::grant(period, &facts);
        grants.entry(node).or_default().push(grant);
    }
    Ok(grants)
}
