#![doc = include_str!("../README.md")]

mod authorized;
mod client;
mod connect;
mod error;
mod pages;
mod retry;
mod session;

/// The contract: messages and stubs of every package.
pub use vpnpanel_api as api;

/// The codes of gRPC.
pub use tonic::Code;

pub use authorized::Authorized;
pub use client::{Client, SignedIn};
pub use connect::Builder;
pub use error::{ApiError, Error, FieldViolation};
pub use pages::{List, Pages};
pub use retry::{new_request_id, retrying};
