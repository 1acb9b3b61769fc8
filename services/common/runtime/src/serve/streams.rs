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

/// What the task of a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// A handler, or more of an answer.
    Ours,
    /// Room for what was just given to it.
    Begins,
    /// Still room for what it had.
    GoesOn,
}

tokio::task_local! {
    static TURN: Cell<Turn>;
}

/// Notes whose turn it is. `poll` is that of a handler or of an answer's body.
pub(super) fn note<T>(poll: Poll<T>) -> Poll<T> {
    let turn = match poll {
        Poll::Pending => Turn::Ours,
        Poll::Ready(_) => Turn::Begins,
    };
    // Not within the task of a stream, it is HTTP/1.
    let _http1 = TURN.try_with(|now| now.set(turn));
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
        let (poll, turn) = TURN.sync_scope(Cell::new(Turn::GoesOn), || {
            (task.poll(cx), TURN.with(Cell::get))
        });
        if poll.is_ready() {
            return poll;
        }
        if turn != Turn::GoesOn {
            *this.deadline = None;
        }
        if turn == Turn::Ours {
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

    fn poll_piece(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        if this.rest.is_empty() {
            let frame = ready!(this.body.poll_frame(cx));
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
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        note(self.poll_piece(cx))
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

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::sleep_until;

    use super::*;
    use crate::metrics::Metrics;

    /// Whether a stream is cut whose client's time is over, when its task notes this.
    async fn is_cut(noted: Option<Poll<()>>) -> bool {
        let mut over = Box::pin(sleep_until(Instant::now()));
        over.as_mut().await;
        let stream = Patient {
            task: std::future::poll_fn(move |_| {
                let _noted = noted.map(note);
                Poll::Pending
            }),
            streams: Streams {
                life: Arc::new(Life::new(true)),
                patience: Duration::from_secs(3600),
                metrics: Metrics::new("probe").listener("rest"),
            },
            since: Instant::now(),
            deadline: Some(over),
        };
        stream.now_or_never().is_some()
    }

    #[tokio::test]
    async fn who_takes_a_piece_has_all_the_time_for_the_next() {
        assert!(is_cut(None).await);
        assert!(!is_cut(Some(Poll::Ready(()))).await);
        assert!(!is_cut(Some(Poll::Pending)).await);
    }
}
