//! One module for each thing that the binary does. Each reads like a list of what it is made of.

pub(crate) mod audit;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod control_api;
pub(crate) mod fleet;
pub(crate) mod gateway;
pub(crate) mod migrate;
pub(crate) mod scheduler;
pub(crate) mod tune_argon2;
pub(crate) mod up;
