//! Xray as a process in a session of its own: it outlives the agent, and a restarted agent
//! finds it by its control socket and adopts it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, setsid};

use super::config::{self, Paths};
use crate::{Error, host};

const PROGRAM: &str = "xray";
const START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(10);
/// Its error log is cut to nothing beyond this size.
const LOG: u64 = 1 << 20;
/// A socket's path is no longer than this (sun_path, unix(7)).
const SOCKET_PATH: usize = 107;

/// An Xray process.
#[derive(Debug)]
pub(super) struct Process {
    program: Option<PathBuf>,
    folder: PathBuf,
    /// The process, once it is known; reaped when it is a child of this agent.
    running: Option<(Pid, Option<Child>)>,
}

impl Process {
    /// Its files are in a folder of the agent's data.
    pub(super) fn new(program: Option<PathBuf>, folder: PathBuf) -> Self {
        Self {
            program,
            folder,
            running: None,
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.join("control.sock")
    }

    pub(super) fn access_log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    fn error_log(&self) -> PathBuf {
        self.folder.join("error.log")
    }

    fn config(&self) -> PathBuf {
        self.folder.join("config.json")
    }

    /// Starts the process unless it runs; whether it had to be started.
    pub(super) fn ensure(&mut self) -> Result<bool, Error> {
        if self.alive() {
            self.bound_log();
            return Ok(false);
        }
        if let Some(pid) = self.find()? {
            tracing::info!(
                event = "engine_adopted",
                pid = pid.as_raw(),
                "adopted a running xray"
            );
            self.running = Some((pid, None));
            return Ok(false);
        }
        self.start()?;
        Ok(true)
    }

    /// Ends the process and every connection through it.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        if !self.alive() {
            self.running = self.find()?.map(|pid| (pid, None));
        }
        let Some((pid, _)) = &self.running else {
            return Ok(());
        };
        let pid = *pid;
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => (),
                Err(_) => {
                    return Err(Error::MissingPrivilege {
                        what: "xray may not be stopped",
                    });
                }
            }
            let deadline = Instant::now() + STOP;
            while self.alive() && Instant::now() < deadline {
                std::thread::sleep(POLL);
            }
            if !self.alive() {
                break;
            }
        }
        self.running = None;
        Ok(())
    }

    /// Whether a process is the known one.
    pub(super) fn is(&self, pid: Pid) -> bool {
        self.running
            .as_ref()
            .is_some_and(|(known, _)| *known == pid)
    }

    /// Whether the known process runs. Reaps it when it was a child and has ended.
    pub(super) fn alive(&mut self) -> bool {
        let config = self.config();
        let Some((pid, child)) = &mut self.running else {
            return false;
        };
        let running = match child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => is_ours(*pid, &config),
        };
        if !running {
            self.running = None;
        }
        running
    }

    /// Whether a process runs, known or not.
    pub(super) fn runs(&mut self) -> bool {
        self.alive() || !matches!(self.find(), Ok(None))
    }

    /// The process that listens on the control socket.
    fn find(&self) -> Result<Option<Pid>, Error> {
        let Ok(stream) = UnixStream::connect(self.socket()) else {
            return Ok(None);
        };
        let Ok(credentials) = getsockopt(&stream.as_fd(), PeerCredentials) else {
            return Ok(None);
        };
        let pid = Pid::from_raw(credentials.pid());
        if !is_ours(pid, &self.config()) {
            return Err(Error::XrayNotStarted(format!(
                "process {pid} listens on {}, and is no xray of this agent",
                self.socket().display()
            )));
        }
        Ok(Some(pid))
    }

    fn start(&mut self) -> Result<(), Error> {
        let program = self.program()?;
        self.write_config()?;
        remove_if_there(&self.socket())?;
        remove_if_there(&self.access_log())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(self.error_log())
            .map_err(Error::file(self.error_log()))?;
        log.set_len(0).map_err(Error::file(self.error_log()))?;
        let second = log.try_clone().map_err(Error::file(self.error_log()))?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("-config")
            .arg(self.config())
            // A download that the kernel copies by itself would be counted at its end only.
            .env("XRAY_BUF_SPLICE", "disable")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);
        // SAFETY: between fork and exec only setsid is called, which is async-signal-safe and
        // touches no memory of the parent.
        unsafe {
            command.pre_exec(|| setsid().map(drop).map_err(Into::into));
        }
        let mut child = command
            .spawn()
            .map_err(|error| Error::XrayNotStarted(error.to_string()))?;
        let deadline = Instant::now() + START;
        while UnixStream::connect(self.socket()).is_err() {
            let ended = matches!(child.try_wait(), Ok(Some(_)));
            if ended || Instant::now() > deadline {
                // One that hangs is given up; one that ended needs only be reaped.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::XrayNotStarted(self.last_words()));
            }
            std::thread::sleep(POLL);
        }
        let pid = i32::try_from(child.id())
            .map(Pid::from_raw)
            .map_err(|_| Error::Stopped)?;
        tracing::info!(event = "engine_started", pid = pid.as_raw(), "started xray");
        self.running = Some((pid, Some(child)));
        Ok(())
    }

    /// Implementation and version.
    pub(super) fn version(&self) -> Result<String, Error> {
        let program = self.program()?;
        let output = Command::new(&program)
            .arg("version")
            .stdin(Stdio::null())
            .output()
            .map_err(Error::file(&program))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut words = text.split_whitespace().skip(1);
        Ok(format!("xray {}", words.next().unwrap_or("unknown")))
    }

    fn program(&self) -> Result<PathBuf, Error> {
        let program = self.program.clone().or_else(|| host::find(PROGRAM));
        program.ok_or(Error::NoXray)
    }

    /// A new nonce with each start: counters start anew with it.
    fn write_config(&self) -> Result<(), Error> {
        let socket = self.socket();
        if socket.as_os_str().len() > SOCKET_PATH {
            return Err(Error::XrayNotStarted(format!(
                "the path {} is too long for a socket",
                socket.display()
            )));
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .map_err(Error::file(&self.folder))?;
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)
            .map_err(|error| Error::XrayNotStarted(format!("no random bytes: {error}")))?;
        let paths = Paths {
            socket: &socket,
            access_log: &self.access_log(),
            error_log: &self.error_log(),
        };
        let text = config::render(&paths, &nonce)
            .map_err(|error| Error::XrayNotStarted(error.to_string()))?;
        let path = self.config();
        remove_if_there(&path)?;
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(Error::file(&path))?;
        file.write_all(&text).map_err(Error::file(&path))
    }

    fn bound_log(&self) {
        let path = self.error_log();
        let length = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if length > LOG
            && let Ok(log) = OpenOptions::new().write(true).open(&path)
        {
            // The process appends: it goes on at the new end.
            let _ = log.set_len(0);
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(self.error_log()).unwrap_or_default();
        let words = log
            .lines()
            .rev()
            .find(|line| line.contains("Failed") || line.contains("failed"))
            .unwrap_or("it said nothing");
        words.chars().take(300).collect()
    }
}

fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
            path: path.to_owned(),
            source: error,
        }),
        _ => Ok(()),
    }
}

/// Whether a process is the xray of a configuration, and has not ended.
fn is_ours(pid: Pid, config: &Path) -> bool {
    // A zombie's command line is empty.
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut args = cmdline.split(|byte| *byte == 0);
    args.next()
        .is_some_and(|program| program.ends_with(PROGRAM.as_bytes()))
        && args.any(|arg| arg == config.as_os_str().as_encoded_bytes())
}

/// When a process started, in clock ticks since the host did: with the number of the process it
/// names one process of this boot.
pub(super) fn started_at(pid: Pid) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program is in brackets and may hold anything; 20 fields follow it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}
