//! The real way: agents that keep their window full, and somebody who changes a user meanwhile.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tonic::transport::Channel;
use vpnpanel_domain::{Limit, ResetStrategy, SpeedLimit, TenantId, UserId};
use vpnpanel_link::{Attribution, CounterKey, Down, Up};
use vpnpanel_store::{NewUser, Page, Store, User, UserFilter, fresh_id, testing::TestStore};

use crate::{
    BATCH, Figure, Sizes,
    agent::{Disk, Link, counter, row},
    fleet::{Fleet, attribution, unreachable_signer},
    plain::analyze,
};

pub(crate) async fn run(test: TestStore, sizes: Sizes) -> Figure {
    let url = test.url.clone();
    let fleet = Fleet::with(test, &[], unreachable_signer()).await;
    let users = make_users(&fleet.store, fleet.tenant, sizes.users).await;
    analyze(&url).await;
    let who: Arc<[Attribution]> = users.iter().map(attribution).collect();
    let mut nodes = Vec::new();
    for _ in 0..sizes.nodes {
        let node = fleet.node().await;
        // one run of an engine counts for all peers of a node
        let CounterKey { incarnation, .. } = counter();
        let counters: Vec<CounterKey> = (0..users.len())
            .map(|_| CounterKey {
                incarnation,
                ..counter()
            })
            .collect();
        nodes.push((fleet.channel(Some(node.credentials)), Disk::new(), counters));
    }
    let done = Arc::new(AtomicBool::new(false));
    let waits = tokio::spawn(watch(
        fleet.store.clone(),
        fleet.tenant,
        users[0].id,
        done.clone(),
    ));
    let mut rounds = Vec::new();
    for round in 0..sizes.rounds as u64 {
        let started = Instant::now();
        let agents: Vec<_> = nodes
            .into_iter()
            .map(|(channel, disk, counters)| {
                tokio::spawn(report(channel, disk, counters, Arc::clone(&who), round))
            })
            .collect();
        nodes = Vec::new();
        for agent in agents {
            nodes.push(agent.await.unwrap());
        }
        rounds.push(started.elapsed());
    }
    done.store(true, Ordering::Relaxed);
    let mut waits = waits.await.unwrap();
    waits.sort_unstable();
    let totals = fleet.store.ledger_totals(fleet.tenant).await.unwrap();
    let deltas = (sizes.users * sizes.nodes * sizes.rounds) as u64;
    assert!(totals.agree());
    assert_eq!(
        totals.users.up + totals.users.down,
        2 * 1_000 * deltas,
        "billed is counted"
    );
    fleet.stop().await;
    Figure {
        deltas,
        first_round: rounds[0],
        rest: rounds[1..].iter().sum(),
        p99_wait: waits[waits.len().saturating_sub(1) * 99 / 100],
        longest_wait: waits[waits.len() - 1],
    }
}

/// One agent's round: a row for every user, in batches, as many in flight as the window allows.
async fn report(
    channel: Channel,
    mut disk: Disk,
    counters: Vec<CounterKey>,
    who: Arc<[Attribution]>,
    round: u64,
) -> (Channel, Disk, Vec<CounterKey>) {
    let (mut link, welcome) = Link::greet(channel.clone(), &disk).await;
    let before = disk.batches.len();
    let (from, to) = (round * 1_000, (round + 1) * 1_000);
    for start in (0..who.len()).step_by(BATCH) {
        let end = (start + BATCH).min(who.len());
        let rows = (start..end)
            .map(|n| row(who[n], counters[n], from, to))
            .collect();
        disk.write(rows);
    }
    let (mut sent, mut acked) = (before, before);
    while acked < disk.batches.len() {
        while sent < disk.batches.len() && sent - acked < welcome.pace.window as usize {
            link.send(Up::Batch(disk.batches[sent].clone())).await;
            sent += 1;
        }
        if let Down::UsageAck(ack) = link.next().await.expect("a stream") {
            assert_eq!((ack.resend_from, &ack.quarantined), (None, &None));
            for committed in ack.committed {
                acked = acked.max(committed.seq.get() as usize);
            }
        }
    }
    (channel, disk, counters)
}

/// How long somebody else's small write takes, again and again.
async fn watch(
    store: Store,
    tenant: TenantId,
    user: UserId,
    done: Arc<AtomicBool>,
) -> Vec<Duration> {
    let mut waits = Vec::new();
    while !done.load(Ordering::Relaxed) || waits.is_empty() {
        let started = Instant::now();
        store
            .set_user_disabled(tenant, user, waits.len() % 2 == 0)
            .await
            .unwrap();
        waits.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    waits
}

/// Users without devices: the bench is about their usage.
pub(crate) async fn make_users(store: &Store, tenant: TenantId, count: usize) -> Vec<User> {
    for start in (0..count).step_by(1_000) {
        let new = (start..count.min(start + 1_000)).map(|_| {
            let id: UserId = fresh_id();
            NewUser {
                id,
                username: format!("user-{id}"),
                note: String::new(),
                group_ids: BTreeSet::new(),
                limit: Limit::None,
                speed: SpeedLimit::NONE,
                reset_strategy: ResetStrategy::None,
                expires_at_ms: None,
                on_hold_ms: None,
                plan_id: None,
                plan_version: None,
                next_plan: None,
                device_limit: 0,
                disabled: false,
                devices: Vec::new(),
                subscription: None,
            }
        });
        store.create_users(tenant, new.collect()).await.unwrap();
    }
    let mut users: Vec<User> = Vec::new();
    loop {
        let page = Page {
            size: 1_000,
            after: users.last().map(|user| user.id),
        };
        let more = store
            .users(tenant, &UserFilter::default(), page)
            .await
            .unwrap();
        if more.is_empty() {
            return users;
        }
        users.extend(more);
    }
}
