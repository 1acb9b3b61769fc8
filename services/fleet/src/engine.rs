//! The data plane of a simulated node: peers, gates and counters as a real one has them, but the
//! traffic is made up. Its counters are the truth that bills are compared with, and outlive the
//! agent.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rand::RngExt as _;
use rand::rngs::StdRng;
use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_node_agent::Error;
use vpnpanel_node_agent::engine::{
    Capabilities, Engine, Inbound, Incarnation, Listed, Peer, PeerOp, Reading, Running, Session,
    Status,
};
use vpnpanel_runtime::clock::Clock;

use crate::applied::Applied;

/// The contract knows no simulated kind: what it stands for is WireGuard.
const KIND: &str = "wireguard";

/// The data plane.
#[derive(Debug)]
pub(crate) struct SyntheticEngine {
    incarnation: Incarnation,
    clock: Clock,
    state: Mutex<State>,
    applied: Arc<Applied>,
}

#[derive(Debug, Default)]
struct State {
    /// Peers in force, in an order that a seed repeats.
    peers: BTreeMap<PeerId, Peer>,
    /// Never reset, and never forgotten.
    counters: BTreeMap<PeerId, Counter>,
    users: HashMap<UserId, Passed>,
    /// Nothing passes until it is started again.
    stopped: bool,
}

#[derive(Debug)]
struct Counter {
    user: UserId,
    up: u64,
    down: u64,
}

/// What a user has passed on this node, all devices together.
#[derive(Debug, Default)]
struct Passed {
    counted: u64,
    /// At the last reading.
    read: u64,
    /// A limited user stops here.
    ceiling: u64,
}

impl SyntheticEngine {
    pub(crate) fn new(incarnation: Incarnation, applied: Arc<Applied>) -> Self {
        Self {
            incarnation,
            clock: Clock::system(),
            state: Mutex::default(),
            applied,
        }
    }

    /// Lets each peer that may pass something pass about `average` bytes.
    pub(crate) fn pass(&self, chance: &mut StdRng, average: u64) {
        let state = &mut *self.lock();
        if state.stopped {
            return;
        }
        for peer in state.peers.values().filter(|peer| !peer.blocked) {
            let Some(counter) = state.counters.get_mut(&peer.id) else {
                continue;
            };
            let passed = state.users.entry(peer.user).or_default();
            let mut bytes = chance.random_range(average / 2..=average + average / 2);
            if peer.limited {
                bytes = bytes.min(passed.ceiling.saturating_sub(passed.counted));
            }
            let up = bytes / 10;
            counter.up += up;
            counter.down += bytes - up;
            passed.counted += bytes;
        }
    }

    /// Adds what each user passed here to `sums`; gives the node's own sum.
    pub(crate) fn counted(&self, sums: &mut HashMap<UserId, u64>) -> u64 {
        let state = self.lock();
        state
            .counters
            .values()
            .map(|counter| {
                let bytes = counter.up + counter.down;
                *sums.entry(counter.user).or_default() += bytes;
                bytes
            })
            .sum()
    }

    /// Peers in force.
    pub(crate) fn peers(&self) -> usize {
        self.lock().peers.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: &mut State, peer: Peer) {
        state.counters.entry(peer.id).or_insert(Counter {
            user: peer.user,
            up: 0,
            down: 0,
        });
        let (user, passes) = (peer.user, !peer.blocked);
        let before = state.peers.insert(peer.id, peer);
        self.tell(user, before.is_some_and(|peer| !peer.blocked), passes);
    }

    fn remove(&self, state: &mut State, peer: PeerId) {
        if let Some(gone) = state.peers.remove(&peer) {
            self.tell(gone.user, !gone.blocked, false);
        }
    }

    /// Tells of a user who passes now and did not before, or the other way round.
    fn tell(&self, user: UserId, before: bool, now: bool) {
        if before != now {
            self.applied.saw(user, now);
        }
    }
}

#[async_trait]
impl Engine for SyntheticEngine {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            kind: KIND,
            kernel_quota: true,
            counts_delivered_only: true,
        }
    }

    async fn ensure_running(&self, _inbounds: Vec<Inbound>) -> Result<Running, Error> {
        self.lock().stopped = false;
        Ok(Running {
            incarnation: self.incarnation,
            failed: Vec::new(),
        })
    }

    async fn apply(&self, ops: Vec<PeerOp>) -> Vec<Result<(), Error>> {
        let state = &mut *self.lock();
        ops.into_iter()
            .map(|op| {
                match op {
                    PeerOp::Set(peer) => self.set(state, *peer),
                    PeerOp::Remove(peer) => self.remove(state, peer),
                }
                Ok(())
            })
            .collect()
    }

    async fn list(&self) -> Result<Vec<Listed>, Error> {
        let listed = |peer: &Peer| Listed {
            peer: peer.id,
            addresses: peer.addresses.clone(),
        };
        Ok(self.lock().peers.values().map(listed).collect())
    }

    async fn read_counters(&self) -> Result<Reading, Error> {
        let state = &mut *self.lock();
        for passed in state.users.values_mut() {
            passed.read = passed.counted;
        }
        let limited = state.peers.values().filter(|peer| peer.limited);
        let exhausted: BTreeSet<UserId> = limited
            .filter(|peer| {
                let passed = state.users.get(&peer.user);
                passed.is_some_and(|passed| passed.counted >= passed.ceiling)
            })
            .map(|peer| peer.user)
            .collect();
        Ok(Reading {
            incarnation: self.incarnation,
            at_ms: self.clock.unix_millis(),
            peers: state
                .counters
                .iter()
                .map(|(peer, counter)| (*peer, (counter.up, counter.down)))
                .collect(),
            exhausted,
        })
    }

    async fn stop(&self) -> Result<(), Error> {
        self.lock().stopped = true;
        Ok(())
    }

    async fn set_blocked(&self, peers: Vec<PeerId>, blocked: bool) -> Result<(), Error> {
        let state = &mut *self.lock();
        for id in peers {
            if let Some(peer) = state.peers.get_mut(&id) {
                let before = std::mem::replace(&mut peer.blocked, blocked);
                self.tell(peer.user, !before, !blocked);
            }
        }
        Ok(())
    }

    async fn set_allowances(&self, remainders: Vec<(UserId, u64)>) -> Result<(), Error> {
        let state = &mut *self.lock();
        for (user, remainder) in remainders {
            let passed = state.users.entry(user).or_default();
            passed.ceiling = passed.read.saturating_add(remainder);
        }
        Ok(())
    }

    async fn sessions(&self) -> Result<Vec<Session>, Error> {
        Ok(Vec::new())
    }

    /// Nobody shakes hands here.
    async fn set_cordoned(&self, _on: bool) -> Result<(), vpnpanel_node_agent::Error> {
        Ok(())
    }

    /// Nor here.
    async fn set_draining(&self, _on: bool) -> Result<(), vpnpanel_node_agent::Error> {
        Ok(())
    }

    async fn status(&self) -> Status {
        Status {
            kind: KIND,
            version: "simulated".to_owned(),
            problem: None,
            shortfall: None,
            peers: self.peers(),
            incarnation: Some(self.incarnation),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use vpnpanel_domain::{InboundId, SpeedLimit};

    use super::*;

    const USER: UserId = UserId::from_bytes([1; 16]);
    const PEER: PeerId = PeerId::from_bytes([2; 16]);

    fn peer(limited: bool) -> PeerOp {
        PeerOp::Set(Box::new(Peer {
            id: PEER,
            user: USER,
            inbound: InboundId::from_bytes([3; 16]),
            public_key: [4; 32],
            preshared_key: None,
            addresses: BTreeSet::new(),
            blocked: false,
            limited,
            not_after_ms: None,
            speed: SpeedLimit::NONE,
        }))
    }

    #[tokio::test]
    async fn counters_outlive_peers_and_a_limited_user_stops_at_its_allowance() {
        let engine = SyntheticEngine::new([0; 16], Arc::default());
        let mut chance = StdRng::seed_from_u64(1);
        let mut counted = || {
            engine.pass(&mut chance, 1000);
            engine.counted(&mut HashMap::new())
        };
        engine.apply(vec![peer(false)]).await;
        let first = counted();
        assert!((500..=1500).contains(&first), "{first}");

        engine.apply(vec![peer(true)]).await;
        assert_eq!(counted(), first, "nothing without an allowance");
        engine.read_counters().await.unwrap();
        engine.set_allowances(vec![(USER, 10)]).await.unwrap();
        assert_eq!(counted(), first + 10);

        engine.set_allowances(vec![(USER, 1 << 20)]).await.unwrap();
        engine.set_blocked(vec![PEER], true).await.unwrap();
        assert_eq!(counted(), first + 10);
        engine.apply(vec![PeerOp::Remove(PEER)]).await;
        assert_eq!(counted(), first + 10);
        let reading = engine.read_counters().await.unwrap();
        let (up, down) = reading.peers[&PEER];
        assert_eq!(up + down, first + 10);
    }
}
