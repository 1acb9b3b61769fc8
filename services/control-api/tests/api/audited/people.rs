//! The audited methods of accounts, roles, members and suspension.

use vpnpanel_api::{
    Method,
    account::v1::{
        Account, CreateAccountRequest, CreateAccountResponse, CreateRoleRequest,
        CreateRoleResponse, DeleteAccountRequest, DeleteAccountResponse, DeleteRoleRequest,
        DeleteRoleResponse, DisableAccountRequest, DisableAccountResponse, EnableAccountRequest,
        EnableAccountResponse, ResetAccountPasswordRequest, ResetAccountPasswordResponse,
        RevokeAccountSessionsRequest, RevokeAccountSessionsResponse, Role as WireRole,
        UpdateAccountRequest, UpdateAccountResponse, UpdateRoleRequest, UpdateRoleResponse,
    },
    tenant::v1::{
        AddMemberRequest, AddMemberResponse, Member, RemoveMemberRequest, RemoveMemberResponse,
        ResumeTenantRequest, ResumeTenantResponse, SetTenantLimitsRequest, SetTenantLimitsResponse,
        SuspendTenantRequest, SuspendTenantResponse, TenantLimits, UpdateMemberRequest,
        UpdateMemberResponse,
    },
};
use vpnpanel_auth::Role;

use super::{Expected, Stage, account, call};

/// Calls the method as it is meant to be called; `None` where it is another kind of method.
pub(super) async fn perform(
    stage: &mut Stage,
    method: &'static Method,
    id: &str,
) -> Option<Expected> {
    let service = method.service.rsplit('.').next().unwrap();
    match service {
        "AccountService" => of_account(stage, method, id).await,
        "RoleService" => of_role(stage, method, id).await,
        "TenantService" => of_tenant(stage, method, id).await,
        _ => None,
    }
}

/// Id of the account of a member of the tenant, made anew.
async fn somebody(stage: &Stage) -> String {
    let member = stage.panel.signed_in(Role::Operator, Some(stage.tenant));
    let actor = account(&member.await).await;
    actor.strip_prefix("account:").unwrap().to_owned()
}

async fn of_account(stage: &mut Stage, method: &'static Method, id: &str) -> Option<Expected> {
    let (path, admin) = (method.path, stage.admin.clone());
    let account_id = somebody(stage).await;
    match method.name {
        "CreateAccount" => {
            let request = CreateAccountRequest {
                account: Some(Account {
                    email: "made@example.com".to_owned(),
                    platform_role: "auditor".to_owned(),
                    ..Account::default()
                }),
            };
            let made: CreateAccountResponse = call(&admin, path, id, request).await;
            stage.secrets.push(made.one_time_password);
            return Some(stage.done("account", &made.account.unwrap().id));
        }
        "UpdateAccount" => {
            let request = UpdateAccountRequest {
                account: Some(Account {
                    id: account_id.clone(),
                    display_name: "Ada".to_owned(),
                    ..Account::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateAccountResponse = call(&admin, path, id, request).await;
        }
        "DisableAccount" => {
            let account_id = account_id.clone();
            let request = DisableAccountRequest { account_id };
            let _cut: DisableAccountResponse = call(&admin, path, id, request).await;
        }
        "EnableAccount" => {
            let account_id = account_id.clone();
            let request = EnableAccountRequest { account_id };
            let _back: EnableAccountResponse = call(&admin, path, id, request).await;
        }
        "ResetAccountPassword" => {
            let account_id = account_id.clone();
            let request = ResetAccountPasswordRequest { account_id };
            let reset: ResetAccountPasswordResponse = call(&admin, path, id, request).await;
            stage.secrets.push(reset.one_time_password);
        }
        "RevokeAccountSessions" => {
            let account_id = account_id.clone();
            let request = RevokeAccountSessionsRequest { account_id };
            let ended: RevokeAccountSessionsResponse = call(&admin, path, id, request).await;
            assert_eq!(ended.revoked_count, 1);
        }
        "DeleteAccount" => {
            let request = DeleteAccountRequest {
                account_id: account_id.clone(),
                etag: String::new(),
            };
            let _gone: DeleteAccountResponse = call(&admin, path, id, request).await;
        }
        _ => return None,
    }
    Some(stage.done("account", &account_id))
}

async fn of_role(stage: &mut Stage, method: &'static Method, id: &str) -> Option<Expected> {
    let (path, admin) = (method.path, stage.admin.clone());
    // Each is called on a role of its own.
    let name = method.name.to_lowercase();
    let role = WireRole {
        name: name.clone(),
        permissions: vec!["user.read".to_owned()],
        ..WireRole::default()
    };
    let create = CreateRoleRequest {
        role: Some(role.clone()),
    };
    if method.name == "CreateRole" {
        let _made: CreateRoleResponse = call(&admin, path, id, create).await;
        return Some(stage.done("role", &name));
    }
    let made = admin.roles().create_role(admin.ask(create)).await;
    made.unwrap();
    match method.name {
        "UpdateRole" => {
            let request = UpdateRoleRequest {
                role: Some(WireRole {
                    description: "looks".to_owned(),
                    ..role
                }),
                update_mask: None,
            };
            let _changed: UpdateRoleResponse = call(&admin, path, id, request).await;
        }
        "DeleteRole" => {
            let request = DeleteRoleRequest {
                name: name.clone(),
                etag: String::new(),
            };
            let _gone: DeleteRoleResponse = call(&admin, path, id, request).await;
        }
        _ => return None,
    }
    Some(stage.done("role", &name))
}

async fn of_tenant(stage: &mut Stage, method: &'static Method, id: &str) -> Option<Expected> {
    let (path, admin) = (method.path, stage.admin.clone());
    let tenant_id = stage.tenant.to_string();
    match method.name {
        "SetTenantLimits" => {
            let request = SetTenantLimitsRequest {
                tenant_id: tenant_id.clone(),
                limits: Some(TenantLimits {
                    max_users: 1_000,
                    ..TenantLimits::default()
                }),
                etag: String::new(),
            };
            let _changed: SetTenantLimitsResponse = call(&admin, path, id, request).await;
            Some(stage.done("tenant", &tenant_id))
        }
        "SuspendTenant" => {
            let request = SuspendTenantRequest {
                tenant_id: tenant_id.clone(),
            };
            let _cut: SuspendTenantResponse = call(&admin, path, id, request).await;
            Some(stage.done("tenant", &tenant_id))
        }
        "ResumeTenant" => {
            let request = ResumeTenantRequest {
                tenant_id: tenant_id.clone(),
            };
            let _back: ResumeTenantResponse = call(&admin, path, id, request).await;
            Some(stage.done("tenant", &tenant_id))
        }
        "AddMember" => {
            let request = AddMemberRequest {
                tenant_id,
                member: Some(Member {
                    email: "joining@example.com".to_owned(),
                    role: "operator".to_owned(),
                    ..Member::default()
                }),
            };
            let added: AddMemberResponse = call(&admin, path, id, request).await;
            stage.secrets.push(added.one_time_password);
            Some(stage.done("member", &added.member.unwrap().account_id))
        }
        "UpdateMember" => {
            let account_id = somebody(stage).await;
            let request = UpdateMemberRequest {
                member: Some(Member {
                    tenant_id,
                    account_id: account_id.clone(),
                    role: "auditor".to_owned(),
                    ..Member::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateMemberResponse = call(&admin, path, id, request).await;
            Some(stage.done("member", &account_id))
        }
        "RemoveMember" => {
            let account_id = somebody(stage).await;
            let request = RemoveMemberRequest {
                tenant_id,
                account_id: account_id.clone(),
            };
            let _gone: RemoveMemberResponse = call(&admin, path, id, request).await;
            Some(stage.done("member", &account_id))
        }
        _ => None,
    }
}
