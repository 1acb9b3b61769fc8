//! The binary as a process under test: it ends with the test, and everything it says is kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Nothing in these tests takes this long on a busy machine; a test that hangs fails here.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Cheap password hashes, and listeners at free ports.
const SETTINGS: &[(&str, &str)] = &[
    ("VPNPANEL_ARGON2_MEMORY", "8MiB"),
    ("VPNPANEL_ARGON2_TIME_COST", "1"),
    ("VPNPANEL_LOCAL_NODE", "false"),
    ("VPNPANEL_LOG_FORMAT", "json"),
    ("VPNPANEL_CONTROL_API_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_CONTROL_API_ADMIN_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_CONTROL_API_SERVICES_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_COLLECTOR_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_COLLECTOR_ENROLMENT_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_COLLECTOR_ADMIN_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_SCHEDULER_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_SCHEDULER_ADMIN_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_GATEWAY_LISTEN", "127.0.0.1:0"),
    ("VPNPANEL_GATEWAY_ADMIN_LISTEN", "127.0.0.1:0"),
];

/// Everything a process said so far.
#[derive(Clone, Default)]
struct Said(Arc<Spoken>);

#[derive(Default)]
struct Spoken {
    lines: Mutex<Vec<String>>,
    /// Streams that have ended; both do when the process does.
    ended: AtomicUsize,
    more: Notify,
}

impl Said {
    fn lines(&self) -> Vec<String> {
        self.0.lines.lock().unwrap().clone()
    }

    fn is_over(&self) -> bool {
        self.0.ended.load(Ordering::SeqCst) == 2
    }

    async fn read(self, stream: impl AsyncRead + Unpin) {
        let mut lines = BufReader::new(stream).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line = String::from_utf8_lossy(&line).into_owned();
            self.0.lines.lock().unwrap().push(line);
            self.0.more.notify_waiters();
        }
        self.0.ended.fetch_add(1, Ordering::SeqCst);
        self.0.more.notify_waiters();
    }
}

/// A process of the product.
pub(crate) struct Process {
    child: Child,
    said: Said,
    readers: JoinSet<()>,
}

impl Process {
    /// Starts `vpnpanel COMMAND` with these settings on top of those that all have.
    pub(crate) fn start(command: &[&str], data: &Path, settings: &[(&str, &str)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_vpnpanel"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("VPNPANEL_") {
                process.env_remove(name);
            }
        }
        let mut child = process
            .args(command)
            .envs(SETTINGS.iter().copied())
            .env("VPNPANEL_DATA_DIR", data)
            .envs(settings.iter().copied())
            .current_dir(data)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let said = Said::default();
        let mut readers = JoinSet::new();
        readers.spawn(said.clone().read(child.stdout.take().unwrap()));
        readers.spawn(said.clone().read(child.stderr.take().unwrap()));
        Self {
            child,
            said,
            readers,
        }
    }

    /// Where its listeners are, by service and name, once it serves.
    pub(crate) async fn listeners(&self) -> HashMap<(String, String), SocketAddr> {
        self.until("it serves", |line| line["event"] == "ready to serve")
            .await;
        let mut found = HashMap::new();
        for line in self.said.lines() {
            let Ok(line) = serde_json::from_str::<Value>(&line) else {
                continue;
            };
            if line["event"] == "listening" {
                let text = |key: &str| line[key].as_str().unwrap().to_owned();
                found.insert(
                    (text("service"), text("listener")),
                    text("address").parse().unwrap(),
                );
            }
        }
        found
    }

    /// Waits until it has logged a line; fails at once when it ends before.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) {
        let logged = async {
            let mut looked = 0;
            loop {
                let more = self.said.0.more.notified();
                tokio::pin!(more);
                more.as_mut().enable();
                let over = self.said.is_over();
                let lines = self.said.lines();
                let new = lines[looked..].iter();
                if new
                    .filter_map(|line| serde_json::from_str(line).ok())
                    .any(|line| is(&line))
                {
                    return;
                }
                assert!(!over, "it ended before: {what}");
                looked = lines.len();
                more.await;
            }
        };
        timeout(PATIENCE, logged).await.expect(what);
    }

    /// Asks it to stop, and returns everything it ever said.
    pub(crate) async fn stop(mut self) -> String {
        self.signal(Signal::SIGTERM);
        self.wait().await.1
    }

    /// Lets it do nothing for a while, as a machine that is suspended.
    pub(crate) async fn freeze(&self, length: Duration) {
        self.signal(Signal::SIGSTOP);
        tokio::time::sleep(length).await;
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    /// Kills it, as a crash would.
    pub(crate) async fn kill9(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Waits until it ends, and returns its exit code and everything it ever said.
    pub(crate) async fn wait(&mut self) -> (Option<i32>, String) {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let code = ended.expect("it ends").unwrap().code();
        while self.readers.join_next().await.is_some() {}
        (code, self.said.lines().join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let lines = self.said.lines();
            let last = lines.len().saturating_sub(200);
            eprintln!("---- the last that it said\n{}", lines[last..].join("\n"));
        }
    }
}
