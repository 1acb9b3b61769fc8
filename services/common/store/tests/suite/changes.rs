//! No change is skipped: the log is read in an order in which what commits late still lies ahead,
//! and every change finds the nodes it concerns, also when it takes something away.

use std::time::Duration;

use sqlx::{Connection, Executor, PgConnection};
use vpnpanel_domain::{Limit, NodeId, UserId};
use vpnpanel_link::{Generation, Revision};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    Change, ChangeKind, ChangesWanted, CommandKind, ConnectionAccess, DesiredChanges, GroupPatch,
    InboundPatch, LogPosition, NewNodeCommand, NodePatch, NodeSelector, NodeUser, Removals, Store,
    StoreError, fresh_id, on_each_database,
};

use crate::fixture::{Agent, Keys, World, new_node};

on_each_database!(
    every_change_is_read_once_and_in_order,
    changes_find_their_nodes_also_when_they_take_away,
    a_desired_state_holds_every_change_up_to_its_revision,
    changes_of_users_are_told_by_themselves_and_all_else_whole,
    a_command_changes_nothing_of_what_a_node_should_do,
    the_doorbell_rings_in_other_processes,
);

/// Reads the log until a change is found. On Postgres a change is readable once all older
/// transactions of the server have ended, and other tests have some.
pub(crate) async fn read_until(
    store: &Store,
    from: LogPosition,
    found: impl Fn(&Change) -> bool,
) -> Vec<Change> {
    let mut position = from;
    let mut changes = Vec::new();
    for _ in 0..3_000 {
        let read = store.changes_since(position, 100).await.unwrap();
        assert!(read.position >= position);
        position = read.position;
        changes.extend(read.changes);
        if changes.iter().any(&found) {
            return changes;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the change did not come: {changes:?}");
}

async fn every_change_is_read_once_and_in_order(test: TestStore) {
    let world = World::new(test).await;
    let mut ids = Vec::new();
    for number in 0..25 {
        ids.push(world.user(&format!("user{number}"), Limit::None).await.id);
    }
    let last = *ids.last().unwrap();
    let changes = read_until(&world.store, LogPosition::default(), |it| {
        it.user_id == Some(last)
    })
    .await;
    let users: Vec<_> = changes
        .iter()
        .filter(|it| it.kind == ChangeKind::User)
        .filter_map(|it| it.user_id)
        .collect();
    assert_eq!(users, ids);
    assert!(
        changes
            .windows(2)
            .all(|two| two[0].position < two[1].position)
    );
}

async fn changes_find_their_nodes_also_when_they_take_away(test: TestStore) {
    let world = World::new(test).await;
    let other = new_node(&world.store, None, "unconcerned").await;
    let only_first = InboundPatch {
        nodes: Some(NodeSelector {
            node_ids: [world.node].into(),
            ..NodeSelector::default()
        }),
        ..InboundPatch::default()
    };
    world
        .store
        .update_inbound(None, world.inbound, only_first, None, &Keys)
        .await
        .unwrap();
    let user = world.user("ada", Limit::None).await;

    let before = world.store.log_tail().await.unwrap();
    let leave = GroupPatch {
        inbound_ids: Some([].into()),
        ..GroupPatch::default()
    };
    world
        .store
        .update_group(world.tenant, world.group, leave, None)
        .await
        .unwrap();
    let changes = read_until(&world.store, before, |it| it.kind == ChangeKind::Group).await;
    let nodes = world.store.nodes_concerned(&changes).await.unwrap();
    assert!(nodes.contains(&world.node), "{changes:?}");

    let before = world.store.log_tail().await.unwrap();
    let back = GroupPatch {
        inbound_ids: Some([world.inbound].into()),
        ..GroupPatch::default()
    };
    world
        .store
        .update_group(world.tenant, world.group, back, None)
        .await
        .unwrap();
    world
        .store
        .delete_user(world.tenant, user.id, None)
        .await
        .unwrap();
    let changes = read_until(&world.store, before, |it| {
        it.kind == ChangeKind::Peers && it.resource_id == user.id.uuid()
    })
    .await;
    let nodes = world.store.nodes_concerned(&changes).await.unwrap();
    assert!(nodes.contains(&world.node) && !nodes.contains(&other));

    let before = world.store.log_tail().await.unwrap();
    world
        .store
        .delete_inbound(None, world.inbound, None)
        .await
        .unwrap();
    let changes = read_until(&world.store, before, |it| it.kind == ChangeKind::Inbound).await;
    let nodes = world.store.nodes_concerned(&changes).await.unwrap();
    assert_eq!(nodes, [world.node].into());
}

async fn a_desired_state_holds_every_change_up_to_its_revision(test: TestStore) {
    let world = World::new(test).await;
    let user = world.user("ada", Limit::Bytes(500)).await;
    let changes = read_until(&world.store, LogPosition::default(), |it| {
        it.user_id == Some(user.id)
    })
    .await;
    let state = world.store.desired_state(world.node).await.unwrap();
    assert!(state.position.revision() >= changes.last().unwrap().position.revision());
    assert_eq!(state.inbounds.len(), 1);
    assert_eq!(
        state.inbounds[0]
            .settings
            .wireguard()
            .unwrap()
            .node_addresses()[0]
            .to_string(),
        "10.8.0.1/16"
    );
    assert_eq!(state.users.len(), 1);
    let on_node = &state.users[0];
    assert_eq!((on_node.id, on_node.period.id), (user.id, user.period.id));
    assert_eq!(on_node.limit, Limit::Bytes(500));
    assert_eq!(
        crate::fixture::address(&on_node.peers[0]).to_string(),
        "10.8.0.2"
    );
    let connections = world
        .store
        .connections(world.tenant, user.id)
        .await
        .unwrap();
    assert_eq!(connections[0].peer_id, on_node.peers[0].id);
    let ConnectionAccess::WireGuard {
        node_public_key, ..
    } = &connections[0].access
    else {
        panic!("{connections:?}")
    };
    assert_eq!(node_public_key, world.node.as_bytes());

    let disable = NodePatch {
        disabled: Some(true),
        ..NodePatch::default()
    };
    world
        .store
        .update_node(None, world.node, disable, None, &Keys)
        .await
        .unwrap();
    let state = world.store.desired_state(world.node).await.unwrap();
    assert!(state.users.is_empty() && state.node.disabled);
    assert!(
        world
            .store
            .connections(world.tenant, user.id)
            .await
            .unwrap()
            .is_empty()
    );
}

/// What has changed since a moment, once every change that was made is behind what is read.
pub(crate) async fn changed_since(world: &World, since: LogPosition) -> DesiredChanges {
    let made = world.store.log_tail().await.unwrap().revision();
    // Behind this one lies whatever was made before it.
    let marker = world.user(&format!("marker-{made}"), Limit::None).await;
    read_until(&world.store, since, |it| it.user_id == Some(marker.id)).await;
    let since = since.revision();
    let changes = world.store.desired_changes(world.node, since).await;
    let changes = changes.unwrap();
    assert_eq!(
        parts(&together(world, since).await),
        parts(&changes),
        "many nodes together are told the same"
    );
    changes
}

/// The same, read for several nodes at once.
async fn together(world: &World, since: u64) -> DesiredChanges {
    let agent = Agent::connect(&world.store, world.node).await;
    let other = new_node(
        &world.store,
        Some(world.tenant),
        &fresh_id::<NodeId>().to_string(),
    )
    .await;
    let other = Agent::connect(&world.store, other).await;
    let wanted = |agent: &Agent, generation| ChangesWanted {
        node: agent.node,
        generation,
        since: Revision(since),
    };
    let wanted = [
        wanted(&other, other.generation),
        wanted(&agent, agent.generation),
        wanted(&agent, Generation(agent.generation.get() - 1)),
    ];
    let mut read = world.store.desired_changes_together(&wanted).await.unwrap();
    let stale = read.pop().unwrap();
    assert!(matches!(stale, Err(StoreError::StreamSuperseded)));
    DesiredChanges::clone(&read.pop().unwrap().unwrap())
}

/// What is told, wherever in the log it was read; `None` where it has to be told in another way.
fn parts(changes: &DesiredChanges) -> Option<(&[NodeUser], &[UserId], Removals)> {
    match changes {
        DesiredChanges::Users {
            users,
            removed,
            removals,
            ..
        } => Some((users, removed, *removals)),
        DesiredChanges::Whole | DesiredChanges::Apart => None,
    }
}

fn ids(changes: DesiredChanges) -> (Vec<UserId>, Vec<UserId>) {
    match changes {
        DesiredChanges::Users { users, removed, .. } => {
            (users.into_iter().map(|user| user.id).collect(), removed)
        }
        other => panic!("users alone have changed: {other:?}"),
    }
}

async fn changes_of_users_are_told_by_themselves_and_all_else_whole(test: TestStore) {
    let world = World::new(test).await;
    let [same, other, gone] = [
        world.user("same", Limit::None).await.id,
        world.user("other", Limit::None).await.id,
        world.user("gone", Limit::None).await.id,
    ];
    changed_since(&world, LogPosition::default()).await;
    let before = world.store.log_tail().await.unwrap();
    let (store, tenant) = (&world.store, world.tenant);
    store.set_user_disabled(tenant, other, true).await.unwrap();
    store.delete_user(tenant, gone, None).await.unwrap();
    let (changed, removed) = ids(changed_since(&world, before).await);
    assert!(changed.contains(&other) && !changed.contains(&same));
    assert_eq!(removed, [gone]);
    let elsewhere = new_node(store, None, "elsewhere").await;
    read_until(store, before, |it| it.node_id == Some(elsewhere)).await;
    let nothing = store.desired_changes(elsewhere, before.revision());
    assert_eq!(nothing.await.unwrap(), DesiredChanges::Whole, "it is new");

    let before = store.log_tail().await.unwrap();
    let leave = GroupPatch {
        inbound_ids: Some([].into()),
        ..GroupPatch::default()
    };
    let left = store.update_group(tenant, world.group, leave, None).await;
    left.unwrap();
    let changes = changed_since(&world, before).await;
    assert_eq!(changes, DesiredChanges::Whole, "of a group many change");
    let ahead = store.desired_changes(world.node, u64::MAX >> 1).await;
    assert_eq!(ahead.unwrap(), DesiredChanges::Whole, "of another database");
}

async fn a_command_changes_nothing_of_what_a_node_should_do(test: TestStore) {
    let world = World::new(test).await;
    world.user("first", Limit::None).await;
    changed_since(&world, LogPosition::default()).await;
    let before = world.store.log_tail().await.unwrap();
    let command = NewNodeCommand {
        id: fresh_id(),
        node_id: world.node,
        request_id: fresh_id(),
        kind: CommandKind::Resync,
        ttl_ms: 1_000,
    };
    let made = world.store.create_node_command(None, command).await;
    let made = made.unwrap().id.uuid();
    let changes = read_until(&world.store, before, |it| it.resource_id == made).await;
    let told = changes.iter().find(|it| it.resource_id == made).unwrap();
    assert_eq!(told.kind, ChangeKind::Command);
    assert_eq!(told.node_id, Some(world.node));
    let (changed, removed) = ids(changed_since(&world, before).await);
    assert_eq!((changed.len(), removed), (1, Vec::new()), "but the marker");
}

async fn the_doorbell_rings_in_other_processes(test: TestStore) {
    if test.store.backend() == vpnpanel_store::Backend::Sqlite {
        return;
    }
    let other = test.another().await;
    let mut bell = other.doorbell();
    let world = World::new(test).await;
    // The listener may still be on its way: ring until it hears.
    let heard = async {
        loop {
            crate::fixture::new_tenant(&world.store, &uuid::Uuid::now_v7().to_string()).await;
            if tokio::time::timeout(Duration::from_millis(100), bell.changed())
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), heard)
        .await
        .unwrap();
}

/// Two transactions: the one that wrote first commits last.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_commits_late_is_not_overtaken() {
    let test = TestStore::postgres().await;
    let world = World::new(test).await;
    let start = world.store.log_tail().await.unwrap();
    let late = uuid::Uuid::now_v7();
    let mut slow = PgConnection::connect(&world.test.url).await.unwrap();
    slow.execute("BEGIN").await.unwrap();
    sqlx::query("INSERT INTO change_log (kind, resource_id, recorded_at) VALUES ('tenant', $1, 0)")
        .bind(late)
        .execute(&mut slow)
        .await
        .unwrap();
    let fast = world.user("fast", Limit::None).await.id;

    let read = world.store.changes_since(start, 100).await.unwrap();
    assert!(
        read.changes.iter().all(|it| it.user_id != Some(fast)),
        "a later transaction is not read while an older one runs"
    );
    slow.execute("COMMIT").await.unwrap();
    let changes = read_until(&world.store, read.position, |it| it.user_id == Some(fast)).await;
    assert!(changes.iter().any(|it| it.resource_id == late));
}
