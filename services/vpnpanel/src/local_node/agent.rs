//! The agent's process: started in a process group of its own, so that neither Ctrl-C nor the death
//! of this process reaches it; adopted when it still runs from before; started again when it dies;
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

use super::{Enrolment, LocalNodeError};

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
    pub(super) arguments: Vec<&'static str>,
    pub(super) folder: PathBuf,
    pub(super) environment: Vec<(&'static str, String)>,
}

/// The agent renews its certificate, and writes its identity anew, every few days. One that did not
/// for this long was not running; before the control plane refuses to renew it, it enrols again.
const IDENTITY_STALE: Duration = Duration::from_secs(20 * 86_400);

/// Whether the agent of `folder` is a node already.
pub(super) fn is_enrolled(folder: &Path) -> bool {
    let written = fs::metadata(folder.join("identity.json")).and_then(|file| file.modified());
    written.is_ok_and(|at| !at.elapsed().is_ok_and(|age| age > IDENTITY_STALE))
}

impl Agent {
    /// Keeps it running until `stop`; it enrols by `enrolment` as long as it has no identity.
    pub(super) async fn keep_running(
        self,
        enrolment: Option<Enrolment>,
        stop: CancellationToken,
    ) -> Result<(), LocalNodeError> {
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
            let mut command = self.command();
            if let Some(enrolment) = enrolment.as_ref().filter(|_| !is_enrolled(&self.folder)) {
                for (name, value) in enrolment.environment().await? {
                    command.env(name, value.expose());
                }
            }
            run_once(command, &record, &stop).await?;
            if stop.is_cancelled() {
                break;
            }
            wait = match started.elapsed() > HEALTHY {
                true => FIRST_WAIT,
                false => (wait * 2).min(LONGEST_WAIT),
            };
            tracing::warn!(?wait, "the agent is started again");
            stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        Ok(())
    }

    /// The agent gets this process's settings but for the secrets that are none of its business.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        for secret in ["MASTER_KEY", "DATABASE_URL", "BOOTSTRAP_PASSWORD"] {
            command.env_remove(format!("VPNPANEL_{secret}"));
            command.env_remove(format!("VPNPANEL_{secret}_FILE"));
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .kill_on_drop(false)
            .process_group(0);
        command
    }
}

/// Runs the agent until it ends or `stop` asks it to.
async fn run_once(
    mut command: Command,
    record: &Path,
    stop: &CancellationToken,
) -> Result<(), std::io::Error> {
    let mut child = command.spawn()?;
    let running = child
        .id()
        .and_then(|pid| i32::try_from(pid).ok())
        .and_then(Running::of);
    if let Some(running) = &running {
        running.write(record)?;
        tracing::info!(pid = running.pid.as_raw(), "agent started");
    }
    tokio::select! {
        status = child.wait() => tracing::warn!(status = %status?, "agent ended"),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A shell under the agent's name, which says that it runs and then waits for nothing.
    fn agent(folder: &Path) -> Agent {
        let program = folder.join("vpnpanel-agent");
        fs::copy("/bin/sh", &program).unwrap();
        let status = std::process::Command::new("mkfifo")
            .arg(folder.join("never"))
            .status()
            .unwrap();
        assert!(status.success());
        Agent {
            program,
            arguments: vec![
                "-c",
                "cd \"$FOLDER\" && echo up >> lives && read nothing < never",
            ],
            folder: folder.to_owned(),
            environment: vec![("FOLDER", folder.display().to_string())],
        }
    }

    async fn eventually<T>(look: impl Fn() -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = look() {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), look)
            .await
            .unwrap()
    }

    fn lives(folder: &Path) -> usize {
        fs::read_to_string(folder.join("lives")).map_or(0, |text| text.lines().count())
    }

    fn running(folder: &Path) -> Option<Running> {
        Running::recorded(&folder.join("agent.pid"), &folder.join("vpnpanel-agent"))
    }

    #[tokio::test]
    async fn it_is_started_again_when_it_dies_and_stops_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let kept = tokio::spawn(agent(folder.path()).keep_running(None, stop.clone()));
        eventually(|| (lives(folder.path()) == 1).then_some(())).await;
        let first = eventually(|| running(folder.path())).await;
        kill(first.pid, Signal::SIGKILL).unwrap();
        eventually(|| (lives(folder.path()) == 2).then_some(())).await;
        let second = eventually(|| running(folder.path()).filter(|now| *now != first)).await;
        stop.cancel();
        kept.await.unwrap().unwrap();
        assert!(!second.runs());
    }

    #[tokio::test]
    async fn one_that_outlived_its_parent_is_adopted_and_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let mut orphan = agent(folder.path()).command().spawn().unwrap();
        let found = Running::of(i32::try_from(orphan.id().unwrap()).unwrap()).unwrap();
        found.write(&folder.path().join("agent.pid")).unwrap();
        eventually(|| (lives(folder.path()) == 1).then_some(())).await;
        let stop = CancellationToken::new();
        let adopter = Agent {
            program: folder.path().join("vpnpanel-agent"),
            arguments: vec!["-c", "exit 1"],
            folder: folder.path().to_owned(),
            environment: Vec::new(),
        };
        let kept = tokio::spawn(adopter.keep_running(None, stop.clone()));
        stop.cancel();
        // It is this test's child, so it has to be waited for; an orphan's parent is init.
        let status = orphan.wait().await.unwrap();
        kept.await.unwrap().unwrap();
        assert!(!status.success());
        assert_eq!(lives(folder.path()), 1);
    }

    #[test]
    fn an_identity_that_was_not_renewed_for_long_is_got_anew() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_enrolled(folder.path()));
        let file = fs::File::create(folder.path().join("identity.json")).unwrap();
        assert!(is_enrolled(folder.path()));
        let long_ago = std::time::SystemTime::now() - IDENTITY_STALE * 2;
        file.set_modified(long_ago).unwrap();
        assert!(!is_enrolled(folder.path()));
    }

    #[test]
    fn a_number_that_passed_on_to_another_process_is_not_taken_for_the_agent() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("agent.pid");
        let own = Running::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let program = std::env::current_exe().unwrap();
        own.write(&record).unwrap();
        assert_eq!(Running::recorded(&record, &program), Some(own));
        let other = Running {
            started: own.started - 1,
            ..own
        };
        other.write(&record).unwrap();
        assert_eq!(Running::recorded(&record, &program), None);
        own.write(&record).unwrap();
        assert_eq!(
            Running::recorded(&record, Path::new("/bin/vpnpanel-agent")),
            None
        );
        fs::write(&record, "junk").unwrap();
        assert_eq!(Running::recorded(&record, &program), None);
    }
}
