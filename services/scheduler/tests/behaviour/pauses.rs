//! A job that is paused is begun by nobody, and finds what it missed when it goes on.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vpnpanel_api::scheduler::v1::{
    Job, ListJobsRequest, PauseJobRequest, ResumeJobRequest, RunJobRequest,
    scheduler_service_server::SchedulerService,
};
use vpnpanel_scheduler::Scheduler;
use vpnpanel_store::{AuditFilter, Page, on_each_database, testing::TestStore};

use crate::fixture::{JOB, changed_by_runs, quick, replica, until, users};

on_each_database! {
    while_a_job_is_paused_the_others_run_and_afterwards_it_finds_what_it_missed,
    a_paused_job_is_not_asked_for_and_pausing_twice_is_pausing_once,
    a_chainer_can_be_paused_and_goes_on,
}

fn scheduler(test: &TestStore) -> (Scheduler, Arc<Notify>) {
    let bell = Arc::new(Notify::new());
    (Scheduler::new(test.store.clone(), Arc::clone(&bell)), bell)
}

async fn pause(scheduler: &Scheduler, name: &str) -> Job {
    let name = name.to_owned();
    let request = Request::new(PauseJobRequest { name });
    let paused = scheduler.pause_job(request).await.unwrap();
    paused.into_inner().job.unwrap()
}

async fn resume(scheduler: &Scheduler, name: &str) -> Job {
    let name = name.to_owned();
    let request = Request::new(ResumeJobRequest { name });
    let resumed = scheduler.resume_job(request).await.unwrap();
    resumed.into_inner().job.unwrap()
}

async fn runs_of(test: &TestStore, name: &str) -> u64 {
    let job = test.store.job(name).await.unwrap();
    job.last_run.map_or(0, |run| run.number)
}

async fn while_a_job_is_paused_the_others_run_and_afterwards_it_finds_what_it_missed(
    test: TestStore,
) {
    test.store
        .register_job(JOB, "Expires users", Duration::from_millis(20))
        .await
        .unwrap();
    let (scheduler, bell) = scheduler(&test);
    assert!(pause(&scheduler, JOB).await.paused);
    users(&test.store, 9, Some(test.clock.now_ms() + 1_000)).await;
    test.clock.advance(1_001);
    let stop = CancellationToken::new();
    let running = replica(test.another().await, quick(), &stop);
    until(async || {
        let other = test.store.job("roll-periods").await;
        other.is_ok_and(|job| job.last_run.is_some_and(|run| run.number > 5))
    })
    .await;
    assert_eq!(
        (
            runs_of(&test, JOB).await,
            changed_by_runs(&test.store).await
        ),
        (0, 0)
    );

    assert!(!resume(&scheduler, JOB).await.paused);
    let rung = tokio::time::timeout(Duration::from_secs(5), bell.notified());
    rung.await.expect("the bell");
    until(async || changed_by_runs(&test.store).await == 9).await;
    stop.cancel();
    running.await.unwrap();
}

async fn a_paused_job_is_not_asked_for_and_pausing_twice_is_pausing_once(test: TestStore) {
    test.store
        .register_job(JOB, "Expires users", Duration::from_secs(3_600))
        .await
        .unwrap();
    let (scheduler, _) = scheduler(&test);
    pause(&scheduler, JOB).await;
    assert!(pause(&scheduler, JOB).await.paused);
    let listed = scheduler.list_jobs(Request::new(ListJobsRequest {})).await;
    assert!(listed.unwrap().get_ref().jobs[0].paused);
    let run = || {
        let name = JOB.to_owned();
        scheduler.run_job(Request::new(RunJobRequest { name }))
    };
    let refused = run().await.unwrap_err();
    let details = refused.get_error_details();
    let reason = &details.error_info().unwrap().reason;
    assert_eq!(
        (refused.code(), reason.as_str()),
        (Code::FailedPrecondition, "JOB_PAUSED")
    );
    assert!(refused.message().contains("ResumeJob"), "{refused}");
    resume(&scheduler, JOB).await;
    assert!(!resume(&scheduler, JOB).await.paused);
    run().await.unwrap();

    let filter = AuditFilter::default();
    let events = test.store.audit_events(None, &filter, Page::first(10));
    let events = events.await.unwrap();
    assert_eq!(events.len(), 5, "two pauses, two resumptions and a run");
    assert!(events.iter().all(|event| event.resource_id == JOB));

    let name = "no-such-job".to_owned();
    let unknown = scheduler.pause_job(Request::new(PauseJobRequest { name }));
    assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);
    let name = "no-such-job".to_owned();
    let unknown = scheduler.resume_job(Request::new(ResumeJobRequest { name }));
    assert_eq!(unknown.await.unwrap_err().code(), Code::NotFound);
}

async fn a_chainer_can_be_paused_and_goes_on(test: TestStore) {
    const CHAINER: &str = "chain-audit";
    let registry = vpnpanel_runtime::metrics::Metrics::new("scheduler");
    let metrics = vpnpanel_scheduler::Metrics::register(&registry);
    let chainer = vpnpanel_scheduler::Chainer::new(test.another().await, &quick(), &metrics);
    chainer.register().await.unwrap();
    let (scheduler, _) = scheduler(&test);
    pause(&scheduler, CHAINER).await;
    let waiting = async || test.store.audit_tail().await.unwrap().count;
    let stop = CancellationToken::new();
    let running = tokio::spawn(chainer.run(stop.clone()));
    users(&test.store, 3, None).await;
    assert!(waiting().await > 0 && runs_of(&test, CHAINER).await == 0);
    resume(&scheduler, CHAINER).await;
    until(async || waiting().await == 0).await;
    stop.cancel();
    running.await.unwrap();
}
