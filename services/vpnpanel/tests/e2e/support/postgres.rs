//! A PostgreSQL server of a test, on a host of the test network, that may crash and come back.

use std::path::PathBuf;
use std::time::Duration;

use vpnpanel_node_agent::testing::{Namespace, eventually, run};

use super::hosts::{self, Invocation};
use super::process::{Output, Process};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/postgres");

/// A server; it and its folder go away when this is dropped.
pub(crate) struct Postgres<'a> {
    host: &'a Namespace,
    url: String,
    folder: PathBuf,
    invocation: Invocation,
    output: Output,
    process: Option<Process>,
}

impl<'a> Postgres<'a> {
    /// Starts one on a free port of the host's loopback.
    pub(crate) fn start(host: &'a Namespace) -> Self {
        let printed = run(host.command(SCRIPT).args(["start", "--durable"]));
        let mut printed = printed.split_whitespace();
        let url = printed.next().expect("a URL");
        let pid = printed.next().expect("a pid");
        let invocation = Invocation::of(pid.parse().expect("a pid"));
        let data = PathBuf::from({
            let at = invocation
                .arguments
                .iter()
                .position(|argument| argument == "-D");
            &invocation.arguments[at.expect("a data folder") + 1]
        });
        Self {
            host,
            url: url.to_owned(),
            folder: data.parent().expect("a folder of its own").to_owned(),
            invocation,
            output: Output::of("postgres"),
            process: None,
        }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A backup of what is in it, taken while everything runs.
    pub(crate) fn back_up(&self) -> tempfile::NamedTempFile {
        let backup = tempfile::NamedTempFile::new().expect("a temporary file");
        let mut dump = self.host.command("pg_dump");
        run(dump.arg("--file").arg(backup.path()).arg(&self.url));
        backup
    }

    /// Puts a backup into the place of what is in it; nothing of the product runs meanwhile.
    pub(crate) fn put_back(&self, backup: &tempfile::NamedTempFile) {
        let mut restore = self.host.command("psql");
        run(restore
            .arg(&self.url)
            .args(["--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"])
            .args(["--output", "/dev/null"])
            .args([
                "--command",
                "DROP SCHEMA public CASCADE; CREATE SCHEMA public",
            ])
            .arg("--file")
            .arg(backup.path()));
    }

    /// Kills every process of it, as a power loss would.
    pub(crate) fn kill9(&mut self) {
        let pids = hosts::running(self.host, "postgres");
        assert!(hosts::kill9(self.host, "postgres") > 0);
        if let Some(process) = self.process.take() {
            process.kill9();
        }
        // A server does not start while the pid in its lock file is taken, if only by a zombie
        // that the host's init has not reaped yet.
        eventually("postgres is gone", Duration::from_secs(30), || {
            pids.iter()
                .all(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
        });
    }

    /// Starts it again on what it left on the disk.
    pub(crate) fn start_again(&mut self) {
        let owner = |format: &str| {
            let mut command = std::process::Command::new("stat");
            run(command.args(["-c", format]).arg(&self.folder))
                .trim()
                .to_owned()
        };
        let mut command = self.host.command("setpriv");
        command
            .args([
                format!("--reuid={}", owner("%u")),
                format!("--regid={}", owner("%g")),
            ])
            .arg("--clear-groups")
            .arg(&self.invocation.program)
            .args(&self.invocation.arguments)
            .current_dir(&self.folder);
        self.process = Some(Process::start(&self.output, &mut command));
        eventually("postgres answers", Duration::from_secs(60), || {
            let mut ask = self.host.command("psql");
            let asked = ask.arg(&self.url).args(["-c", "select 1"]).output();
            asked.is_ok_and(|output| output.status.success())
        });
    }
}

impl Drop for Postgres<'_> {
    fn drop(&mut self) {
        self.output.show_if_panicking();
        hosts::kill9(self.host, "postgres");
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
