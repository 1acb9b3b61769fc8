//! The node's engines as the driver has them: what the machine asks of one goes to that one.

use std::sync::Arc;

use vpnpanel_domain::{PeerId, UserId};
use vpnpanel_link::agent::{Change, Durable, Event, Gate, Ticket};
use vpnpanel_link::{EngineKind, EngineStatus, wire};

use super::seat::Seat;
use crate::Error;
use crate::engine::{Engine, XrayEngine};

/// The node's data plane.
#[derive(Debug)]
pub struct Plane {
    wireguard: Seat,
    xray: Option<Seat>,
    watched: Option<XrayEngine>,
}

impl Plane {
    /// A plane over an engine that nothing has been asked of yet.
    pub fn new(wireguard: Arc<dyn Engine>) -> Self {
        Self {
            wireguard: Seat::new(EngineKind::WireGuard, wireguard),
            xray: None,
            watched: None,
        }
    }

    /// With Xray beside it, which runs only where there is something to do for it.
    #[must_use]
    pub fn with_xray(self, xray: XrayEngine) -> Self {
        Self {
            watched: Some(xray.clone()),
            xray: Some(Seat::new(EngineKind::Xray, xray)),
            ..self
        }
    }

    /// Cuts limited users of engines that keep no limit by themselves whenever their counters cannot
    /// be read for long; where there are any, it never ends.
    pub(super) fn watch(&self) -> impl Future<Output = ()> + use<> {
        let xray = self.watched.clone();
        async move {
            if let Some(xray) = xray {
                xray.watch().await;
            }
        }
    }

    /// Takes the inbounds of the last good state, so that the first look at the engines brings up
    /// what should be up and takes nothing down.
    pub(super) fn recall(&mut self, durable: &Durable) {
        // A state that does not decode is the machine's to complain about.
        if durable.target.is_some()
            && let Ok(head) = wire::Head::read(durable.target_head.clone())
        {
            self.wireguard.recall(&head.inbounds);
            if let Some(xray) = &mut self.xray {
                xray.recall(&head.inbounds);
            }
        }
    }

    /// Whether an engine runs, since when, with whom.
    pub(super) async fn inspect(&mut self, kind: EngineKind, wanted: bool) -> Event {
        match self.seat(kind) {
            Some(seat) => seat.inspect(wanted).await,
            None => Event::EngineDown { kind },
        }
    }

    /// Reads the counters of the engines that run. The other events are of engines that turned out to
    /// be other ones, or none.
    pub(super) async fn read(&mut self, ticket: Ticket) -> (Event, Vec<Event>) {
        let xray = async {
            match &mut self.xray {
                Some(xray) => xray.read().await,
                None => (None, None),
            }
        };
        let reads = tokio::join!(self.wireguard.read(), xray);
        let (samples, changes): (Vec<_>, Vec<_>) = [reads.0, reads.1].into_iter().unzip();
        let samples: Vec<_> = samples.into_iter().flatten().collect();
        let event = if samples.is_empty() {
            Event::ReadFailed { ticket }
        } else {
            Event::Sampled { ticket, samples }
        };
        (event, changes.into_iter().flatten().collect())
    }

    /// Cuts peers that are on their way out of an engine.
    pub(super) async fn block(&mut self, kind: EngineKind, peers: Vec<PeerId>) {
        if let Some(seat) = self.seat(kind) {
            seat.block(peers).await;
        }
    }

    /// Lets users pass an engine, or not.
    pub(super) async fn set_gates(&mut self, kind: EngineKind, gates: Vec<(UserId, Gate)>) {
        if let Some(seat) = self.seat(kind) {
            seat.set_gates(gates).await;
        }
    }

    /// Changes an engine.
    pub(super) async fn apply(&mut self, change: Change) -> Event {
        let kind = change.kind;
        match self.seat(kind) {
            Some(seat) => seat.apply(change).await,
            None => Event::EngineDown { kind },
        }
    }

    /// Stops the engines and brings up what should be up. Gates stay.
    pub(super) async fn restart(&mut self) -> Result<(), Error> {
        let wireguard = self.wireguard.restart().await;
        if let Some(xray) = self.running_xray() {
            xray.restart().await?;
        }
        wireguard
    }

    /// Takes no new sessions, or takes them again.
    pub(super) async fn set_cordoned(&mut self, on: bool) -> Result<(), Error> {
        self.wireguard.set_cordoned(on).await?;
        match self.xray.as_mut() {
            // Also where it has nothing to do yet.
            Some(xray) => xray.set_cordoned(on).await,
            None => Ok(()),
        }
    }

    /// How the engines are.
    pub(super) async fn statuses(&self) -> Vec<EngineStatus> {
        let mut statuses = vec![self.wireguard.status().await];
        if let Some(xray) = self.xray.as_ref().filter(|xray| xray.is_wanted()) {
            statuses.push(xray.status().await);
        }
        statuses
    }

    fn running_xray(&mut self) -> Option<&mut Seat> {
        self.xray.as_mut().filter(|xray| xray.is_wanted())
    }

    fn seat(&mut self, kind: EngineKind) -> Option<&mut Seat> {
        match kind {
            EngineKind::WireGuard => Some(&mut self.wireguard),
            EngineKind::Xray => self.xray.as_mut(),
        }
    }
}
