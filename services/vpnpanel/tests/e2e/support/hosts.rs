//! Processes of a node that its test did not start itself: found by program, in its namespace.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_node_agent::testing::Namespace;

use super::process::{Output, Process};

/// Processes in a namespace that run a program of this name.
pub(crate) fn running(host: &Namespace, program: &str) -> Vec<i32> {
    let name = |pid: &i32| {
        let path = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        Some(path.file_name()?.to_string_lossy().into_owned())
    };
    let mut pids = host.pids();
    pids.retain(|pid| name(pid).is_some_and(|name| name == program));
    pids
}

/// Kills every process that runs a program, as a crash would, and returns how many there were.
pub(crate) fn kill9(host: &Namespace, program: &str) -> usize {
    let pids = running(host, program);
    for pid in &pids {
        // It may have ended by itself just before.
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    for pid in &pids {
        vpnpanel_node_agent::testing::eventually(
            &format!("{program} is dead"),
            std::time::Duration::from_secs(5),
            || !alive(*pid),
        );
    }
    pids.len()
}

/// How a process was started, so that it can be started again as it was.
pub(crate) struct Invocation {
    /// The program.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
}

impl Invocation {
    /// Reads it from a running process.
    pub(crate) fn of(pid: i32) -> Self {
        let read = |name: &str| -> Vec<String> {
            let bytes = std::fs::read(format!("/proc/{pid}/{name}")).expect("a process");
            bytes
                .split(|byte| *byte == 0)
                .filter(|part| !part.is_empty())
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect()
        };
        let link =
            |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}")).expect("a process");
        Self {
            program: link("exe"),
            arguments: read("cmdline").split_off(1),
            environment: read("environ")
                .iter()
                .filter_map(|entry| entry.split_once('='))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            folder: link("cwd"),
        }
    }

    /// Starts it again in a namespace.
    pub(crate) fn start(&self, host: &Namespace, output: &Output) -> Process {
        let mut command: Command = host.command(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .current_dir(&self.folder);
        Process::start(output, &mut command)
    }
}

/// Whether a process exists and is not a zombie.
fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}
