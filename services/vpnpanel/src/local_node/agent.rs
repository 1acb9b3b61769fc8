//! The agent's process: started in a session of its own, so that Ctrl-C and the death of this
//! process do not reach it; adopted when it still runs from before; started again when it dies;
//! asked to stop when the product is. What it drives, tunnels and counters, outlives both.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use vpnpanel_runtime::settings::Secret;

/// A run this long is taken for a success, and the next wait is short again.
const HEALTHY: Duration = Duration::from_secs(60);
const FIRST_WAIT: Duration = Duration::from_millis(250);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// How often an adopted process, which is nobody's child here, is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long the agent has to stop by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// How the agent is run.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) program: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) environment: Vec<(&'static str, Secret)>,
}

impl Agent {
    /// Keeps it running until `stop`.
    pub(super) async fn keep_running(self, stop: CancellationToken) -> Result<(), std::io::Error> {
        fs::create_dir_all(&self.folder)?;
        let record = self.folder.join("agent.pid");
        if let Some(running) = Running::recorded(&record, &self.program) {
            tracing::info!(pid = running.pid.as_raw(), "agent adopted: it ran on");
            if running.watch(&stop).await {
                running.stop().await;
                return Ok(());
            }
            tracing::warn!("the adopted agent ended");
        }
        let mut wait = FIRST_WAIT;
        while !stop.is_cancelled() {
            let started = Instant::now();
            self.run_once(&record, &stop).await?;
            if stop.is_cancelled() {
                break;
            }
            wait = if started.elapsed() > HEALTHY {
                FIRST_WAIT
            } else {
                (wait * 2).min(LONGEST_WAIT)
            };
            tracing::warn!(
                again_in_ms = wait.as_millis() as u64,
                "the agent ended, it is started again"
            );
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }

    async fn run_once(
        &self,
        record: &Path,
        stop: &CancellationToken,
    ) -> Result<(), std::io::Error> {
        let mut child = self.command().spawn()?;
        let running = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Running::of);
        if let Some(running) = &running {
            running.write(record)?;
            tracing::info!(pid = running.pid.as_raw(), program = %self.program.display(), "agent started");
        }
        tokio::select! {
            status = child.wait() => {
                tracing::warn!(status = %status?, "agent ended");
            }
            () = stop.cancelled() => {
                if let Some(running) = running {
                    running.terminate();
                }
                if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
                    tracing::warn!("the agent did not stop and is left running");
                }
            }
        }
        Ok(())
    }

    /// The agent gets this process's settings but for those that are for it alone.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .env_remove("VPNPANEL_MASTER_KEY")
            .env_remove("VPNPANEL_DATABASE_URL")
            .env_remove("VPNPANEL_BOOTSTRAP_PASSWORD")
            .envs(
                self.environment
                    .iter()
                    .map(|(name, value)| (name, value.expose())),
            )
            .stdin(Stdio::null())
            .kill_on_drop(false);
        // A session of its own: no terminal, and no signal meant for this process's group.
        command.process_group(0);
        command
    }
}

/// A process that is known by more than its number, which may have passed on to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Running {
    pid: Pid,
    /// Clock ticks since boot at which it started, from /proc/<pid>/stat.
    started: u64,
}

impl Running {
    fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, after_name) = stat.rsplit_once(')')?;
        let mut fields = after_name.split_whitespace();
        // A zombie has ended.
        if fields.next()? == "Z" {
            return None;
        }
        // Field 22 of proc(5); the state was field 3.
        let started = fields.nth(18)?.parse().ok()?;
        Some(Self {
            pid: Pid::from_raw(pid),
            started,
        })
    }

    /// The process that an earlier life of this one started, if it runs still.
    fn recorded(record: &Path, program: &Path) -> Option<Self> {
        let text = fs::read_to_string(record).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let recorded = Self {
            pid: Pid::from_raw(pid.parse().ok()?),
            started: started.parse().ok()?,
        };
        let executable = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        // After an upgrade the kernel says "… (deleted)".
        let same_name = executable
            .file_name()?
            .to_string_lossy()
            .starts_with(program.file_name()?.to_string_lossy().as_ref());
        (same_name && recorded.runs()).then_some(recorded)
    }

    fn write(&self, record: &Path) -> std::io::Result<()> {
        fs::write(record, format!("{} {}\n", self.pid, self.started))
    }

    fn runs(self) -> bool {
        Self::of(self.pid.as_raw()) == Some(self)
    }

    /// True when `stop` came first, false when the process ended.
    async fn watch(self, stop: &CancellationToken) -> bool {
        while self.runs() {
            if stop
                .run_until_cancelled(tokio::time::sleep(LOOK))
                .await
                .is_none()
            {
                return true;
            }
        }
        false
    }

    async fn stop(self) {
        self.terminate();
        let gone = async {
            while self.runs() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            tracing::warn!("the agent did not stop and is left running");
        }
    }

    fn terminate(self) {
        if self.runs()
            && let Err(error) = kill(self.pid, Signal::SIGTERM)
        {
            tracing::debug!(%error, "the agent ended by itself");
        }
    }
}
