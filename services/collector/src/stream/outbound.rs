//! Frames on their way down. The queue is short: an agent that does not read for a while is cut and
//! comes back to a fresh comparison, and is never left behind silently.

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};
use tonic::Status;
use vpnpanel_api::agent::v1::ConnectResponse;
use vpnpanel_link::{Down, wire};

use crate::error::Error;

/// Frames that wait for the connection; a piece of desired state has up to 1 MiB.
pub(super) const QUEUE: usize = 4;

/// What waits: a pointer to it, because a channel keeps room for 32 of its items.
pub(super) type Waiting = Box<Result<ConnectResponse, Status>>;

/// The driver's end of a stream's way down.
#[derive(Debug)]
pub(super) struct Outbound {
    frames: mpsc::Sender<Waiting>,
    patience: Duration,
}

impl Outbound {
    pub(super) fn new(frames: mpsc::Sender<Waiting>, patience: Duration) -> Self {
        Self { frames, patience }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`Error::SlowAgent`] when it does not fit in time, [`Error::Broken`] when nobody reads any
    /// more.
    pub(super) async fn send(&self, message: Down) -> Result<(), Error> {
        let frame = Box::new(Ok(wire::down_to_wire(message)));
        match timeout(self.patience, self.frames.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Error::Broken("the agent is gone".to_owned())),
            Err(_) => Err(Error::SlowAgent),
        }
    }

    /// Ends the stream with the reason, if the agent still listens.
    pub(super) async fn end(self, error: Error) {
        // a full queue to an agent that does not read: it learns by the closed stream
        let _gone = timeout(
            Duration::from_secs(1),
            self.frames.send(Box::new(Err(error.into()))),
        )
        .await;
    }

    /// Completes when the agent has hung up.
    pub(super) async fn closed(&self) {
        self.frames.closed().await;
    }
}
