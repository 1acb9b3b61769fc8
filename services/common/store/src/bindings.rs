//! Which nodes open which inbounds. The selectors of inbounds and the labels of nodes say it; the
//! rows here are what follows from them, each with the ports it takes there and, for WireGuard,
//! the key pair of that inbound on that node.

use std::collections::BTreeMap;
use std::fmt;

use vpnpanel_domain::{InboundId, NodeId, TenantId};

use crate::changes::{ChangeKind, Entry};
use crate::connect::Store;
use crate::error::{Result, StoreError};
use crate::inbound_settings::Ports;
use crate::inbounds::{self, Inbound};
use crate::nodes::{self, Node};
use crate::transaction::Write;
use crate::{ports, removals, sql};

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
    /// Its keys there; Xray has none of its own on a node.
    pub key: Option<NodeKey>,
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
                    key: node_key(sql::get(row, 2)?, sql::get(row, 3)?),
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
    let by_id: BTreeMap<InboundId, &Inbound> = inbounds.iter().map(|it| (it.id, it)).collect();
    for node in &nodes {
        let here: Vec<&Inbound> = inbounds
            .iter()
            .filter(|inbound| inbound.nodes.selects(node))
            .collect();
        check_pools(node, &here)?;
        ports::check(node, &here)?;
    }
    let wanted: BTreeMap<(InboundId, NodeId), Ports> = inbounds
        .iter()
        .flat_map(|inbound| {
            nodes
                .iter()
                .filter(|node| inbound.nodes.selects(node))
                .map(|node| ((inbound.id, node.id), inbound.settings.ports()))
        })
        .collect();
    let present = present(tx, &inbounds).await?;
    for &(inbound, node) in present.keys().filter(|it| !wanted.contains_key(*it)) {
        sql::run(
            &**tx,
            "DELETE FROM inbound_nodes WHERE inbound_id = $1 AND node_id = $2",
            vec![inbound.uuid().into(), node.uuid().into()],
        )
        .await?;
        removals::confirm_implied(tx, node).await?;
        tx.changed(Entry::new(ChangeKind::Binding, tenant, inbound).on_node(node));
    }
    for (&(inbound, node), &ports) in &wanted {
        match present.get(&(inbound, node)) {
            Some(taken) if *taken == ports => {}
            Some(_) => set_ports(tx, inbound, node, ports).await?,
            None => {
                let wireguard = by_id.get(&inbound).and_then(|it| it.settings.wireguard());
                let key = match wireguard {
                    Some(_) => Some(keys.make_node_key(inbound, node).map_err(StoreError::key)?),
                    None => None,
                };
                insert(tx, inbound, node, ports, key).await?;
                tx.changed(Entry::new(ChangeKind::Binding, tenant, inbound).on_node(node));
            }
        }
    }
    Ok(())
}

/// Refuses a control address whose port an inbound of the node has.
pub(crate) async fn check_control_port(tx: &Write, node: &Node) -> Result<()> {
    lock_owner(tx, node.tenant_id).await?;
    let inbounds = inbounds::of_owner(tx, node.tenant_id).await?;
    let here: Vec<&Inbound> = inbounds
        .iter()
        .filter(|inbound| inbound.nodes.selects(node))
        .collect();
    ports::check_agent(node, &here)
}

/// Moves an inbound to other ports on a node.
async fn set_ports(tx: &Write, inbound: InboundId, node: NodeId, ports: Ports) -> Result<()> {
    sql::run(
        &**tx,
        "UPDATE inbound_nodes SET tcp_port = $3, udp_port = $4
         WHERE inbound_id = $1 AND node_id = $2",
        vec![
            inbound.uuid().into(),
            node.uuid().into(),
            ports.tcp.map(i32::from).into(),
            ports.udp.map(i32::from).into(),
        ],
    )
    .await?;
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

/// The bindings that there are, with the ports they take.
async fn present(tx: &Write, inbounds: &[Inbound]) -> Result<BTreeMap<(InboundId, NodeId), Ports>> {
    let ids = sql::ids(&**tx, inbounds.iter().map(|inbound| inbound.id));
    let text = format!(
        "SELECT inbound_id, node_id, tcp_port, udp_port FROM inbound_nodes WHERE inbound_id {}",
        sql::in_ids(&**tx, 1)
    );
    sql::all(&**tx, text, vec![ids])
        .await?
        .iter()
        .map(|row| {
            let port = |index| -> Result<Option<u16>> {
                let port: Option<i32> = sql::get(row, index)?;
                port.map(u16::try_from)
                    .transpose()
                    .map_err(|error| StoreError::corrupt("inbound_nodes", error))
            };
            let place = (
                InboundId::new(sql::get(row, 0)?),
                NodeId::new(sql::get(row, 1)?),
            );
            let ports = Ports {
                tcp: port(2)?,
                udp: port(3)?,
            };
            Ok((place, ports))
        })
        .collect()
}

async fn insert(
    tx: &Write,
    inbound: InboundId,
    node: NodeId,
    ports: Ports,
    key: Option<NodeKey>,
) -> Result<()> {
    let (public_key, sealed_private_key) = key
        .map(|key| (key.public_key, key.sealed_private_key))
        .unzip();
    sql::run(
        &**tx,
        "INSERT INTO inbound_nodes
            (inbound_id, node_id, tcp_port, udp_port, public_key, sealed_private_key, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        vec![
            inbound.uuid().into(),
            node.uuid().into(),
            ports.tcp.map(i32::from).into(),
            ports.udp.map(i32::from).into(),
            public_key.into(),
            sealed_private_key.into(),
            tx.now.into(),
        ],
    )
    .await?;
    Ok(())
}

/// A key pair out of its columns: both are set or neither.
pub(crate) fn node_key(public: Option<Vec<u8>>, sealed: Option<Vec<u8>>) -> Option<NodeKey> {
    let (public_key, sealed_private_key) = public.zip(sealed)?;
    Some(NodeKey {
        public_key,
        sealed_private_key,
    })
}

/// Two inbounds of one node may not share addresses: a source address has to name one peer.
fn check_pools(node: &Node, here: &[&Inbound]) -> Result<()> {
    let pools: Vec<_> = here
        .iter()
        .filter_map(|inbound| Some((inbound, inbound.settings.wireguard()?)))
        .collect();
    for (index, (one, pool)) in pools.iter().enumerate() {
        for (_, other) in pools.iter().skip(index + 1) {
            if pool.overlaps(other) {
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
