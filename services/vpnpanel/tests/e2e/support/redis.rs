//! A Redis server of a test, on a host of the test network, that may crash and forget.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_node_agent::testing::{Namespace, eventually, run};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/redis");

/// A server; it goes away when this is dropped.
pub(crate) struct Redis<'a> {
    host: &'a Namespace,
    url: String,
    port: String,
    pid: String,
    folder: PathBuf,
}

impl<'a> Redis<'a> {
    /// Starts one on a free port of the host's loopback.
    pub(crate) fn start(host: &'a Namespace) -> Self {
        let printed = run(host.command(SCRIPT).arg("start"));
        let (url, pid) = printed.trim().split_once(' ').expect("URL and pid");
        let port = url.rsplit(':').next().expect("a port");
        let folder = folder_of(pid);
        Self {
            host,
            url: url.to_owned(),
            port: port.trim_end_matches('/').to_owned(),
            pid: pid.to_owned(),
            folder,
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Kills it; what it knew is gone.
    pub(crate) fn kill9(&mut self) {
        let _ = kill(
            Pid::from_raw(self.pid.parse().expect("a pid")),
            Signal::SIGKILL,
        );
        eventually("redis is gone", Duration::from_secs(5), || {
            !self.folder_is_worked_in()
        });
        let _ = std::fs::remove_dir_all(&self.folder);
    }

    fn folder_is_worked_in(&self) -> bool {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd == self.folder)
    }

    /// Starts another one in its place, which knows nothing.
    pub(crate) fn start_again(&mut self) {
        let mut command = self.host.command(SCRIPT);
        let printed = run(command.args(["start", "--port", &self.port]));
        let (_, pid) = printed.trim().split_once(' ').expect("URL and pid");
        pid.clone_into(&mut self.pid);
        self.folder = folder_of(pid);
    }

    /// Makes it forget everything under way.
    pub(crate) fn wipe(&self) {
        self.host.run("redis-cli", &["-p", &self.port, "FLUSHALL"]);
    }
}

impl Drop for Redis<'_> {
    fn drop(&mut self) {
        let mut stop = self.host.command(SCRIPT);
        let _ = stop.args(["stop", &self.pid]).output();
    }
}

/// The folder that a server works in.
fn folder_of(pid: &str) -> PathBuf {
    std::fs::read_link(format!("/proc/{pid}/cwd")).expect("a server")
}
