//! Bounds on request bodies, which are read before it is known who sent them: one bound for each,
//! and one for the memory of all. What most requests need is free; what goes beyond it comes out
//! of a common pot, so that a few senders of large bodies run dry alone. And one for bodies of an
//! address that do not arrive: each holds one of the calls that there may be.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::serve::network;
use crate::status::{ErrorCode, Failure};

/// The part of each body that takes nothing out of the pot.
const FREE_BYTES: usize = 64 << 10;

/// Bodies of one address (an IPv6 network of 64 bits) that may be waited for at once.
pub const MAX_AWAITED_PER_ADDRESS: usize = 256;

/// The bounds of one router; clones share the pot.
#[derive(Debug, Clone)]
pub struct BodyBudget {
    max_bytes: usize,
    pot: Arc<Semaphore>,
    awaited: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A body that has not arrived yet.
#[derive(Debug)]
struct Awaited {
    all: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = all.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                all.remove(&self.address);
            }
        }
    }
}

/// What one body took so far; given back when dropped.
#[derive(Debug)]
pub struct BodyAllowance {
    budget: BodyBudget,
    taken: usize,
    held: Option<OwnedSemaphorePermit>,
    awaited: Option<Awaited>,
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
    /// Too many bodies of this address have not arrived yet.
    Awaited,
}

impl BodyBudget {
    /// Bodies of `max_bytes` each at most; `pot_bytes` bounds what all of them hold beyond the
    /// first 64 KiB of each.
    pub fn new(max_bytes: usize, pot_bytes: usize) -> Self {
        Self {
            max_bytes,
            pot: Arc::new(Semaphore::new(pot_bytes.min(Semaphore::MAX_PERMITS))),
            awaited: Arc::default(),
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
            awaited: None,
        }
    }

    /// The allowance of one body that has yet to come from `address`.
    ///
    /// # Errors
    /// When too many of the same address are waited for already.
    pub fn open_for(&self, address: IpAddr) -> Result<BodyAllowance, BodyRefusal> {
        let address = network(address);
        let mut all = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(address).or_default();
        if *count >= MAX_AWAITED_PER_ADDRESS {
            return Err(BodyRefusal::Awaited);
        }
        *count += 1;
        drop(all);
        let all = Arc::clone(&self.awaited);
        Ok(BodyAllowance {
            awaited: Some(Awaited { all, address }),
            ..self.open()
        })
    }
}

impl BodyAllowance {
    /// The body is here, and waited for no longer.
    pub fn arrived(&mut self) {
        self.awaited = None;
    }

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
            BodyRefusal::Awaited => Self::new(
                ErrorCode::Unavailable,
                "OVERLOADED",
                "too many requests of this address wait for their bodies",
            )
            .retry_after(Duration::from_secs(1)),
        }
    }
}

pin_project_lite::pin_project! {
    /// A gRPC request's body within its allowance.
    pub(super) struct BoundedBody {
        #[pin]
        body: Body,
        allowance: BodyAllowance,
    }
}

impl BoundedBody {
    pub(super) fn new(body: Body, allowance: BodyAllowance) -> Self {
        Self { body, allowance }
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
            this.allowance.arrived();
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
    fn an_address_has_only_so_many_bodies_waited_for() {
        let budget = BodyBudget::new(100, 0);
        let [one, same, other] = ["2001:db8::1", "2001:db8::2", "192.0.2.1"]
            .map(|address| address.parse::<IpAddr>().unwrap());
        let mut held: Vec<_> = (0..MAX_AWAITED_PER_ADDRESS)
            .map(|_| budget.open_for(one).unwrap())
            .collect();
        assert_eq!(budget.open_for(same).unwrap_err(), BodyRefusal::Awaited);
        budget.open_for(other).unwrap();
        held[0].arrived();
        budget.open_for(same).unwrap();
        drop(held);
        assert!(
            budget.awaited.lock().unwrap().is_empty(),
            "none is forgotten"
        );
    }

    #[test]
    fn one_body_ends_at_its_bound() {
        let budget = BodyBudget::new(100, 0);
        let mut body = budget.open();
        body.take(100).unwrap();
        assert_eq!(body.take(1), Err(BodyRefusal::TooLarge { max_bytes: 100 }));
    }
}
