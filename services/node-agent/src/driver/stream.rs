//! The stream as the driver has it: at most one at a time, numbered, so that what an older one
//! still says is not taken for the present one's.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use vpnpanel_api::agent::v1::node_link_service_client::NodeLinkServiceClient;
use vpnpanel_link::agent::Event;
use vpnpanel_link::{Down, Up, wire};
use vpnpanel_runtime::tls::Dialer;

/// Messages that wait to be sent. The machine keeps batches in flight within a window; a stream
/// that does not take the rest is ended.
const OUTBOX: usize = 256;

/// How long a stream that ends on purpose has to send what waits.
const FLUSH: Duration = Duration::from_secs(2);

const KEEPALIVE: Duration = Duration::from_secs(15);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_FRAME: usize = 4 << 20;

/// Where the collector is, and who it must be.
#[derive(Debug, Clone)]
pub struct Link {
    /// Dials the collector's identity.
    pub dialer: Dialer,
    /// `host:port`.
    pub address: String,
}

/// What a stream says, with its number.
pub(super) type Numbered = (u64, Said);

#[derive(Debug)]
pub(super) enum Said {
    Opened,
    Message(Down),
    Ended(String),
}

/// The present stream.
#[derive(Debug)]
pub(super) struct Streams {
    link: Link,
    events: mpsc::Sender<Numbered>,
    number: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    outbox: mpsc::Sender<Up>,
    task: JoinHandle<()>,
}

impl Streams {
    pub(super) fn new(link: Link, events: mpsc::Sender<Numbered>) -> Self {
        Self {
            link,
            events,
            number: 0,
            open: None,
        }
    }

    /// Opens a stream, in place of the present one.
    pub(super) fn open(&mut self) {
        self.drop_present();
        self.number += 1;
        let (outbox, waiting) = mpsc::channel(OUTBOX);
        let (link, events, number) = (self.link.clone(), self.events.clone(), self.number);
        let task = tokio::spawn(async move {
            let reason = match pump(&link, waiting, &events, number).await {
                Ok(()) => "the control plane ended the stream".to_owned(),
                Err(error) => error,
            };
            // Nobody listens once the driver has stopped.
            let _ = events.send((number, Said::Ended(reason))).await;
        });
        self.open = Some(Open { outbox, task });
    }

    /// Ends the present stream.
    pub(super) fn close(&mut self, reason: &str) -> Option<Event> {
        let present = self.drop_present();
        present.then(|| {
            tracing::info!(event = "link_closed", reason, "ended the stream");
            Event::Disconnected
        })
    }

    /// Sends on the present stream; without one the message is dropped.
    pub(super) fn send(&mut self, message: Up) {
        let Some(open) = &self.open else { return };
        if let Err(mpsc::error::TrySendError::Full(_)) = open.outbox.try_send(message) {
            tracing::warn!(
                event = "link_stalled",
                "the stream takes no more: ending it"
            );
            open.task.abort();
            // The machine learns of it like of any other end.
            let (events, number) = (self.events.clone(), self.number);
            tokio::spawn(async move {
                let _ = events
                    .send((number, Said::Ended("it took no more".to_owned())))
                    .await;
            });
        }
    }

    /// The event that something said on a stream is; what an older stream says is none.
    pub(super) fn take(&mut self, (number, said): Numbered) -> Option<Event> {
        if number != self.number || self.open.is_none() {
            return None;
        }
        match said {
            Said::Opened => {
                tracing::info!(event = "link_opened", address = %self.link.address, "dialing");
                Some(Event::Connected)
            }
            Said::Message(message) => Some(Event::Message(message)),
            Said::Ended(reason) => {
                self.open = None;
                tracing::info!(event = "link_lost", %reason, "the stream ended");
                Some(Event::Disconnected)
            }
        }
    }

    /// Lets the present stream send what waits, then ends it.
    pub(super) async fn finish(&mut self) {
        if let Some(open) = self.open.take() {
            drop(open.outbox);
            let abort = open.task.abort_handle();
            if tokio::time::timeout(FLUSH, open.task).await.is_err() {
                abort.abort();
            }
        }
    }

    fn drop_present(&mut self) -> bool {
        let open = self.open.take();
        if let Some(open) = &open {
            open.task.abort();
        }
        open.is_some()
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.drop_present();
    }
}

async fn pump(
    link: &Link,
    outbox: mpsc::Receiver<Up>,
    events: &mpsc::Sender<Numbered>,
    number: u64,
) -> Result<(), String> {
    let tune = |endpoint: Endpoint| {
        endpoint
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
    };
    let channel = link
        .dialer
        .clone()
        .channel(&link.address, tune)
        .map_err(|e| e.to_string())?;
    let mut client = NodeLinkServiceClient::new(channel)
        .max_decoding_message_size(MAX_FRAME)
        .max_encoding_message_size(MAX_FRAME);
    // The collector answers when it has Hello: the machine may speak before the call is answered.
    if events.send((number, Said::Opened)).await.is_err() {
        return Ok(());
    }
    let outbound = ReceiverStream::new(outbox).map(wire::up_to_wire);
    let mut inbound = client
        .connect(outbound)
        .await
        .map_err(|s| describe(&s))?
        .into_inner();
    while let Some(frame) = inbound.message().await.map_err(|s| describe(&s))? {
        // A frame without a known message comes from a newer collector.
        let Some(message) = wire::down_from_wire(frame).map_err(|e| e.to_string())? else {
            continue;
        };
        if events.send((number, Said::Message(message))).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// A status with what lies below it: tonic's own text of a failed dial is "transport error".
fn describe(status: &tonic::Status) -> String {
    use std::error::Error as _;
    let mut text = format!("{}: {}", status.code(), status.message());
    let mut source = status.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
