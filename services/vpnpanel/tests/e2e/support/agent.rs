//! An agent of its own, enrolled by the command that comes with a join token.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use vpnpanel_node_agent::testing::Namespace;

use super::process::{Output, Process};
use super::product::agent_binary;

/// The folder of an agent that does not run.
pub(crate) struct AgentFolder {
    folder: tempfile::TempDir,
    output: Output,
    small_disk: bool,
    settings: Vec<(String, String)>,
}

/// An agent that runs.
pub(crate) struct Agent {
    process: Process,
    folder: AgentFolder,
}

impl AgentFolder {
    /// A folder of an agent that is not enrolled.
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
            output: Output::of("vpnpanel-agent"),
            small_disk: false,
            settings: Vec::new(),
        }
    }

    /// The same with a setting of the agent.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same on a disk of its own, of so many megabytes.
    pub(crate) fn on_small_disk(megabytes: u32) -> Self {
        let mut folder = Self::new();
        let mut mount = std::process::Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(folder.path());
        vpnpanel_node_agent::testing::run(&mut mount);
        folder.small_disk = true;
        folder
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A copy of it, as a snapshot of a virtual machine would be.
    pub(crate) fn copy(&self) -> Self {
        let copy = Self::new();
        let mut command = std::process::Command::new("cp");
        vpnpanel_node_agent::testing::run(
            command
                .arg("-a")
                .arg(self.path().join("."))
                .arg(copy.path()),
        );
        copy
    }

    /// Runs the install command of a join token on a host.
    pub(crate) fn enrol(self, host: &Namespace, token: &Value) -> Agent {
        let command = token["installCommand"]
            .as_str()
            .expect("an install command");
        self.start(host, command)
    }

    /// Starts the agent that was enrolled before.
    pub(crate) fn run(self, host: &Namespace) -> Agent {
        self.start(host, "vpnpanel-agent run")
    }

    fn start(self, host: &Namespace, line: &str) -> Agent {
        let binary = agent_binary();
        let folder = binary.parent().expect("a folder").display();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = host.command("bash");
        command
            .args(["-c", &format!("exec env {line}")])
            .env("PATH", format!("{folder}:{path}"))
            .env("VPNPANEL_AGENT_DATA_DIR", self.path())
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .current_dir(self.path());
        Agent {
            process: Process::start(&self.output, &mut command),
            folder: self,
        }
    }
}

impl Drop for AgentFolder {
    fn drop(&mut self) {
        self.output.show_if_panicking();
        if self.small_disk {
            let mut unmount = std::process::Command::new("umount");
            let _ = unmount.arg("-l").arg(self.path()).output();
        }
    }
}

impl Agent {
    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Where it keeps what it knows.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Lines that it printed last.
    pub(crate) fn output(&self) -> Vec<String> {
        self.folder.output.lines()
    }

    /// Stops it in good order.
    pub(crate) fn stop(self) -> AgentFolder {
        let status = self.process.stop(Duration::from_secs(30));
        assert!(status.success(), "{status}");
        self.folder
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill9(self) -> AgentFolder {
        self.process.kill9();
        self.folder
    }
}
