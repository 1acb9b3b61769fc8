//! The product end to end: its real binaries, real WireGuard clients and real traffic in network
//! namespaces. Needs root; `VPNPANEL_TEST_NETNS=0` leaves these tests out.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `VPNPANEL_TEST_SEED` | replays the random choices of a run |
//! | `VPNPANEL_TEST_KILLS` | how many processes are killed under traffic (default 8) |
//! | `VPNPANEL_TEST_CHAOS_SECS` | how long everything of a replicated fleet breaks (default 120) |
//! | `VPNPANEL_TEST_BATCH` | how many users one operation makes (default 4000) |
//! | `VPNPANEL_TEST_OUTAGE_SECS` | how long the control plane is away (default 15) |
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "tests: a failure is a panic, what happened is printed, and threads may sleep"
)]

mod billing;
mod chaos;
mod clones;
mod commands;
mod crashes;
mod drains;
mod fleet;
mod hard_cap;
mod operations;
mod outage;
mod periods;
mod quota;
mod readme;
mod renewal;
mod restores;
mod speed;
mod support;
mod xray;
