//! Errors to decide by: the reason of the ErrorInfo that every error of the API carries.

use std::collections::BTreeMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why something did not work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API refused, or failed at, a call.
    #[error(transparent)]
    Api(#[from] Box<ApiError>),
    /// The address or the TLS material cannot be used, or the connection failed.
    #[error("connection: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The address is not one.
    #[error("{0:?} is not an http or https address")]
    Address(String),
    /// A token that cannot be a header.
    #[error("the token has characters that no token has")]
    Token,
}

/// An error of the API.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct ApiError {
    /// The gRPC code.
    pub code: Code,
    /// What happened, for programs: `USER_NOT_FOUND`. Empty when no service answered.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// Further facts, by name.
    pub metadata: BTreeMap<String, String>,
    /// Fields of the request that are wrong.
    pub fields: Vec<FieldViolation>,
    /// When a retry makes sense, if the service says so.
    pub retry_after: Option<Duration>,
    /// What the logs of the control plane know the call by.
    pub request_id: Option<String>,
}

/// A field of the request that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path of the field: `user.data_limit_bytes`.
    pub field: String,
    /// What is wrong with it.
    pub description: String,
}

impl Error {
    /// The error of the API, if it is one.
    pub fn api(&self) -> Option<&ApiError> {
        match self {
            Self::Api(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the API gave this reason.
    pub fn is(&self, reason: &str) -> bool {
        self.api().is_some_and(|error| error.reason == reason)
    }

    /// The gRPC code, if the API answered.
    pub fn code(&self) -> Option<Code> {
        self.api().map(|error| error.code)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Api(Box::new(ApiError::from(status)))
    }
}

impl From<Status> for ApiError {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let request_id = status
            .metadata()
            .get("x-request-id")
            .and_then(|id| id.to_str().ok());
        let fields = details.bad_request().map(|bad| {
            let each = bad.field_violations.iter().map(|violation| FieldViolation {
                field: violation.field.clone(),
                description: violation.description.clone(),
            });
            each.collect()
        });
        Self {
            code: status.code(),
            reason: info.map(|info| info.reason.clone()).unwrap_or_default(),
            message: status.message().to_owned(),
            metadata: info
                .map(|info| info.metadata.clone().into_iter().collect())
                .unwrap_or_default(),
            fields: fields.unwrap_or_default(),
            retry_after: details.retry_info().and_then(|retry| retry.retry_delay),
            request_id: request_id.map(str::to_owned),
        }
    }
}
