//! The rows of nodes' streams: made when a node enrols, written when one opens.

use vpnpanel_domain::NodeId;
use vpnpanel_link::collector::open::Opening;

use super::{Greeting, write};
use crate::error::Result;
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

/// A node that enrols anew is one agent again: what was remembered of the old ones goes. Its rows
/// are there from now on, so that it is known to be enrolled before its first stream.
pub(crate) async fn forget_agents(tx: &Write, node: NodeId) -> Result<()> {
    make_rows(tx, &[node]).await?;
    sql::run(
        &**tx,
        "UPDATE node_links SET quarantined_at = NULL, quarantine_reason = NULL, boots = $2,
            boot_strikes = 0 WHERE node_id = $1",
        vec![node.uuid().into(), serde_json::json!([]).into()],
    )
    .await?;
    Ok(())
}

pub(super) async fn make_rows(tx: &Write, nodes: &[NodeId]) -> Result<()> {
    let (nothing, none) = (Vec::<u8>::new(), serde_json::json!([]));
    let of_nodes = sql::in_ids(&**tx, 1);
    let ids = sql::ids(&**tx, nodes.iter().copied());
    sql::run(
        &**tx,
        // A node that is older than a restore under way may hold what the database does not know.
        format!(
            "INSERT INTO node_links (node_id, generation, collector, opened_at, boots, boot_strikes,
                reported_epoch, settled_epoch)
             SELECT k.id, 0, '', $2, $3, 0, k.known, k.known FROM (
                SELECT n.id, CASE WHEN i.restore_held AND EXISTS (SELECT 1 FROM restores r
                        WHERE r.state_epoch = i.state_epoch AND n.created_at < r.opened_at)
                    THEN 0 ELSE i.state_epoch END AS known
                FROM nodes n JOIN installation i ON TRUE WHERE n.id {of_nodes}) k WHERE TRUE
             ON CONFLICT (node_id) DO NOTHING"
        ),
        vec![ids.clone(), tx.now.into(), none.clone().into()],
    )
    .await?;
    sql::run(
        &**tx,
        format!(
            "INSERT INTO node_states (node_id, connected, collector, agent_version, engines,
                desired_revision, applied_revision, applied_digest,
                refused_revision, refused_errors, unacked_batches, unacked_bytes)
             SELECT n.id, $2, '', '', $3, 0, 0, $4, 0, $3, 0, 0 FROM nodes n WHERE n.id {of_nodes}
             ON CONFLICT (node_id) DO NOTHING"
        ),
        vec![ids, false.into(), none.into(), nothing.into()],
    )
    .await?;
    Ok(())
}

/// Writes what was decided, of many nodes at once.
pub(super) async fn save(
    tx: &Write,
    openings: &[(&Greeting, Opening)],
    collector: &str,
    good_for_ms: i64,
) -> Result<()> {
    let mut links = RowSet::new(
        &**tx,
        &[
            ("node_id", Column::Id),
            ("generation", Column::Big),
            ("spool", Column::Bytes),
            ("boots", Column::Json),
            ("boot_strikes", Column::Big),
            ("spoke_epoch", Column::Big),
            ("suspicion", Column::Text),
            ("agent_version", Column::Text),
        ],
    );
    let mut sorted: Vec<_> = openings.iter().collect();
    sorted.sort_by_key(|(greeting, _)| greeting.node);
    for (greeting, opening) in sorted {
        let facts = &opening.node;
        let boots = serde_json::json!(facts.boots).to_string();
        links.push([
            Cell::Id(greeting.node.uuid()),
            Cell::Big(sql::signed(facts.generation.get())),
            Cell::Bytes(greeting.hello.spool.as_bytes()),
            Cell::Text(&boots),
            Cell::Big(i64::from(facts.boot_strikes)),
            Cell::Big(sql::signed(facts.spoke.get())),
            Cell::Text(facts.suspicion.as_deref().unwrap_or_default()),
            Cell::Text(&greeting.hello.agent_version),
        ]);
    }
    if links.is_empty() {
        return Ok(());
    }
    let (of_links, of_states) = (links.source(3), links.source(5));
    let rows = links.into_values();
    let mut values = vec![collector.into(), tx.now.into()];
    values.extend(rows.iter().cloned());
    sql::run(
        &**tx,
        format!(
            "UPDATE node_links SET generation = s.generation, collector = $1, opened_at = $2,
                spool = s.spool, boots = s.boots, boot_strikes = s.boot_strikes,
                lease_reports = 0, spoke_epoch = s.spoke_epoch, suspicion = NULLIF(s.suspicion, ''),
                settled_epoch = CASE WHEN s.suspicion = '' THEN settled_epoch ELSE 0 END
             FROM {of_links} WHERE node_links.node_id = s.node_id"
        ),
        values,
    )
    .await?;
    for (greeting, opening) in openings {
        if let Some(reason) = &opening.node.quarantined {
            write::quarantine(tx, greeting.node, reason).await?;
        }
    }
    let strand = openings.iter().filter(|(_, opening)| opening.strand_leases);
    let strand: Vec<_> = strand.map(|(greeting, _)| greeting.node).collect();
    if !strand.is_empty() {
        sql::run(
            &**tx,
            format!(
                "UPDATE leases SET state = 'stranded' WHERE node_id {} AND state = 'current'",
                sql::in_ids(&**tx, 1)
            ),
            vec![sql::ids(&**tx, strand)],
        )
        .await?;
    }
    let until = tx.now.saturating_add(good_for_ms);
    let mut values = vec![true.into(), collector.into(), tx.now.into(), until.into()];
    values.extend(rows);
    sql::run(
        &**tx,
        format!(
            "UPDATE node_states SET connected = $1, collector = $2, seen_at = $3,
                connected_until = $4, offline_at = NULL, agent_version = s.agent_version
             FROM {of_states} WHERE node_states.node_id = s.node_id"
        ),
        values,
    )
    .await?;
    Ok(())
}
