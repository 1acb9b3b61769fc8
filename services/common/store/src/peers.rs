//! Peers: each device of a user on each inbound of the user's groups. They are derived; this
//! brings them in line for one user or for all members of a group, set by set. Those of WireGuard
//! have an address, those of Xray none. The id of a peer is the key of its counters and is never
//! used again.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use sea_orm::Value;
use uuid::Uuid;
use vpnpanel_domain::{DeviceId, GroupId, InboundId, PeerId, TenantId, UserId};

use crate::changes::{ChangeKind, Entry};
use crate::error::Result;
use crate::inbound_settings::WIREGUARD;
use crate::row_set::{Cell, Column, RowSet};
use crate::transaction::Write;
use crate::{addresses, fresh_id, sql};

/// Peers inserted by one statement.
const CHUNK: usize = 2_000;

/// Whose peers.
#[derive(Debug, Clone)]
pub(crate) enum Scope {
    /// Of these users.
    Users(Vec<UserId>),
    /// Of every member of a group.
    Group(GroupId),
}

struct Missing {
    user: UserId,
    device: DeviceId,
}

/// An inbound that lacks peers. In the order of inbounds, so that two transactions never wait for
/// each other's pools.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    inbound: InboundId,
    has_addresses: bool,
}

/// Adds the peers that are missing and removes those that nothing grants any more.
pub(crate) async fn sync(tx: &mut Write, tenant: TenantId, scope: Scope) -> Result<()> {
    let (condition, parameter) = scope.condition(tx);
    let resource = scope.resource();
    let gone = remove_ungranted(tx, tenant, &condition, parameter.clone()).await?;
    let added = add_missing(tx, tenant, &condition, parameter).await?;
    for inbound in gone.union(&added) {
        let entry = Entry::new(ChangeKind::Peers, Some(tenant), resource).on_inbound(*inbound);
        tx.changed(match scope.user(gone.contains(inbound)) {
            Some(user) => entry.of_user(user),
            None => entry,
        });
    }
    Ok(())
}

/// Removes every peer of a user.
pub(crate) async fn remove_all(tx: &mut Write, tenant: TenantId, user: UserId) -> Result<()> {
    let rows = sql::all(
        &**tx,
        "DELETE FROM peers WHERE tenant_id = $1 AND user_id = $2 RETURNING inbound_id, ipv4",
        vec![tenant.uuid().into(), user.uuid().into()],
    )
    .await?;
    for inbound in released(tx, &rows).await? {
        let entry = Entry::new(ChangeKind::Peers, Some(tenant), user).on_inbound(inbound);
        tx.changed(entry.of_user(user));
    }
    Ok(())
}

/// Removes every peer of a device of a user.
pub(crate) async fn remove_of_device(
    tx: &mut Write,
    tenant: TenantId,
    user: UserId,
    device: DeviceId,
) -> Result<()> {
    let rows = sql::all(
        &**tx,
        "DELETE FROM peers WHERE tenant_id = $1 AND user_id = $2 AND device_id = $3
         RETURNING inbound_id, ipv4",
        vec![
            tenant.uuid().into(),
            user.uuid().into(),
            device.uuid().into(),
        ],
    )
    .await?;
    for inbound in released(tx, &rows).await? {
        let entry = Entry::new(ChangeKind::Peers, Some(tenant), user).on_inbound(inbound);
        tx.changed(entry.of_user(user));
    }
    Ok(())
}

async fn remove_ungranted(
    tx: &Write,
    tenant: TenantId,
    condition: &str,
    parameter: Value,
) -> Result<BTreeSet<InboundId>> {
    let text = format!(
        "DELETE FROM peers WHERE tenant_id = $1 AND user_id {condition}
           AND NOT EXISTS (
             SELECT 1 FROM user_groups ug
             JOIN group_inbounds gi ON gi.tenant_id = ug.tenant_id AND gi.group_id = ug.group_id
             WHERE ug.tenant_id = peers.tenant_id AND ug.user_id = peers.user_id
               AND gi.inbound_id = peers.inbound_id)
         RETURNING inbound_id, ipv4"
    );
    let rows = sql::all(&**tx, text, vec![tenant.uuid().into(), parameter]).await?;
    released(tx, &rows).await
}

async fn released(tx: &Write, rows: &[sea_orm::QueryResult]) -> Result<BTreeSet<InboundId>> {
    let mut inbounds = BTreeSet::new();
    let mut went = Vec::new();
    for row in rows {
        let inbound = InboundId::new(sql::get(row, 0)?);
        inbounds.insert(inbound);
        if let Some(address) = sql::get::<Option<i64>>(row, 1)? {
            went.push((inbound, address));
        }
    }
    addresses::release(tx, &went).await?;
    Ok(inbounds)
}

async fn add_missing(
    tx: &Write,
    tenant: TenantId,
    condition: &str,
    parameter: Value,
) -> Result<BTreeSet<InboundId>> {
    let text = format!(
        "SELECT DISTINCT gi.inbound_id, d.user_id, d.id, i.kind
         FROM user_groups ug
         JOIN group_inbounds gi ON gi.tenant_id = ug.tenant_id AND gi.group_id = ug.group_id
         JOIN inbounds i ON i.id = gi.inbound_id
           AND (i.tenant_id = ug.tenant_id OR i.tenant_id IS NULL)
         JOIN users u ON u.tenant_id = ug.tenant_id AND u.id = ug.user_id
         JOIN devices d ON d.tenant_id = ug.tenant_id AND d.user_id = ug.user_id
         LEFT JOIN peers p ON p.device_id = d.id AND p.inbound_id = gi.inbound_id
         WHERE ug.tenant_id = $1 AND ug.user_id {condition}
           AND u.deleted_at IS NULL AND p.id IS NULL
         ORDER BY 1, 2, 3"
    );
    let rows = sql::all(&**tx, text, vec![tenant.uuid().into(), parameter]).await?;
    let mut by_inbound: BTreeMap<Place, Vec<Missing>> = BTreeMap::new();
    for row in &rows {
        let place = Place {
            inbound: InboundId::new(sql::get(row, 0)?),
            has_addresses: sql::get::<String>(row, 3)? == WIREGUARD,
        };
        by_inbound.entry(place).or_default().push(Missing {
            user: UserId::new(sql::get(row, 1)?),
            device: DeviceId::new(sql::get(row, 2)?),
        });
    }
    let inbounds = by_inbound.keys().map(|place| place.inbound).collect();
    for (place, missing) in by_inbound {
        if place.has_addresses {
            let free = addresses::allocate(tx, place.inbound, missing.len()).await?;
            let addressed: Vec<_> = missing.iter().zip(free).collect();
            for chunk in addressed.chunks(CHUNK) {
                insert_addressed(tx, tenant, place.inbound, chunk).await?;
            }
        } else {
            for chunk in missing.chunks(CHUNK) {
                insert(tx, tenant, place.inbound, chunk).await?;
            }
        }
    }
    Ok(inbounds)
}

/// Peers of a WireGuard inbound.
async fn insert_addressed(
    tx: &Write,
    tenant: TenantId,
    inbound: InboundId,
    missing: &[(&Missing, Ipv4Addr)],
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("user_id", Column::Id),
            ("device_id", Column::Id),
            ("ipv4", Column::Big),
        ],
    );
    for (missing, address) in missing {
        rows.push([
            Cell::Id(fresh_id::<PeerId>().uuid()),
            Cell::Id(missing.user.uuid()),
            Cell::Id(missing.device.uuid()),
            Cell::Big(i64::from(u32::from(*address))),
        ]);
    }
    insert_rows(tx, tenant, inbound, rows, "ipv4").await
}

/// Peers of an Xray inbound.
async fn insert(
    tx: &Write,
    tenant: TenantId,
    inbound: InboundId,
    missing: &[Missing],
) -> Result<()> {
    let mut rows = RowSet::new(
        &**tx,
        &[
            ("id", Column::Id),
            ("user_id", Column::Id),
            ("device_id", Column::Id),
        ],
    );
    for missing in missing {
        rows.push([
            Cell::Id(fresh_id::<PeerId>().uuid()),
            Cell::Id(missing.user.uuid()),
            Cell::Id(missing.device.uuid()),
        ]);
    }
    insert_rows(tx, tenant, inbound, rows, "NULL").await
}

async fn insert_rows(
    tx: &Write,
    tenant: TenantId,
    inbound: InboundId,
    rows: RowSet,
    address: &str,
) -> Result<()> {
    let text = format!(
        "INSERT INTO peers (id, tenant_id, user_id, device_id, inbound_id, ipv4, created_at)
         SELECT id, $1, user_id, device_id, $2, {address}, $3 FROM {} WHERE TRUE",
        rows.source(4)
    );
    let mut values = vec![tenant.uuid().into(), inbound.uuid().into(), tx.now.into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

impl Scope {
    /// A condition on `user_id` whose parameter is `$2`.
    fn condition(&self, tx: &Write) -> (String, Value) {
        match self {
            Self::Users(users) => (
                sql::in_ids(&**tx, 2),
                sql::ids(&**tx, users.iter().copied()),
            ),
            Self::Group(group) => (
                "IN (SELECT user_id FROM user_groups WHERE tenant_id = $1 AND group_id = $2)"
                    .to_owned(),
                group.uuid().into(),
            ),
        }
    }

    /// The one user whose peers alone came or went. Of several it is any, where none of their peers
    /// went: whoever changes several says of each that it has changed.
    fn user(&self, gone: bool) -> Option<UserId> {
        match self {
            Self::Users(users) if users.len() == 1 || !gone => users.first().copied(),
            _ => None,
        }
    }

    /// What the change log names.
    fn resource(&self) -> Uuid {
        match self {
            Self::Users(users) => users.first().map_or(Uuid::nil(), |user| user.uuid()),
            Self::Group(group) => group.uuid(),
        }
    }
}
