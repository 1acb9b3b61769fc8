//! A process under test: its output is kept and shown when the test fails, and it never outlives
//! the test.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vpnpanel_node_agent::testing::eventually;

/// Lines of output that are kept of each process.
const KEPT: usize = 400;

/// What a process prints, and what it started prints after its end. Shown when the test fails.
#[derive(Clone)]
pub(crate) struct Output {
    name: String,
    lines: Arc<Mutex<VecDeque<String>>>,
}

/// A child process.
pub(crate) struct Process {
    child: Child,
    output: Output,
}

impl Output {
    /// Nothing yet.
    pub(crate) fn of(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            lines: Arc::default(),
        }
    }

    /// The last lines, oldest first.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines
            .lock()
            .expect("not poisoned")
            .iter()
            .cloned()
            .collect()
    }

    /// Notes a line of the test's own.
    pub(crate) fn note(&self, line: String) {
        let mut lines = self.lines.lock().expect("not poisoned");
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    fn read(&self, stream: impl Read + Send + 'static) {
        let output = self.clone();
        // Pipes stay open while what the process started lives on: nobody waits for this thread.
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|read| read > 0)
            {
                output.note(String::from_utf8_lossy(&line).trim_end().to_owned());
                line.clear();
            }
        });
    }

    /// Prints it when the test is failing.
    pub(crate) fn show_if_panicking(&self) {
        if std::thread::panicking() {
            eprintln!("---- output of {}", self.name);
            for line in self.lines() {
                eprintln!("{line}");
            }
        }
    }
}

impl Process {
    /// Starts a command. Settings of the product in the environment of the test are not passed on.
    pub(crate) fn start(output: &Output, command: &mut Command) -> Self {
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
        child
            .stdout
            .take()
            .into_iter()
            .for_each(|stream| output.read(stream));
        child
            .stderr
            .take()
            .into_iter()
            .for_each(|stream| output.read(stream));
        output.note(format!("(pid {} started)", child.id()));
        Self {
            child,
            output: output.clone(),
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

    /// Kills it, as a crash would.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::SIGKILL);
        let status = self.child.wait().expect("a child");
        self.output
            .note(format!("(pid {}: {status})", self.child.id()));
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut status = None;
        eventually(
            &format!("{} stops on SIGTERM", self.output.name),
            limit,
            || {
                status = self.child.try_wait().expect("a child");
                status.is_some()
            },
        );
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
    }
}
