//! Live rates, for as long as somebody watches and may.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vpnpanel_api::usage::v1::{NodeRate, WatchUsageRequest, WatchUsageResponse};
use vpnpanel_domain::TenantId;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    rates::{Rates, Watching},
    reader::Reader,
    wire::{ids, time},
};

pub(crate) type Watched = ReceiverStream<Result<WatchUsageResponse, Status>>;

/// How often it is looked whether the watcher still may watch, and how long one may read nothing.
const RECHECK: Duration = Duration::from_secs(15);
/// Nodes of a message.
const MOST_NODES: usize = 100;

pub(crate) async fn usage(
    context: &Context,
    caller: &Caller,
    message: WatchUsageRequest,
) -> Result<Watched, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    if let Some(tenant_id) = tenant_id {
        context.store.tenant(tenant_id).await?;
    }
    let reader = Reader::new(context, caller, "usage.read", tenant_id)?;
    let watching = context.rates.watch(tenant_id)?;
    // One waits for a slow watcher, who then gets what is newest, and misses what was in between.
    let (to, watched) = mpsc::channel(1);
    tokio::spawn(tell(watching, reader, to));
    Ok(ReceiverStream::new(watched))
}

async fn tell(
    mut watching: Watching,
    reader: Reader,
    to: mpsc::Sender<Result<WatchUsageResponse, Status>>,
) {
    let mut recheck = interval(RECHECK);
    watching.latest.mark_changed();
    loop {
        let message = tokio::select! {
            () = to.closed() => return,
            _ = recheck.tick() => match reader.still_may().await {
                Ok(()) => continue,
                Err(error) => Err(error.into()),
            },
            _ = watching.latest.changed() => {
                let rates = watching.latest.borrow_and_update().as_ref().map(Arc::clone);
                // There will be no more: the service stops.
                let Some(rates) = rates else { return };
                Ok(shown(&rates, reader.tenant))
            },
        };
        let is_last = message.is_err();
        // Somebody who reads nothing for so long gives the place up to others.
        let sent = timeout(RECHECK, to.send(message)).await;
        if !matches!(sent, Ok(Ok(()))) || is_last {
            return;
        }
    }
}

fn shown(rates: &Rates, tenant: Option<TenantId>) -> WatchUsageResponse {
    let (total, nodes) = rates.of(tenant);
    WatchUsageResponse {
        as_of_time: (rates.as_of_ms > 0).then(|| time::timestamp(rates.as_of_ms)),
        span: Some(time::duration(rates.span)),
        up_bytes_per_second: total.up,
        down_bytes_per_second: total.down,
        nodes: nodes
            .into_iter()
            .take(MOST_NODES)
            .map(|(node, rate)| NodeRate {
                node_id: node.to_string(),
                up_bytes_per_second: rate.up,
                down_bytes_per_second: rate.down,
            })
            .collect(),
    }
}
