//! Which peer is behind which TCP connection, and which connections must end. A connection is
//! cut by itself, never by its address: another subscriber behind the same address lives on.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use vpnpanel_domain::{InboundId, PeerId};

use super::access_log::Entry;
use crate::sockets::Connection;

/// A connection may carry several peers (gRPC streams of several devices behind one proxy); one
/// that carries more than this is nobody's and is cut.
const PEERS: usize = 256;
/// A connection that no line of the log explained in so many seconds is unexplained: its line
/// was dropped by a busy Xray, or its client lied about where it comes from.
const UNEXPLAINED_SECONDS: u64 = 15;

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
struct Known {
    /// The kernel's number of it, once it was seen.
    cookie: Option<u64>,
    peers: BTreeSet<PeerId>,
    /// Those of them that were named since the last look at the sockets.
    #[serde(skip)]
    fresh: BTreeSet<PeerId>,
}

impl Known {
    /// Whom the log named behind the connection of this number.
    fn behind(&mut self, cookie: u64) -> Option<&BTreeSet<PeerId>> {
        if self.cookie.is_some_and(|known| known != cookie) {
            // Another connection from the same port: only what was said since is of it.
            self.peers = std::mem::take(&mut self.fresh);
        }
        self.cookie = Some(cookie);
        self.fresh.clear();
        Some(&self.peers).filter(|peers| !peers.is_empty())
    }
}

/// What is known of the connections of all inbounds.
#[derive(Debug, Default)]
pub(super) struct Connections {
    known: BTreeMap<InboundId, HashMap<SocketAddr, Known>>,
    /// Connections that no line explained, since when (seconds of a steady clock).
    unexplained: HashMap<u64, u64>,
}

/// What a restarted agent takes up.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) offset: u64,
    pub(super) nonce: [u8; 16],
    known: Vec<(InboundId, Vec<(SocketAddr, Known)>)>,
}

impl Connections {
    /// Takes note of what the log says.
    pub(super) fn note(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let known = self
                .known
                .entry(entry.inbound)
                .or_default()
                .entry(entry.remote)
                .or_default();
            if known.peers.len() <= PEERS {
                known.peers.insert(entry.peer);
                known.fresh.insert(entry.peer);
            }
        }
    }

    /// Compares what is known with an inbound's sockets, forgets what has ended, and says which
    /// must be destroyed: those of peers that are not let in from there, and, when somebody is being
    /// cut, those that were unexplained for long.
    pub(super) fn unwanted(
        &mut self,
        inbound: InboundId,
        sockets: Vec<Connection>,
        cutting: bool,
        now: u64,
        is_let_in: impl Fn(PeerId, IpAddr) -> bool,
    ) -> Vec<Connection> {
        let known = self.known.entry(inbound).or_default();
        let mut there = HashSet::with_capacity(sockets.len());
        let mut unwanted = Vec::new();
        for socket in sockets {
            there.insert(socket.remote);
            let explained = known.get_mut(&socket.remote);
            let peers = explained.and_then(|known| known.behind(socket.cookie));
            let ends = if let Some(peers) = peers {
                self.unexplained.remove(&socket.cookie);
                peers.len() > PEERS
                    || !peers
                        .iter()
                        .all(|peer| is_let_in(*peer, socket.remote.ip()))
            } else {
                let since = *self.unexplained.entry(socket.cookie).or_insert(now);
                cutting && now.saturating_sub(since) >= UNEXPLAINED_SECONDS
            };
            if ends {
                unwanted.push(socket);
            }
        }
        known.retain(|remote, _| there.contains(remote));
        unwanted
    }

    /// Forgets unexplained connections that are on no list any more.
    pub(super) fn retain_unexplained(&mut self, cookies: &HashSet<u64>) {
        self.unexplained
            .retain(|cookie, _| cookies.contains(cookie));
    }

    /// Forgets an inbound that is gone.
    pub(super) fn forget(&mut self, inbound: InboundId) {
        self.known.remove(&inbound);
    }

    /// Peers with connections.
    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> {
        let known = self.known.values().flat_map(HashMap::values);
        known.flat_map(|known| known.peers.iter().copied())
    }

    /// Peers with connections, and where those come from.
    pub(super) fn sessions(&self) -> BTreeMap<PeerId, BTreeSet<IpAddr>> {
        let mut sessions: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (remote, known) in self.known.values().flatten() {
            for peer in &known.peers {
                sessions.entry(*peer).or_default().insert(remote.ip());
            }
        }
        sessions
    }

    /// What is known, for a restarted agent.
    pub(super) fn record(&self, offset: u64, nonce: [u8; 16]) -> Record {
        let of = |known: &HashMap<SocketAddr, Known>| {
            known.iter().map(|(r, k)| (*r, k.clone())).collect()
        };
        Record {
            offset,
            nonce,
            known: self
                .known
                .iter()
                .map(|(id, known)| (*id, of(known)))
                .collect(),
        }
    }

    /// Takes up what an earlier agent knew.
    pub(super) fn restore(record: Record) -> Self {
        let known = record.known.into_iter();
        Self {
            known: known
                .map(|(id, known)| (id, known.into_iter().collect()))
                .collect(),
            unexplained: HashMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INBOUND: InboundId = InboundId::from_bytes([1; 16]);
    const GONE: PeerId = PeerId::from_bytes([2; 16]);
    const OTHER: PeerId = PeerId::from_bytes([3; 16]);

    fn note(connections: &mut Connections, remote: &str, peer: PeerId) {
        connections.note(vec![Entry {
            inbound: INBOUND,
            remote: remote.parse().unwrap(),
            peer,
        }]);
    }

    fn look(
        connections: &mut Connections,
        sockets: &[(&str, u64)],
        cutting: bool,
        now: u64,
    ) -> Vec<u64> {
        let sockets = sockets
            .iter()
            .map(|(remote, cookie)| Connection::of_test(remote.parse().unwrap(), *cookie))
            .collect();
        connections
            .unwanted(INBOUND, sockets, cutting, now, |peer, _| peer != GONE)
            .iter()
            .map(|connection| connection.cookie)
            .collect()
    }

    #[test]
    fn a_removed_peer_is_cut_and_its_neighbour_behind_the_same_address_is_not() {
        let mut connections = Connections::default();
        note(&mut connections, "192.0.2.2:1", GONE);
        note(&mut connections, "192.0.2.2:2", OTHER);
        let sockets = [("192.0.2.2:1", 11), ("192.0.2.2:2", 12)];
        assert_eq!(look(&mut connections, &sockets, true, 0), [11]);
    }

    #[test]
    fn a_connection_that_took_the_port_of_an_earlier_one_is_not_taken_for_it() {
        let mut connections = Connections::default();
        note(&mut connections, "192.0.2.2:1", GONE);
        assert_eq!(
            look(&mut connections, &[("192.0.2.2:1", 11)], false, 0),
            [11]
        );
        note(&mut connections, "192.0.2.2:1", OTHER);
        assert!(look(&mut connections, &[("192.0.2.2:1", 12)], true, 1).is_empty());
        assert!(look(&mut connections, &[("192.0.2.2:1", 13)], true, 2).is_empty());
    }

    #[test]
    fn a_peer_does_not_hide_behind_another_on_its_connection() {
        let mut connections = Connections::default();
        note(&mut connections, "192.0.2.2:1", GONE);
        note(&mut connections, "192.0.2.2:1", OTHER);
        assert_eq!(
            look(&mut connections, &[("192.0.2.2:1", 11)], true, 0),
            [11]
        );
    }

    #[test]
    fn what_stays_unexplained_ends_when_somebody_is_cut_and_not_before() {
        let mut connections = Connections::default();
        let sockets = [("192.0.2.2:1", 11)];
        assert!(look(&mut connections, &sockets, true, 0).is_empty());
        assert!(look(&mut connections, &sockets, false, 100).is_empty());
        assert_eq!(look(&mut connections, &sockets, true, 100), [11]);
        note(&mut connections, "192.0.2.2:1", OTHER);
        assert!(look(&mut connections, &sockets, true, 100).is_empty());
    }

    #[test]
    fn a_restarted_agent_knows_what_was_known() {
        let mut connections = Connections::default();
        note(&mut connections, "192.0.2.2:1", GONE);
        let text = serde_json::to_string(&connections.record(7, [1; 16])).unwrap();
        let record: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(record.offset, 7);
        let mut connections = Connections::restore(record);
        assert_eq!(
            look(&mut connections, &[("192.0.2.2:1", 11)], true, 0),
            [11]
        );
    }
}
