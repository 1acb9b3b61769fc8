//! What the tests stand on: the product's processes, an operator at the REST API, the kernel's
//! counters of a node, and traffic.

pub(crate) mod agent;
pub(crate) mod balancer;
pub(crate) mod chance;
pub(crate) mod counters;
pub(crate) mod edge;
pub(crate) mod hosts;
pub(crate) mod panel;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod product;
pub(crate) mod redis;
pub(crate) mod rest;
pub(crate) mod traffic;

pub(crate) use agent::AgentFolder;
pub(crate) use balancer::Balancer;
pub(crate) use chance::{Chance, setting};
pub(crate) use counters::{Counted, counters};
pub(crate) use edge::Edge;
pub(crate) use panel::{Panel, Subscriber};
pub(crate) use postgres::Postgres;
pub(crate) use product::{ALL_IN_ONE, ControlPlane, FLEET, REPLICATED};
pub(crate) use redis::Redis;
pub(crate) use traffic::{Traffic, small_buffers};
