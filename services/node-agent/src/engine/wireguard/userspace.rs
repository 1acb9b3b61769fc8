//! wireguard-go as a process in a session of its own: it outlives the agent, and a restarted
//! agent finds it by its control socket and adopts it.

use std::fs::{self, File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::unistd::{Pid, setsid};

use super::uapi::Uapi;
use crate::{Error, host};

const PROGRAM: &str = "wireguard-go";
const START: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(5);
/// Its log is cut to nothing beyond this size: it is for the last words of one that died.
const LOG: u64 = 1 << 20;

/// A wireguard-go process and its interface.
#[derive(Debug)]
pub(super) struct UserspaceDevice {
    interface: String,
    uapi: Uapi,
    log: PathBuf,
    /// The process, once it is known; reaped when it is a child of this agent.
    process: Option<(Pid, Option<Child>)>,
}

impl UserspaceDevice {
    /// The log of the process goes to a folder of the agent's data.
    pub(super) fn new(interface: &str, folder: &Path) -> Self {
        Self {
            interface: interface.to_owned(),
            uapi: Uapi::new(interface),
            log: folder.join(format!("{interface}.log")),
            process: None,
        }
    }

    pub(super) fn uapi(&self) -> &Uapi {
        &self.uapi
    }

    /// Starts the process unless it runs; whether it had to be started.
    pub(super) fn ensure(&mut self) -> Result<bool, Error> {
        if self.alive() {
            if host::exists(&self.interface)? {
                self.bound_log();
                return Ok(false);
            }
            // It is ending, or somebody deleted its interface: it will not come back.
            self.stop()?;
        }
        if let Some(pid) = self.find()? {
            tracing::info!(event = "engine_adopted", interface = %self.interface, pid = pid.as_raw(),
                "adopted a running wireguard-go");
            self.process = Some((pid, None));
            return Ok(false);
        }
        self.start()?;
        Ok(true)
    }

    /// Ends the process; its interface goes with it.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        if !self.alive() {
            self.process = self.find()?.map(|pid| (pid, None));
        }
        let Some((pid, _)) = &self.process else {
            return Ok(());
        };
        let pid = *pid;
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => (),
                Err(_) => {
                    return Err(Error::MissingPrivilege {
                        what: "wireguard-go may not be stopped",
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
        self.process = None;
        // A killed one leaves its socket behind; one that ended by itself did not.
        match fs::remove_file(self.uapi.path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::File {
                path: self.uapi.path(),
                source: error,
            }),
            _ => Ok(()),
        }
    }

    /// Whether the known process runs. Reaps it when it was a child and has ended.
    fn alive(&mut self) -> bool {
        let Some((pid, child)) = &mut self.process else {
            return false;
        };
        let running = match child {
            Some(child) => matches!(child.try_wait(), Ok(None)),
            None => is_ours(*pid, &self.interface),
        };
        if !running {
            self.process = None;
        }
        running
    }

    /// The process that listens on the interface's control socket.
    fn find(&self) -> Result<Option<Pid>, Error> {
        let Ok(stream) = UnixStream::connect(self.uapi.path()) else {
            return Ok(None);
        };
        let Ok(credentials) = getsockopt(&stream.as_fd(), PeerCredentials) else {
            return Ok(None);
        };
        let pid = Pid::from_raw(credentials.pid());
        if !is_ours(pid, &self.interface) {
            return Err(self.not_started(format!(
                "process {pid} listens on {}, and is no wireguard-go of this interface",
                self.uapi.path().display()
            )));
        }
        if !host::exists(&self.interface)? {
            return Err(self.not_started(format!(
                "process {pid} runs it in another network namespace"
            )));
        }
        Ok(Some(pid))
    }

    fn start(&mut self) -> Result<(), Error> {
        let program = host::find(PROGRAM).ok_or(Error::MissingTool {
            program: PROGRAM,
            package: "wireguard-go",
        })?;
        if !Path::new("/dev/net/tun").exists() {
            return Err(Error::NoWireGuard("/dev/net/tun does not exist".to_owned()));
        }
        let log = self.open_log()?;
        let second = log.try_clone().map_err(Error::file(&self.log))?;
        let mut command = Command::new(program);
        command
            .args(["-f", &self.interface])
            .env("LOG_LEVEL", "error")
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
            .map_err(|error| self.not_started(error.to_string()))?;
        let deadline = Instant::now() + START;
        while !self.uapi.answers() || !host::exists(&self.interface)? {
            let ended = matches!(child.try_wait(), Ok(Some(_)));
            if ended || Instant::now() > deadline {
                // One that hangs is given up; one that ended needs only be reaped.
                let _ = child.kill();
                let _ = child.wait();
                return Err(self.not_started(self.last_words()));
            }
            std::thread::sleep(POLL);
        }
        let pid = i32::try_from(child.id())
            .map(Pid::from_raw)
            .map_err(|_| Error::Stopped)?;
        tracing::info!(event = "engine_started", interface = %self.interface, pid = pid.as_raw(),
            "started wireguard-go");
        self.process = Some((pid, Some(child)));
        Ok(())
    }

    fn open_log(&self) -> Result<File, Error> {
        if let Some(folder) = self.log.parent() {
            fs::create_dir_all(folder).map_err(Error::file(folder))?;
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(Error::file(&self.log))?;
        log.set_len(0).map_err(Error::file(&self.log))?;
        Ok(log)
    }

    fn bound_log(&self) {
        let length = fs::metadata(&self.log).map_or(0, |metadata| metadata.len());
        if length > LOG
            && let Ok(log) = OpenOptions::new().write(true).open(&self.log)
        {
            // The process appends: it goes on at the new end.
            let _ = log.set_len(0);
        }
    }

    fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let words = log
            .lines()
            .filter(|line| line.starts_with("ERROR"))
            .collect::<Vec<_>>();
        let words = if words.is_empty() {
            "it said nothing".to_owned()
        } else {
            words.join("; ")
        };
        words.chars().take(300).collect()
    }

    fn not_started(&self, message: String) -> Error {
        Error::NotStarted {
            interface: self.interface.clone(),
            message,
        }
    }
}

/// Whether a process is the wireguard-go of an interface, and has not ended.
fn is_ours(pid: Pid, interface: &str) -> bool {
    // A zombie's command line is empty.
    let Ok(cmdline) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let mut args = cmdline.split(|byte| *byte == 0);
    args.next()
        .is_some_and(|program| program.ends_with(PROGRAM.as_bytes()))
        && args.any(|arg| arg == interface.as_bytes())
}
