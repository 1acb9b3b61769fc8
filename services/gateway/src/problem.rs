//! Errors as the REST client sees them: `google.rpc.Status` as JSON, under the HTTP code that
//! stands for its gRPC code, whether the service refused the call or the gateway did.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Method, StatusCode};
use prost::Message as _;
use prost_reflect::DescriptorPool;
use tonic::{Code, Status};
use tonic_types::pb;
use vpnpanel_runtime::status::{ErrorCode, Failure, http_status};

use crate::json::layout::Layouts;
use crate::json::read::FieldProblem;
use crate::json::write::{push_any, push_string};

/// Details that are for the developers of a service, not for its clients.
const WITHHELD: &str = "google.rpc.DebugInfo";

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) status: Box<Status>,
    /// Where HTTP has a better word than the gRPC code's.
    http: Option<StatusCode>,
    allow: Option<HeaderValue>,
}

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self {
            status: Box::new(settled(status)),
            http: None,
            allow: None,
        }
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        Self {
            status: Box::new(failure.into_status()),
            http: None,
            allow: None,
        }
    }
}

impl From<FieldProblem> for Problem {
    fn from(problem: FieldProblem) -> Self {
        let FieldProblem { field, description } = problem;
        if field.is_empty() {
            return Failure::new(ErrorCode::InvalidArgument, "INVALID_BODY", description).into();
        }
        Failure::invalid_field(field, description).into()
    }
}

impl Problem {
    /// Too much is under way at the moment.
    pub(crate) fn overloaded() -> Self {
        let text = "too many requests are under way";
        Failure::new(ErrorCode::Unavailable, "OVERLOADED", text)
            .retry_after(Duration::from_secs(1))
            .into()
    }

    /// With an HTTP code of its own.
    pub(crate) fn with_http(failure: Failure, http: StatusCode) -> Self {
        Self {
            http: Some(http),
            ..failure.into()
        }
    }

    /// Does not repeat the path: behind a wrong prefix it may well hold a token.
    pub(crate) fn no_route() -> Self {
        let message = "nothing is served at this path; see /openapi.json";
        Failure::new(ErrorCode::NotFound, "ROUTE_NOT_FOUND", message).into()
    }

    pub(crate) fn malformed_path() -> Self {
        let message = "the path is not valid percent-encoded UTF-8";
        Failure::new(ErrorCode::InvalidArgument, "MALFORMED_PATH", message).into()
    }

    pub(crate) fn method_not_allowed(method: &Method, allowed: &[Method]) -> Self {
        let list = allow_list(allowed);
        // A method may be any word of any length.
        let method: String = method.as_str().chars().take(100).collect();
        let message = format!("{method} is not served here, only {list}");
        let failure = Failure::new(ErrorCode::Unimplemented, "METHOD_NOT_ALLOWED", message);
        Self {
            allow: HeaderValue::from_str(&list).ok(),
            ..Self::with_http(failure, StatusCode::METHOD_NOT_ALLOWED)
        }
    }

    /// The HTTP code of the answer.
    pub(crate) fn http(&self) -> StatusCode {
        self.http.unwrap_or_else(|| http_status(self.status.code()))
    }
}

/// The value of an `Allow` header. HEAD is served wherever GET is.
pub(crate) fn allow_list(methods: &[Method]) -> String {
    let mut names: Vec<&str> = methods.iter().map(Method::as_str).collect();
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.join(", ")
}

/// Renders problems. Knows the messages that may stand in `details`: those of the contract, and
/// the standard ones of google/rpc/error_details.proto.
#[derive(Debug)]
pub(crate) struct ProblemWriter {
    standard: Layouts,
}

impl ProblemWriter {
    pub(crate) fn new() -> Result<Self, prost_reflect::DescriptorError> {
        let pool = DescriptorPool::decode(pb::FILE_DESCRIPTOR_SET)?;
        Ok(Self {
            standard: Layouts::of(&pool),
        })
    }

    /// The whole HTTP answer.
    pub(crate) fn response(&self, problem: &Problem, contract: &Layouts) -> Response {
        let mut response = Response::new(Body::from(self.json(&problem.status, contract)));
        *response.status_mut() = problem.http();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(allow) = &problem.allow {
            headers.insert(ALLOW, allow.clone());
        }
        if let Some(seconds) = retry_after(&problem.status) {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if problem.http() == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }

    /// `{"code":…,"message":…,"status":…,"details":[…]}`
    pub(crate) fn json(&self, status: &Status, contract: &Layouts) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(b"{\"code\":");
        out.extend_from_slice((status.code() as i32).to_string().as_bytes());
        out.extend_from_slice(b",\"message\":");
        push_string(&mut out, status.message());
        out.extend_from_slice(b",\"status\":");
        push_string(&mut out, code_name(status.code()));
        out.extend_from_slice(b",\"details\":[");
        let mut comma = false;
        for detail in details(status) {
            let name = detail.type_url.rsplit('/').next().unwrap_or_default();
            if name == WITHHELD {
                continue;
            }
            let start = out.len();
            if comma {
                out.push(b',');
            }
            let known = [contract, &self.standard]
                .into_iter()
                .find_map(|layouts| Some((layouts, layouts.index_of(name)?)));
            let rendered = known.is_some_and(|(layouts, index)| {
                push_any(layouts, index, &detail.type_url, &detail.value, &mut out).is_ok()
            });
            if rendered {
                comma = true;
            } else {
                tracing::warn!(detail = %detail.type_url, "error detail cannot be rendered");
                out.truncate(start);
            }
        }
        out.extend_from_slice(b"]}");
        out
    }
}

/// The canonical name of a gRPC code (google/rpc/code.proto).
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// Every error has an ErrorInfo and says nothing about how the gateway reaches its services.
fn settled(status: Status) -> Status {
    if !status.details().is_empty() {
        return status;
    }
    // Made here out of a transport error: the call did not reach the service, or got lost.
    if std::error::Error::source(&status).is_some() && status.code() != Code::DeadlineExceeded {
        tracing::warn!(error = %status, "call to the service failed");
        return Failure::new(
            ErrorCode::Unavailable,
            "SERVICE_UNREACHABLE",
            "the service cannot be reached at the moment",
        )
        .retry_after(std::time::Duration::from_secs(1))
        .into_status();
    }
    let code = ErrorCode::from_grpc(status.code()).unwrap_or(ErrorCode::Unknown);
    let mut settled = Failure::new(code, code_name(status.code()), status.message()).into_status();
    *settled.metadata_mut() = status.metadata().clone();
    settled
}

fn details(status: &Status) -> Vec<prost_types::Any> {
    if status.details().is_empty() {
        return Vec::new();
    }
    match pb::Status::decode(status.details()) {
        Ok(status) => status.details,
        Err(error) => {
            tracing::warn!(%error, "error details cannot be decoded");
            Vec::new()
        }
    }
}

/// Whole seconds until a retry makes sense, from `RetryInfo`.
fn retry_after(status: &Status) -> Option<u64> {
    let details = details(status);
    let info = details
        .iter()
        .find(|d| d.type_url.ends_with("/google.rpc.RetryInfo"))?;
    let delay = pb::RetryInfo::decode(info.value.as_slice())
        .ok()?
        .retry_delay?;
    let seconds = u64::try_from(delay.seconds).ok()?;
    Some(seconds + u64::from(delay.nanos > 0))
}
