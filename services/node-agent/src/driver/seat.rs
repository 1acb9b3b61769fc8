//! An engine as the driver has it: carries out what the machine asks of it, and answers with the
//! machine's events. Every failure is an answer; none is an empty set.

use std::collections::{BTreeSet, HashMap};

use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::agent::{Change, Event, Gate, Reading, Sample};
use vpnpanel_link::{ConfigError, DesiredInbound, EngineKind, EngineStatus, Incarnation, Totals};

use super::carrier::Carrier;
use super::subscribers::{Op, Subscribers};
use crate::{Error, engine};

/// An engine and what is on it.
#[derive(Debug)]
pub(super) struct Seat {
    kind: EngineKind,
    carrier: Box<dyn Carrier>,
    /// It was asked to run.
    wanted: bool,
    /// What should be open; `None` until it is known.
    inbounds: Option<Vec<DesiredInbound>>,
    subscribers: Subscribers,
    /// The last reading of the engine.
    last: HashMap<PeerId, (u64, u64)>,
    incarnation: Option<Incarnation>,
    /// The last reading of an engine that was ended on purpose, for the machine's next read.
    parting: Option<Sample>,
    /// Why it does not run, as the log has it.
    said: Option<String>,
}

impl Seat {
    /// A seat of an engine that nothing has been asked of yet.
    pub(super) fn new(kind: EngineKind, carrier: impl Carrier + 'static) -> Self {
        Self {
            kind,
            carrier: Box::new(carrier),
            wanted: false,
            inbounds: None,
            subscribers: Subscribers::default(),
            last: HashMap::new(),
            incarnation: None,
            parting: None,
            said: None,
        }
    }

    /// Takes the inbounds of the last good state, so that the first look at the engine brings up
    /// what should be up and takes nothing down.
    pub(super) fn recall(&mut self, inbounds: &[DesiredInbound]) {
        if self.inbounds.is_none() {
            let own = inbounds.iter().filter(|i| i.settings.kind() == self.kind);
            self.inbounds = Some(own.cloned().collect());
        }
    }

    /// Whether it was asked to run.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether the engine runs, since when, with whom. One that is wanted, or was, is started where it
    /// does not.
    pub(super) async fn inspect(&mut self, wanted: bool) -> Event {
        if !wanted && !self.wanted && !self.carrier.may_run().await {
            return Event::EngineDown { kind: self.kind };
        }
        self.wanted = true;
        match self.look().await {
            Ok(event) => {
                self.said = None;
                event
            }
            Err(error) => self.down(&error),
        }
    }

    /// Reads the counters, if the engine runs. The event is there when it turned out to be another
    /// one, or none.
    pub(super) async fn read(&mut self) -> (Option<Sample>, Option<Event>) {
        if let Some(parting) = self.parting.take() {
            return (Some(parting), Some(self.inspect(true).await));
        }
        let Some(before) = self.incarnation else {
            return (None, None);
        };
        let read = match self.ensure().await {
            Ok(_) => self.take_reading().await,
            Err(error) => Err(error),
        };
        match read {
            Ok((incarnation, readings)) => {
                let sample = self.sample(incarnation, readings, false);
                let look = if incarnation == before {
                    None
                } else {
                    Some(self.inspect(true).await)
                };
                (Some(sample), look)
            }
            Err(error) => (None, self.down_if_gone(&error).await),
        }
    }

    /// Cuts peers that are on their way out.
    pub(super) async fn block(&mut self, peers: Vec<PeerId>) {
        self.subscribers.leave(&peers);
        if let Err(error) = self.carrier.set_blocked(peers, true).await {
            // The final read then comes before the last byte; the next one takes the rest.
            tracing::error!(event = "block_failed", engine = %self.kind, %error,
                "peers that leave are not blocked");
        }
    }

    /// Lets users pass, or not.
    pub(super) async fn set_gates(&mut self, gates: Vec<(UserId, Gate)>) {
        let orders = self.subscribers.set_gates(gates, &self.last);
        let mut failures = Vec::new();
        if !orders.block.is_empty() {
            failures.extend(self.carrier.set_blocked(orders.block, true).await.err());
        }
        if !orders.set.is_empty() {
            // An engine that takes it before somebody has a limit does not stop them for want of it.
            let allowances = orders.allowances.clone();
            failures.extend(self.carrier.set_allowances(allowances).await.err());
            let results = self.carrier.apply(orders.set).await;
            failures.extend(results.into_iter().filter_map(Result::err));
        }
        if !orders.allowances.is_empty() {
            failures.extend(self.carrier.set_allowances(orders.allowances).await.err());
        }
        if !orders.unblock.is_empty() {
            failures.extend(self.carrier.set_blocked(orders.unblock, false).await.err());
        }
        for error in failures {
            tracing::error!(event = "gate_failed", engine = %self.kind, %error,
                "a user's gate is not as it should be");
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
            ..
        } = change;
        let is_open = !inbounds.is_empty();
        self.inbounds = Some(inbounds);
        let mut errors = match self.ensure().await {
            Ok(failed) => failed,
            Err(error) => {
                if let Some(down) = self.down_if_gone(&error).await {
                    return down;
                }
                vec![config_error("engine", String::new(), &error)]
            }
        };
        if self.incarnation != Some(incarnation) {
            // The books of the change are open for counters that are gone.
            return self.inspect(true).await;
        }
        // Before there is anybody who could come.
        if let Err(error) = self.carrier.set_draining(draining).await
            && is_open
        {
            errors.push(config_error("engine", String::new(), &error));
        }
        let mut touched = self.subscribers.users_of(remove.iter().copied());
        let names: Vec<PeerId> = remove
            .iter()
            .copied()
            .chain(upsert.iter().map(|upsert| upsert.peer.id))
            .collect();
        let mut ops: Vec<Op> = self.subscribers.remove(remove);
        touched.extend(upsert.iter().map(|upsert| upsert.user));
        ops.extend(self.subscribers.upsert(upsert));
        for (peer, result) in names.into_iter().zip(self.carrier.apply(ops).await) {
            if let Err(error) = result {
                errors.push(config_error("peer", peer.to_string(), &error));
            }
        }
        if let Err(error) = self.carrier.set_draining(draining).await {
            errors.push(config_error("engine", String::new(), &error));
        }
        if let Err(error) = self.program_allowances(&touched).await {
            errors.push(config_error("engine", String::new(), &error));
        }
        Event::Applied { ticket, errors }
    }

    /// Stops the engine and brings up what should be up. Gates stay.
    pub(super) async fn restart(&mut self) -> Result<(), Error> {
        // Without knowing what should be up nothing is taken down.
        if self.inbounds.is_none() {
            let reason = "no desired state has come yet: there is nothing to restart";
            return Err(Error::Invalid(reason.to_owned()));
        }
        let stopped = self.carrier.stop().await;
        // Also what has not stopped: everything should run afterwards. What did the machine finds
        // with its next read.
        let known = self.incarnation;
        let failed = self.ensure().await;
        self.incarnation = known;
        let failed = failed?;
        self.parting = stopped?.map(|last| {
            let (incarnation, readings) = readings_of(&last);
            self.sample(incarnation, readings, true)
        });
        match failed.into_iter().next() {
            Some(failed) => Err(Error::Invalid(failed.message)),
            None => Ok(()),
        }
    }

    /// Takes no new sessions, or takes them again.
    pub(super) async fn set_cordoned(&mut self, on: bool) -> Result<(), Error> {
        self.carrier.set_cordoned(on).await
    }

    /// How the engine is.
    pub(super) async fn status(&self) -> EngineStatus {
        let status = self.carrier.status().await;
        EngineStatus {
            kind: status.kind.to_owned(),
            version: status.version,
            healthy: status.problem.is_none() && status.incarnation.is_some(),
            problem: status.problem.or(status.shortfall).unwrap_or_default(),
            peers: u32::try_from(status.peers).unwrap_or(u32::MAX),
            incarnation: status.incarnation.map(Incarnation),
        }
    }

    async fn look(&mut self) -> Result<Event, Error> {
        self.ensure().await?;
        let (incarnation, _) = self.take_reading().await?;
        let peers = self.carrier.list().await?;
        Ok(Event::EngineUp {
            kind: self.kind,
            incarnation,
            peers,
        })
    }

    /// Brings up what should be up; gives what could not be. An inbound that was restarted has
    /// its peers again, and its users' allowances are set once more.
    async fn ensure(&mut self) -> Result<Vec<ConfigError>, Error> {
        let Some(inbounds) = &self.inbounds else {
            // On a disk that knows of no inbounds, an engine that runs is adopted as it is: what is up
            // stays up until the control plane has said what should be.
            self.carrier.adopt().await?;
            return Ok(Vec::new());
        };
        let running = self.carrier.ensure_running(inbounds).await?;
        self.lives(Incarnation(running.incarnation)).await?;
        let failed = running.failed.into_iter();
        Ok(failed
            .map(|(id, error)| config_error("inbound", id.to_string(), &error))
            .collect())
    }

    /// Takes note of the engine's life; in a new one, allowances are set once more.
    async fn lives(&mut self, incarnation: Incarnation) -> Result<(), Error> {
        let before = self.incarnation.replace(incarnation);
        if before.is_some_and(|before| before != incarnation) {
            self.last.clear();
            let users = self.subscribers.users().into_iter().collect();
            self.program_allowances(&users).await?;
        }
        Ok(())
    }

    async fn take_reading(&mut self) -> Result<(Incarnation, Vec<Reading>), Error> {
        let reading = self.carrier.read_counters().await?;
        self.incarnation = Some(Incarnation(reading.incarnation));
        let read = readings_of(&reading);
        self.last = reading.peers;
        Ok(read)
    }

    fn sample(&self, incarnation: Incarnation, readings: Vec<Reading>, is_last: bool) -> Sample {
        Sample {
            kind: self.kind,
            before: incarnation,
            after: incarnation,
            readings,
            is_last,
        }
    }

    async fn program_allowances(&self, users: &BTreeSet<UserId>) -> Result<(), Error> {
        let remainders: Vec<_> = users
            .iter()
            .filter_map(|user| self.subscribers.allowance(*user, &self.last))
            .collect();
        if remainders.is_empty() {
            Ok(())
        } else {
            self.carrier.set_allowances(remainders).await
        }
    }

    /// A read that failed once may be a passing thing; an engine without a status is gone.
    async fn down_if_gone(&mut self, error: &Error) -> Option<Event> {
        if self.carrier.status().await.incarnation.is_none() {
            Some(self.down(error))
        } else {
            tracing::warn!(event = "read_failed", engine = %self.kind, %error,
                "the counters could not be read");
            None
        }
    }

    fn down(&mut self, error: &Error) -> Event {
        let error = error.to_string();
        if self.said.as_ref() != Some(&error) {
            tracing::error!(event = "engine_down", engine = %self.kind, %error,
                "the engine does not run");
            self.said = Some(error);
        }
        self.incarnation = None;
        Event::EngineDown { kind: self.kind }
    }
}

/// A reading in the machine's words.
fn readings_of(reading: &engine::Reading) -> (Incarnation, Vec<Reading>) {
    let readings = reading.peers.iter().map(|(peer, (up, down))| Reading {
        peer: *peer,
        totals: Totals {
            up: *up,
            down: *down,
        },
    });
    (Incarnation(reading.incarnation), readings.collect())
}

fn config_error(kind: &str, id: String, error: &Error) -> ConfigError {
    ConfigError {
        kind: kind.to_owned(),
        id,
        message: error.to_string(),
    }
}
