//! Which nodes open which inbounds. The selectors of inbounds and the labels of nodes say it; the
//! rows here are what follows from them, each with the key pair of that inbound on that node.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use vpnpanel_domain::{InboundId, NodeId, TenantId};

use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::inbounds::{self, Inbound};
use crate::nodes::{self, Node};
use crate::transaction::Write;
use crate::{removals, sql};

/// Makes the key pair of an inbound on a node. Called inside of a transaction: it computes, and
/// waits for nothing.
pub trait MakeNodeKey: Send + Sync {
    /// A fresh pair.
    ///
    /// # Errors
    /// Whatever keeps the caller from making or sealing one.
    fn make_node_key(
        &self,
        inbound: InboundId,
        node: NodeId,
    ) -> Result<NodeKey, Box<dyn std::error::Error + Send + Sync>>;
}

/// A key pair of an inbound on a node.
#[derive(Clone, PartialEq, Eq)]
pub struct NodeKey {
    /// The public key.
    pub public_key: Vec<u8>,
    /// The private key, sealed.
    pub sealed_private_key: Vec<u8>,
}

/// An inbound that a node opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// The inbound.
    pub inbound_id: InboundId,
    /// The node.
    pub node_id: NodeId,
    /// Its keys there.
    pub key: NodeKey,
}

impl Store {
    /// The nodes that open an inbound, by node id.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn bindings_of_inbound(&self, inbound: InboundId) -> Result<Vec<Binding>> {
        let rows = sql::all(
            self.read(),
            "SELECT inbound_id, node_id, public_key, sealed_private_key FROM inbound_nodes
             WHERE inbound_id = $1 ORDER BY node_id",
            vec![inbound.uuid().into()],
        )
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Binding {
                    inbound_id: InboundId::new(sql::get(row, 0)?),
                    node_id: NodeId::new(sql::get(row, 1)?),
                    key: NodeKey {
                        public_key: sql::get(row, 2)?,
                        sealed_private_key: sql::get(row, 3)?,
                    },
                })
            })
            .collect()
    }
}

/// Brings the bindings of an owner's inbounds and nodes in line with selectors and labels. The
/// owner's row is locked, so that of an inbound and a node made at once one sees the other.
pub(crate) async fn rebind_owner(
    tx: &mut Write,
    tenant: Option<TenantId>,
    keys: &dyn MakeNodeKey,
) -> Result<()> {
    lock_owner(tx, tenant).await?;
    let nodes = nodes::of_owner(tx, tenant).await?;
    let inbounds = inbounds::of_owner(tx, tenant).await?;
    let wanted: BTreeSet<(InboundId, NodeId)> = inbounds
        .iter()
        .flat_map(|inbound| {
            nodes
                .iter()
                .filter(|node| inbound.nodes.selects(node))
                .map(|node| (inbound.id, node.id))
        })
        .collect();
    check_pools(&inbounds, &nodes, &wanted)?;
    let present = present(tx, &inbounds).await?;
    for &(inbound, node) in present.difference(&wanted) {
        sql::run(
            &**tx,
            "DELETE FROM inbound_nodes WHERE inbound_id = $1 AND node_id = $2",
            vec![inbound.uuid().into(), node.uuid().into()],
        )
        .await?;
        removals::confirm_implied(tx, node).await?;
        tx.changed(Entry::new(ChangeKind::Binding, tenant, inbound).on_node(node));
    }
    let ports: BTreeMap<InboundId, u16> = inbounds
        .iter()
        .map(|inbound| (inbound.id, inbound.wireguard.port))
        .collect();
    for &(inbound, node) in wanted.difference(&present) {
        let key = keys.make_node_key(inbound, node).map_err(StoreError::key)?;
        let port = ports.get(&inbound).copied().unwrap_or_default();
        insert(tx, inbound, node, port, key).await?;
        tx.changed(Entry::new(ChangeKind::Binding, tenant, inbound).on_node(node));
    }
    Ok(())
}

/// Moves an inbound to another port on all of its nodes.
pub(crate) async fn set_port(tx: &Write, inbound: InboundId, port: u16) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE inbound_nodes SET port = $2 WHERE inbound_id = $1",
        vec![inbound.uuid().into(), i32::from(port).into()],
    )
    .await
    .map_err(port_in_use(port))?;
    Ok(())
}

/// Locks the tenant's row or, for the platform, the installation's.
pub(crate) async fn lock_owner(tx: &Write, tenant: Option<TenantId>) -> Result<()> {
    match tenant {
        Some(tenant) => sql::one(
            &**tx,
            "SELECT id FROM tenants WHERE id = $1 AND deleted_at IS NULL {for_update}",
            vec![tenant.uuid().into()],
        )
        .await?
        .map(drop)
        .ok_or(StoreError::NotFound("tenant")),
        None => {
            sql::one(&**tx, "SELECT id FROM installation {for_update}", vec![]).await?;
            Ok(())
        }
    }
}

async fn present(tx: &Write, inbounds: &[Inbound]) -> Result<BTreeSet<(InboundId, NodeId)>> {
    let ids = sql::ids(&**tx, inbounds.iter().map(|inbound| inbound.id));
    let text = format!(
        "SELECT inbound_id, node_id FROM inbound_nodes WHERE inbound_id {}",
        sql::in_ids(&**tx, 1)
    );
    sql::all(&**tx, text, vec![ids])
        .await?
        .iter()
        .map(|row| {
            Ok((
                InboundId::new(sql::get(row, 0)?),
                NodeId::new(sql::get(row, 1)?),
            ))
        })
        .collect()
}

async fn insert(
    tx: &Write,
    inbound: InboundId,
    node: NodeId,
    port: u16,
    key: NodeKey,
) -> Result<()> {
    sql::run(
        &**tx,
        "INSERT INTO inbound_nodes
            (inbound_id, node_id, port, public_key, sealed_private_key, created_at)
         VALUES ($1, $2, $3, $4, $5, $6)",
        vec![
            inbound.uuid().into(),
            node.uuid().into(),
            i32::from(port).into(),
            key.public_key.into(),
            key.sealed_private_key.into(),
            tx.now.into(),
        ],
    )
    .await
    .map_err(port_in_use(port))?;
    Ok(())
}

fn port_in_use(port: u16) -> impl Fn(sea_orm::DbErr) -> StoreError {
    move |error| match StoreError::unique("port")(error) {
        StoreError::AlreadyExists { .. } => StoreError::PortInUse { port },
        other => other,
    }
}

/// Two inbounds of one node may not share addresses: a source address has to name one peer.
fn check_pools(
    inbounds: &[Inbound],
    nodes: &[Node],
    wanted: &BTreeSet<(InboundId, NodeId)>,
) -> Result<()> {
    for node in nodes {
        let here: Vec<&Inbound> = inbounds
            .iter()
            .filter(|inbound| wanted.contains(&(inbound.id, node.id)))
            .collect();
        for (index, one) in here.iter().enumerate() {
            for other in here.iter().skip(index + 1) {
                if one.wireguard.overlaps(&other.wireguard) {
                    return Err(StoreError::InvalidArgument {
                        what: "wireguard.ipv4_pool",
                        reason: format!(
                            "overlaps that of inbound {:?} on node {:?}",
                            one.name, node.name
                        ),
                    });
                }
            }
        }
    }
    Ok(())
}

/// Without the sealed key.
impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey")
            .field("public_key", &hex::encode(&self.public_key))
            .finish_non_exhaustive()
    }
}
