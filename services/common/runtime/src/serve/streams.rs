//! Answers over HTTP/2 whose client opens no window for them. The socket takes everything
//! meanwhile, so that [`Life`] sees nothing of it; what waits is the task that hyper runs for each
//! stream. It is dropped when the client has taken nothing for too long, which resets the stream and
//! leaves the others of its connection alone: a proxy in front may have one for each of its clients.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

use super::life::Life;
use crate::metrics::ListenerMetrics;

/// Whoever takes less than this within the deadline counts as taking nothing.
const PIECE: usize = 16 << 10;

tokio::task_local! {
    /// Whether the stream's task waits for us: for a handler, or for more of an answer.
    static OURS: Cell<bool>;
}

/// Notes who has to do something next. `poll` is that of a handler or of an answer's body.
pub(super) fn note<T>(poll: Poll<T>) -> Poll<T> {
    // Not within the task of a stream, it is HTTP/1.
    let _http1 = OURS.try_with(|ours| ours.set(poll.is_pending()));
    poll
}

/// Runs the streams of one connection.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) life: Arc<Life>,
    pub(super) patience: Duration,
    pub(super) metrics: ListenerMetrics,
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, task: F) {
        tokio::spawn(Patient {
            task,
            streams: self.clone(),
            since: Instant::now(),
            deadline: None,
        });
    }
}

pin_project_lite::pin_project! {
    /// The task of one stream, until its client has taken nothing for too long.
    struct Patient<F> {
        #[pin]
        task: F,
        streams: Streams,
        // When the client's turn began, if it is its turn.
        since: Instant,
        deadline: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future<Output = ()>> Future for Patient<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let task = this.task;
        let (poll, ours) =
            OURS.sync_scope(Cell::new(false), || (task.poll(cx), OURS.with(Cell::get)));
        if poll.is_ready() {
            return poll;
        }
        if ours {
            *this.deadline = None;
            return Poll::Pending;
        }
        let Streams {
            life,
            patience,
            metrics,
        } = &*this.streams;
        loop {
            let deadline = this.deadline.get_or_insert_with(|| {
                *this.since = Instant::now();
                Box::pin(sleep(*patience))
            });
            ready!(deadline.as_mut().poll(cx));
            if !life.was_full(*this.since) {
                metrics.cut();
                tracing::debug!("answer cut off: its client takes nothing of it");
                return Poll::Ready(());
            }
            // What is sent waits for the network, and `Life` watches over that.
            *this.deadline = None;
        }
    }
}

pin_project_lite::pin_project! {
    /// An answer's body; over HTTP/2 in pieces, of which hyper sends the next when there is room
    /// for it. The last byte of what comes together is a piece of its own: with the last piece hyper
    /// is done, and what the client did not take of that is waited for by nobody.
    pub(super) struct Pieces {
        #[pin]
        body: Body,
        whole: bool,
        rest: Bytes,
    }
}

impl Pieces {
    pub(super) fn new(body: Body, version: http::Version) -> Self {
        Self {
            body,
            whole: version != http::Version::HTTP_2,
            rest: Bytes::new(),
        }
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let frame = ready!(note(this.body.poll_frame(cx)));
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => *this.rest = data,
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        let len = this.rest.len();
        let piece = if *this.whole || len < 2 {
            len
        } else {
            PIECE.min(len - 1)
        };
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, body) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower().saturating_add(rest));
        if let Some(upper) = body.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}
