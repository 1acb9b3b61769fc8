//! Usage comes in exactly once.

use vpnpanel_link::{Seq, Up};
use vpnpanel_store::{on_each_database, testing::TestStore};

use crate::{
    agent::{Disk, Link, counter, row},
    fleet::{Fleet, attribution},
};

on_each_database! {
    a_batch_is_billed_once_however_often_and_on_whatever_stream_it_comes,
    a_gap_is_asked_for_again_and_nothing_beyond_it_is_billed,
    many_nodes_of_one_user_are_billed_together,
}

async fn a_batch_is_billed_once_however_often_and_on_whatever_stream_it_comes(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let (mut disk, counter) = (Disk::new(), counter());
    let mut total = 0;
    for _ in 0..3 {
        let batch = disk.write(vec![row(attribution(&user), counter, total, total + 1_000)]);
        total += 1_000;
        let channel = fleet.channel(Some(node.credentials.clone()));
        let (mut link, _) = Link::greet(channel, &disk).await;
        // everything again from the first batch, and the newest twice
        for again in disk.batches.iter().chain([&batch]) {
            link.send(Up::Batch(again.clone())).await;
        }
        link.committed(&batch).await;
        assert_eq!(fleet.billed(&user).await, 2 * total);
    }
    fleet.stop().await;
}

async fn a_gap_is_asked_for_again_and_nothing_beyond_it_is_billed(test: TestStore) {
    let fleet = Fleet::new(test).await;
    let (node, user) = (fleet.node().await, fleet.user(0).await);
    let (mut disk, counter) = (Disk::new(), counter());
    for n in 0..3 {
        disk.write(vec![row(
            attribution(&user),
            counter,
            n * 100,
            (n + 1) * 100,
        )]);
    }
    let (mut link, _) = Link::greet(fleet.channel(Some(node.credentials.clone())), &disk).await;
    link.send(Up::Batch(disk.batches[0].clone())).await;
    link.committed(&disk.batches[0]).await;
    link.send(Up::Batch(disk.batches[2].clone())).await;
    let resend_from = loop {
        if let Some(from) = link.ack().await.resend_from {
            break from;
        }
    };
    assert_eq!(resend_from, (disk.epoch, Seq(2)));
    assert_eq!(fleet.billed(&user).await, 200);
    for batch in &disk.batches[1..] {
        link.send(Up::Batch(batch.clone())).await;
    }
    link.committed(&disk.batches[2]).await;
    assert_eq!(fleet.billed(&user).await, 600);
    fleet.stop().await;
}

async fn many_nodes_of_one_user_are_billed_together(test: TestStore) {
    const NODES: u64 = 6;
    const BATCHES: u64 = 10;
    let fleet = Fleet::new(test).await;
    let user = fleet.user(0).await;
    let mut agents = Vec::new();
    for _ in 0..NODES {
        let node = fleet.node().await;
        let channel = fleet.channel(Some(node.credentials));
        let attribution = attribution(&user);
        agents.push(tokio::spawn(async move {
            let (mut disk, counter) = (Disk::new(), counter());
            let (mut link, _) = Link::greet(channel, &disk).await;
            for n in 0..BATCHES {
                let batch = disk.write(vec![row(attribution, counter, n * 10, (n + 1) * 10)]);
                link.send(Up::Batch(batch)).await;
            }
            link.committed(&disk.batches[BATCHES as usize - 1]).await;
        }));
    }
    for agent in agents {
        agent.await.unwrap();
    }
    assert_eq!(fleet.billed(&user).await, 2 * NODES * BATCHES * 10);
    fleet.stop().await;
}
