//! A node that takes no new sessions while those that live go on. A handshake begins with a message
//! that says who it is from in a form that only WireGuard can read, so the kernel tells newcomers by
//! where they come from: an initiation passes only from an address and port at which a session of the
//! last three minutes was heard. Sessions begin anew every two minutes, from where they are; one that
//! has roamed is heard by its data, and known within seconds.
//!
//! The gate is a table of its own, so that nothing of what is billed changes with it.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::engine::Session;
use crate::engine::cordon::{Reason, Reasons};
use crate::{Error, clock, host};

/// How long a session lives without another handshake (REJECT_AFTER_TIME of WireGuard), seconds.
const SESSION_SECS: i64 = 180;
/// How often it is looked where sessions are.
const LOOK_MS: i64 = 5_000;
/// How often the gate is set though nothing has changed: others may have removed it.
const RENEW_MS: i64 = 60_000;

/// The gate.
#[derive(Debug)]
pub(super) struct Cordon {
    table: String,
    /// Why it is closed.
    reasons: Reasons,
    /// What an earlier agent left of it was looked after.
    looked: bool,
    /// Where sessions were heard, and until when they may begin anew, seconds of the Unix epoch.
    known: HashMap<SocketAddr, i64>,
    /// The script in force.
    script: String,
    looked_ms: i64,
    set_ms: i64,
}

impl Cordon {
    pub(super) fn new(table: String, folder: &Path) -> Self {
        Self {
            table,
            reasons: Reasons::of(folder),
            looked: false,
            known: HashMap::new(),
            script: String::new(),
            looked_ms: 0,
            set_ms: 0,
        }
    }

    /// Notes a reason, or that it is gone, and says whether the gate is to be set: it comes with
    /// [`Self::keep`]; with the last reason it goes at once.
    pub(super) fn set(&mut self, reason: Reason, on: bool) -> Result<bool, Error> {
        let was_on = self.reasons.any();
        let changes = self.reasons.set(reason, on)?;
        let is_on = self.reasons.any();
        let looked = std::mem::replace(&mut self.looked, true);
        if is_on {
            if changes {
                self.looked_ms = 0;
                self.set_ms = 0;
            }
        } else if was_on || !looked {
            self.open()?;
        }
        Ok(is_on && changes)
    }

    /// Whether it is time to look where sessions are.
    pub(super) fn is_due(&mut self) -> Result<bool, Error> {
        let is_on = self.reasons.any();
        if !std::mem::replace(&mut self.looked, true) && !is_on {
            // What an agent left that was killed while it opened the gate.
            self.open()?;
        }
        Ok(is_on && clock::unix_ms().saturating_sub(self.looked_ms) >= LOOK_MS)
    }

    /// Sets the gate before these ports, open to the sessions that live.
    pub(super) fn keep(
        &mut self,
        ports: &BTreeSet<u16>,
        sessions: &[Session],
    ) -> Result<(), Error> {
        let now_ms = clock::unix_ms();
        self.looked_ms = now_ms;
        for session in sessions {
            let until = session.last_handshake.saturating_add(SESSION_SECS);
            if let Some(endpoint) = session.endpoint {
                let known = self.known.entry(endpoint).or_default();
                *known = until.max(*known);
            }
        }
        self.known.retain(|_, until| *until > now_ms / 1_000);
        let script = script(&self.table, ports, self.known.keys());
        if script != self.script || now_ms.saturating_sub(self.set_ms) >= RENEW_MS {
            nft(&script)?;
            self.script = script;
            self.set_ms = now_ms;
        }
        Ok(())
    }

    /// Removes the gate; one that is not there is no error.
    pub(super) fn open(&mut self) -> Result<(), Error> {
        self.script.clear();
        self.known.clear();
        let table = &self.table;
        nft(&format!(
            "add table inet {table}\ndelete table inet {table}\n"
        ))
    }
}

/// The whole gate, in place of the one before, in one transaction.
fn script<'a>(
    table: &str,
    ports: &BTreeSet<u16>,
    known: impl Iterator<Item = &'a SocketAddr>,
) -> String {
    let known: BTreeSet<(IpAddr, u16)> = known.map(|one| (one.ip(), one.port())).collect();
    let of_family = |v6: bool| {
        let of = known.iter().filter(move |(ip, _)| ip.is_ipv6() == v6);
        elements(of.map(|(ip, port)| format!("{ip} . {port}")))
    };
    let ports = elements(ports.iter().map(u16::to_string));
    // The first byte behind the UDP header is the type of the message: 1 begins a handshake.
    format!(
        "add table inet {table}\n\
         delete table inet {table}\n\
         table inet {table} {{\n\
         set ports {{ type inet_service; {ports}}}\n\
         set known4 {{ type ipv4_addr . inet_service; {}}}\n\
         set known6 {{ type ipv6_addr . inet_service; {}}}\n\
         chain input {{\n\
         type filter hook input priority -20; policy accept;\n\
         udp dport != @ports accept\n\
         @th,64,8 != 1 accept\n\
         ip saddr . udp sport @known4 accept\n\
         ip6 saddr . udp sport @known6 accept\n\
         udp dport @ports counter drop\n\
         }}\n\
         }}\n",
        of_family(false),
        of_family(true),
    )
}

fn elements(items: impl Iterator<Item = String>) -> String {
    let mut text = String::new();
    for item in items {
        let before = if text.is_empty() {
            "elements = { "
        } else {
            ", "
        };
        // Writing to a string does not fail.
        let _ = write!(text, "{before}{item}");
    }
    match text.is_empty() {
        true => text,
        false => text + " }; ",
    }
}

fn nft(script: &str) -> Result<(), Error> {
    host::run("nft", "nftables", &["-f", "-"], script).map(drop)
}
