//! Operations, and the calls that begin them.

use uuid::Uuid;
use vpnpanel_api::operation::v1::{
    CancelOperationRequest, CancelOperationResponse, GetOperationRequest, GetOperationResponse,
    ListOperationItemsRequest, ListOperationItemsResponse, ListOperationsRequest,
    ListOperationsResponse, Operation, OperationItem, OperationItemState as WireItemState,
    OperationKind, OperationState as WireState,
};
use vpnpanel_api::user::v1::{BatchCreateUsersRequest, BatchCreateUsersResponse};
use vpnpanel_domain::{OperationId, TenantId};
use vpnpanel_store::{
    self as store, ItemState, NewOperation, OperationState, StoreError, fresh_id,
};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, ids, page::List, request, time},
};

pub(crate) async fn batch_create_users(
    context: &Context,
    caller: &Caller,
    message: BatchCreateUsersRequest,
) -> Result<BatchCreateUsersResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "BatchCreateUsers",
        &message.request_id,
        &message,
    )?;
    let users = message.users.into_iter();
    let new = NewOperation {
        id: fresh_id(),
        plan_id: ids::required("plan_id", &message.plan_id)?,
        users: users.map(|user| (user.username, user.note)).collect(),
    };
    let made = context
        .acting(caller)
        .create_operation(tenant_id, new, key.as_ref())
        .await?;
    context.operations.notify_one();
    Ok(BatchCreateUsersResponse {
        operation: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetOperationRequest,
) -> Result<GetOperationResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.operation_id)?;
    Ok(GetOperationResponse {
        operation: Some(context.store.operation(tenant_id, id).await?.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListOperationsRequest,
) -> Result<ListOperationsResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let list = List::new("operations").of(&message.tenant_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut operations = match tenant_id {
        Some(tenant_id) => context.store.operations(tenant_id, page.keyset()).await?,
        // The platform has none.
        None => Vec::new(),
    };
    let next_page_token = list.cut(&page, &mut operations, |it| it.id.uuid());
    Ok(ListOperationsResponse {
        operations: operations.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn items(
    context: &Context,
    _caller: &Caller,
    message: ListOperationItemsRequest,
) -> Result<ListOperationItemsResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.operation_id)?;
    let list = List::new("operation items")
        .of(tenant_id)
        .of(id)
        .of(message.state);
    let state = match message.state() {
        WireItemState::Unspecified => None,
        WireItemState::Waiting => Some(ItemState::Waiting),
        WireItemState::Done => Some(ItemState::Done),
        WireItemState::Failed => Some(ItemState::Failed),
    };
    let page = list.page(message.page_size, &message.page_token)?;
    // Items have numbers for ids: a token holds them as any other.
    let numbered = store::Page {
        size: page.size + 1,
        after: page
            .after
            .map(|id| u32::try_from(id.as_u128()).unwrap_or(u32::MAX)),
    };
    let mut items = context
        .store
        .operation_items(tenant_id, id, state, numbered)
        .await?;
    let next_page_token = list.cut(&page, &mut items, |it| {
        Uuid::from_u128(u128::from(it.number))
    });
    Ok(ListOperationItemsResponse {
        items: items.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn cancel(
    context: &Context,
    caller: &Caller,
    message: CancelOperationRequest,
) -> Result<CancelOperationResponse, Error> {
    let (tenant_id, id) = named(&message.tenant_id, &message.operation_id)?;
    let ended = context
        .acting(caller)
        .cancel_operation(tenant_id, id)
        .await?;
    Ok(CancelOperationResponse {
        operation: Some(ended.into_wire()),
    })
}

/// The operation that a request names; the platform has none.
fn named(tenant: &str, operation: &str) -> Result<(TenantId, OperationId), Error> {
    let id = ids::required("operation_id", operation)?;
    let tenant = ids::optional("tenant_id", tenant)?;
    Ok((tenant.ok_or(StoreError::NotFound("operation"))?, id))
}

impl IntoWire for store::Operation {
    type Wire = Operation;

    fn into_wire(self) -> Operation {
        let state = match self.state {
            OperationState::Running => WireState::Running,
            OperationState::Ended => WireState::Ended,
            OperationState::Cancelled => WireState::Cancelled,
        };
        Operation {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.to_string(),
            kind: OperationKind::BatchCreateUsers.into(),
            state: state.into(),
            total_count: self.total,
            done_count: self.done,
            failed_count: self.failed,
            waiting_reason: self.waiting,
            actor: self.actor,
            create_time: Some(time::timestamp(self.created_at_ms)),
            end_time: self.ended_at_ms.map(time::timestamp),
        }
    }
}

impl IntoWire for store::OperationItem {
    type Wire = OperationItem;

    fn into_wire(self) -> OperationItem {
        let state = match self.state {
            ItemState::Waiting => WireItemState::Waiting,
            ItemState::Done => WireItemState::Done,
            ItemState::Failed => WireItemState::Failed,
        };
        let made = self.state == ItemState::Done;
        OperationItem {
            number: self.number,
            state: state.into(),
            name: self.name,
            resource_id: if made {
                self.resource_id.to_string()
            } else {
                String::new()
            },
            error_reason: self.error_reason,
            error_message: self.error_message,
        }
    }
}
