//! The engine as the driver has it: carries out what the machine asks of it, and answers with the
//! machine's events. Every failure is an answer; none is an empty set.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ipnet::IpNet;
use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::agent::{Change, Durable, Event, Gate, Reading, Ticket};
use vpnpanel_link::{
    ConfigError, DesiredInbound, EngineStatus, InboundSettings, Incarnation, Totals, wire,
};

use super::subscribers::Subscribers;
use crate::Error;
use crate::engine::{Engine, Inbound, Key32, PeerOp};

/// The node's data plane.
#[derive(Debug)]
pub struct Plane {
    engine: Arc<dyn Engine>,
    /// What should be open; `None` until it is known.
    inbounds: Option<Vec<Inbound>>,
    subscribers: Subscribers,
    /// The last reading of the engine.
    last: HashMap<PeerId, (u64, u64)>,
    incarnation: Option<Incarnation>,
}

impl Plane {
    /// A plane over an engine that nothing has been asked of yet.
    pub fn new(engine: Arc<dyn Engine>) -> Self {
        Self {
            engine,
            inbounds: None,
            subscribers: Subscribers::default(),
            last: HashMap::new(),
            incarnation: None,
        }
    }

    /// Takes the inbounds of the last good state, so that the first look at the engine brings up
    /// what should be up and takes nothing down.
    pub(super) fn recall(&mut self, durable: &Durable) {
        if self.inbounds.is_none() && durable.target.is_some() {
            // A state that does not decode is the machine's to complain about.
            self.inbounds = wire::Head::read(durable.target_head.clone())
                .ok()
                .map(|head| convert(head.inbounds));
        }
    }

    /// Whether the engine runs, since when, with whom.
    pub(super) async fn inspect(&mut self) -> Event {
        match self.look().await {
            Ok(event) => event,
            Err(error) => self.down(&error),
        }
    }

    /// Reads the counters. The second event is there when the engine turned out to be another
    /// one, or none.
    pub(super) async fn read(&mut self, ticket: Ticket) -> (Event, Option<Event>) {
        let before = self.incarnation;
        // Without knowing what should be up nothing is taken down.
        let ensured = match &self.inbounds {
            Some(_) => self.ensure().await.map(drop),
            None => Ok(()),
        };
        let read = match ensured {
            Ok(()) => self.take_reading().await,
            Err(error) => Err(error),
        };
        match read {
            Ok((incarnation, readings)) => {
                let sample = Event::Sample {
                    ticket,
                    before: incarnation,
                    after: incarnation,
                    readings,
                };
                let renewed = before.is_some_and(|before| before != incarnation);
                let look = if renewed {
                    Some(self.inspect().await)
                } else {
                    None
                };
                (sample, look)
            }
            Err(error) => {
                let changed = self.down_if_gone(&error).await;
                (Event::ReadFailed { ticket }, changed)
            }
        }
    }

    /// Cuts peers that are on their way out.
    pub(super) async fn block(&mut self, peers: Vec<PeerId>) {
        self.subscribers.leave(&peers);
        if let Err(error) = self.engine.set_blocked(peers, true).await {
            // The final read then comes before the last byte; the next one takes the rest.
            tracing::error!(event = "block_failed", %error, "peers that leave are not blocked");
        }
    }

    /// Lets users pass, or not.
    pub(super) async fn set_gates(&mut self, gates: Vec<(UserId, Gate)>) {
        let orders = self.subscribers.set_gates(gates, &self.last);
        let mut failures = Vec::new();
        if !orders.block.is_empty() {
            failures.extend(self.engine.set_blocked(orders.block, true).await.err());
        }
        if !orders.set.is_empty() {
            let results = self.engine.apply(orders.set).await;
            failures.extend(results.into_iter().filter_map(Result::err));
        }
        if !orders.allowances.is_empty() {
            failures.extend(self.engine.set_allowances(orders.allowances).await.err());
        }
        if !orders.unblock.is_empty() {
            failures.extend(self.engine.set_blocked(orders.unblock, false).await.err());
        }
        for error in failures {
            tracing::error!(event = "gate_failed", %error, "a user's gate is not as it should be");
        }
    }

    /// Changes the engine.
    pub(super) async fn apply(&mut self, change: Change) -> Event {
        let Change {
            ticket,
            incarnation,
            inbounds,
            draining,
            upsert,
            remove,
        } = change;
        self.inbounds = Some(convert(inbounds));
        let mut errors = match self.ensure().await {
            Ok(failed) => failed,
            Err(error) => vec![config_error("engine", String::new(), &error)],
        };
        if self
            .incarnation
            .is_some_and(|present| present != incarnation)
        {
            // The books of the change are open for counters that are gone.
            return self.inspect().await;
        }
        // Before there is anybody who could come.
        if let Err(error) = self.engine.set_draining(draining).await {
            errors.push(config_error("engine", String::new(), &error));
        }
        let mut touched = self.subscribers.users_of(remove.iter().copied());
        let names: Vec<PeerId> = remove
            .iter()
            .copied()
            .chain(upsert.iter().map(|upsert| upsert.peer.id))
            .collect();
        let mut ops: Vec<PeerOp> = self.subscribers.remove(remove);
        touched.extend(upsert.iter().map(|upsert| upsert.user));
        ops.extend(self.subscribers.upsert(upsert));
        for (peer, result) in names.into_iter().zip(self.engine.apply(ops).await) {
            if let Err(error) = result {
                errors.push(config_error("peer", peer.to_string(), &error));
            }
        }
        if let Err(error) = self.program_allowances(&touched).await {
            errors.push(config_error("engine", String::new(), &error));
        }
        Event::Applied { ticket, errors }
    }

    /// Stops the engine and brings up what should be up. Counters and gates stay.
    pub(super) async fn restart(&mut self) -> Result<(), Error> {
        // Without knowing what should be up nothing is taken down.
        if self.inbounds.is_none() {
            let reason = "no desired state has come yet: there is nothing to restart";
            return Err(Error::Invalid(reason.to_owned()));
        }
        let stopped = self.engine.stop().await;
        // Also what has not stopped: everything should run afterwards.
        let failed = self.ensure().await?;
        stopped?;
        match failed.into_iter().next() {
            Some(failed) => Err(Error::Invalid(failed.message)),
            None => Ok(()),
        }
    }

    /// Takes no new sessions, or takes them again.
    pub(super) async fn set_cordoned(&mut self, on: bool) -> Result<(), Error> {
        self.engine.set_cordoned(on).await
    }

    /// How the engines are.
    pub(super) async fn statuses(&self) -> Vec<EngineStatus> {
        let status = self.engine.status().await;
        vec![EngineStatus {
            kind: status.kind.to_owned(),
            version: status.version,
            healthy: status.problem.is_none() && status.incarnation.is_some(),
            problem: status.problem.or(status.shortfall).unwrap_or_default(),
            peers: u32::try_from(status.peers).unwrap_or(u32::MAX),
            incarnation: status.incarnation.map(Incarnation),
        }]
    }

    async fn look(&mut self) -> Result<Event, Error> {
        // On a disk that knows of no inbounds, an engine that runs is adopted as it is: what is up
        // stays up until the control plane has said what should be.
        let adopted = match &self.inbounds {
            None => self.take_reading().await.is_ok(),
            Some(_) => false,
        };
        if !adopted {
            self.ensure().await?;
            self.take_reading().await?;
        }
        let peers = self
            .engine
            .list()
            .await?
            .into_iter()
            .map(|listed| listed.peer)
            .collect();
        let incarnation = self.incarnation.ok_or(Error::Stopped)?;
        Ok(Event::EngineUp { incarnation, peers })
    }

    /// Brings up what should be up; gives what could not be. An inbound that was restarted has
    /// its peers again, and its users' allowances are set once more.
    async fn ensure(&mut self) -> Result<Vec<ConfigError>, Error> {
        let running = self
            .engine
            .ensure_running(self.inbounds.clone().unwrap_or_default())
            .await?;
        let incarnation = Incarnation(running.incarnation);
        if self
            .incarnation
            .replace(incarnation)
            .is_some_and(|before| before != incarnation)
        {
            self.last.clear();
            let users = self.subscribers.users().into_iter().collect();
            self.program_allowances(&users).await?;
        }
        let failed = running.failed.into_iter();
        Ok(failed
            .map(|(id, error)| config_error("inbound", id.to_string(), &error))
            .collect())
    }

    async fn take_reading(&mut self) -> Result<(Incarnation, Vec<Reading>), Error> {
        let reading = self.engine.read_counters().await?;
        self.incarnation = Some(Incarnation(reading.incarnation));
        let readings = reading
            .peers
            .iter()
            .map(|(peer, (up, down))| Reading {
                peer: *peer,
                totals: Totals {
                    up: *up,
                    down: *down,
                },
            })
            .collect();
        self.last = reading.peers;
        Ok((Incarnation(reading.incarnation), readings))
    }

    async fn program_allowances(&self, users: &BTreeSet<UserId>) -> Result<(), Error> {
        let remainders: Vec<_> = users
            .iter()
            .filter_map(|user| self.subscribers.allowance(*user, &self.last))
            .collect();
        if remainders.is_empty() {
            Ok(())
        } else {
            self.engine.set_allowances(remainders).await
        }
    }

    /// A read that failed once may be a passing thing; an engine without a status is gone.
    async fn down_if_gone(&mut self, error: &Error) -> Option<Event> {
        if self.engine.status().await.incarnation.is_none() {
            Some(self.down(error))
        } else {
            tracing::warn!(event = "read_failed", %error, "the counters could not be read");
            None
        }
    }

    fn down(&mut self, error: &Error) -> Event {
        tracing::error!(event = "engine_down", %error, "the engine does not run");
        self.incarnation = None;
        Event::EngineDown
    }
}

fn config_error(kind: &str, id: String, error: &Error) -> ConfigError {
    ConfigError {
        kind: kind.to_owned(),
        id,
        message: error.to_string(),
    }
}

fn convert(inbounds: Vec<DesiredInbound>) -> Vec<Inbound> {
    inbounds
        .into_iter()
        .filter_map(|inbound| match inbound.settings {
            InboundSettings::WireGuard(wireguard) => Some(Inbound {
                id: inbound.id,
                private_key: Key32::new(wireguard.private_key.0),
                port: wireguard.port,
                addresses: wireguard
                    .addresses
                    .iter()
                    .filter_map(|a| IpNet::new(a.address, a.prefix).ok())
                    .collect(),
                mtu: u32::from(wireguard.mtu),
            }),
            // Of a newer control plane: an engine that this agent does not have.
            _ => None,
        })
        .collect()
}
