//! REST for everything the contract binds to it. The gateway is built from the descriptor pool
//! and knows no domain: it finds the method a path means, makes the request message out of path,
//! query and body, calls the service as any gRPC client would, and writes the answer as JSON.

pub mod app;
mod bodies;
mod callers;
mod channel;
mod error;
mod harden;
mod headers;
mod http_body;
mod http_rule;
mod json;
mod landing;
mod observe;
pub mod openapi;
mod problem;
mod request;
mod routes;
mod service;
mod settings;
mod stream;
mod template;
mod transcoder;
mod upstream;

pub use channel::upstreams;
pub use error::GatewayError;
pub use harden::Hardening;
pub use http_rule::BindingError;
pub use observe::RestMetrics;
pub use service::{build, tls};
pub use settings::{GatewaySettings, UpstreamSettings};
pub use template::TemplateError;
pub use transcoder::{Limits, MatchedRoute, Transcoder};
pub use upstream::{Upstream, Upstreams};
