//! Addresses, MTU and state of an interface, by iproute2, and the forwarding settings of the
//! kernel.

use std::collections::BTreeSet;
use std::fs;

use ipnet::IpNet;

use super::run;
use crate::Error;

/// What an interface should be like, besides WireGuard's own settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterfaceSettings {
    /// The node's addresses in the tunnel, with their networks.
    pub(crate) addresses: BTreeSet<IpNet>,
    /// Bytes.
    pub(crate) mtu: u32,
}

/// The interfaces of this network namespace.
pub(crate) fn interfaces() -> Result<Vec<String>, Error> {
    // The thread's own view: a test's thread may be in a namespace of its own.
    let path = "/proc/thread-self/net/dev";
    let listing = fs::read_to_string(path).map_err(Error::file(path))?;
    let names = listing
        .lines()
        .skip(2)
        .filter_map(|line| line.split_once(':'));
    Ok(names.map(|(name, _)| name.trim().to_owned()).collect())
}

/// Whether an interface exists.
pub(crate) fn exists(interface: &str) -> Result<bool, Error> {
    Ok(interfaces()?.iter().any(|name| name == interface))
}

/// Tries to make a WireGuard interface of the kernel's; false when the kernel has none.
pub(crate) fn add_wireguard(interface: &str) -> Result<bool, Error> {
    match ip(&["link", "add", "dev", interface, "type", "wireguard"]) {
        Ok(_) => Ok(true),
        Err(Error::Command { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes a device that packets are sent through; false when the kernel has no such.
pub(crate) fn add_ifb(interface: &str) -> Result<bool, Error> {
    match ip(&["link", "add", "dev", interface, "type", "ifb"]) {
        Ok(_) => (),
        Err(Error::Command { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    ip(&["link", "set", "dev", interface, "up"])?;
    Ok(true)
}

/// Brings addresses, MTU and state of an interface to what they should be; what is right
/// already is not touched.
pub(crate) fn configure(interface: &str, settings: &InterfaceSettings) -> Result<(), Error> {
    let listing = ip(&["-j", "address", "show", "dev", interface])?;
    let links: Vec<Link> = parse(&listing)?;
    let link = links.into_iter().find(|link| link.ifname == interface);
    let link = link.ok_or_else(|| Error::Command {
        program: "ip address show".to_owned(),
        message: format!("{interface} is not listed"),
    })?;
    let present: BTreeSet<IpNet> = link
        .addr_info
        .iter()
        .filter(|address| address.scope != "link")
        .filter_map(|address| {
            format!("{}/{}", address.local, address.prefixlen)
                .parse()
                .ok()
        })
        .collect();
    if link.mtu != settings.mtu {
        ip(&[
            "link",
            "set",
            "dev",
            interface,
            "mtu",
            &settings.mtu.to_string(),
        ])?;
    }
    for address in settings.addresses.difference(&present) {
        ip(&["address", "replace", &address.to_string(), "dev", interface])?;
    }
    if !link.flags.iter().any(|flag| flag == "UP") {
        ip(&["link", "set", "dev", interface, "up"])?;
    }
    for address in present.difference(&settings.addresses) {
        ip(&["address", "delete", &address.to_string(), "dev", interface])?;
    }
    Ok(())
}

/// Removes an interface; one that does not exist is no error.
pub(crate) fn remove(interface: &str) -> Result<(), Error> {
    if exists(interface)? {
        ip(&["link", "delete", "dev", interface])?;
    }
    Ok(())
}

/// Lets the kernel forward packets.
///
/// # Errors
/// [`Error::MissingPrivilege`] when the setting is off and may not be changed.
pub(crate) fn enable_forwarding(ipv6: bool) -> Result<(), Error> {
    switch_on(
        "/proc/sys/net/ipv4/ip_forward",
        "the setting net.ipv4.ip_forward has to be 1",
    )?;
    if ipv6 {
        switch_on(
            "/proc/sys/net/ipv6/conf/all/forwarding",
            "the setting net.ipv6.conf.all.forwarding has to be 1",
        )?;
    }
    Ok(())
}

fn switch_on(path: &str, what: &'static str) -> Result<(), Error> {
    if fs::read_to_string(path).map_err(Error::file(path))?.trim() == "1" {
        return Ok(());
    }
    fs::write(path, "1").map_err(|_| Error::MissingPrivilege { what })
}

fn ip(args: &[&str]) -> Result<String, Error> {
    run("ip", "iproute2", args, "").map_err(|error| match error {
        Error::Command { message, .. } if message.contains("Operation not permitted") => {
            Error::MissingPrivilege {
                what: "configuring network interfaces needs the capability CAP_NET_ADMIN",
            }
        }
        error => error,
    })
}

fn parse(listing: &str) -> Result<Vec<Link>, Error> {
    serde_json::from_str(listing).map_err(|error| Error::Command {
        program: "ip -j".to_owned(),
        message: error.to_string(),
    })
}

#[derive(serde::Deserialize)]
struct Link {
    #[serde(default)]
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(serde::Deserialize)]
struct Address {
    #[serde(default)]
    local: String,
    #[serde(default)]
    prefixlen: u8,
    #[serde(default)]
    scope: String,
}
