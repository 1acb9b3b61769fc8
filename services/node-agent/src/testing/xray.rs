//! Xray as a subscriber's client, or as any server of a test: from a configuration as JSON.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use super::{Namespace, eventually};

/// The Xray that `scripts/install-xray` built.
///
/// # Panics
/// When it is not there: a test is never skipped silently.
pub fn xray_program() -> PathBuf {
    let tools = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tools"));
    let program = tools.join("bin/xray");
    assert!(
        program.exists(),
        "{} is not there: run `make test-deps`",
        program.display()
    );
    program.canonicalize().expect("it exists")
}

/// A running Xray; it ends when this is dropped.
#[derive(Debug)]
pub struct XrayProcess {
    child: Child,
    folder: tempfile::TempDir,
}

impl XrayProcess {
    /// Starts Xray in a namespace and waits until it listens there on an address.
    pub fn start(host: &Namespace, config: &serde_json::Value, listens: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("config.json");
        std::fs::write(&path, config.to_string()).expect("a configuration file");
        let log = std::fs::File::create(folder.path().join("log")).expect("a log");
        let child = host
            .command(xray_program())
            .args(["run", "-config"])
            .arg(&path)
            // With readv, a connection that is reset keeps its reader waiting for ever.
            .env("XRAY_BUF_READV", "disable")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("ip is installed");
        let process = Self { child, folder };
        eventually("xray listens", Duration::from_secs(30), || {
            host.enter(|| TcpStream::connect_timeout(&listens, Duration::from_secs(1)).is_ok())
        });
        process
    }

    /// A server that speaks TLS 1.3 and HTTP/2 with this certificate and nothing else, as REALITY
    /// wants one to look like.
    pub fn disguise(host: &Namespace, address: SocketAddr, chain: &str, key: &str) -> Self {
        let lines = |pem: &str| pem.lines().map(str::to_owned).collect::<Vec<_>>();
        let config = serde_json::json!({
            "inbounds": [{
                "port": address.port(), "protocol": "trojan",
                "settings": {"clients": [{"password": "nobody knows it"}]},
                "streamSettings": {"network": "tcp", "security": "tls", "tlsSettings": {
                    "alpn": ["h2", "http/1.1"],
                    "certificates": [{"certificate": lines(chain), "key": lines(key)}],
                }},
            }],
            "outbounds": [{"protocol": "blackhole"}],
        });
        Self::start(host, &config, address)
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for XrayProcess {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("xray said: {}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
