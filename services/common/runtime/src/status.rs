//! How an error leaves a service: one table of codes (gRPC beside HTTP), and one builder that never
//! forgets `google.rpc.ErrorInfo` (AIP-193), so that clients can tell errors apart by machine.

use std::collections::HashMap;
use std::time::Duration;

use http::StatusCode;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The metadata that says when a retry makes sense.
const RETRY_AFTER: &str = "retry-after";

/// `ErrorInfo.domain` of every error of this product.
pub const ERROR_DOMAIN: &str = "vpnpanel";

macro_rules! error_codes {
    ($( $(#[$doc:meta])* $name:ident => $grpc:ident, $http:expr; )*) => {
        /// What went wrong, in the words of gRPC and of HTTP.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $( $(#[$doc])* $name, )* }

        impl ErrorCode {
            /// Every code, for tests and documents.
            pub const ALL: &'static [Self] = &[ $( Self::$name, )* ];

            /// The gRPC column.
            pub fn grpc(self) -> Code {
                match self { $( Self::$name => Code::$grpc, )* }
            }

            /// The HTTP column, used by the REST gateway.
            pub fn http(self) -> StatusCode {
                match self { $( Self::$name => $http, )* }
            }
        }
    };
}

error_codes! {
    /// The request is wrong whatever the state of the system.
    InvalidArgument    => InvalidArgument,    StatusCode::BAD_REQUEST;
    /// The request is fine, the resource's state forbids it.
    FailedPrecondition => FailedPrecondition, StatusCode::BAD_REQUEST;
    /// A value lies outside what can be served (a page token from another list, for one).
    OutOfRange         => OutOfRange,         StatusCode::BAD_REQUEST;
    /// No credentials, or invalid ones.
    Unauthenticated    => Unauthenticated,    StatusCode::UNAUTHORIZED;
    /// Known caller, not allowed.
    PermissionDenied   => PermissionDenied,   StatusCode::FORBIDDEN;
    /// Absent, or not the caller's to see.
    NotFound           => NotFound,           StatusCode::NOT_FOUND;
    /// A unique name is taken.
    AlreadyExists      => AlreadyExists,      StatusCode::CONFLICT;
    /// A stale etag, or a lost race: read again and retry.
    Aborted            => Aborted,            StatusCode::CONFLICT;
    /// A rate or size limit.
    ResourceExhausted  => ResourceExhausted,  StatusCode::TOO_MANY_REQUESTS;
    /// The client went away.
    Cancelled          => Cancelled,          client_closed_request();
    /// No such method, or not in this build.
    Unimplemented      => Unimplemented,      StatusCode::NOT_IMPLEMENTED;
    /// Try again later.
    Unavailable        => Unavailable,        StatusCode::SERVICE_UNAVAILABLE;
    /// Not done in time; its effect is unknown.
    DeadlineExceeded   => DeadlineExceeded,   StatusCode::GATEWAY_TIMEOUT;
    /// Our fault.
    Internal           => Internal,           StatusCode::INTERNAL_SERVER_ERROR;
    /// Our fault, and something is gone.
    DataLoss           => DataLoss,           StatusCode::INTERNAL_SERVER_ERROR;
    /// An error that came without a code.
    Unknown            => Unknown,            StatusCode::INTERNAL_SERVER_ERROR;
}

impl ErrorCode {
    /// The row of a gRPC code; `None` for `Ok`, which is no error.
    pub fn from_grpc(code: Code) -> Option<Self> {
        Self::ALL.iter().copied().find(|row| row.grpc() == code)
    }
}

/// 499, nginx's "client closed request": nobody is left to read it, but logs tell it from a fault.
fn client_closed_request() -> StatusCode {
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

/// The HTTP status that stands for a gRPC code; 200 for `Ok`.
pub fn http_status(code: Code) -> StatusCode {
    ErrorCode::from_grpc(code).map_or(StatusCode::OK, ErrorCode::http)
}

/// Builds the [`Status`] of one failure.
///
/// ```
/// use vpnpanel_runtime::status::{ErrorCode, Failure};
/// let status = Failure::new(ErrorCode::NotFound, "USER_NOT_FOUND", "no such user")
///     .resource("user", "tenants/1/users/2")
///     .into_status();
/// assert_eq!(status.code(), tonic::Code::NotFound);
/// ```
#[derive(Debug, Clone)]
pub struct Failure {
    code: ErrorCode,
    message: String,
    reason: &'static str,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl Failure {
    /// `reason` is UPPER_SNAKE_CASE, at most 63 characters, unique within the product; `message` is for
    /// people: lowercase, in English, without secrets.
    pub fn new(code: ErrorCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            reason,
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
        }
    }

    /// An `INTERNAL` error; the cause belongs in the log, not in the reply.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "INTERNAL", "internal error")
    }

    /// An `INVALID_ARGUMENT` error about one field.
    pub fn invalid_field(field: impl Into<String>, description: impl Into<String>) -> Self {
        let (field, description) = (field.into(), description.into());
        Self::new(
            ErrorCode::InvalidArgument,
            "INVALID_FIELD",
            format!("{field}: {description}"),
        )
        .field(field, description)
    }

    /// Adds a key to `ErrorInfo.metadata`.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// Adds a `BadRequest` field violation; `field` is the proto path (`user.data_limit_bytes`).
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, description: impl Into<String>) -> Self {
        self.details.add_bad_request_violation(field, description);
        self
    }

    /// Says when a retry makes sense: `RetryInfo`, and in whole seconds the metadata
    /// `retry-after`, for those who do not look into details.
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.details.set_retry_info(Some(delay));
        self
    }

    /// Names the resource concerned (`ResourceInfo`).
    #[must_use]
    pub fn resource(mut self, kind: impl Into<String>, name: impl Into<String>) -> Self {
        self.details.set_resource_info(kind, name, "", "");
        self
    }

    /// Adds a `PreconditionFailure` violation.
    #[must_use]
    pub fn precondition(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        description: impl Into<String>,
    ) -> Self {
        self.details
            .add_precondition_failure_violation(kind, subject, description);
        self
    }

    /// Adds a `QuotaFailure` violation.
    #[must_use]
    pub fn quota(mut self, subject: impl Into<String>, description: impl Into<String>) -> Self {
        self.details
            .add_quota_failure_violation(subject, description);
        self
    }

    /// The finished status.
    pub fn into_status(mut self) -> Status {
        let delay = self.details.retry_info().and_then(|info| info.retry_delay);
        self.details
            .set_error_info(self.reason, ERROR_DOMAIN, self.metadata);
        let mut status = Status::with_error_details(self.code.grpc(), self.message, self.details);
        if let Some(delay) = delay {
            let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
            status
                .metadata_mut()
                .insert(RETRY_AFTER, MetadataValue::from(seconds));
        }
        status
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        failure.into_status()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_carries_error_info() {
        let status = Failure::invalid_field("user.name", "must not be empty")
            .metadata("limit", "64")
            .retry_after(Duration::from_secs(3))
            .into_status();
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.domain.as_str(), info.reason.as_str()),
            ("vpnpanel", "INVALID_FIELD")
        );
        assert_eq!(info.metadata["limit"], "64");
        assert_eq!(
            details.bad_request().unwrap().field_violations[0].field,
            "user.name"
        );
        assert_eq!(
            details.retry_info().unwrap().retry_delay,
            Some(Duration::from_secs(3))
        );
        assert_eq!(status.metadata().get("retry-after").unwrap(), "3");
    }

    #[test]
    fn who_retries_by_the_header_does_not_come_too_early() {
        let busy = |millis| {
            Failure::new(ErrorCode::ResourceExhausted, "BUSY", "busy")
                .retry_after(Duration::from_millis(millis))
                .into_status()
        };
        assert_eq!(busy(1).metadata().get("retry-after").unwrap(), "1");
        assert_eq!(busy(2_000).metadata().get("retry-after").unwrap(), "2");
        assert_eq!(busy(2_001).metadata().get("retry-after").unwrap(), "3");
    }

    #[test]
    fn every_grpc_code_but_ok_has_a_row() {
        for code in (1..=16).map(Code::from_i32) {
            assert!(ErrorCode::from_grpc(code).is_some(), "{code:?}");
        }
        assert_eq!(http_status(Code::Ok), StatusCode::OK);
        assert_eq!(http_status(Code::Aborted), StatusCode::CONFLICT);
    }
}
