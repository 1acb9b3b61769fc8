//! The audited methods of plans, of the life of users, and of operations.

use vpnpanel_api::{
    Method,
    operation::v1::{CancelOperationRequest, CancelOperationResponse},
    plan::v1::{
        CreatePlanRequest, CreatePlanResponse, DeletePlanRequest, DeletePlanResponse, Plan,
        UndeletePlanRequest, UndeletePlanResponse, UpdatePlanRequest, UpdatePlanResponse,
    },
    user::v1::{
        BatchCreateUsersRequest, BatchCreateUsersResponse, BatchUser, ChangeUserPlanRequest,
        ChangeUserPlanResponse, CreateUserDeviceRequest, CreateUserDeviceResponse,
        DeleteUserDeviceRequest, DeleteUserDeviceResponse, DeleteUserRequest, Device,
        ExtendUserRequest, ExtendUserResponse, UndeleteUserRequest, UndeleteUserResponse,
    },
};

use super::{Expected, Stage, call};
use crate::plans::new_plan;

const CREATE_DEVICE: &str = "/vpnpanel.user.v1.UserService/CreateUserDevice";
const BATCH: &str = "/vpnpanel.user.v1.UserService/BatchCreateUsers";

/// Calls the method as it is meant to be called; `None` where it is another kind of method.
pub(super) async fn perform(
    stage: &mut Stage,
    method: &'static Method,
    id: &str,
) -> Option<Expected> {
    let path = method.path;
    let admin = stage.admin.clone();
    let tenant_id = stage.tenant.to_string();
    let user_id = stage.user.id.clone();
    Some(match method.name {
        "CreatePlan" => {
            let request = CreatePlanRequest {
                tenant_id,
                plan: Some(Plan {
                    name: id.to_owned(),
                    ..Plan::default()
                }),
                request_id: String::new(),
            };
            let made: CreatePlanResponse = call(&admin, path, id, request).await;
            stage.done("plan", &made.plan.unwrap().id)
        }
        "UpdatePlan" => {
            let plan = new_plan(&admin, stage.tenant, id).await;
            let request = UpdatePlanRequest {
                plan: Some(Plan {
                    note: "changed".to_owned(),
                    ..plan
                }),
                update_mask: None,
            };
            let changed: UpdatePlanResponse = call(&admin, path, id, request).await;
            stage.done("plan", &changed.plan.unwrap().id)
        }
        "DeletePlan" => {
            let plan = new_plan(&admin, stage.tenant, id).await;
            let request = DeletePlanRequest {
                tenant_id,
                plan_id: plan.id.clone(),
                etag: String::new(),
            };
            let _gone: DeletePlanResponse = call(&admin, path, id, request).await;
            stage.done("plan", &plan.id)
        }
        "UndeletePlan" => {
            let plan = new_plan(&admin, stage.tenant, id).await;
            let request = UndeletePlanRequest {
                tenant_id,
                plan_id: plan.id.clone(),
            };
            let _same: UndeletePlanResponse = call(&admin, path, id, request).await;
            stage.done("plan", &plan.id)
        }
        "ChangeUserPlan" => {
            let plan = new_plan(&admin, stage.tenant, id).await;
            let request = ChangeUserPlanRequest {
                tenant_id,
                user_id: user_id.clone(),
                plan_id: plan.id,
                ..ChangeUserPlanRequest::default()
            };
            let _changed: ChangeUserPlanResponse = call(&admin, path, id, request).await;
            stage.done("user", &user_id)
        }
        "ExtendUser" => {
            let plan = new_plan(&admin, stage.tenant, id).await;
            let request = ChangeUserPlanRequest {
                tenant_id: tenant_id.clone(),
                user_id: user_id.clone(),
                plan_id: plan.id,
                ..ChangeUserPlanRequest::default()
            };
            admin
                .users()
                .change_user_plan(admin.ask(request))
                .await
                .unwrap();
            let request = ExtendUserRequest {
                tenant_id,
                user_id: user_id.clone(),
                days: 1,
                ..ExtendUserRequest::default()
            };
            let _longer: ExtendUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &user_id)
        }
        "UndeleteUser" => {
            let user_id = admin.new_user(stage.tenant, id, &[]).await.id;
            let request = DeleteUserRequest {
                tenant_id: tenant_id.clone(),
                user_id: user_id.clone(),
                etag: String::new(),
            };
            admin.users().delete_user(admin.ask(request)).await.unwrap();
            let request = UndeleteUserRequest {
                tenant_id,
                user_id: user_id.clone(),
            };
            let _back: UndeleteUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &user_id)
        }
        "CreateUserDevice" => {
            let (_, device) = new_device(stage, path, id).await;
            stage.done("device", &device)
        }
        "DeleteUserDevice" => {
            let (user_id, device_id) = new_device(stage, CREATE_DEVICE, "unused").await;
            let request = DeleteUserDeviceRequest {
                tenant_id,
                user_id,
                device_id: device_id.clone(),
            };
            let _gone: DeleteUserDeviceResponse = call(&admin, path, id, request).await;
            stage.done("device", &device_id)
        }
        "BatchCreateUsers" => {
            let operation = new_operation(stage, path, id).await;
            stage.done("operation", &operation)
        }
        "CancelOperation" => {
            let operation_id = new_operation(stage, BATCH, "unused-batch").await;
            let request = CancelOperationRequest {
                tenant_id,
                operation_id: operation_id.clone(),
            };
            let _ended: CancelOperationResponse = call(&admin, path, id, request).await;
            stage.done("operation", &operation_id)
        }
        _ => return None,
    })
}

/// A user and another device of it.
async fn new_device(stage: &Stage, path: &'static str, id: &str) -> (String, String) {
    let name = format!("with-{id}");
    let user_id = stage.admin.new_user(stage.tenant, &name, &[]).await.id;
    let request = CreateUserDeviceRequest {
        tenant_id: stage.tenant.to_string(),
        user_id: user_id.clone(),
        device: Some(Device {
            name: "laptop".to_owned(),
            ..Device::default()
        }),
        request_id: String::new(),
    };
    let made: CreateUserDeviceResponse = call(&stage.admin, path, id, request).await;
    (user_id, made.device.unwrap().id)
}

async fn new_operation(stage: &Stage, path: &'static str, id: &str) -> String {
    let plan = new_plan(&stage.admin, stage.tenant, id).await;
    let request = BatchCreateUsersRequest {
        tenant_id: stage.tenant.to_string(),
        plan_id: plan.id,
        users: vec![BatchUser {
            username: format!("of-{id}"),
            ..BatchUser::default()
        }],
        request_id: String::new(),
    };
    let begun: BatchCreateUsersResponse = call(&stage.admin, path, id, request).await;
    begun.operation.unwrap().id
}
