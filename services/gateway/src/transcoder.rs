//! One HTTP request into one gRPC call and back: finds the route, builds the message, calls
//! within a deadline and a bound on calls under way, and renders what comes out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use prost_reflect::{DescriptorPool, Kind};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use vpnpanel_runtime::rpc::{BodyBudget, TrustedProxies};
use vpnpanel_runtime::status::Failure;

use crate::bodies::Bodies;
use crate::callers::{Caller, StreamPlace, Streams};
use crate::error::GatewayError;
use crate::headers;
use crate::http_body;
use crate::http_rule::{self, Binding, BindingError};
use crate::json::layout::Layouts;
use crate::json::wire::WireError;
use crate::json::write;
use crate::problem::{Problem, ProblemWriter, allow_list};
use crate::request;
use crate::routes::{Lookup, RouteTable, SplitPath};
use crate::stream::{Framing, Relay, deadline_exceeded};
use crate::upstream::{Upstream, Upstreams};

/// Bounds on what one client, and all together, may ask of the gateway.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Largest request body, and what all of them may hold together.
    pub bodies: BodyBudget,
    /// Largest response message of a service, in bytes.
    pub max_message: usize,
    /// A body must have arrived within this time.
    pub body_timeout: Duration,
    /// Deadline of a call that asks for none.
    pub default_timeout: Duration,
    /// Longest deadline a unary call may ask for.
    pub max_timeout: Duration,
    /// Bodies that one address may have on their way at once; more are refused.
    pub max_waiting_bodies: usize,
    /// The same for one connection, unless it is a proxy's.
    pub max_waiting_bodies_per_connection: usize,
    /// Unary calls under way at once; more are refused.
    pub max_calls: usize,
    /// Streams under way at once; more are refused.
    pub max_streams: usize,
    /// Of those, how many of one address.
    pub max_streams_per_address: usize,
    /// Pause between two signs of life on a silent stream.
    pub heartbeat: Duration,
    /// A client that takes nothing from its stream for this long is cut off.
    pub stream_patience: Duration,
    /// Proxies whose word about a client's address is taken.
    pub trusted_proxies: TrustedProxies,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            bodies: BodyBudget::new(1024 * 1024, 64 * 1024 * 1024),
            max_message: 16 * 1024 * 1024,
            body_timeout: Duration::from_secs(10),
            default_timeout: Duration::from_secs(15),
            max_timeout: Duration::from_secs(60),
            max_waiting_bodies: 128,
            max_waiting_bodies_per_connection: 32,
            max_calls: 1024,
            max_streams: 1024,
            max_streams_per_address: 64,
            heartbeat: Duration::from_secs(15),
            stream_patience: Duration::from_secs(30),
            trusted_proxies: TrustedProxies::default(),
        }
    }
}

/// The REST side of a descriptor pool. Cheap to clone.
#[derive(Clone)]
pub struct Transcoder {
    inner: Arc<Inner>,
}

impl std::fmt::Debug for Transcoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let routes = self.inner.routes.len();
        f.debug_struct("Transcoder")
            .field("routes", &routes)
            .finish_non_exhaustive()
    }
}

struct Inner {
    routes: Vec<Route>,
    table: RouteTable,
    shared: Arc<Shared>,
    limits: Limits,
    calls: Semaphore,
    streams: Streams,
    bodies: Bodies,
    stop: CancellationToken,
}

/// What renders messages and errors.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) layouts: Layouts,
    pub(crate) problems: ProblemWriter,
}

struct Route {
    binding: Binding,
    grpc_path: PathAndQuery,
    upstream: Upstream,
    answer: Answer,
    matched: MatchedRoute,
}

/// The route a response came from, as an extension of the response: the template and the method,
/// for logs and metrics that must not grow with ids.
#[derive(Debug, Clone)]
pub struct MatchedRoute {
    /// The path template, `/v1/tenants/{tenant_id}/users`.
    pub template: Arc<str>,
    /// The gRPC method, `/vpnpanel.user.v1.UserService/ListUsers`.
    pub method: Arc<str>,
}

/// What of a response message becomes the HTTP body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answer {
    /// Layout of the response message.
    layout: usize,
    /// Number of the field that is the body; the whole message if none.
    field: Option<u32>,
    /// The body is a google.api.HttpBody.
    raw: bool,
}

impl Answer {
    pub(crate) fn json(self, layouts: &Layouts, message: &[u8]) -> Result<Vec<u8>, WireError> {
        // Field names make JSON two to three times as long as the encoding.
        let mut out = Vec::with_capacity(message.len() * 3 + 64);
        match self.field {
            Some(field) => write::push_field(layouts, self.layout, field, message, &mut out)?,
            None => write::push_message(layouts, self.layout, message, &mut out)?,
        }
        Ok(out)
    }
}

impl Transcoder {
    /// Compiles the bindings of `pool`. Streams end when `stop` is cancelled.
    pub fn new(
        pool: &DescriptorPool,
        upstreams: &Upstreams,
        limits: Limits,
        stop: CancellationToken,
    ) -> Result<Self, GatewayError> {
        let layouts = Layouts::of(pool);
        let mut routes = Vec::new();
        let mut table = RouteTable::default();
        for binding in http_rule::bindings(pool)? {
            let index = routes.len();
            if let Err(conflict) =
                table.insert(binding.http_method.clone(), &binding.template, index)
            {
                let first: &Route = &routes[conflict.existing];
                return Err(BindingError::Conflict {
                    http_method: binding.http_method,
                    template: binding.template.to_string(),
                    first: first.binding.method.full_name().to_owned(),
                    second: binding.method.full_name().to_owned(),
                }
                .into());
            }
            routes.push(route(binding, upstreams, &layouts)?);
        }
        let shared = Arc::new(Shared {
            layouts,
            problems: ProblemWriter::new()?,
        });
        let calls = Semaphore::new(limits.max_calls);
        let streams = Streams::new(limits.max_streams, limits.max_streams_per_address);
        let bodies = Bodies::new(&limits);
        let inner = Inner {
            routes,
            table,
            shared,
            limits,
            calls,
            streams,
            bodies,
            stop,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Answers one request. Whatever goes wrong is an answer too.
    pub async fn handle(&self, request: Request<Body>) -> Response {
        let (parts, body) = request.into_parts();
        let inner = &*self.inner;
        let method = if parts.method == Method::HEAD {
            &Method::GET
        } else {
            &parts.method
        };
        let (route, path) = match inner.table.find(method, parts.uri.path()) {
            Lookup::Found { route, path } => (&inner.routes[route], path),
            Lookup::WrongMethod(allowed) if parts.method == Method::OPTIONS => {
                return options(&allowed);
            }
            Lookup::WrongMethod(allowed) => {
                return inner.refuse(&Problem::method_not_allowed(&parts.method, &allowed));
            }
            Lookup::Malformed => return inner.refuse(&Problem::malformed_path()),
            Lookup::NotFound => return inner.refuse(&Problem::no_route()),
        };
        let mut response = match inner.call(route, path, &parts, body).await {
            Ok(response) => response,
            Err(problem) => inner.refuse(&problem),
        };
        response.extensions_mut().insert(route.matched.clone());
        response
    }

    /// Renders an error of the layers around the transcoder in its form.
    pub(crate) fn refuse(&self, problem: &Problem) -> Response {
        self.inner.refuse(problem)
    }
}

impl Inner {
    fn refuse(&self, problem: &Problem) -> Response {
        self.shared.problems.response(problem, &self.shared.layouts)
    }

    async fn call(
        &self,
        route: &Route,
        path: SplitPath<'_>,
        parts: &http::request::Parts,
        body: Body,
    ) -> Result<Response, Problem> {
        let asked = headers::requested_timeout(&parts.headers)?;
        let metadata = headers::to_metadata(parts, &self.limits.trusted_proxies)?;
        // Held until the answer: until then the body, or the message made of it, is in memory.
        let caller = Caller::of(parts, &self.limits.trusted_proxies);
        let (body, _allowance) = self.bodies.read(&parts.headers, caller, body).await?;
        let message = request::encode(
            &route.binding,
            &path,
            parts.uri.query(),
            &parts.headers,
            body,
        )?;
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata;
        // After the body: whoever sends none keeps no place from those who do.
        if route.binding.method.is_server_streaming() {
            let place = self.streams.place(caller).ok_or_else(Problem::overloaded)?;
            return self
                .stream(route, request, asked, place, &parts.headers)
                .await;
        }
        let _permit = self
            .calls
            .try_acquire()
            .map_err(|_| Problem::overloaded())?;
        let within = asked
            .unwrap_or(self.limits.default_timeout)
            .min(self.limits.max_timeout);
        request.set_timeout(within);
        let call = route
            .upstream
            .unary(route.grpc_path.clone(), request, self.limits.max_message);
        let response = timeout(within, call)
            .await
            .map_err(|_| deadline_exceeded())??;
        let (metadata, message, _) = response.into_parts();
        let mut response = self.answer(route.answer, &metadata, &message)?;
        if headers::is_known(parts, response.headers()) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            *response.body_mut() = Body::empty();
        }
        Ok(response)
    }

    fn answer(
        &self,
        answer: Answer,
        metadata: &MetadataMap,
        message: &Bytes,
    ) -> Result<Response, Problem> {
        let unreadable = |error: WireError| {
            tracing::error!(%error, "response of the service cannot be read");
            Problem::from(Failure::internal())
        };
        let mut response = Response::new(Body::empty());
        let headers = response.headers_mut();
        headers::from_metadata(metadata, headers);
        if answer.raw {
            let body = self.raw_body(answer, message).map_err(unreadable)?;
            headers.insert(CONTENT_TYPE, body.content_type);
            *response.body_mut() = Body::from(body.data);
        } else {
            let json = answer
                .json(&self.shared.layouts, message)
                .map_err(unreadable)?;
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *response.body_mut() = Body::from(json);
        }
        Ok(response)
    }

    fn raw_body(&self, answer: Answer, message: &Bytes) -> Result<http_body::HttpBody, WireError> {
        let Some(field) = answer.field else {
            return http_body::parse(message);
        };
        let mut fields = crate::json::wire::Fields::new(message);
        let mut found = Bytes::new();
        while let Some((number, raw)) = fields.next()? {
            if let (true, crate::json::wire::Raw::Bytes(bytes)) = (number == field, raw) {
                found = message.slice_ref(bytes);
            }
        }
        http_body::parse(&found)
    }

    async fn stream(
        &self,
        route: &Route,
        mut request: tonic::Request<Bytes>,
        asked: Option<Duration>,
        place: StreamPlace,
        accept: &HeaderMap,
    ) -> Result<Response, Problem> {
        // A stream lasts as long as its client wants, unless it says how long.
        let deadline = asked.and_then(|d| Instant::now().checked_add(d));
        if let Some(asked) = asked {
            request.set_timeout(asked);
        }
        let call = route.upstream.server_streaming(
            route.grpc_path.clone(),
            request,
            self.limits.max_message,
        );
        // However long the stream may last, it begins as soon as any call is answered.
        let opened_within = asked
            .unwrap_or(self.limits.default_timeout)
            .min(self.limits.max_timeout);
        let opened_by = Instant::now() + opened_within;
        let response = timeout_at(opened_by, call)
            .await
            .map_err(|_| deadline_exceeded())??;
        let (metadata, mut messages, _) = response.into_parts();
        let framing = if route.answer.raw {
            Framing::Raw
        } else {
            Framing::accepted(accept)
        };
        let mut content_type = framing.content_type();
        let mut first = None;
        if framing == Framing::Raw {
            // The first chunk says what the others are.
            let next = timeout_at(opened_by, messages.message());
            first = next.await.map_err(|_| deadline_exceeded())??;
            if let Some(first) = &first {
                content_type = http_body::parse(first)
                    .map_err(|_| Failure::internal())?
                    .content_type;
            }
        }
        let relay = Relay {
            shared: Arc::clone(&self.shared),
            answer: route.answer,
            framing,
            messages,
            first,
            deadline,
            stop: self.stop.clone(),
            heartbeat: self.limits.heartbeat,
            patience: self.limits.stream_patience,
            place,
        };
        let mut response = Response::new(relay.into_body());
        let headers = response.headers_mut();
        headers::from_metadata(&metadata, headers);
        headers.insert(CONTENT_TYPE, content_type);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // nginx would hold events back otherwise.
        headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
        Ok(response)
    }
}

fn route(
    binding: Binding,
    upstreams: &Upstreams,
    layouts: &Layouts,
) -> Result<Route, GatewayError> {
    let method = &binding.method;
    let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
    let grpc_path =
        PathAndQuery::try_from(path.as_str()).map_err(|_| GatewayError::MethodName {
            method: path.clone(),
        })?;
    let output = method.output();
    let body = match &binding.response_body {
        Some(field) if field.is_list() || field.is_map() => None,
        Some(field) => match field.kind() {
            Kind::Message(message) => Some(message),
            _ => None,
        },
        None => Some(output.clone()),
    };
    let answer = Answer {
        layout: layouts
            .index_of(output.full_name())
            .ok_or_else(|| GatewayError::MethodName {
                method: path.clone(),
            })?,
        field: binding
            .response_body
            .as_ref()
            .map(prost_reflect::FieldDescriptor::number),
        raw: body.is_some_and(|m| m.full_name() == http_body::NAME),
    };
    let matched = MatchedRoute {
        template: binding.template.to_string().into(),
        method: path.into(),
    };
    let upstream = upstreams.of_service(method.parent_service().full_name());
    Ok(Route {
        grpc_path,
        upstream,
        answer,
        matched,
        binding,
    })
}

fn options(allowed: &[Method]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    if let Ok(list) = HeaderValue::from_str(&allow_list(allowed)) {
        response.headers_mut().insert(ALLOW, list);
    }
    response
}
