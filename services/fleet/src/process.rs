//! A process that is measured: started, killed, asked what it takes. It never outlives this one.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::process::{Child, Command};

use crate::error::Error;

/// How long a process may take to stop in good order.
const STOP: Duration = Duration::from_secs(40);

/// A child process.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    pid: Pid,
}

/// Memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that was ever resident.
    pub(crate) peak: u64,
}

impl Process {
    /// Starts a command; what it prints is appended to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self, Error> {
        let file = || {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(log);
            file.map_err(Error::io(log.display().to_string()))
        };
        let child = command
            .stdin(Stdio::null())
            .stdout(file()?)
            .stderr(file()?)
            .kill_on_drop(true)
            .spawn()
            .map_err(Error::io("starting a process"))?;
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        let pid =
            Pid::from_raw(id.ok_or_else(|| {
                Error::io("starting a process")(std::io::ErrorKind::NotFound.into())
            })?);
        Ok(Self { child, pid })
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it, as a crash would.
    pub(crate) async fn kill9(mut self) -> Result<(), Error> {
        self.child
            .kill()
            .await
            .map_err(Error::io("killing a process"))
    }

    /// Asks it to stop, and kills it when it does not.
    pub(crate) async fn stop(mut self) -> Result<(), Error> {
        kill(self.pid, Signal::SIGTERM)?;
        match tokio::time::timeout(STOP, self.child.wait()).await {
            Ok(_ended) => Ok(()),
            Err(_late) => self.kill9().await,
        }
    }

    /// What it takes now.
    pub(crate) fn memory(&self) -> Result<Memory, Error> {
        let text = self.file("status")?;
        Ok(Memory {
            resident: kibibytes(&text, "VmRSS:"),
            peak: kibibytes(&text, "VmHWM:"),
        })
    }

    /// Processor time that it has used.
    pub(crate) fn processor_time(&self) -> Result<Duration, Error> {
        let text = self.file("stat")?;
        // The name of the program, in parentheses, may have spaces.
        let fields = text.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks: u64 = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum();
        let per_second = sysconf(SysconfVar::CLK_TCK)?
            .and_then(|ticks| u64::try_from(ticks).ok())
            .unwrap_or(100);
        Ok(Duration::from_millis(ticks * 1000 / per_second))
    }

    fn file(&self, name: &str) -> Result<String, Error> {
        let path = format!("/proc/{}/{name}", self.pid);
        std::fs::read_to_string(&path).map_err(Error::io(path))
    }
}

fn kibibytes(status: &str, name: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}
