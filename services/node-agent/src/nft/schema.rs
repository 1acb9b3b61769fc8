//! The fixed part of our table, as a script for the `nft` tool: sets, maps, chains, rules.
//!
//! What a packet of a subscriber passes, in this order:
//!
//! 1. between two subscribers, or to a link-local address (cloud metadata): dropped;
//! 2. an address that is no member (any more; membership may carry a `not_after`): dropped;
//! 3. an address in `blocked`: dropped;
//! 4. faster than the user may be in this direction, all devices together: dropped;
//! 5. the user's quota, one object for both directions and all devices: dropped when it is over;
//! 6. the peer's counter of the direction: what is billed;
//! 7. to a user that is held back to a speed by a class of the interface: the class is named.
//!
//! So nothing that was dropped here is billed. The same chains stand in `forward`, and in `input` and
//! `output` for traffic with the node itself, which is billed like any other; whether the node's
//! own services may be reached is left to the host's firewall. A new table gets its incarnation,
//! a counter whose name holds a nonce, in the transaction that makes it.

use std::collections::BTreeSet;
use std::fmt::Write;

use ipnet::IpNet;

/// The sets and maps of each address family: (IPv4, IPv6).
pub(super) const UP: Pair = Pair("up4", "up6");
pub(super) const DOWN: Pair = Pair("down4", "down6");
pub(super) const SPEED_UP: Pair = Pair("speed_up4", "speed_up6");
pub(super) const SPEED_DOWN: Pair = Pair("speed_down4", "speed_down6");
pub(super) const PACE: Pair = Pair("pace4", "pace6");
pub(super) const QUOTA: Pair = Pair("quota4", "quota6");
pub(super) const MEMBERS: Pair = Pair("members4", "members6");
pub(super) const BLOCKED: Pair = Pair("blocked4", "blocked6");

/// Prefix of the name of the counter that holds the incarnation.
pub(super) const INCARNATION: &str = "incarnation_";

/// A set for IPv4 and its twin for IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair(pub(super) &'static str, pub(super) &'static str);

/// The interfaces and networks that the table is about.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope {
    /// WireGuard interfaces.
    pub interfaces: BTreeSet<String>,
    /// Networks of their peers.
    pub pools: BTreeSet<IpNet>,
}

/// The script that makes the table, or brings the rules of one that exists up to date without
/// touching its counters, quotas and elements. `incarnation` is the name of
/// the object that says so in a new table.
pub(super) fn script(table: &str, scope: &Scope, incarnation: Option<&str>) -> String {
    let mut script = String::with_capacity(4096);
    let mut line = |text: String| {
        script.push_str(&text);
        script.push('\n');
    };
    line(format!("add table inet {table}"));
    if let Some(nonce) = incarnation {
        line(format!("add counter inet {table} {nonce}"));
    }
    line(format!("add set inet {table} ifaces {{ type ifname; }}"));
    line(format!("flush set inet {table} ifaces"));
    if !scope.interfaces.is_empty() {
        let names = joined(scope.interfaces.iter().map(|name| format!("\"{name}\"")));
        line(format!("add element inet {table} ifaces {{ {names} }}"));
    }
    for (family, address, v6) in [("4", "ipv4_addr", false), ("6", "ipv6_addr", true)] {
        for (map, object) in [
            ("up", "counter"),
            ("down", "counter"),
            ("quota", "quota"),
            ("speed_up", "limit"),
            ("speed_down", "limit"),
            ("pace", "classid"),
        ] {
            line(format!(
                "add map inet {table} {map}{family} {{ type {address} : {object}; }}"
            ));
        }
        for set in ["members", "blocked"] {
            line(format!(
                "add set inet {table} {set}{family} {{ type {address}; flags timeout; }}"
            ));
        }
        line(format!(
            "add set inet {table} pools{family} {{ type {address}; flags interval; auto-merge; }}"
        ));
        line(format!("flush set inet {table} pools{family}"));
        let pools = scope
            .pools
            .iter()
            .filter(|pool| matches!(pool, IpNet::V6(_)) == v6);
        let pools = joined(pools.map(|pool| pool.trunc().to_string()));
        if !pools.is_empty() {
            line(format!(
                "add element inet {table} pools{family} {{ {pools} }}"
            ));
        }
    }
    for (chain, hook) in [
        ("from_peer", ""),
        ("to_peer", ""),
        (
            "forward",
            "{ type filter hook forward priority -10; policy accept; }",
        ),
        (
            "input",
            "{ type filter hook input priority -10; policy accept; }",
        ),
        (
            "output",
            "{ type filter hook output priority -10; policy accept; }",
        ),
        (
            "postrouting",
            "{ type nat hook postrouting priority 100; policy accept; }",
        ),
    ] {
        line(format!("add chain inet {table} {chain} {hook}"));
        line(format!("flush chain inet {table} {chain}"));
    }
    for (chain, rule) in rules() {
        line(format!("add rule inet {table} {chain} {rule}"));
    }
    script
}

fn rules() -> Vec<(&'static str, String)> {
    let mut rules = vec![
        ("forward", "iifname @ifaces oifname @ifaces drop".to_owned()),
        (
            "forward",
            "iifname @ifaces ip daddr 169.254.0.0/16 drop".to_owned(),
        ),
        (
            "forward",
            "iifname @ifaces ip6 daddr fe80::/10 drop".to_owned(),
        ),
    ];
    for interface in ["iifname", "oifname"] {
        let clamp = format!(
            "{interface} @ifaces tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
        );
        rules.push(("forward", clamp));
    }
    rules.push(("forward", "iifname @ifaces goto from_peer".to_owned()));
    rules.push(("forward", "oifname @ifaces goto to_peer".to_owned()));
    rules.push(("input", "iifname @ifaces goto from_peer".to_owned()));
    rules.push(("output", "oifname @ifaces goto to_peer".to_owned()));
    for (chain, side, map) in [("from_peer", "saddr", "up"), ("to_peer", "daddr", "down")] {
        for (ip, family) in [("ip", "4"), ("ip6", "6")] {
            rules.push((chain, format!("{ip} {side} != @members{family} drop")));
            rules.push((chain, format!("{ip} {side} @blocked{family} drop")));
            rules.push((
                chain,
                format!("limit name {ip} {side} map @speed_{map}{family} drop"),
            ));
            rules.push((
                chain,
                format!("quota name {ip} {side} map @quota{family} drop"),
            ));
            rules.push((
                chain,
                format!("counter name {ip} {side} map @{map}{family}"),
            ));
        }
    }
    // IPv4's forwarding sets the priority from the type of service; IPv6's keeps what it was.
    rules.push((
        "from_peer",
        "meta nfproto ipv6 meta priority set none".to_owned(),
    ));
    for (ip, family) in [("ip", "4"), ("ip6", "6")] {
        rules.push((
            "to_peer",
            format!("meta priority set {ip} daddr map @pace{family}"),
        ));
        rules.push((
            "postrouting",
            format!("{ip} saddr @pools{family} oifname != @ifaces oifname != \"lo\" masquerade"),
        ));
    }
    rules
}

fn joined(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{comma}{item}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_come_before_the_billing_counter() {
        let script = script("vp_test", &Scope::default(), Some("00"));
        let at = |what: &str| {
            script
                .find(what)
                .unwrap_or_else(|| panic!("{what} in {script}"))
        };
        assert!(at("@members4 drop") < at("saddr @blocked4 drop"));
        assert!(at("saddr @blocked4 drop") < at("saddr map @speed_up4 drop"));
        assert!(at("saddr map @speed_up4 drop") < at("saddr map @quota4 drop"));
        assert!(at("daddr map @speed_down6 drop") < at("daddr map @quota6 drop"));
        assert!(at("saddr map @quota4 drop") < at("saddr map @up4"));
        assert!(at("daddr map @quota6 drop") < at("daddr map @down6"));
    }
}
