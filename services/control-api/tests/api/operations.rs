//! Users made by the thousand, in operations.

use std::collections::BTreeMap;

use tonic::Code;
use vpnpanel_api::operation::v1::{
    CancelOperationRequest, GetOperationRequest, ListOperationItemsRequest, ListOperationsRequest,
    Operation, OperationItem, OperationItemState, OperationState,
};
use vpnpanel_api::user::v1::{BatchCreateUsersRequest, BatchUser};
use vpnpanel_domain::TenantId;
use vpnpanel_store::{Page, TenantLimits, TenantPatch, UserFilter};

use crate::plans::new_plan;
use crate::support::{Caller, Panel, assert_refused, fields};

async fn setting() -> (Panel, TenantId, Caller) {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    (panel, tenant, admin)
}

async fn request(caller: &Caller, tenant: TenantId, names: &[String]) -> BatchCreateUsersRequest {
    let plan = new_plan(caller, tenant, "month").await;
    let users = names.iter().map(|name| BatchUser {
        username: name.clone(),
        note: "of a batch".to_owned(),
    });
    BatchCreateUsersRequest {
        tenant_id: tenant.to_string(),
        plan_id: plan.id,
        users: users.collect(),
        request_id: String::new(),
    }
}

async fn begin(
    caller: &Caller,
    request: BatchCreateUsersRequest,
) -> Result<Operation, tonic::Status> {
    let begun = caller.users().batch_create_users(caller.ask(request)).await;
    Ok(begun?.into_inner().operation.unwrap())
}

async fn get(caller: &Caller, operation: &Operation) -> Operation {
    let request = GetOperationRequest {
        tenant_id: operation.tenant_id.clone(),
        operation_id: operation.id.clone(),
    };
    let got = caller.operations().get_operation(caller.ask(request)).await;
    got.unwrap().into_inner().operation.unwrap()
}

async fn items(caller: &Caller, operation: &Operation) -> Vec<OperationItem> {
    let mut items = Vec::new();
    let mut token = String::new();
    loop {
        let request = ListOperationItemsRequest {
            tenant_id: operation.tenant_id.clone(),
            operation_id: operation.id.clone(),
            page_size: 70,
            page_token: token,
            ..ListOperationItemsRequest::default()
        };
        let page = caller
            .operations()
            .list_operation_items(caller.ask(request))
            .await;
        let page = page.unwrap().into_inner();
        items.extend(page.items);
        token = page.next_page_token;
        if token.is_empty() {
            return items;
        }
    }
}

#[tokio::test]
async fn a_batch_makes_each_user_as_a_call_of_its_own_would() {
    let (panel, tenant, admin) = setting().await;
    admin.new_user(tenant, "user-120", &[]).await;
    let mut names: Vec<String> = (0..150).map(|number| format!("user-{number}")).collect();
    names[7] = "USER-6".to_owned();
    names[8] = String::new();
    let begun = begin(&admin, request(&admin, tenant, &names).await).await;
    let begun = begun.unwrap();
    assert_eq!(begun.state(), OperationState::Running);
    assert_eq!((begun.total_count, begun.done_count), (150, 0));

    assert!(panel.operations.work().await.unwrap());
    let half = get(&admin, &begun).await;
    assert_eq!((half.done_count, half.failed_count), (98, 2));
    assert_eq!(half.state(), OperationState::Running);
    while panel.operations.work().await.unwrap() {}
    let ended = get(&admin, &begun).await;
    assert_eq!((ended.done_count, ended.failed_count), (147, 3));
    assert_eq!(ended.state(), OperationState::Ended);
    assert!(ended.end_time.is_some());

    let items = items(&admin, &begun).await;
    assert_eq!(items.len(), 150);
    let mut reasons = BTreeMap::new();
    for item in &items {
        if item.state() == OperationItemState::Failed {
            assert!(item.resource_id.is_empty());
            reasons.insert(item.number, item.error_reason.as_str());
        } else {
            assert!(!item.resource_id.is_empty());
        }
    }
    let expected = [
        (7, "ALREADY_EXISTS"),
        (8, "INVALID_FIELD"),
        (120, "ALREADY_EXISTS"),
    ];
    assert_eq!(reasons, expected.into());
    let store = &panel.store;
    let all = UserFilter::default();
    let users = store.users(tenant, &all, Page::first(1_000));
    let users = users.await.unwrap();
    assert_eq!(users.len(), 148);
    let made = users.iter().find(|it| it.username == "user-149").unwrap();
    assert_eq!(made.id.to_string(), items[149].resource_id);
    assert_eq!(made.note, "of a batch");
    assert_eq!((made.limit.to_wire(), made.device_limit), (5_000, 2));
    assert!(made.expires_at_ms.is_some());
    let devices = store.user_devices(tenant, made.id).await.unwrap();
    assert_eq!(devices.len(), 1);
}

#[tokio::test]
async fn a_batch_that_is_asked_for_twice_is_begun_once() {
    let (panel, tenant, admin) = setting().await;
    let mut asked = request(&admin, tenant, &["ada".to_owned()]).await;
    asked.request_id = "01970000-0000-7000-8000-000000000003".to_owned();
    let one = begin(&admin, asked.clone()).await.unwrap();
    let two = begin(&admin, asked.clone()).await.unwrap();
    assert_eq!(one.id, two.id);
    asked.users[0].username = "bob".to_owned();
    let other = begin(&admin, asked.clone()).await;
    assert_refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED");
    while panel.operations.work().await.unwrap() {}
    assert_eq!(get(&admin, &one).await.done_count, 1);
    let list = ListOperationsRequest {
        tenant_id: tenant.to_string(),
        ..ListOperationsRequest::default()
    };
    let listed = admin.operations().list_operations(admin.ask(list)).await;
    assert_eq!(listed.unwrap().into_inner().operations.len(), 1);

    asked.request_id = String::new();
    asked.users.clear();
    assert_eq!(fields(begin(&admin, asked.clone()).await), ["users"]);
    asked.users = vec![BatchUser::default(); 10_001];
    assert_eq!(fields(begin(&admin, asked.clone()).await), ["users"]);
    asked.users.truncate(1);
    asked.plan_id = tenant.to_string();
    let refused = begin(&admin, asked).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");
}

#[tokio::test]
async fn a_tenants_limit_ends_a_batch_with_a_reason_for_each() {
    let (panel, tenant, admin) = setting().await;
    let limits = TenantPatch {
        limits: Some(TenantLimits {
            users: Some(130),
            ..TenantLimits::default()
        }),
        ..TenantPatch::default()
    };
    panel
        .store
        .update_tenant(tenant, limits, None)
        .await
        .unwrap();
    let names: Vec<String> = (0..250).map(|number| format!("user-{number}")).collect();
    let begun = begin(&admin, request(&admin, tenant, &names).await).await;
    let begun = begun.unwrap();
    while panel.operations.work().await.unwrap() {}
    let ended = get(&admin, &begun).await;
    assert_eq!((ended.done_count, ended.failed_count), (130, 120));
    for item in items(&admin, &begun).await {
        let failed = item.number >= 130;
        assert_eq!(item.state() == OperationItemState::Failed, failed);
        assert_eq!(item.error_reason == "LIMIT_REACHED", failed);
    }
}

#[tokio::test]
async fn a_batch_is_cancelled_between_two_of_its_turns() {
    let (panel, tenant, admin) = setting().await;
    let names: Vec<String> = (0..250).map(|number| format!("user-{number}")).collect();
    let begun = begin(&admin, request(&admin, tenant, &names).await).await;
    let begun = begun.unwrap();
    assert!(panel.operations.work().await.unwrap());
    let cancel = CancelOperationRequest {
        tenant_id: tenant.to_string(),
        operation_id: begun.id.clone(),
    };
    let ended = admin.operations().cancel_operation(admin.ask(cancel)).await;
    let ended = ended.unwrap().into_inner().operation.unwrap();
    assert_eq!(ended.state(), OperationState::Cancelled);
    assert_eq!(ended.done_count, 100);
    assert!(!panel.operations.work().await.unwrap());
    assert_eq!(get(&admin, &begun).await, ended);
}

#[tokio::test]
async fn many_replicas_share_the_work_and_none_does_it_twice() {
    let (panel, tenant, admin) = setting().await;
    let names: Vec<String> = (0..450).map(|number| format!("user-{number}")).collect();
    let begun = begin(&admin, request(&admin, tenant, &names).await).await;
    let begun = begun.unwrap();
    let mut replicas = vec![panel.operations.clone()];
    for _ in 0..2 {
        replicas.push(panel.another(&[]).await.operations.clone());
    }
    let mut tasks = Vec::new();
    for replica in replicas {
        tasks.push(tokio::spawn(async move {
            // One finds nothing while another has it.
            for _ in 0..2_000 {
                if !replica.work().await.unwrap() {
                    tokio::task::yield_now().await;
                }
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    while panel.operations.work().await.unwrap() {}
    let ended = get(&admin, &begun).await;
    assert_eq!((ended.done_count, ended.failed_count), (450, 0));
}
