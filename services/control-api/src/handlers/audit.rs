//! The audit log, as it is read: nothing here writes to it.

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use vpnpanel_api::audit::v1::{
    ExportAuditEventsRequest, ExportAuditEventsResponse, GetAuditEventRequest,
    GetAuditEventResponse, ListAuditEventsRequest, ListAuditEventsResponse, VerifyChainRequest,
    VerifyChainResponse,
};
use vpnpanel_audit::{event, verification};
use vpnpanel_domain::TenantId;
use vpnpanel_store::{Anchor, AuditEvent, AuditFilter, Page, Store, StoreError};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    reader::Reader,
    wire::{ids, page::List, time},
};

/// Events of an export that are read at a time, and wait at most for a slow reader.
const EXPORT_BATCH: u32 = 200;

/// An export under way.
pub(crate) type Export = ReceiverStream<Result<ExportAuditEventsResponse, Status>>;

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListAuditEventsRequest,
) -> Result<ListAuditEventsResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let mine = only_actor(caller, tenant_id)?;
    let list = List::new("auditEvents")
        .of(&message.tenant_id)
        .of(mine.as_deref().unwrap_or_default())
        .of(&message.actor)
        .of(&message.method)
        .of(&message.resource_type)
        .of(&message.resource_id)
        .of(format_args!("{:?}", message.start_time))
        .of(format_args!("{:?}", message.end_time));
    let page = list.page(message.page_size, &message.page_token)?;
    let actor = some(message.actor);
    if mine.is_some() && actor.is_some() && actor != mine {
        // Of others there is nothing to see.
        return Ok(ListAuditEventsResponse::default());
    }
    let (start, end) = (message.start_time.as_ref(), message.end_time.as_ref());
    let filter = AuditFilter {
        actor: mine.or(actor),
        method: some(message.method),
        resource_type: some(message.resource_type),
        resource_id: some(message.resource_id),
        from_ms: start
            .map(|at| time::unix_ms("start_time", at))
            .transpose()?,
        to_ms: end.map(|at| time::unix_ms("end_time", at)).transpose()?,
    };
    let mut events = context
        .store
        .audit_events(tenant_id, &filter, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut events, |event| event.id);
    Ok(ListAuditEventsResponse {
        events: events.into_iter().map(event).collect(),
        next_page_token,
    })
}

pub(crate) async fn get(
    context: &Context,
    caller: &Caller,
    message: GetAuditEventRequest,
) -> Result<GetAuditEventResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("event_id", &message.event_id)?;
    let found = context.store.audit_event(tenant_id, id).await?;
    match only_actor(caller, tenant_id)? {
        Some(mine) if mine != found.actor => Err(StoreError::NotFound("audit event").into()),
        _ => Ok(GetAuditEventResponse {
            event: Some(event(found)),
        }),
    }
}

pub(crate) async fn verify(
    context: &Context,
    _caller: &Caller,
    message: VerifyChainRequest,
) -> Result<VerifyChainResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let anchor = message.anchor.map(|link| Anchor {
        seq: link.sequence,
        hash: link.hash,
    });
    let store = &context.store;
    let found = store.verify_audit(tenant_id, anchor.as_ref()).await?;
    if let Some(broken) = found.broken {
        tracing::error!(
            event = "audit_chain_broken",
            tenant_id = message.tenant_id,
            sequence = broken.seq,
            breach = ?broken.breach,
        );
    }
    Ok(verification(found, store.now_ms()))
}

pub(crate) fn export(
    context: &Context,
    caller: &Caller,
    message: &ExportAuditEventsRequest,
) -> Result<Export, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let reader = Reader::new(context, caller, "audit.read", tenant_id)?;
    let (sender, receiver) = mpsc::channel(EXPORT_BATCH as usize);
    let store = context.store.clone();
    tokio::spawn(send(store, reader, message.after_sequence, sender));
    Ok(ReceiverStream::new(receiver))
}

/// The next events, while the reader may see them.
async fn next(store: &Store, reader: &Reader, after: u64) -> Result<Vec<AuditEvent>, Error> {
    reader.still_may().await?;
    let page = Page::after(EXPORT_BATCH, after);
    Ok(store.chained_events(reader.tenant, page).await?)
}

/// Reads on as the client does; ends when it goes away, or may not read any more.
async fn send(
    store: Store,
    reader: Reader,
    mut after: u64,
    to: mpsc::Sender<Result<ExportAuditEventsResponse, Status>>,
) {
    loop {
        let events = match next(&store, &reader, after).await {
            Ok(events) => events,
            Err(error) => {
                // If nobody listens any more, nobody has to be told.
                let _gone = to.send(Err(error.into())).await;
                return;
            }
        };
        let Some(last) = events.last().and_then(|last| last.link.as_ref()) else {
            return;
        };
        after = last.seq;
        for one in events {
            let message = ExportAuditEventsResponse {
                event: Some(event(one)),
            };
            if to.send(Ok(message)).await.is_err() {
                return;
            }
        }
    }
}

/// The one actor whose events the caller may see, where it may not see all.
fn only_actor(caller: &Caller, tenant: Option<TenantId>) -> Result<Option<String>, Error> {
    let principal = caller.principal()?;
    let sees_all = principal.permits("audit.read", tenant);
    Ok((!sees_all).then(|| caller.who.actor.clone()))
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}
