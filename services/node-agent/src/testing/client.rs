//! A subscriber's real client: `wg-quick` with wireguard-go, from a configuration text.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use super::{Namespace, unique};

/// A tunnel that `wg-quick` brought up; it goes down when this is dropped.
#[derive(Debug)]
pub struct WgQuick<'a> {
    host: &'a Namespace,
    config: PathBuf,
    interface: String,
    folder: tempfile::TempDir,
}

impl<'a> WgQuick<'a> {
    /// Brings a configuration up in a namespace, as it was handed to the subscriber. Only `DNS`
    /// lines are left out: `wg-quick` would call for resolvconf and change the host's resolver.
    pub fn up(host: &'a Namespace, configuration: &str) -> Self {
        let interface = format!("vt{:x}c{}", std::process::id(), unique());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = folder.path().join(format!("{interface}.conf"));
        let mut file = std::fs::OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(0o600)
            .open(&config)
            .expect("a configuration file");
        for line in configuration.lines().filter(|line| !is_dns(line)) {
            writeln!(file, "{line}").expect("a configuration file");
        }
        let client = Self {
            host,
            config,
            interface,
            folder,
        };
        client.wg_quick("up");
        client
    }

    /// Name of the client's interface.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Seconds of the Unix epoch of the newest handshake; 0 is none yet.
    pub fn last_handshake(&self) -> u64 {
        self.host
            .run("wg", &["show", &self.interface, "latest-handshakes"])
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .max()
            .unwrap_or(0)
    }

    /// Forgets its session, and shakes hands from the same port again, as a client does every two
    /// minutes.
    pub fn shake_hands_again(&self) {
        let interface = &self.interface;
        let again = format!(
            "was=$(wg showconf {interface}) && wg set {interface} peer $(wg show {interface} peers) \
             remove && wg setconf {interface} <(echo \"$was\")"
        );
        self.host.run("bash", &["-c", &again]);
    }

    fn wg_quick(&self, verb: &str) {
        // To a file and not to a pipe: the client's daemon keeps it open for its life.
        let log = self.folder.path().join("log");
        let output = std::fs::File::create(&log).expect("a log");
        let status = self
            .host
            .command("wg-quick")
            .arg(verb)
            .arg(&self.config)
            .env("WG_QUICK_USERSPACE_IMPLEMENTATION", "wireguard-go")
            .env("LOG_LEVEL", "error")
            .current_dir(self.folder.path())
            .stdin(std::process::Stdio::null())
            .stdout(output.try_clone().expect("a log"))
            .stderr(output)
            .status()
            .expect("wg-quick is installed");
        let said = std::fs::read_to_string(log).unwrap_or_default();
        assert!(status.success(), "wg-quick {verb}: {status}: {said}");
    }
}

impl Drop for WgQuick<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.wg_quick("down");
        }
        let socket = format!("/var/run/wireguard/{}.sock", self.interface);
        let _ = std::fs::remove_file(socket);
    }
}

fn is_dns(line: &str) -> bool {
    line.split('=')
        .next()
        .is_some_and(|key| key.trim().eq_ignore_ascii_case("dns"))
}
