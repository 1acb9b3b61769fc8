//! Bodies on their way in: each within its bound and its time, all of them within their memory, and
//! few of each address, so that whoever sends heads and keeps the bodies back is turned away, and
//! nobody else.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use tokio::time::timeout;
use vpnpanel_runtime::PerSubscriber;
use vpnpanel_runtime::rpc::{BodyAllowance, BodyBudget, BodyRefusal, ClientAddress};
use vpnpanel_runtime::status::{ErrorCode, Failure};

use crate::problem::Problem;

/// Reads bodies.
#[derive(Debug)]
pub(crate) struct Bodies {
    budget: BodyBudget,
    patience: Duration,
    waiting: PerSubscriber,
}

impl Bodies {
    /// Of each address `per_address` at once, each within `patience`.
    pub(crate) fn new(budget: BodyBudget, patience: Duration, per_address: usize) -> Self {
        Self {
            budget,
            patience,
            waiting: PerSubscriber::new(per_address),
        }
    }

    /// The whole of a body, with what it takes of the budget.
    pub(crate) async fn read(
        &self,
        headers: &HeaderMap,
        from: Option<ClientAddress>,
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
        let _waiting = self
            .waiting
            .count(from.map(|ClientAddress(address)| address))
            .ok_or_else(Problem::overloaded)?;
        timeout(self.patience, collect(body, self.budget.open()))
            .await
            .map_err(|_| {
                let text = "the body did not arrive in time";
                let failure = Failure::new(ErrorCode::DeadlineExceeded, "SLOW_BODY", text);
                Problem::with_http(failure, StatusCode::REQUEST_TIMEOUT)
            })?
    }
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
