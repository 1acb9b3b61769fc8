//! Redis servers for tests, started and stopped by `scripts/redis`: each test has one of its own,
//! so that it can wipe it, kill it and slow it down.
#![allow(clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use vpnpanel_auth::{Seal, SourceError};
use vpnpanel_runtime::settings::{MapEnvironment, from_environment};

use crate::CacheSettings;

/// A server that lives as long as this value.
#[derive(Debug)]
pub struct TestRedis {
    url: String,
    port: u16,
    ca: Option<PathBuf>,
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    script: Child,
    /// The script stops the server when this ends.
    input: Option<ChildStdin>,
    pid: u32,
}

impl TestRedis {
    /// One server.
    pub fn standalone() -> Self {
        Self::start(&[])
    }

    /// A cluster of one.
    pub fn cluster() -> Self {
        Self::start(&["--cluster"])
    }

    /// One server behind a sentinel.
    pub fn sentinel() -> Self {
        Self::start(&["--sentinel"])
    }

    /// One server that speaks TLS alone, by these PEM files; replicas believe the authorities.
    pub fn tls(chain: &Path, key: &Path, authorities: &Path) -> Self {
        let [chain, key, ca] = [chain, key, authorities].map(|path| path.to_str().expect("a path"));
        Self::start(&["--tls", chain, key, ca]).believing(authorities)
    }

    /// The same server; replicas believe other authorities.
    #[must_use]
    pub fn believing(mut self, authorities: &Path) -> Self {
        self.ca = Some(authorities.to_owned());
        self
    }

    fn start(options: &[&str]) -> Self {
        let (url, held) = hold(options);
        let host = url.split('?').next().unwrap_or_default();
        let port = host.rsplit(':').next().and_then(|port| port.parse().ok());
        Self {
            port: port.expect("a port"),
            url,
            ca: None,
            held: Some(held),
        }
    }

    /// What `VPNPANEL_REDIS_URL` has to be.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Settings of a replica on this server.
    pub fn settings(&self) -> CacheSettings {
        let ca = self.ca.as_ref().and_then(|path| path.to_str());
        let environment = [("VPNPANEL_REDIS_URL", self.url.as_str())]
            .into_iter()
            .chain(ca.map(|path| ("VPNPANEL_REDIS_CA", path)));
        let environment = MapEnvironment::from_iter(environment);
        from_environment(&environment).expect("settings")
    }

    /// Wipes everything.
    pub fn wipe(&self) {
        assert_eq!(self.command("FLUSHALL"), "+OK");
    }

    /// Sends one command; returns the first line of the answer.
    pub fn command(&self, command: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server");
        write!(stream, "{command}\r\n").expect("a command");
        let mut line = String::new();
        let read = BufReader::new(stream).read_line(&mut line);
        read.expect("an answer");
        line.trim_end().to_owned()
    }

    /// Lets the server answer nobody for so many seconds; does not wait for it.
    pub fn sleep(&self, seconds: f64) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("the server");
        write!(stream, "DEBUG SLEEP {seconds}\r\n").expect("a command");
        // The connection is kept until the server has read the command.
        std::thread::spawn(move || {
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)
        });
    }

    /// Ends the server without warning (SIGKILL).
    pub fn kill(&mut self) {
        let held = self.held.take().expect("a running server");
        let pid = held.pid.to_string();
        let killed = Command::new("kill").args(["-KILL", &pid]).status();
        assert!(killed.expect("kill").success());
        drop(held);
    }

    /// Starts it again, empty, where it was.
    pub fn restart(&mut self) {
        assert!(self.held.is_none(), "it runs");
        let (url, held) = hold(&["--port", &self.port.to_string()]);
        assert_eq!(url, self.url);
        self.held = Some(held);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.input.take();
        let _ended = self.script.wait();
    }
}

fn hold(options: &[&str]) -> (String, Held) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../scripts/redis");
    let mut script = Command::new(script)
        .arg("hold")
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("scripts/redis");
    let mut line = String::new();
    if let Some(stdout) = script.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut line);
        read.expect("what scripts/redis prints");
    }
    let Some((url, pid)) = line.trim_end().split_once(' ') else {
        panic!("no Redis for the tests: run `make test-deps`");
    };
    let held = Held {
        input: script.stdin.take(),
        script,
        pid: pid.parse().expect("a process id"),
    };
    (url.to_owned(), held)
}

/// Waits until something holds; panics after ten seconds.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let within = Duration::from_secs(10);
    let waited = tokio::time::timeout(within, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if waited.await.is_err() {
        panic!("not within {within:?}: {what}");
    }
}

/// A seal that is broken by any change, and hides nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainSeal;

impl Seal for PlainSeal {
    fn seal(&self, context: &str, secret: &[u8]) -> Result<Vec<u8>, SourceError> {
        Ok([context.as_bytes(), b"\0", secret].concat())
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>, SourceError> {
        let opened = sealed
            .strip_prefix(context.as_bytes())
            .and_then(|rest| rest.strip_prefix(b"\0"));
        Ok(opened.ok_or("sealed for something else")?.to_vec())
    }
}
