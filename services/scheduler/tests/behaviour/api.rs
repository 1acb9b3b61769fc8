//! What the API shows of jobs, and that it starts them.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;
use tonic::{Code, Request};
use tonic_types::StatusExt;
use vpnpanel_api::scheduler::v1::{
    ListJobRunsRequest, ListJobsRequest, RunJobRequest, scheduler_service_server::SchedulerService,
};
use vpnpanel_scheduler::Scheduler;
use vpnpanel_store::{AuditFilter, JobEnd, Page, testing::TestStore};

use crate::fixture::JOB;

const HOUR: Duration = Duration::from_secs(3_600);

async fn scheduler() -> (TestStore, Scheduler, Arc<Notify>) {
    let test = TestStore::sqlite().await;
    test.store
        .register_job(JOB, "Expires users", HOUR)
        .await
        .unwrap();
    let bell = Arc::new(Notify::new());
    let scheduler = Scheduler::new(test.store.clone(), Arc::clone(&bell));
    (test, scheduler, bell)
}

async fn run(test: &TestStore, error: Option<&str>) {
    let lease = test
        .store
        .claim_job(&[JOB], "me", HOUR)
        .await
        .unwrap()
        .expect("a due job");
    let error = error.map(str::to_owned);
    let end = JobEnd {
        error,
        due_in: Duration::ZERO,
    };
    test.store.finish_job(&lease, end).await.unwrap();
}

#[tokio::test]
async fn jobs_are_listed_with_their_last_run_and_made_due() {
    let (test, scheduler, bell) = scheduler().await;
    run(&test, Some("no luck")).await;
    let listed = scheduler
        .list_jobs(Request::new(ListJobsRequest {}))
        .await
        .unwrap();
    let job = &listed.get_ref().jobs[0];
    assert_eq!((job.name.as_str(), job.lease_owner.as_str()), (JOB, ""));
    assert_eq!(job.interval.unwrap().seconds, 3_600);
    let last = job.last_run.as_ref().unwrap();
    assert_eq!((last.number, last.error.as_str()), (1, "no luck"));
    assert!(last.end_time.is_some());

    test.clock.advance(5_000);
    let request = Request::new(RunJobRequest {
        name: JOB.to_owned(),
    });
    let job = scheduler
        .run_job(request)
        .await
        .unwrap()
        .into_inner()
        .job
        .unwrap();
    let due = job.due_time.unwrap();
    assert!(due.seconds * 1_000 >= test.clock.now_ms() - 2_000);
    tokio::time::timeout(Duration::from_secs(5), bell.notified())
        .await
        .expect("the bell");

    let filter = AuditFilter::default();
    let events = test
        .store
        .audit_events(None, &filter, Page::first(10))
        .await;
    let [event] = &events.unwrap()[..] else {
        panic!("one event, of the job that was asked for")
    };
    assert_eq!(
        (event.resource_type.as_str(), event.resource_id.as_str()),
        ("job", JOB)
    );
}

#[tokio::test]
async fn runs_are_paged_newest_first_without_gaps_or_repeats() {
    let (test, scheduler, _) = scheduler().await;
    for _ in 0..5 {
        run(&test, None).await;
        test.clock.advance(1);
    }
    let (mut numbers, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListJobRunsRequest {
            name: JOB.to_owned(),
            page_size: 2,
            page_token,
        };
        let page = scheduler
            .list_job_runs(Request::new(request))
            .await
            .unwrap()
            .into_inner();
        numbers.extend(page.runs.iter().map(|run| run.number));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(numbers, [5, 4, 3, 2, 1]);
}

#[tokio::test]
async fn unknown_jobs_and_foreign_page_tokens_are_told_so() {
    let (_test, scheduler, _) = scheduler().await;
    let request = Request::new(RunJobRequest {
        name: "no-such-job".to_owned(),
    });
    let unknown = scheduler.run_job(request).await.unwrap_err();
    let reason = unknown
        .get_error_details()
        .error_info()
        .unwrap()
        .reason
        .clone();
    assert_eq!(
        (unknown.code(), reason.as_str()),
        (Code::NotFound, "JOB_NOT_FOUND")
    );
    let request = ListJobRunsRequest {
        name: JOB.to_owned(),
        page_size: 0,
        page_token: "xyz".to_owned(),
    };
    let foreign = scheduler
        .list_job_runs(Request::new(request))
        .await
        .unwrap_err();
    assert_eq!(foreign.code(), Code::InvalidArgument);
}
