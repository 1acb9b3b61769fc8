//! Everything that can go wrong in the scheduler, and how callers of its API see it.

use std::time::Duration;

use tonic::Status;
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_store::StoreError;

/// An error of the scheduler.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another replica holds the job now; nothing of the batch in hand was committed.
    #[error("the lease on the job was lost")]
    LeaseLost,
    /// The run was cancelled because it took longer than the settings allow.
    #[error("the run took longer than VPNPANEL_SCHEDULER_RUN_TIMEOUT")]
    RunTimedOut,
    /// The job has a defect; the loop goes on.
    #[error("the job panicked")]
    Panicked,
    /// No job has this name.
    #[error("no job is named {0:?}")]
    UnknownJob(String),
    /// The job is paused.
    #[error("the job {0} is paused: let it go on first (ResumeJob), and it runs when it is due")]
    JobPaused(String),
    /// The page token was not made by this service.
    #[error("page_token is not one that ListJobRuns returned")]
    MalformedPageToken,
    /// The contract's descriptors cannot be served.
    #[error(transparent)]
    Reflection(#[from] vpnpanel_runtime::reflection::ReflectionError),
    /// The database could not do it.
    #[error(transparent)]
    Store(StoreError),
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseLost => Self::LeaseLost,
            other => Self::Store(other),
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let failure = match &error {
            Error::UnknownJob(name) => {
                Failure::new(ErrorCode::NotFound, "JOB_NOT_FOUND", error.to_string())
                    .resource("job", format!("jobs/{name}"))
            }
            Error::JobPaused(name) => Failure::new(
                ErrorCode::FailedPrecondition,
                "JOB_PAUSED",
                error.to_string(),
            )
            .resource("job", format!("jobs/{name}")),
            Error::MalformedPageToken => {
                Failure::invalid_field("page_token", "is not one that ListJobRuns returned")
            }
            Error::Store(cause) if cause.is_transient() => Failure::new(
                ErrorCode::Unavailable,
                "DATABASE_UNAVAILABLE",
                "the database is busy or away",
            )
            .retry_after(Duration::from_secs(1)),
            Error::Store(_)
            | Error::Reflection(_)
            | Error::LeaseLost
            | Error::RunTimedOut
            | Error::Panicked => {
                tracing::error!(event = "rpc.internal_error", %error, "a request failed");
                Failure::internal()
            }
        };
        failure.into_status()
    }
}
