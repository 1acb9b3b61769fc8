//! The rows of the tables that are read and written one by one. What works on sets is SQL, beside
//! the function that needs it.

pub(crate) mod account;
pub(crate) mod authority;
pub(crate) mod device;
pub(crate) mod endpoint_template;
pub(crate) mod group;
pub(crate) mod inbound;
pub(crate) mod node;
pub(crate) mod node_certificate;
pub(crate) mod plan;
pub(crate) mod session;
pub(crate) mod signing_key;
pub(crate) mod tenant;
pub(crate) mod user;
