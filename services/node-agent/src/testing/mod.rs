//! A network to test on: namespaces for a node, subscribers and a server behind the node's NAT,
//! real clients (`wg-quick`, Xray), real traffic. Needs root; everything it makes has a name of its own
//! and goes away when it is dropped. Used by this crate's tests and by the end-to-end tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "support of tests: a failure here is a failed test"
)]

mod client;
mod netns;
mod topology;
mod traffic;
mod xray;

pub use client::WgQuick;
pub use netns::{Namespace, require_root};
pub use topology::Topology;
pub use traffic::{Download, Server, Upload, flood, upload, upload_through};
pub use xray::{XrayProcess, xray_program};

use std::time::{Duration, Instant};

/// Polls a condition until it holds.
///
/// # Panics
/// When it does not hold within `limit`; the message says what was waited for.
pub fn eventually(what: &str, limit: Duration, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A number that no other call in this process got, for names.
fn unique() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// When it cannot be started or fails; the message holds its stderr.
pub fn run(command: &mut std::process::Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
