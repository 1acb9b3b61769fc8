//! Bounds on request bodies, which are read before it is known who sent them: one bound for each,
//! and one for the memory of all. What most requests need is free; what goes beyond it comes out
//! of a common pot, so that a few senders of large bodies run dry alone.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::shares::Share;
use crate::status::{ErrorCode, Failure};

/// The part of each body that takes nothing out of the pot.
const FREE_BYTES: usize = 64 << 10;

/// The bounds of one router; clones share the pot.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    max_bytes: usize,
    pot: Arc<Semaphore>,
}

/// What one body took so far; given back when dropped.
#[derive(Debug)]
pub struct BodyAllowance {
    budget: BodyBudget,
    taken: usize,
    held: Option<OwnedSemaphorePermit>,
}

/// Why a body is not read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyRefusal {
    /// It is larger than any may be.
    TooLarge {
        /// The bound, in bytes.
        max_bytes: usize,
    },
    /// Too many large bodies are being read.
    Busy,
}

impl BodyBudget {
    /// Bodies of `max_bytes` each at most; `pot_bytes` bounds what all of them hold beyond the
    /// first 64 KiB of each.
    pub fn new(max_bytes: usize, pot_bytes: usize) -> Self {
        Self {
            max_bytes,
            pot: Arc::new(Semaphore::new(pot_bytes.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The bound of one body, in bytes.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// The allowance of one body.
    pub fn open(&self) -> BodyAllowance {
        BodyAllowance {
            budget: self.clone(),
            taken: 0,
            held: None,
        }
    }
}

impl BodyAllowance {
    /// Takes room for `bytes` more.
    ///
    /// # Errors
    /// When the body, or all of them, would be too large.
    pub fn take(&mut self, bytes: usize) -> Result<(), BodyRefusal> {
        let taken = self.taken.saturating_add(bytes);
        let max_bytes = self.budget.max_bytes;
        if taken > max_bytes {
            return Err(BodyRefusal::TooLarge { max_bytes });
        }
        let beyond = taken.saturating_sub(self.taken.max(FREE_BYTES));
        if beyond > 0 {
            let more = u32::try_from(beyond)
                .ok()
                .and_then(|bytes| {
                    Arc::clone(&self.budget.pot)
                        .try_acquire_many_owned(bytes)
                        .ok()
                })
                .ok_or(BodyRefusal::Busy)?;
            match &mut self.held {
                Some(held) => held.merge(more),
                None => self.held = Some(more),
            }
        }
        self.taken = taken;
        Ok(())
    }
}

impl From<BodyRefusal> for Failure {
    fn from(refusal: BodyRefusal) -> Self {
        match refusal {
            BodyRefusal::TooLarge { max_bytes } => Self::new(
                ErrorCode::ResourceExhausted,
                "BODY_TOO_LARGE",
                format!("the body is larger than {max_bytes} bytes"),
            )
            .metadata("maxBytes", max_bytes.to_string()),
            BodyRefusal::Busy => Self::new(
                ErrorCode::Unavailable,
                "OVERLOADED",
                "too many large bodies are under way",
            )
            .retry_after(Duration::from_secs(1)),
        }
    }
}

pin_project_lite::pin_project! {
    /// A gRPC request's body within its allowance, counted as waited for until it is here.
    pub(super) struct BoundedBody {
        #[pin]
        body: Body,
        allowance: BodyAllowance,
        waiting: Option<Share<Option<IpAddr>>>,
    }
}

impl BoundedBody {
    pub(super) fn new(
        body: Body,
        budget: &BodyBudget,
        waiting: Option<Share<Option<IpAddr>>>,
    ) -> Self {
        Self {
            body,
            allowance: budget.open(),
            waiting,
        }
    }
}

impl HttpBody for BoundedBody {
    type Data = Bytes;
    /// tonic answers with a status that it finds among the causes of a body's error.
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if frame.is_none() || this.body.is_end_stream() {
            *this.waiting = None;
        }
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Status::from_error(error.into_inner()))?;
            if let Some(data) = frame.data_ref() {
                this.allowance
                    .take(data.len())
                    .map_err(|refusal| Failure::from(refusal).into_status())?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pot_bounds_large_bodies_and_leaves_small_ones_alone() {
        let budget = BodyBudget::new(1 << 20, 1 << 20);
        let mut large = [(); 2].map(|()| budget.open());
        for body in &mut large {
            body.take(FREE_BYTES).unwrap();
            body.take(500 << 10).unwrap();
        }
        let mut late = budget.open();
        late.take(FREE_BYTES).unwrap();
        assert_eq!(late.take(100 << 10), Err(BodyRefusal::Busy));
        budget.open().take(FREE_BYTES).unwrap();
        drop(large);
        late.take(100 << 10).unwrap();
    }

    #[test]
    fn one_body_ends_at_its_bound() {
        let budget = BodyBudget::new(100, 0);
        let mut body = budget.open();
        body.take(100).unwrap();
        assert_eq!(body.take(1), Err(BodyRefusal::TooLarge { max_bytes: 100 }));
    }
}
