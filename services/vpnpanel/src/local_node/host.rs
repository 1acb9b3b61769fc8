//! What this host offers to a node.

use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};

const AGENT: &str = "vpnpanel-agent";

/// Finds the agent's program: given, beside this program, or on the PATH.
pub(super) fn agent_program(given: Option<PathBuf>) -> Result<PathBuf, String> {
    if let Some(given) = given {
        return if given.is_file() {
            Ok(given)
        } else {
            Err(format!("there is no program {}", given.display()))
        };
    }
    let own = std::env::current_exe().ok();
    let beside = own
        .as_deref()
        .and_then(Path::parent)
        .map(|folder| folder.join(AGENT));
    beside
        .filter(|path| path.is_file())
        .or_else(|| on_path(AGENT))
        .ok_or_else(|| format!("{AGENT} lies neither beside this program nor on the PATH"))
}

/// Whether a WireGuard node can run here; the first thing that is missing otherwise.
pub(super) fn capable() -> Result<(), String> {
    if !nix::unistd::geteuid().is_root() {
        return Err("it needs root".to_owned());
    }
    for (program, package) in [("nft", "nftables"), ("ip", "iproute2")] {
        if on_path(program).is_none() {
            return Err(format!(
                "it needs {program} (Debian: apt install {package})"
            ));
        }
    }
    if Path::new("/sys/module/wireguard").exists() {
        return Ok(());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Err("it needs TUN, /dev/net/tun (modprobe tun)".to_owned());
    }
    match on_path("wireguard-go") {
        Some(_) => Ok(()),
        None => Err(
            "it needs the kernel module wireguard, or wireguard-go (Debian: apt install \
                     wireguard-go)"
                .to_owned(),
        ),
    }
}

/// The address this host has towards the internet; loopback where it has no route there.
pub(super) fn address() -> String {
    // Connecting a UDP socket sends nothing: it only asks for the route. 192.0.2.1 is TEST-NET-1.
    let towards = || -> std::io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    towards().map_or_else(
        |_no_route| "127.0.0.1".to_owned(),
        |address| address.to_string(),
    )
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders = std::env::split_paths(&path);
    // Root's own tools are not on every PATH.
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    folders
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
