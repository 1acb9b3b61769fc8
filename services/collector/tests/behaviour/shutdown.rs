//! A planned stop: agents are told, and what is under way is finished.

use vpnpanel_link::{Down, Up};
use vpnpanel_store::testing::TestStore;

use crate::{
    agent::{Disk, Link, counter, reason, row},
    fleet::{Fleet, attribution},
};

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_told_before_the_stream_ends_and_are_offline_afterwards() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let mut disk = Disk::new();
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    let batch = disk.write(vec![row(attribution(&user), counter(), 0, 100)]);
    link.send(Up::Batch(batch.clone())).await;
    link.committed(&batch).await;
    let (store, another) = (fleet.store.clone(), fleet.test.another().await);
    let stopping = tokio::spawn(fleet.stop());
    let mut told = false;
    let end = loop {
        match link.next().await {
            Ok(Down::Drain { spread_ms }) => told = spread_ms == 100,
            Ok(_) => {}
            Err(status) => break status,
        }
    };
    assert!(told, "no Drain before the end");
    assert_eq!(
        reason(&end),
        (tonic::Code::Unavailable, "STOPPING".to_owned())
    );
    stopping.await.unwrap();
    drop(store);
    let states = another.node_states(&[node.id]).await.unwrap();
    assert!(!states[&node.id].connected);
}
