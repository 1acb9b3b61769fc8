//! The chainer by two replicas, killed at any moment while others write: one chain, nothing lost.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vpnpanel_runtime::metrics;
use vpnpanel_scheduler::{Chainer, Metrics};
use vpnpanel_store::{Attribution, Event, Store, on_each_database, testing::TestStore};

use crate::fixture::{quick, until};

on_each_database! {
    a_chain_never_forks_with_two_chainers_that_are_killed_at_any_moment,
    what_is_written_is_chained_within_a_second,
}

fn chainer(store: Store, stop: &CancellationToken) -> JoinHandle<()> {
    let metrics = Metrics::register(&metrics::Metrics::new("scheduler"));
    let chainer = Chainer::new(store, &quick(), &metrics);
    let stop = stop.clone();
    tokio::spawn(async move {
        chainer.register().await.expect("the lease's row");
        chainer.run(stop).await;
    })
}

fn writer(store: Store, count: usize) -> JoinHandle<()> {
    tokio::spawn(async move {
        let acting = store.acting(Attribution::anonymous());
        for number in 0..count {
            let event = Event::on("thing", None, number);
            while let Err(error) = acting.record(event.clone()).await {
                assert!(error.is_transient(), "{error}");
            }
        }
    })
}

async fn a_chain_never_forks_with_two_chainers_that_are_killed_at_any_moment(test: TestStore) {
    let seed = rand::rng().random();
    eprintln!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let writers = [
        writer(test.another().await, 100),
        writer(test.another().await, 100),
    ];
    let stop = CancellationToken::new();
    for _ in 0..6 {
        let chainers = [
            chainer(test.another().await, &stop),
            chainer(test.another().await, &stop),
        ];
        // not a wait for something to happen: the moment of the kill is what is drawn
        tokio::time::sleep(Duration::from_millis(random.random_range(5..80))).await;
        for killed in chainers {
            killed.abort();
            let _aborted = killed.await;
        }
        // the dead hold their lease until it ends
        test.clock.advance(6_000);
    }
    for writer in writers {
        writer.await.unwrap();
    }
    // in any case something is left for the survivor
    writer(test.another().await, 20).await.unwrap();
    let survivor = chainer(test.another().await, &stop);
    until(async || test.store.audit_tail().await.unwrap().count == 0).await;
    stop.cancel();
    survivor.await.unwrap();
    let found = test.store.verify_audit(None, None).await.unwrap();
    assert_eq!((found.verified, found.broken), (220, None));
    let job = test.store.job("chain-audit").await.unwrap();
    assert_eq!(job.lease_owner, None, "the survivor gave it back");
}

async fn what_is_written_is_chained_within_a_second(test: TestStore) {
    let stop = CancellationToken::new();
    let running = chainer(test.another().await, &stop);
    writer(test.store.clone(), 30).await.unwrap();
    let chained = until(async || test.store.audit_tail().await.unwrap().count == 0);
    tokio::time::timeout(Duration::from_secs(1), chained)
        .await
        .expect("a chain within a second");
    stop.cancel();
    running.await.unwrap();
}
