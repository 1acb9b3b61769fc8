//! SchedulerService: what jobs there are, what they did, and "now, please". It only reads and writes
//! job rows, so that any replica answers for all of them.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::Notify;
use tonic::{Request, Response, Status};
use vpnpanel_api::scheduler::v1::{
    Job, JobRun, ListJobRunsRequest, ListJobRunsResponse, ListJobsRequest, ListJobsResponse,
    PauseJobRequest, PauseJobResponse, ResumeJobRequest, ResumeJobResponse, RunJobRequest,
    RunJobResponse, scheduler_service_server::SchedulerService,
};
use vpnpanel_audit::attribution;
use vpnpanel_store::{self as store, Page, Store, StoreError};

use crate::{audit, error::Error};

/// Page size when the request names none.
const DEFAULT_PAGE: u32 = 50;

/// The handlers; put them inside `vpnpanel_api::Guarded`.
#[derive(Debug, Clone)]
pub struct Scheduler {
    store: Store,
    bell: Arc<Notify>,
}

impl Scheduler {
    /// Handlers over `store`; `bell` wakes this process's loop when a job is asked for.
    #[must_use]
    pub fn new(store: Store, bell: Arc<Notify>) -> Self {
        Self { store, bell }
    }

    /// The store on behalf of who asks.
    fn acting<T>(&self, request: &Request<T>) -> Store {
        let (metadata, extensions) = (request.metadata(), request.extensions());
        let who = attribution(metadata, extensions, audit::describe);
        self.store.acting(who)
    }

    async fn shown(&self, name: &str) -> Result<Job, Error> {
        self.store.job(name).await.map(job).map_err(named(name))
    }
}

#[async_trait]
impl SchedulerService for Scheduler {
    async fn list_jobs(
        &self,
        _: Request<ListJobsRequest>,
    ) -> Result<Response<ListJobsResponse>, Status> {
        let jobs = self.store.jobs().await.map_err(Error::from)?;
        Ok(Response::new(ListJobsResponse {
            jobs: jobs.into_iter().map(job).collect(),
        }))
    }

    async fn run_job(
        &self,
        request: Request<RunJobRequest>,
    ) -> Result<Response<RunJobResponse>, Status> {
        let acting = self.acting(&request);
        let name = request.into_inner().name;
        acting.make_job_due(&name).await.map_err(named(&name))?;
        let job = Some(self.shown(&name).await?);
        self.bell.notify_one();
        Ok(Response::new(RunJobResponse { job }))
    }

    async fn pause_job(
        &self,
        request: Request<PauseJobRequest>,
    ) -> Result<Response<PauseJobResponse>, Status> {
        let acting = self.acting(&request);
        let name = request.into_inner().name;
        acting.pause_job(&name, true).await.map_err(named(&name))?;
        let job = Some(self.shown(&name).await?);
        Ok(Response::new(PauseJobResponse { job }))
    }

    async fn resume_job(
        &self,
        request: Request<ResumeJobRequest>,
    ) -> Result<Response<ResumeJobResponse>, Status> {
        let acting = self.acting(&request);
        let name = request.into_inner().name;
        acting.pause_job(&name, false).await.map_err(named(&name))?;
        let job = Some(self.shown(&name).await?);
        self.bell.notify_one();
        Ok(Response::new(ResumeJobResponse { job }))
    }

    async fn list_job_runs(
        &self,
        request: Request<ListJobRunsRequest>,
    ) -> Result<Response<ListJobRunsResponse>, Status> {
        let request = request.into_inner();
        let before = page_start(&request.page_token)?;
        let size = match u32::try_from(request.page_size) {
            Ok(0) | Err(_) => DEFAULT_PAGE,
            Ok(size) => size,
        };
        // one more than asked for tells whether there is a next page
        let mut rows = self
            .store
            .job_runs(
                &request.name,
                Page {
                    size: size + 1,
                    after: before,
                },
            )
            .await
            .map_err(named(&request.name))?;
        let more = rows.len() > size as usize;
        rows.truncate(size as usize);
        let next_page_token = match rows.last() {
            Some(last) if more => last.number.to_string(),
            _ => String::new(),
        };
        let runs = rows.into_iter().map(run).collect();
        Ok(Response::new(ListJobRunsResponse {
            runs,
            next_page_token,
        }))
    }
}

/// The run number that the page starts below.
fn page_start(token: &str) -> Result<Option<u64>, Error> {
    if token.is_empty() {
        return Ok(None);
    }
    token
        .parse()
        .map(Some)
        .map_err(|_| Error::MalformedPageToken)
}

/// The store does not say which job it has not found.
fn named(name: &str) -> impl Fn(StoreError) -> Error {
    move |error| match error {
        StoreError::NotFound(_) => Error::UnknownJob(name.to_owned()),
        StoreError::JobPaused => Error::JobPaused(name.to_owned()),
        other => other.into(),
    }
}

fn job(row: store::Job) -> Job {
    Job {
        name: row.name,
        description: row.description,
        interval: prost_types::Duration::try_from(row.interval).ok(),
        due_time: Some(timestamp(row.due_at)),
        lease_owner: row.lease_owner.unwrap_or_default(),
        last_run: row.last_run.map(run),
        paused: row.paused,
    }
}

fn run(row: store::JobRun) -> JobRun {
    JobRun {
        number: row.number,
        start_time: Some(timestamp(row.started_at)),
        end_time: row.ended_at.map(timestamp),
        changed: row.changed,
        error: row.error.unwrap_or_default(),
    }
}

/// Milliseconds of the Unix epoch as the contract writes instants.
fn timestamp(ms: i64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: ms.div_euclid(1_000),
        // the remainder is below 1000, so the product fits
        nanos: (ms.rem_euclid(1_000) * 1_000_000) as i32,
    }
}
