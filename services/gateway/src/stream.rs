//! Server streams over HTTP: server-sent events for browsers, newline-delimited JSON for
//! everybody else, raw chunks where the messages are `google.api.HttpBody`.
//!
//! NDJSON: a line `{"result":…}` for each message, at most one `{"error":…}` as the last line, an
//! empty line as heartbeat. Events: unnamed ones for messages, `error` with a google.rpc.Status,
//! `end` when the stream is complete (a browser reconnects otherwise), comments as heartbeat.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, HeaderValue};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use vpnpanel_runtime::status::{ErrorCode, Failure};

use crate::callers::StreamPlace;
use crate::http_body;
use crate::problem::Problem;
use crate::transcoder::{Answer, Shared};

/// Frames that wait for a slow client.
const QUEUE: usize = 8;

/// How the messages of a stream are framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Ndjson,
    Events,
    Raw,
}

impl Framing {
    /// The client's choice, by `accept`.
    pub(crate) fn accepted(headers: &HeaderMap) -> Self {
        let events = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|v| v.split(';').next())
            .any(|v| v.trim().eq_ignore_ascii_case("text/event-stream"));
        if events { Self::Events } else { Self::Ndjson }
    }

    pub(crate) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Events => "text/event-stream",
            Self::Raw => "application/octet-stream",
        })
    }

    fn message(self, json: &[u8]) -> Bytes {
        match self {
            Self::Ndjson => [b"{\"result\":", json, b"}\n"].concat().into(),
            // JSON as written here has no line breaks, which would need a `data:` each.
            Self::Events => [b"data: ", json, b"\n\n"].concat().into(),
            Self::Raw => Bytes::copy_from_slice(json),
        }
    }

    fn error(self, json: &[u8]) -> Bytes {
        match self {
            Self::Ndjson => [b"{\"error\":", json, b"}\n"].concat().into(),
            Self::Events => [b"event: error\ndata: ", json, b"\n\n"].concat().into(),
            Self::Raw => Bytes::new(),
        }
    }

    fn end(self) -> Option<Bytes> {
        (self == Self::Events).then(|| Bytes::from_static(b"event: end\ndata: {}\n\n"))
    }

    fn heartbeat(self) -> Option<Bytes> {
        match self {
            Self::Ndjson => Some(Bytes::from_static(b"\n")),
            Self::Events => Some(Bytes::from_static(b": heartbeat\n\n")),
            Self::Raw => None,
        }
    }
}

/// A stream under way, from the service to one client.
pub(crate) struct Relay {
    pub(crate) shared: Arc<Shared>,
    pub(crate) answer: Answer,
    pub(crate) framing: Framing,
    pub(crate) messages: Streaming<Bytes>,
    /// A message that was read already, to learn its content type.
    pub(crate) first: Option<Bytes>,
    pub(crate) deadline: Option<Instant>,
    pub(crate) stop: CancellationToken,
    pub(crate) heartbeat: Duration,
    /// A client that does not take a frame for this long is cut off.
    pub(crate) patience: Duration,
    pub(crate) place: StreamPlace,
}

impl Relay {
    /// Starts relaying; the returned body ends with the stream. When the client goes away the
    /// call is dropped, which cancels it at the service.
    pub(crate) fn into_body(self) -> Body {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(self.run(sender));
        Body::from_stream(ReceiverStream::new(receiver))
    }

    async fn run(mut self, sender: mpsc::Sender<Result<Bytes, std::io::Error>>) {
        let deadline = self.deadline;
        let expired = async move {
            match deadline {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(expired);
        let stop = self.stop.clone();
        let mut heartbeat = interval_at(Instant::now() + self.heartbeat, self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);

        if let Some(first) = self.first.take() {
            let frame = self.frame(&first);
            if !self.deliver(&sender, frame).await {
                return;
            }
        }
        loop {
            let frame = tokio::select! {
                () = sender.closed() => return,
                () = stop.cancelled() => Err(shutting_down().into()),
                () = &mut expired => Err(deadline_exceeded().into()),
                next = self.messages.message() => match next {
                    Ok(Some(message)) => self.frame(&message),
                    Ok(None) => break,
                    Err(status) => Err(Problem::from(status)),
                },
                _ = heartbeat.tick() => match self.framing.heartbeat() {
                    Some(frame) => Ok(frame),
                    None => continue,
                },
            };
            if !self.deliver(&sender, frame).await {
                return;
            }
        }
        if let Some(end) = self.framing.end() {
            self.deliver(&sender, Ok(end)).await;
        }
        drop(self.place);
    }

    fn frame(&self, message: &Bytes) -> Result<Bytes, Problem> {
        if self.framing == Framing::Raw {
            return http_body::parse(message)
                .map(|body| body.data)
                .map_err(unreadable);
        }
        let json = self
            .answer
            .json(&self.shared.layouts, message)
            .map_err(unreadable)?;
        Ok(self.framing.message(&json))
    }

    /// Hands a frame to the client. False when the stream is over.
    async fn deliver(
        &self,
        sender: &mpsc::Sender<Result<Bytes, std::io::Error>>,
        frame: Result<Bytes, Problem>,
    ) -> bool {
        let (frame, last) = match frame {
            Ok(frame) => (Ok(frame), false),
            // Raw chunks have no place for an error but a broken connection.
            Err(problem) if self.framing == Framing::Raw => (
                Err(std::io::Error::other(problem.status.message().to_owned())),
                true,
            ),
            Err(problem) => {
                let json = self
                    .shared
                    .problems
                    .json(&problem.status, &self.shared.layouts);
                (Ok(self.framing.error(&json)), true)
            }
        };
        match timeout(self.patience, sender.send(frame)).await {
            Ok(Ok(())) => !last,
            Ok(Err(_)) => false,
            Err(_) => {
                tracing::info!("client does not read its stream, cut off");
                false
            }
        }
    }
}

fn unreadable(error: crate::json::wire::WireError) -> Problem {
    tracing::error!(%error, "response of the service cannot be read");
    Failure::internal().into()
}

pub(crate) fn deadline_exceeded() -> Status {
    let text = "the deadline passed before the service answered";
    Failure::new(ErrorCode::DeadlineExceeded, "DEADLINE_EXCEEDED", text).into_status()
}

fn shutting_down() -> Status {
    Failure::new(
        ErrorCode::Unavailable,
        "SHUTTING_DOWN",
        "the gateway is shutting down",
    )
    .retry_after(Duration::from_secs(1))
    .into_status()
}
