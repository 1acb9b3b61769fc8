//! What can go wrong on an edge host; every text says what to install, grant or look at.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

/// An error of the agent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A program is not installed.
    #[error("{program} is not installed: install the package {package}")]
    MissingTool {
        /// The program.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
    },
    /// There is no Xray on this host.
    #[error(
        "xray is not installed: put the program xray of Xray-core (https://github.com/XTLS/Xray-core) into the agent's PATH, or name it in VPNPANEL_AGENT_XRAY"
    )]
    NoXray,
    /// The process may not do what an engine needs.
    #[error("missing privilege: {what}; run as root or grant it")]
    MissingPrivilege {
        /// What is needed.
        what: &'static str,
    },
    /// No WireGuard can run on this host.
    #[error(
        "no WireGuard on this host: load the kernel module wireguard, or install the package wireguard-go and make /dev/net/tun available ({0})"
    )]
    NoWireGuard(String),
    /// A program failed.
    #[error("{program} failed: {message}")]
    Command {
        /// The program and what it was asked to do.
        program: String,
        /// What it said.
        message: String,
    },
    /// A program did not end in time and was killed.
    #[error("{program} did not end within {limit:?}")]
    CommandTimeout {
        /// The program and what it was asked to do.
        program: String,
        /// The time it had.
        limit: Duration,
    },
    /// nf_tables refused an operation.
    #[error("nftables: cannot {operation}: {source}")]
    Netlink {
        /// What was asked for.
        operation: &'static str,
        /// What the kernel answered.
        source: Errno,
    },
    /// The packet scheduler refused an operation.
    #[error("traffic control: cannot {operation}: {source}")]
    TrafficControl {
        /// What was asked for.
        operation: &'static str,
        /// What the kernel answered.
        source: Errno,
    },
    /// The kernel's answer could not be parsed.
    #[error("nftables: malformed netlink message")]
    MalformedNetlink,
    /// Our table is gone, or is not the one whose counters were read before.
    #[error("nftables: table {0} was removed or replaced by somebody else")]
    TableReplaced(String),
    /// WireGuard's control socket failed.
    #[error("wireguard {interface}: {source}")]
    UapiSocket {
        /// The interface.
        interface: String,
        /// What failed.
        source: std::io::Error,
    },
    /// WireGuard refused a configuration.
    #[error("wireguard {interface}: refused with errno {errno}")]
    UapiRefused {
        /// The interface.
        interface: String,
        /// A Linux error number; negative values are the implementation's own.
        errno: i64,
    },
    /// WireGuard's answer could not be parsed.
    #[error("wireguard {interface}: malformed answer: {what}")]
    UapiMalformed {
        /// The interface.
        interface: String,
        /// What was found.
        what: &'static str,
    },
    /// The kernel's WireGuard failed.
    #[error("wireguard {interface}: {message}")]
    Kernel {
        /// The interface.
        interface: String,
        /// What it said.
        message: String,
    },
    /// wireguard-go did not come up.
    #[error("wireguard-go did not start for {interface}: {message}")]
    NotStarted {
        /// The interface.
        interface: String,
        /// What its log says.
        message: String,
    },
    /// Xray refused an operation, or did not answer.
    #[error("xray: cannot {operation}: {message}")]
    Xray {
        /// What was asked for.
        operation: &'static str,
        /// What it said.
        message: String,
    },
    /// Xray did not come up.
    #[error("xray did not start: {0}")]
    XrayNotStarted(String),
    /// The Xray that answers is not the one whose counters were read before.
    #[error("xray was replaced: its counters start anew")]
    XrayReplaced,
    /// The kernel's list of connections cannot be read or changed.
    #[error("connections: cannot {operation}: {source}")]
    SockDiag {
        /// What was asked for.
        operation: &'static str,
        /// What the kernel answered.
        source: Errno,
    },
    /// A file of the agent cannot be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: std::io::Error,
    },
    /// A desired resource contradicts itself or another one.
    #[error("{0}")]
    Invalid(String),
    /// The engine's thread ended.
    #[error("the engine stopped")]
    Stopped,
}

impl Error {
    /// Wraps a failure to read or write a file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::File { path, source }
    }
}
