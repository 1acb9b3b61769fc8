//! The process that is measured: its CPU and memory, from /proc.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub(crate) const GATEWAY: &str = "127.0.0.1:8080";
pub(crate) const CONTROL_API: &str = "127.0.0.1:50051";
pub(crate) const BARE: &str = "127.0.0.1:8099";
pub(crate) const ONE_TIME_PASSWORD: &str = "one-time password of a benchmark";

/// Settings in the environment, beside those of every benchmark.
pub(crate) type Settings = &'static [(&'static str, &'static str)];

/// A server in a process of its own.
pub(crate) struct Server {
    child: Child,
    data: tempfile::TempDir,
}

impl Server {
    /// Starts the product on an empty folder.
    pub(crate) fn start(settings: Settings) -> Result<Self> {
        Self::run(tempfile::tempdir()?, settings)
    }

    /// Starts it again on the folder of one that was stopped.
    pub(crate) fn start_on(stopped: Self, settings: Settings) -> Result<Self> {
        let mut stopped = stopped;
        let data = std::mem::replace(&mut stopped.data, tempfile::tempdir()?);
        Self::run(data, settings)
    }

    fn run(data: tempfile::TempDir, settings: Settings) -> Result<Self> {
        let child = Command::new(env!("CARGO_BIN_EXE_vpnpanel"))
            .arg("up")
            .env("VPNPANEL_DATA_DIR", data.path())
            .env("VPNPANEL_LOCAL_NODE", "false")
            .env("VPNPANEL_BOOTSTRAP_PASSWORD", ONE_TIME_PASSWORD)
            .envs(settings.iter().copied())
            .env("VPNPANEL_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { child, data })
    }

    /// Starts a bare server of a kind that answers a body.
    pub(crate) fn bare(kind: &str, body: &[u8]) -> Result<Self> {
        let data = tempfile::tempdir()?;
        let file = data.path().join("body");
        std::fs::File::create(&file)?.write_all(body)?;
        let child = Command::new(std::env::current_exe()?)
            .args(["--bare", kind])
            .arg(&file)
            .spawn()?;
        let server = Self { child, data };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(BARE).is_err() {
            ensure!(Instant::now() < deadline, "the bare server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Waits until the gateway takes calls.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if healthy("127.0.0.1:9104").await.unwrap_or(false) {
                return Ok(());
            }
            ensure!(self.child.try_wait()?.is_none(), "the server ended");
            ensure!(Instant::now() < deadline, "the server is not ready");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// CPU time used so far by all its threads, those that ended too, in microseconds.
    pub(crate) fn cpu_micros(&self) -> Result<f64> {
        let clock = clock_getcpuclockid(Pid::from_raw(i32::try_from(self.child.id())?))?;
        Ok(Duration::from(clock.now()?).as_secs_f64() * 1e6)
    }

    /// Resident memory, bytes.
    pub(crate) fn memory(&self) -> Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib: u64 = line
            .and_then(|rest| rest.split_whitespace().next())
            .context("VmRSS")?
            .parse()?;
        Ok(kib * 1024)
    }

    /// Stops it in good order. The clients have to run on meanwhile: a stop waits for what they are
    /// sent and answers.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        loop {
            if let Some(status) = self.child.try_wait()? {
                ensure!(status.success(), "the server did not stop well");
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the service of an admin listener says that it takes calls.
pub(crate) async fn healthy(address: &str) -> std::io::Result<bool> {
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200"))
}
