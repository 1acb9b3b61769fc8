//! A network namespace with a name of its own; processes left in it are killed with it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use super::{run, unique};

const PREFIX: &str = "vpt-";

/// Whether tests in network namespaces run: false only when the user said so with
/// `VPNPANEL_TEST_NETNS=0`.
///
/// # Panics
/// When they should run and this is not root: a test is never skipped silently.
#[must_use]
pub fn require_root() -> bool {
    if std::env::var("VPNPANEL_TEST_NETNS").is_ok_and(|value| value == "0") {
        return false;
    }
    assert!(
        Uid::effective().is_root(),
        "tests in network namespaces need root: run them as root, or set VPNPANEL_TEST_NETNS=0 to leave them out"
    );
    true
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a namespace with its loopback up. The label is a part of its name, for people.
    pub fn new(label: &str) -> Self {
        sweep();
        let name = format!("{PREFIX}{}-{}-{label}", std::process::id(), unique());
        run(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.run("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    /// Its name, as `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in the namespace (the process becomes the program: its pid is
    /// the program's).
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a program in the namespace to its end and returns what it printed.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        run(self.command(program).args(args))
    }

    /// Calls a function on a thread in the namespace: its sockets, threads and processes are
    /// made there.
    pub fn enter<R: Send>(&self, function: impl FnOnce() -> R + Send) -> R {
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.join_thread();
                    function()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a future to its end on a tokio runtime whose threads are all in the namespace.
    pub fn block_on<R: Send>(&self, future: impl Future<Output = R> + Send) -> R {
        self.enter(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(future)
        })
    }

    /// Puts the calling thread into the namespace, for its life.
    pub fn join_thread(&self) {
        let file = fs::File::open(self.path()).expect("the namespace exists");
        setns(file, CloneFlags::CLONE_NEWNET).expect("root may enter a namespace");
    }

    /// Processes in the namespace.
    pub fn pids(&self) -> Vec<i32> {
        pids_of(&self.name)
    }

    fn path(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

fn pids_of(name: &str) -> Vec<i32> {
    Command::new("ip")
        .args(["netns", "pids", name])
        .output()
        .map(|output| {
            String::from_utf8_lossy(&output.stdout)
                .split_whitespace()
                .filter_map(|pid| pid.parse().ok())
                .collect()
        })
        .unwrap_or_default()
}

/// Kills what runs in a namespace of the harness and deletes it. Threads of this very process
/// that entered it are not killed.
fn remove(name: &str) {
    let own = i32::try_from(std::process::id()).unwrap_or_default();
    for pid in pids_of(name).into_iter().filter(|pid| *pid != own) {
        let socket = uapi_socket_of(pid);
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        if let Some(socket) = socket {
            let _ = fs::remove_file(socket);
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
}

/// The control socket of a wireguard-go process, which a killed one leaves behind.
fn uapi_socket_of(pid: i32) -> Option<PathBuf> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut args = cmdline.split(|byte| *byte == 0);
    let program = String::from_utf8_lossy(args.next()?).into_owned();
    if !program.ends_with("wireguard-go") {
        return None;
    }
    let interface = args.rfind(|arg| !arg.is_empty() && !arg.starts_with(b"-"))?;
    let interface = String::from_utf8_lossy(interface);
    Some(PathBuf::from(format!(
        "/var/run/wireguard/{interface}.sock"
    )))
}

/// Removes namespaces of test processes that were killed before they could.
fn sweep() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let Ok(entries) = fs::read_dir("/var/run/netns") else {
            return;
        };
        for name in entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
        {
            let maker = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next())
                .and_then(|pid| pid.parse::<u32>().ok());
            if let Some(pid) = maker
                && !PathBuf::from(format!("/proc/{pid}")).exists()
            {
                remove(&name);
            }
        }
    });
}
