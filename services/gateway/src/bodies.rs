//! Bodies on their way in: each within its bound and its time, all of them within their memory, and
//! few of each address and each connection, so that whoever sends heads and keeps the bodies back is
//! turned away, and nobody else.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use vpnpanel_runtime::rpc::{BodyAllowance, BodyBudget, BodyRefusal};
use vpnpanel_runtime::status::{ErrorCode, Failure};
use vpnpanel_runtime::{Share, Shares};

use crate::callers::Caller;
use crate::problem::Problem;
use crate::transcoder::Limits;

/// Reads bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    budget: BodyBudget,
    patience: Duration,
    of_each_address: Shares<Option<IpAddr>>,
    of_each_connection: Shares<SocketAddr>,
}

impl Bodies {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            budget: limits.bodies.clone(),
            patience: limits.body_timeout,
            of_each_address: Shares::new(limits.max_waiting_bodies),
            of_each_connection: Shares::new(limits.max_waiting_bodies_per_connection),
        }
    }

    /// The whole of a body, with what it takes of the budget.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        caller: Caller,
        body: Body,
    ) -> Result<(Bytes, BodyAllowance), Problem> {
        let max_bytes = self.budget.max_bytes();
        let declared = headers
            .get(CONTENT_LENGTH)
            .and_then(|v| v.to_str().ok()?.parse().ok());
        if declared.is_some_and(|length: u64| length > max_bytes as u64) {
            return Err(refused(BodyRefusal::TooLarge { max_bytes }));
        }
        if body.is_end_stream() {
            return Ok((Bytes::new(), self.budget.open()));
        }
        let _waiting = self.waits(caller).ok_or_else(Problem::overloaded)?;
        timeout(self.patience, collect(body, self.budget.open()))
            .await
            .map_err(|_| {
                let text = "the body did not arrive in time";
                let failure = Failure::new(ErrorCode::DeadlineExceeded, "SLOW_BODY", text);
                Problem::with_http(failure, StatusCode::REQUEST_TIMEOUT)
            })?
    }

    /// Counts one more; `None` when its caller has too many.
    fn waits(&self, caller: Caller) -> Option<Waits> {
        let of_connection = match caller.connection {
            Some(connection) => Some(self.of_each_connection.take(connection)?),
            None => None,
        };
        Some(Waits {
            _of_address: self.of_each_address.take(caller.subscriber)?,
            _of_connection: of_connection,
        })
    }
}

/// One body on its way, until dropped.
struct Waits {
    _of_address: Share<Option<IpAddr>>,
    _of_connection: Option<Share<SocketAddr>>,
}

/// The whole of a body, within its allowance.
async fn collect(
    mut body: Body,
    mut allowance: BodyAllowance,
) -> Result<(Bytes, BodyAllowance), Problem> {
    let mut first = Bytes::new();
    let mut collected: Option<BytesMut> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let text = "the body broke off";
            Problem::from(Failure::new(
                ErrorCode::InvalidArgument,
                "MALFORMED_BODY",
                text,
            ))
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        allowance.take(data.len()).map_err(refused)?;
        // Most bodies come in one piece, which is passed on as it is.
        match &mut collected {
            Some(collected) => collected.extend_from_slice(&data),
            None if first.is_empty() => first = data,
            None => {
                let mut both = BytesMut::with_capacity(first.len() + data.len());
                both.extend_from_slice(&first);
                both.extend_from_slice(&data);
                collected = Some(both);
            }
        }
    }
    Ok((collected.map_or(first, BytesMut::freeze), allowance))
}

fn refused(refusal: BodyRefusal) -> Problem {
    match refusal {
        BodyRefusal::TooLarge { .. } => {
            Problem::with_http(refusal.into(), StatusCode::PAYLOAD_TOO_LARGE)
        }
        BodyRefusal::Busy => Failure::from(refusal).into(),
    }
}
