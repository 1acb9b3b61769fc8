//! The handlers: parse, call the domain or the store, reply. One file per resource. When they
//! run, the generated wrappers have authorized the call and checked the declared rules.

pub(crate) mod account;
pub(crate) mod api_token;
pub(crate) mod audit;
pub(crate) mod auth;
pub(crate) mod command;
pub(crate) mod connection;
pub(crate) mod dashboard;
pub(crate) mod device;
pub(crate) mod endpoint_template;
pub(crate) mod enrollment;
pub(crate) mod explain;
pub(crate) mod group;
pub(crate) mod inbound;
pub(crate) mod log;
pub(crate) mod member;
pub(crate) mod node;
pub(crate) mod operation;
pub(crate) mod plan;
pub(crate) mod renewal;
pub(crate) mod restore;
pub(crate) mod role;
pub(crate) mod session;
pub(crate) mod signing_key;
pub(crate) mod subscription;
pub(crate) mod system;
pub(crate) mod tenant;
pub(crate) mod totp;
pub(crate) mod usage;
pub(crate) mod user;
pub(crate) mod watch;
