//! Selectors bind inbounds to nodes, and labels that change bind them anew.

use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{InboundPatch, NodePatch, NodeSelector, StoreError, on_each_database};

use crate::fixture::{Keys, World, new_node};

on_each_database!(
    labels_decide_which_nodes_open_an_inbound,
    a_node_and_an_inbound_made_at_once_find_each_other,
    a_deleted_node_opens_nothing,
);

async fn labels_decide_which_nodes_open_an_inbound(test: TestStore) {
    let world = World::new(test).await;
    let second = new_node(&world.store, None, "second").await;
    let gold = InboundPatch {
        nodes: Some(NodeSelector {
            labels: [("tier".to_owned(), "gold".to_owned())].into(),
            ..NodeSelector::default()
        }),
        ..InboundPatch::default()
    };
    world
        .store
        .update_inbound(None, world.inbound, gold, None, &Keys)
        .await
        .unwrap();
    let bound = async || -> Vec<_> {
        let bindings = world.store.bindings_of_inbound(world.inbound);
        bindings
            .await
            .unwrap()
            .into_iter()
            .map(|it| it.node_id)
            .collect()
    };
    assert_eq!(bound().await, [world.node, second]);
    let silver = NodePatch {
        labels: Some([("tier".to_owned(), "silver".to_owned())].into()),
        ..NodePatch::default()
    };
    world
        .store
        .update_node(None, second, silver, None, &Keys)
        .await
        .unwrap();
    assert_eq!(bound().await, [world.node]);
    let nobody = InboundPatch {
        nodes: Some(NodeSelector {
            node_ids: [vpnpanel_store::fresh_id()].into(),
            ..NodeSelector::default()
        }),
        ..InboundPatch::default()
    };
    let refused = world
        .store
        .update_inbound(None, world.inbound, nobody, None, &Keys)
        .await;
    assert!(matches!(refused, Err(StoreError::InvalidReference { .. })));
}

async fn a_node_and_an_inbound_made_at_once_find_each_other(test: TestStore) {
    let world = World::new(test).await;
    let nodes = (0..4).map(|number| {
        let store = world.store.clone();
        async move { new_node(&store, None, &format!("node{number}")).await }
    });
    let inbounds = (0..4_u8).map(|number| {
        let store = world.store.clone();
        async move {
            let pool = format!("10.{}.0.0/16", 40 + number);
            let port = 52_000 + u16::from(number);
            crate::fixture::new_inbound(&store, None, &format!("in{number}"), port, &pool).await
        }
    });
    let (nodes, inbounds) = tokio::join!(
        futures::future::join_all(nodes),
        futures::future::join_all(inbounds)
    );
    for inbound in inbounds {
        let bound = world.store.bindings_of_inbound(inbound).await.unwrap();
        assert_eq!(bound.len(), nodes.len() + 1);
    }
}

async fn a_deleted_node_opens_nothing(test: TestStore) {
    let world = World::new(test).await;
    crate::identity::enrol(&world.store, world.node, b"one").await;
    world
        .store
        .delete_node(None, world.node, None)
        .await
        .unwrap();
    let bound = world
        .store
        .bindings_of_inbound(world.inbound)
        .await
        .unwrap();
    assert!(bound.is_empty());
    assert_eq!(world.store.identity_of(b"one").await.unwrap(), None);
    let gone = world.store.desired_state(world.node).await;
    assert!(matches!(gone, Err(StoreError::NotFound("node"))));
    new_node(&world.store, None, "frankfurt").await;
}
