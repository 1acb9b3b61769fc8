//! Opening and ending streams. Each stream of a node gets the next generation, in the row that
//! every later write of the stream is checked against.

use std::collections::HashMap;

use sea_orm::ConnectionTrait;
use uuid::Uuid;
use vpnpanel_domain::{Multiplier, NodeId, PeerId, PeriodId, UserId};
use vpnpanel_link::collector::NodeFacts;
use vpnpanel_link::collector::lease;
use vpnpanel_link::collector::open::{self, Opening, StreamFacts};
use vpnpanel_link::{
    Attribution, CounterKey, CounterMark, Epoch, Generation, Grant, Hello, Pace, Revision, Totals,
};

use super::{load, write};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::restore::{self, Lock};
use crate::transaction::Write;
use crate::{changes, node_states, nodes, sql};

/// Grants and marks that one Welcome repeats at most; the rest follows with the usage.
const MOST: i64 = 16_384;

impl Store {
    /// Opens a stream of a node whose certificate was verified.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a node that was deleted, [`StoreError::Refused`].
    pub async fn open_stream(
        &self,
        node: NodeId,
        hello: &Hello,
        pace: Pace,
        collector: &str,
    ) -> Result<Opening> {
        // A Hello that proves the database to be an older one is judged again where nobody grants
        // anything meanwhile, or has judged another.
        let mut lock = Lock::Shared;
        loop {
            let opened = self.try_open(node, hello, pace, collector, lock).await?;
            if let Some(opening) = opened {
                return Ok(opening);
            }
            lock = Lock::Exclusive;
        }
    }

    /// Opens a stream, unless that takes the barrier up and the lock is shared.
    async fn try_open(
        &self,
        node: NodeId,
        hello: &Hello,
        pace: Pace,
        collector: &str,
        lock: Lock,
    ) -> Result<Option<Opening>> {
        let tx = self.begin().await?;
        let standing = restore::standing(&tx, lock).await?;
        let settings = nodes::load(&*tx, node).await?;
        make_rows(&tx, node).await?;
        let facts = load::nodes(&tx, &[node])
            .await?
            .remove(&node)
            .ok_or(StoreError::NotFound("node"))?;
        let mut cursors: HashMap<Epoch, _> = HashMap::new();
        let keys: Vec<_> = hello
            .epochs
            .iter()
            .map(|epoch| (node, epoch.epoch))
            .collect();
        for ((_, epoch), cursor) in load::cursors(&tx, &keys).await? {
            cursors.insert(epoch, cursor);
        }
        let epoch = standing.epoch;
        let facts = StreamFacts {
            standing,
            versions: restore::versions(&tx, node, &hello.leases).await?,
            periods: restore::periods(&tx, &hello.leases).await?,
            head: Some(Revision(changes::head(&*tx).await?)),
            witnesses: restore::witnesses(&tx, node, facts.tenant, epoch).await?,
            node: facts,
            cursors,
            marks: asked_marks(&tx, node, settings.multiplier, &hello.unknown_baselines).await?,
            awaited: awaited(&tx, node).await?,
            unanswered: unanswered(&*tx, node).await?,
            applied: node_states::applied(&tx, node).await?,
        };
        let opening = open::open(facts, hello, pace, tx.now).map_err(StoreError::Refused)?;
        if let Some(evidence) = opening.restored {
            if lock == Lock::Shared {
                return Ok(None);
            }
            let epoch = opening.welcome.state_epoch;
            restore::restored(&tx, standing, epoch, node, evidence).await?;
        }
        save(&tx, node, &opening, hello, collector).await?;
        tx.commit().await?;
        Ok(Some(opening))
    }

    /// The generation of a node's newest stream; `None` when it never had one.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stream_generation(&self, node: NodeId) -> Result<Option<Generation>> {
        let row = sql::one(
            self.read(),
            "SELECT generation FROM node_links WHERE node_id = $1 AND generation > 0",
            vec![node.uuid().into()],
        )
        .await?;
        row.map(|row| Ok(Generation(sql::unsigned(sql::get(&row, 0)?))))
            .transpose()
    }

    /// Grants whose newest version a node has not answered, whoever made them: harmless to repeat.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn unanswered_grants(&self, node: NodeId) -> Result<Vec<Grant>> {
        unanswered(self.read(), node).await
    }

    /// Quarantines a node until its host enrols again.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn quarantine_node(&self, node: NodeId, reason: &str) -> Result<()> {
        let tx = self.begin().await?;
        make_rows(&tx, node).await?;
        write::quarantine(&tx, node, reason).await?;
        tx.commit().await
    }
}

/// Locks the link of a node whose newest stream has to be this one; `None` for a node that is gone.
/// A stream of an earlier life of the database lies below the epoch.
pub(crate) async fn fenced(
    tx: &Write,
    node: NodeId,
    generation: Generation,
) -> Result<Option<NodeFacts>> {
    let epoch = restore::standing(tx, Lock::Shared).await?.epoch;
    if generation.get() < epoch.floor() {
        return Err(StoreError::StreamSuperseded);
    }
    match load::nodes(tx, &[node]).await?.remove(&node) {
        Some(facts) if facts.generation != generation => Err(StoreError::StreamSuperseded),
        facts => Ok(facts),
    }
}

/// A node that enrols anew is one agent again: what was remembered of the old ones goes. Its rows
/// are there from now on, so that it is known to be enrolled before its first stream.
pub(crate) async fn forget_agents(tx: &Write, node: NodeId) -> Result<()> {
    make_rows(tx, node).await?;
    sql::run(
        &**tx,
        "UPDATE node_links SET quarantined_at = NULL, quarantine_reason = NULL, boots = $2,
            boot_strikes = 0 WHERE node_id = $1",
        vec![node.uuid().into(), serde_json::json!([]).into()],
    )
    .await?;
    Ok(())
}

async fn make_rows(tx: &Write, node: NodeId) -> Result<()> {
    let (nothing, none) = (Vec::<u8>::new(), serde_json::json!([]));
    sql::run(
        &**tx,
        // A node that is older than a restore under way may hold what the database does not know.
        "INSERT INTO node_links (node_id, generation, collector, opened_at, boots, boot_strikes,
            reported_epoch, settled_epoch)
         SELECT $1, 0, '', $2, $3, 0, i.known, i.known FROM (
            SELECT CASE WHEN i.restore_held AND EXISTS (SELECT 1 FROM restores r
                    JOIN nodes n ON n.id = $1 AND n.created_at < r.opened_at
                    WHERE r.state_epoch = i.state_epoch)
                THEN 0 ELSE i.state_epoch END AS known
            FROM installation i) i WHERE TRUE
         ON CONFLICT (node_id) DO NOTHING",
        vec![node.uuid().into(), tx.now.into(), none.clone().into()],
    )
    .await?;
    sql::run(
        &**tx,
        "INSERT INTO node_states (node_id, connected, collector, agent_version, engines,
            desired_revision, applied_revision, applied_digest,
            refused_revision, refused_errors, unacked_batches, unacked_bytes)
         VALUES ($1, $2, '', '', $3, 0, 0, $4, 0, $3, 0, 0)
         ON CONFLICT (node_id) DO NOTHING",
        vec![
            node.uuid().into(),
            false.into(),
            none.into(),
            nothing.into(),
        ],
    )
    .await?;
    Ok(())
}

async fn save(
    tx: &Write,
    node: NodeId,
    opening: &Opening,
    hello: &Hello,
    collector: &str,
) -> Result<()> {
    let facts = &opening.node;
    sql::run(
        &**tx,
        "UPDATE node_links SET generation = $2, collector = $3, opened_at = $4, spool = $5,
            boots = $6, boot_strikes = $7, spoke_epoch = $8, suspicion = $9,
            settled_epoch = CASE WHEN $10 THEN 0 ELSE settled_epoch END WHERE node_id = $1",
        vec![
            node.uuid().into(),
            sql::signed(facts.generation.get()).into(),
            collector.into(),
            tx.now.into(),
            facts.spool.map(|spool| spool.as_bytes().to_vec()).into(),
            serde_json::json!(facts.boots).into(),
            i32::try_from(facts.boot_strikes).unwrap_or(i32::MAX).into(),
            sql::signed(facts.spoke.get()).into(),
            facts.suspicion.clone().into(),
            facts.suspicion.is_some().into(),
        ],
    )
    .await?;
    if let Some(reason) = &facts.quarantined {
        write::quarantine(tx, node, reason).await?;
    }
    if opening.strand_leases {
        sql::run(
            &**tx,
            "UPDATE leases SET state = 'stranded' WHERE node_id = $1 AND state = 'current'",
            vec![node.uuid().into()],
        )
        .await?;
    }
    sql::run(
        &**tx,
        "UPDATE node_states SET connected = $2, collector = $3, seen_at = $4, agent_version = $5
         WHERE node_id = $1",
        vec![
            node.uuid().into(),
            true.into(),
            collector.into(),
            tx.now.into(),
            hello.agent_version.as_str().into(),
        ],
    )
    .await?;
    Ok(())
}

/// Marks of counters whose baseline the agent lost. One that was never billed has zero totals,
/// and belongs to whom its peer belongs.
async fn asked_marks(
    tx: &Write,
    node: NodeId,
    multiplier: Multiplier,
    asked: &[CounterKey],
) -> Result<Vec<CounterMark>> {
    let keys: Vec<_> = asked.iter().map(|counter| (node, *counter)).collect();
    let known = load::marks(tx, &keys).await?;
    let text = format!(
        "SELECT p.id, p.user_id, u.period_id FROM peers p
         JOIN users u ON u.tenant_id = p.tenant_id AND u.id = p.user_id WHERE p.id {}",
        sql::in_ids(&**tx, 1)
    );
    let ids = sql::ids(&**tx, asked.iter().map(|counter| counter.peer));
    let mut owners = HashMap::new();
    for row in &sql::all(&**tx, text, vec![ids]).await? {
        let attribution = Attribution {
            user: UserId::new(sql::get(row, 1)?),
            period: PeriodId::new(sql::get(row, 2)?),
            multiplier,
            // A disk that asks for marks holds no leases.
            leased: false,
        };
        owners.insert(PeerId::new(sql::get::<Uuid>(row, 0)?), attribution);
    }
    Ok(asked
        .iter()
        .filter_map(|counter| match known.get(&(node, *counter)) {
            Some(mark) => Some(CounterMark {
                counter: *counter,
                totals: mark.totals,
                attribution: Some(mark.attribution),
            }),
            None => owners.get(&counter.peer).map(|attribution| CounterMark {
                counter: *counter,
                totals: Totals::default(),
                attribution: Some(*attribution),
            }),
        })
        .collect())
}

async fn awaited(tx: &Write, node: NodeId) -> Result<Vec<CounterMark>> {
    let text = format!(
        "SELECT {} FROM marks m WHERE m.node_id = $1 AND m.awaited_up IS NOT NULL
         ORDER BY m.incarnation, m.peer_id LIMIT $2",
        load::MARK
    );
    sql::all(&**tx, text, vec![node.uuid().into(), MOST.into()])
        .await?
        .iter()
        .map(|row| {
            let (_, counter, mark) = load::mark(row)?;
            Ok(CounterMark {
                counter,
                totals: mark.totals,
                attribution: Some(mark.attribution),
            })
        })
        .collect()
}

async fn unanswered(db: &impl ConnectionTrait, node: NodeId) -> Result<Vec<Grant>> {
    let text = format!(
        "SELECT {} FROM leases l WHERE l.node_id = $1 AND l.state = 'current'
            AND l.answered_version < l.version
            AND EXISTS (SELECT 1 FROM node_links k JOIN installation i ON TRUE
                WHERE k.node_id = l.node_id AND k.reported_epoch >= i.state_epoch
                    AND k.suspicion IS NULL)
         ORDER BY l.period_id LIMIT $2",
        load::LEASE
    );
    sql::all(db, text, vec![node.uuid().into(), MOST.into()])
        .await?
        .iter()
        .map(|row| {
            let ((_, period), facts) = load::lease(row)?;
            Ok(lease::grant(period, &facts))
        })
        .collect()
}
