//! Two agents with one identity are told apart, put aside, and never billed twice.

use vpnpanel_link::{BootId, Up};
use vpnpanel_store::{on_each_database, testing::TestStore};

use crate::{
    agent::{Disk, Link, counter, random, reason, row},
    fleet::{Fleet, attribution},
};

on_each_database! {
    a_batch_whose_digest_changed_quarantines_the_node_and_bills_nothing,
    the_newest_stream_wins_and_the_old_one_writes_nothing_more,
}

async fn a_batch_whose_digest_changed_quarantines_the_node_and_bills_nothing(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let (mut disk, counter) = (Disk::new(), counter());
    let mut clone = disk.clone();
    let first = disk.write(vec![row(attribution(&user), counter, 0, 500)]);
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    link.send(Up::Batch(first.clone())).await;
    link.committed(&first).await;
    let other = clone.write(vec![row(attribution(&user), counter, 0, 900)]);
    assert_eq!((other.epoch, other.seq), (first.epoch, first.seq));
    link.send(Up::Batch(other)).await;
    let why = loop {
        if let Some(why) = link.ack().await.quarantined {
            break why;
        }
    };
    assert!(!why.is_empty());
    assert_eq!(fleet.billed(&user).await, 1_000);
    // from now on nothing of this node is billed, on no stream
    let next = disk.write(vec![row(attribution(&user), counter, 500, 700)]);
    let (mut link, welcome) =
        Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    assert!(welcome.quarantined.is_some());
    link.send(Up::Batch(next)).await;
    while link.ack().await.quarantined.is_none() {}
    assert_eq!(fleet.billed(&user).await, 1_000);
    let states = fleet.store.node_states(&[node.id]).await.unwrap();
    assert!(states[&node.id].quarantined.is_some());
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_folder_whose_agents_alternate_is_quarantined_until_it_enrols_again() {
    let fleet = Fleet::new(TestStore::sqlite().await).await;
    let node = fleet.node().await;
    let one = Disk::new();
    let mut two = one.clone();
    two.boot = BootId(random());
    let mut quarantined = None;
    for turn in 0..12 {
        let disk = if turn % 2 == 0 { &one } else { &two };
        let (_link, welcome) =
            Link::greet(fleet.channel(Some(node.credentials.clone())), disk).await;
        quarantined = welcome.quarantined;
        if quarantined.is_some() {
            break;
        }
    }
    assert!(quarantined.is_some(), "alternating starts were not noticed");
    let credentials = fleet.enrol(node.id).await;
    let (_link, welcome) = Link::greet(fleet.channel(Some(credentials)), &two).await;
    assert_eq!(welcome.quarantined, None);
    fleet.stop().await;
}

async fn the_newest_stream_wins_and_the_old_one_writes_nothing_more(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let (mut disk, counter) = (Disk::new(), counter());
    let channel = || fleet.channel(Some(node.credentials.clone()));
    let (mut old, first) = Link::greet(channel(), &disk).await;
    let (mut new, second) = Link::greet(channel(), &disk).await;
    assert!(second.generation > first.generation);
    let end = reason(&old.end().await);
    assert_eq!(end, (tonic::Code::Aborted, "STREAM_SUPERSEDED".to_owned()));
    let batch = disk.write(vec![row(attribution(&user), counter, 0, 100)]);
    new.send(Up::Batch(batch.clone())).await;
    new.committed(&batch).await;
    assert_eq!(fleet.billed(&user).await, 200);
    fleet.stop().await;
}
