//! A process under test: its output is kept and shown when the test fails, and it never outlives
//! the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_node_agent::testing::eventually;

/// Lines of output that are kept of each process.
const KEPT: usize = 400;

type Lines = Arc<Mutex<VecDeque<String>>>;

/// A child process.
pub(crate) struct Process {
    name: String,
    child: Child,
    lines: Lines,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts a command. Settings of the product in the environment of the test are not passed on.
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("VPNPANEL_")
                && !command.get_envs().any(|(given, _)| given == key)
            {
                command.env_remove(key);
            }
        }
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let lines = Lines::default();
        let readers = [
            child.stdout.take().map(|stream| read(stream, &lines)),
            child.stderr.take().map(|stream| read(stream, &lines)),
        ];
        Self {
            name: name.to_owned(),
            child,
            lines,
            readers: readers.into_iter().flatten().collect(),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a pid")
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_none()
    }

    /// The last lines it printed, oldest first.
    pub(crate) fn output(&self) -> Vec<String> {
        self.lines
            .lock()
            .expect("not poisoned")
            .iter()
            .cloned()
            .collect()
    }

    /// Kills it, as a crash would.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().expect("a child");
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut status = None;
        eventually(&format!("{} stops on SIGTERM", self.name), limit, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("it ended")
    }

    fn signal(&self, signal: Signal) {
        // It may have ended by itself just before.
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- output of {} (pid {})", self.name, self.child.id());
            for line in self.output() {
                eprintln!("{line}");
            }
        }
        // Its pipes stay open while what it started lives on, so the readers are not joined.
        self.readers.clear();
    }
}

fn read(stream: impl Read + Send + 'static, lines: &Lines) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            let mut lines = lines.lock().expect("not poisoned");
            if lines.len() == KEPT {
                lines.pop_front();
            }
            lines.push_back(text);
        }
    })
}
