//! What goes wrong, and the exit code that programs tell it by. The codes are part of the
//! interface: `clients/cli/README.md` lists them.

use std::process::ExitCode;

use tonic::{Code, Status};
use vpnpanel_client::Error as ClientError;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    SignIn(String),
    #[error("{0}")]
    Local(String),
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Client(status.into())
    }
}

impl Failure {
    /// 1 here, 2 usage, 3 sign-in, 4 permission, 5 not found, 6 conflict, 7 refused by a rule,
    /// 8 unreachable or busy.
    pub(crate) fn exit_code(&self) -> ExitCode {
        let code = match self {
            Self::Local(_) => 1,
            Self::Usage(_) => 2,
            Self::SignIn(_) => 3,
            Self::Client(error) => match error.code() {
                Some(Code::InvalidArgument | Code::OutOfRange) => 2,
                Some(Code::Unauthenticated) => 3,
                Some(Code::PermissionDenied) => 4,
                Some(Code::NotFound) => 5,
                Some(Code::AlreadyExists | Code::Aborted) => 6,
                Some(Code::FailedPrecondition) => 7,
                Some(Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted) => 8,
                Some(_) => 1,
                None if matches!(error, ClientError::Address(_)) => 2,
                None => 8,
            },
        };
        ExitCode::from(code)
    }

    /// For people: the message, wrong fields, and what the logs know the call by.
    pub(crate) fn told(&self) -> String {
        let mut text = self.to_string();
        if let Self::Client(error) = self
            && let Some(api) = error.api()
        {
            for field in &api.fields {
                text.push_str(&format!("\n  {}: {}", field.field, field.description));
            }
            if let Some(id) = &api.request_id {
                text.push_str(&format!("\n  request id: {id}"));
            }
            if api.code == Code::Unauthenticated {
                text.push_str("\n  sign in with `vpnctl login`");
            }
        }
        text
    }
}
