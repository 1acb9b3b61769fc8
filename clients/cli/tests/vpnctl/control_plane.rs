//! A control plane as a process, and `vpnctl` with a configuration folder of its own.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) const PASSWORD: &str = "correct horse battery staple";

/// Nothing in these tests takes this long on a busy machine; a test that hangs fails here.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

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

/// The binary of the server, which `cargo build --workspace` puts beside this one.
fn server() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_vpnctl")).with_file_name("vpnpanel");
    assert!(
        path.exists(),
        "no {}: cargo build --workspace --bins",
        path.display()
    );
    path
}

fn without_settings(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("VPNPANEL_") || text.starts_with("VPNCTL_") {
            command.env_remove(name);
        }
    }
    command
}

/// A server on a folder of its own; it ends with the test.
pub(crate) struct ControlPlane {
    pub(crate) address: String,
    pub(crate) scheduler: String,
    one_time: String,
    process: Child,
    _data: TempDir,
}

impl ControlPlane {
    pub(crate) fn start() -> Self {
        let data = tempfile::tempdir().unwrap();
        let mut process = without_settings(server())
            .arg("up")
            .envs(SETTINGS.iter().copied())
            .env("VPNPANEL_DATA_DIR", data.path())
            .current_dir(data.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (tell, said) = std::sync::mpsc::channel();
        let streams: [Box<dyn std::io::Read + Send>; 2] = [
            Box::new(process.stdout.take().unwrap()),
            Box::new(process.stderr.take().unwrap()),
        ];
        for stream in streams {
            let tell = tell.clone();
            // Reads on when nobody listens any more, so that the server is never held up.
            std::thread::spawn(move || {
                for line in BufReader::new(stream).lines().map_while(Result::ok) {
                    let _ = tell.send(line);
                }
            });
        }
        drop(tell);
        let (mut address, mut scheduler, mut one_time, mut ready) = (None, None, None, false);
        let mut heard = Vec::new();
        while address.is_none() || one_time.is_none() || !ready {
            let Ok(line) = said.recv_timeout(PATIENCE) else {
                panic!("it does not serve: {}", heard.join("\n"))
            };
            if let Some((_, password)) = line.split_once("one-time password") {
                one_time = Some(password.trim().to_owned());
            }
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            if json["event"] == "listening" && json["listener"] == "api" {
                let at = json["address"].as_str().map(|at| format!("http://{at}"));
                match json["service"].as_str() {
                    Some("control-api") => address = at,
                    Some("scheduler") => scheduler = at,
                    _ => {}
                }
            }
            ready |= json["event"] == "ready to serve";
            heard.push(line);
        }
        Self {
            address: address.unwrap(),
            scheduler: scheduler.unwrap(),
            one_time: one_time.unwrap(),
            process,
            _data: data,
        }
    }

    pub(crate) fn ctl(&self) -> Ctl {
        Ctl {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Signed in for the first time, with a password of its own.
    pub(crate) fn signed_in(&self) -> Ctl {
        let ctl = self.ctl();
        let login = [
            "login",
            "--server",
            &self.address,
            "--email",
            "admin@localhost",
        ];
        let told = ctl.run(&login, &format!("{}\n", self.one_time));
        assert_eq!(told.code, 0, "{}", told.err);
        assert!(told.err.contains("vpnctl password"), "{}", told.err);
        let changed = ctl.run(&["password"], &format!("{}\n{PASSWORD}\n", self.one_time));
        assert_eq!(changed.code, 0, "{}", changed.err);
        ctl
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// `vpnctl` of one person.
pub(crate) struct Ctl {
    pub(crate) folder: TempDir,
}

pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ctl {
    pub(crate) fn run(&self, args: &[&str], stdin: &str) -> Said {
        let mut child = without_settings(env!("CARGO_BIN_EXE_vpnctl"))
            .args(args)
            .env("VPNCTL_CONFIG_DIR", self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that does not read may be gone before it is written to.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Said {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What it wrote, when it did what it was told.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let said = self.run(args, "");
        assert_eq!(said.code, 0, "{args:?}: {}", said.err);
        said.out
    }

    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let text = self.done(&[args, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap()
    }
}
