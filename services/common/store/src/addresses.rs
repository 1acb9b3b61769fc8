//! Addresses of peers. An inbound hands them out in rising order and starts over at the end of its
//! pool; the address of a peer that went rests for a while first, because packets and bindings
//! of its last user may still be about. IPv6 addresses carry the IPv4 address in their low 32 bits,
//! so that one number is all there is to allocate.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use vpnpanel_domain::{InboundId, TenantId};

use crate::error::{Result, StoreError};
use crate::inbound_settings::{WireGuard, overlap_v4};
use crate::row_set::{Cell, Column, RowSet};
use crate::sql;
use crate::transaction::Write;

/// How long an address rests after its peer went: an hour.
pub(crate) const REST_MS: i64 = 3_600_000;

/// Addresses looked at in one query.
const WINDOW: i64 = 4_096;

/// First address that devices get, and the one after the last: the network, the node's own and
/// the broadcast address are left out.
fn bounds(pool: Ipv4Net) -> (i64, i64) {
    let first = i64::from(u32::from(pool.network())) + 2;
    let last = i64::from(u32::from(pool.broadcast()));
    (first, last)
}

/// Starts handing out a new inbound's addresses.
pub(crate) async fn open_pool(tx: &Write, inbound: InboundId, pool: Ipv4Net) -> Result<()> {
    sql::run(
        &**tx,
        "INSERT INTO address_pools (inbound_id, next_ipv4) VALUES ($1, $2)",
        vec![inbound.uuid().into(), bounds(pool).0.into()],
    )
    .await?;
    Ok(())
}

/// Takes `count` free addresses of an inbound. Locks the inbound's pool until the commit.
pub(crate) async fn allocate(
    tx: &Write,
    inbound: InboundId,
    count: usize,
) -> Result<Vec<Ipv4Addr>> {
    let row = sql::one(
        &**tx,
        "SELECT next_ipv4 FROM address_pools WHERE inbound_id = $1 {for_update}",
        vec![inbound.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("inbound"))?;
    let settings = sql::one(
        &**tx,
        "SELECT settings FROM inbounds WHERE id = $1",
        vec![inbound.uuid().into()],
    )
    .await?
    .ok_or(StoreError::NotFound("inbound"))?;
    let wireguard: WireGuard = serde_json::from_value(sql::get(&settings, 0)?)
        .map_err(|error| StoreError::corrupt("inbounds.settings", error))?;
    let (first, end) = bounds(wireguard.ipv4_pool);
    let start = sql::get::<i64>(&row, 0)?.clamp(first, end);

    let mut found: Vec<i64> = Vec::with_capacity(count);
    // From where the last one was taken to the end, then from the beginning up to there.
    for (from, to) in [(start, end), (first, start)] {
        let mut low = from;
        while low < to && found.len() < count {
            let high = to.min(low + WINDOW.max(i64::try_from(count).unwrap_or(WINDOW)));
            let taken = taken(tx, inbound, low, high).await?;
            found.extend(
                (low..high)
                    .filter(|address| !taken.contains(address))
                    .take(count - found.len()),
            );
            low = high;
        }
    }
    let exhausted = || StoreError::PoolExhausted {
        inbound: inbound.to_string(),
    };
    if found.len() < count {
        return Err(exhausted());
    }
    let next = found.last().map_or(start, |last| last + 1);
    sql::run(
        &**tx,
        "UPDATE address_pools SET next_ipv4 = $2 WHERE inbound_id = $1",
        vec![inbound.uuid().into(), next.into()],
    )
    .await?;
    found
        .into_iter()
        .map(|address| {
            u32::try_from(address)
                .map(Ipv4Addr::from)
                .map_err(|_| exhausted())
        })
        .collect()
}

/// Lets the addresses of peers that went rest.
pub(crate) async fn release(tx: &Write, went: &[(InboundId, i64)]) -> Result<()> {
    let mut rows = RowSet::new(&**tx, &[("inbound_id", Column::Id), ("ipv4", Column::Big)]);
    for (inbound, address) in went {
        rows.push([Cell::Id(inbound.uuid()), Cell::Big(*address)]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    let text = format!(
        "INSERT INTO released_addresses (inbound_id, ipv4, free_at)
         SELECT inbound_id, ipv4, $1 FROM {} WHERE TRUE
         ON CONFLICT (inbound_id, ipv4) DO UPDATE SET free_at = excluded.free_at",
        rows.source(2)
    );
    let mut values = vec![(tx.now + REST_MS).into()];
    values.extend(rows.into_values());
    sql::run(&**tx, text, values).await?;
    Ok(())
}

/// A private /16 that no inbound's pool touches, of those that an owner's devices can meet: a
/// tenant's are on its own inbounds and the platform's, the platform's on anybody's.
pub(crate) async fn free_pool(tx: &Write, tenant: Option<TenantId>) -> Result<Ipv4Net> {
    let mut used = Vec::new();
    let (text, values) = match tenant {
        Some(tenant) => (
            "SELECT settings FROM inbounds
             WHERE kind = 'wireguard' AND (tenant_id = $1 OR tenant_id IS NULL)",
            vec![tenant.uuid().into()],
        ),
        None => (
            "SELECT settings FROM inbounds WHERE kind = 'wireguard'",
            vec![],
        ),
    };
    for row in sql::all(&**tx, text, values).await? {
        let wireguard: WireGuard = serde_json::from_value(sql::get(&row, 0)?)
            .map_err(|error| StoreError::corrupt("inbounds.settings", error))?;
        used.push(wireguard.ipv4_pool);
    }
    // 10.8/16 on: below it are the networks that hosts and clouds like best.
    (8..=255_u8)
        .filter_map(|second| Ipv4Net::new(Ipv4Addr::new(10, second, 0, 0), 16).ok())
        .find(|pool| !used.iter().any(|other| overlap_v4(*pool, *other)))
        .ok_or(StoreError::InvalidArgument {
            what: "wireguard.ipv4_pool",
            reason: "has to be given: no private /16 is left".to_owned(),
        })
}

/// Refuses pools without room.
pub(crate) fn check_pools(wireguard: &WireGuard) -> Result<()> {
    let pool = wireguard.ipv4_pool;
    if !(8..=30).contains(&pool.prefix_len()) || pool.trunc() != pool {
        return Err(StoreError::InvalidArgument {
            what: "wireguard.ipv4_pool",
            reason: "has to be a network from /8 to /30 without host bits".to_owned(),
        });
    }
    match wireguard.ipv6_pool {
        Some(pool) if pool.prefix_len() > 96 || pool.trunc() != pool => {
            Err(StoreError::InvalidArgument {
                what: "wireguard.ipv6_pool",
                reason: "has to be a network of at most /96 without host bits".to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Refuses a change of pools that moves an address in use.
pub(crate) async fn check_pool_change(
    tx: &Write,
    inbound: InboundId,
    before: &WireGuard,
    after: &WireGuard,
) -> Result<()> {
    if before.ipv4_pool == after.ipv4_pool && before.ipv6_pool == after.ipv6_pool {
        return Ok(());
    }
    // Excludes allocation until the commit.
    sql::one(
        &**tx,
        "SELECT next_ipv4 FROM address_pools WHERE inbound_id = $1 {for_update}",
        vec![inbound.uuid().into()],
    )
    .await?;
    let (first, end) = bounds(after.ipv4_pool);
    let row = sql::one(
        &**tx,
        "SELECT COUNT(*), COALESCE(SUM(CASE WHEN ipv4 < $2 OR ipv4 >= $3 THEN 1 ELSE 0 END), 0)
         FROM peers WHERE inbound_id = $1",
        vec![inbound.uuid().into(), first.into(), end.into()],
    )
    .await?
    .ok_or_else(|| StoreError::corrupt("peers", "no count"))?;
    let (peers, outside): (i64, i64) = (sql::get(&row, 0)?, sql::get(&row, 1)?);
    let moved_ipv6 = before.ipv6_pool.is_some() && before.ipv6_pool != after.ipv6_pool;
    if outside > 0 || (peers > 0 && moved_ipv6) {
        return Err(StoreError::PoolInUse);
    }
    Ok(())
}

/// Addresses from `low` up to `high` that peers have or had until lately.
async fn taken(tx: &Write, inbound: InboundId, low: i64, high: i64) -> Result<BTreeSet<i64>> {
    let rows = sql::all(
        &**tx,
        "SELECT ipv4 FROM peers WHERE inbound_id = $1 AND ipv4 >= $2 AND ipv4 < $3
         UNION ALL
         SELECT ipv4 FROM released_addresses
         WHERE inbound_id = $1 AND ipv4 >= $2 AND ipv4 < $3 AND free_at > $4",
        vec![
            inbound.uuid().into(),
            low.into(),
            high.into(),
            tx.now.into(),
        ],
    )
    .await?;
    Ok(rows
        .iter()
        .map(|row| sql::get(row, 0))
        .collect::<Result<_, _>>()?)
}
