//! The server traits of the contract. Nothing happens here: each method hands over to its
//! handler, behind the guard that authorizes and validates.

use std::sync::Arc;

use tonic::{Request, Response, Status, metadata::MetadataValue};
use vpnpanel_api::{
    access, account, audit, auth, node, operation, pki, plan, subscription, system, tenant, usage,
    user,
};

use crate::{caller::Caller, context::Context, handlers};

/// Every service of the management API.
#[derive(Debug, Clone)]
pub(crate) struct Api(pub(crate) Arc<Context>);

/// Says how long an answer may be kept; the gateway passes it on as a header.
fn cached<T>(mut reply: Response<T>, how: &'static str) -> Response<T> {
    let how = MetadataValue::from_static(how);
    reply.metadata_mut().insert("cache-control", how);
    reply
}

macro_rules! service {
    (
        $trait:path { $(
            $method:ident($request:ty) -> $response:ty = $handler:path $(, cached $how:literal)?;
        )+ }
        $(and { $($stream:tt)+ })?
    ) => {
        #[tonic::async_trait]
        impl $trait for Api {$(
            async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                let (metadata, extensions, message) = request.into_parts();
                let caller = Caller::of(&metadata, &extensions);
                let reply = Response::new($handler(&self.0, &caller, message).await?);
                $(let reply = cached(reply, $how);)?
                Ok(reply)
            }
        )+
            $($($stream)+)?
        }
    };
}

service! { auth::v1::auth_service_server::AuthService {
    login(auth::v1::LoginRequest) -> auth::v1::LoginResponse = handlers::auth::login;
    refresh(auth::v1::RefreshRequest) -> auth::v1::RefreshResponse = handlers::auth::refresh;
    logout(auth::v1::LogoutRequest) -> auth::v1::LogoutResponse = handlers::auth::logout;
    get_me(auth::v1::GetMeRequest) -> auth::v1::GetMeResponse = handlers::auth::me;
    change_password(auth::v1::ChangePasswordRequest) -> auth::v1::ChangePasswordResponse
        = handlers::auth::change_password;
    list_sessions(auth::v1::ListSessionsRequest) -> auth::v1::ListSessionsResponse
        = handlers::session::list;
    revoke_session(auth::v1::RevokeSessionRequest) -> auth::v1::RevokeSessionResponse
        = handlers::session::revoke;
    revoke_other_sessions(auth::v1::RevokeOtherSessionsRequest)
        -> auth::v1::RevokeOtherSessionsResponse = handlers::session::revoke_others;
    get_totp(auth::v1::GetTotpRequest) -> auth::v1::GetTotpResponse = handlers::totp::get;
    enroll_totp(auth::v1::EnrollTotpRequest) -> auth::v1::EnrollTotpResponse
        = handlers::totp::enroll;
    confirm_totp(auth::v1::ConfirmTotpRequest) -> auth::v1::ConfirmTotpResponse
        = handlers::totp::confirm;
    disable_totp(auth::v1::DisableTotpRequest) -> auth::v1::DisableTotpResponse
        = handlers::totp::disable;
    regenerate_recovery_codes(auth::v1::RegenerateRecoveryCodesRequest)
        -> auth::v1::RegenerateRecoveryCodesResponse = handlers::totp::regenerate;
    create_api_token(auth::v1::CreateApiTokenRequest) -> auth::v1::CreateApiTokenResponse
        = handlers::api_token::create;
    list_api_tokens(auth::v1::ListApiTokensRequest) -> auth::v1::ListApiTokensResponse
        = handlers::api_token::list;
    revoke_api_token(auth::v1::RevokeApiTokenRequest) -> auth::v1::RevokeApiTokenResponse
        = handlers::api_token::revoke;
    list_tenant_api_tokens(auth::v1::ListTenantApiTokensRequest)
        -> auth::v1::ListTenantApiTokensResponse = handlers::api_token::list_of_tenant;
    revoke_tenant_api_token(auth::v1::RevokeTenantApiTokenRequest)
        -> auth::v1::RevokeTenantApiTokenResponse = handlers::api_token::revoke_of_tenant;
}}

service! { auth::v1::signing_key_service_server::SigningKeyService {
    get_json_web_key_set(auth::v1::GetJsonWebKeySetRequest) -> auth::v1::GetJsonWebKeySetResponse
        = handlers::signing_key::json_web_key_set, cached "public, max-age=60";
    list_signing_keys(auth::v1::ListSigningKeysRequest) -> auth::v1::ListSigningKeysResponse
        = handlers::signing_key::list;
    rotate_signing_keys(auth::v1::RotateSigningKeysRequest)
        -> auth::v1::RotateSigningKeysResponse = handlers::signing_key::rotate;
    revoke_signing_key(auth::v1::RevokeSigningKeyRequest) -> auth::v1::RevokeSigningKeyResponse
        = handlers::signing_key::revoke;
}}

service! { tenant::v1::tenant_service_server::TenantService {
    create_tenant(tenant::v1::CreateTenantRequest) -> tenant::v1::CreateTenantResponse
        = handlers::tenant::create;
    get_tenant(tenant::v1::GetTenantRequest) -> tenant::v1::GetTenantResponse
        = handlers::tenant::get;
    get_tenant_limits(tenant::v1::GetTenantLimitsRequest)
        -> tenant::v1::GetTenantLimitsResponse = handlers::tenant::get_limits;
    list_tenants(tenant::v1::ListTenantsRequest) -> tenant::v1::ListTenantsResponse
        = handlers::tenant::list;
    update_tenant(tenant::v1::UpdateTenantRequest) -> tenant::v1::UpdateTenantResponse
        = handlers::tenant::update;
    set_tenant_limits(tenant::v1::SetTenantLimitsRequest) -> tenant::v1::SetTenantLimitsResponse
        = handlers::tenant::set_limits;
    suspend_tenant(tenant::v1::SuspendTenantRequest) -> tenant::v1::SuspendTenantResponse
        = handlers::tenant::suspend;
    resume_tenant(tenant::v1::ResumeTenantRequest) -> tenant::v1::ResumeTenantResponse
        = handlers::tenant::resume;
    add_member(tenant::v1::AddMemberRequest) -> tenant::v1::AddMemberResponse
        = handlers::member::add;
    list_members(tenant::v1::ListMembersRequest) -> tenant::v1::ListMembersResponse
        = handlers::member::list;
    update_member(tenant::v1::UpdateMemberRequest) -> tenant::v1::UpdateMemberResponse
        = handlers::member::update;
    remove_member(tenant::v1::RemoveMemberRequest) -> tenant::v1::RemoveMemberResponse
        = handlers::member::remove;
}}

service! { account::v1::account_service_server::AccountService {
    create_account(account::v1::CreateAccountRequest) -> account::v1::CreateAccountResponse
        = handlers::account::create;
    get_account(account::v1::GetAccountRequest) -> account::v1::GetAccountResponse
        = handlers::account::get;
    list_accounts(account::v1::ListAccountsRequest) -> account::v1::ListAccountsResponse
        = handlers::account::list;
    update_account(account::v1::UpdateAccountRequest) -> account::v1::UpdateAccountResponse
        = handlers::account::update;
    disable_account(account::v1::DisableAccountRequest) -> account::v1::DisableAccountResponse
        = handlers::account::disable;
    enable_account(account::v1::EnableAccountRequest) -> account::v1::EnableAccountResponse
        = handlers::account::enable;
    reset_account_password(account::v1::ResetAccountPasswordRequest)
        -> account::v1::ResetAccountPasswordResponse = handlers::account::reset_password;
    reset_account_second_factor(account::v1::ResetAccountSecondFactorRequest)
        -> account::v1::ResetAccountSecondFactorResponse = handlers::account::reset_second_factor;
    revoke_account_sessions(account::v1::RevokeAccountSessionsRequest)
        -> account::v1::RevokeAccountSessionsResponse = handlers::account::revoke_sessions;
    delete_account(account::v1::DeleteAccountRequest) -> account::v1::DeleteAccountResponse
        = handlers::account::delete;
}}

service! { account::v1::role_service_server::RoleService {
    create_role(account::v1::CreateRoleRequest) -> account::v1::CreateRoleResponse
        = handlers::role::create;
    get_role(account::v1::GetRoleRequest) -> account::v1::GetRoleResponse = handlers::role::get;
    list_roles(account::v1::ListRolesRequest) -> account::v1::ListRolesResponse
        = handlers::role::list;
    update_role(account::v1::UpdateRoleRequest) -> account::v1::UpdateRoleResponse
        = handlers::role::update;
    delete_role(account::v1::DeleteRoleRequest) -> account::v1::DeleteRoleResponse
        = handlers::role::delete;
}}

service! { user::v1::user_service_server::UserService {
    create_user(user::v1::CreateUserRequest) -> user::v1::CreateUserResponse
        = handlers::user::create;
    batch_create_users(user::v1::BatchCreateUsersRequest) -> user::v1::BatchCreateUsersResponse
        = handlers::operation::batch_create_users;
    extend_user(user::v1::ExtendUserRequest) -> user::v1::ExtendUserResponse
        = handlers::user::extend;
    undelete_user(user::v1::UndeleteUserRequest) -> user::v1::UndeleteUserResponse
        = handlers::user::undelete;
    change_user_plan(user::v1::ChangeUserPlanRequest) -> user::v1::ChangeUserPlanResponse
        = handlers::user::change_plan;
    create_user_device(user::v1::CreateUserDeviceRequest) -> user::v1::CreateUserDeviceResponse
        = handlers::device::create;
    list_user_devices(user::v1::ListUserDevicesRequest) -> user::v1::ListUserDevicesResponse
        = handlers::device::list;
    delete_user_device(user::v1::DeleteUserDeviceRequest) -> user::v1::DeleteUserDeviceResponse
        = handlers::device::delete;
    get_user(user::v1::GetUserRequest) -> user::v1::GetUserResponse = handlers::user::get;
    list_users(user::v1::ListUsersRequest) -> user::v1::ListUsersResponse = handlers::user::list;
    update_user(user::v1::UpdateUserRequest) -> user::v1::UpdateUserResponse
        = handlers::user::update;
    delete_user(user::v1::DeleteUserRequest) -> user::v1::DeleteUserResponse
        = handlers::user::delete;
    disable_user(user::v1::DisableUserRequest) -> user::v1::DisableUserResponse
        = handlers::user::disable;
    enable_user(user::v1::EnableUserRequest) -> user::v1::EnableUserResponse
        = handlers::user::enable;
    revoke_user_credentials(user::v1::RevokeUserCredentialsRequest)
        -> user::v1::RevokeUserCredentialsResponse = handlers::user::revoke_credentials;
    rotate_user_subscription(user::v1::RotateUserSubscriptionRequest)
        -> user::v1::RotateUserSubscriptionResponse = handlers::user::rotate_subscription;
    reset_user_usage(user::v1::ResetUserUsageRequest) -> user::v1::ResetUserUsageResponse
        = handlers::user::reset_usage;
    list_user_periods(user::v1::ListUserPeriodsRequest) -> user::v1::ListUserPeriodsResponse
        = handlers::user::periods;
    list_user_connections(user::v1::ListUserConnectionsRequest)
        -> user::v1::ListUserConnectionsResponse = handlers::connection::list;
}}

service! { plan::v1::plan_service_server::PlanService {
    create_plan(plan::v1::CreatePlanRequest) -> plan::v1::CreatePlanResponse
        = handlers::plan::create;
    get_plan(plan::v1::GetPlanRequest) -> plan::v1::GetPlanResponse = handlers::plan::get;
    list_plans(plan::v1::ListPlansRequest) -> plan::v1::ListPlansResponse = handlers::plan::list;
    update_plan(plan::v1::UpdatePlanRequest) -> plan::v1::UpdatePlanResponse
        = handlers::plan::update;
    delete_plan(plan::v1::DeletePlanRequest) -> plan::v1::DeletePlanResponse
        = handlers::plan::delete;
    undelete_plan(plan::v1::UndeletePlanRequest) -> plan::v1::UndeletePlanResponse
        = handlers::plan::undelete;
}}

service! { operation::v1::operation_service_server::OperationService {
    get_operation(operation::v1::GetOperationRequest) -> operation::v1::GetOperationResponse
        = handlers::operation::get;
    list_operations(operation::v1::ListOperationsRequest) -> operation::v1::ListOperationsResponse
        = handlers::operation::list;
    list_operation_items(operation::v1::ListOperationItemsRequest)
        -> operation::v1::ListOperationItemsResponse = handlers::operation::items;
    cancel_operation(operation::v1::CancelOperationRequest)
        -> operation::v1::CancelOperationResponse = handlers::operation::cancel;
}}

/// What it answers depends on the caller's headers, and has headers of its own.
#[tonic::async_trait]
impl subscription::v1::subscription_service_server::SubscriptionService for Api {
    async fn get_subscription(
        &self,
        request: Request<subscription::v1::GetSubscriptionRequest>,
    ) -> Result<Response<subscription::v1::GetSubscriptionResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::of(&metadata, &extensions);
        Ok(handlers::subscription::get(&self.0, &caller, &metadata, message).await?)
    }
}

service! { access::v1::group_service_server::GroupService {
    create_group(access::v1::CreateGroupRequest) -> access::v1::CreateGroupResponse
        = handlers::group::create;
    get_group(access::v1::GetGroupRequest) -> access::v1::GetGroupResponse = handlers::group::get;
    list_groups(access::v1::ListGroupsRequest) -> access::v1::ListGroupsResponse
        = handlers::group::list;
    update_group(access::v1::UpdateGroupRequest) -> access::v1::UpdateGroupResponse
        = handlers::group::update;
    delete_group(access::v1::DeleteGroupRequest) -> access::v1::DeleteGroupResponse
        = handlers::group::delete;
}}

service! { access::v1::inbound_service_server::InboundService {
    create_inbound(access::v1::CreateInboundRequest) -> access::v1::CreateInboundResponse
        = handlers::inbound::create;
    get_inbound(access::v1::GetInboundRequest) -> access::v1::GetInboundResponse
        = handlers::inbound::get;
    list_inbounds(access::v1::ListInboundsRequest) -> access::v1::ListInboundsResponse
        = handlers::inbound::list;
    update_inbound(access::v1::UpdateInboundRequest) -> access::v1::UpdateInboundResponse
        = handlers::inbound::update;
    delete_inbound(access::v1::DeleteInboundRequest) -> access::v1::DeleteInboundResponse
        = handlers::inbound::delete;
}}

service! { access::v1::endpoint_template_service_server::EndpointTemplateService {
    create_endpoint_template(access::v1::CreateEndpointTemplateRequest)
        -> access::v1::CreateEndpointTemplateResponse = handlers::endpoint_template::create;
    get_endpoint_template(access::v1::GetEndpointTemplateRequest)
        -> access::v1::GetEndpointTemplateResponse = handlers::endpoint_template::get;
    list_endpoint_templates(access::v1::ListEndpointTemplatesRequest)
        -> access::v1::ListEndpointTemplatesResponse = handlers::endpoint_template::list;
    update_endpoint_template(access::v1::UpdateEndpointTemplateRequest)
        -> access::v1::UpdateEndpointTemplateResponse = handlers::endpoint_template::update;
    delete_endpoint_template(access::v1::DeleteEndpointTemplateRequest)
        -> access::v1::DeleteEndpointTemplateResponse = handlers::endpoint_template::delete;
}}

service! { node::v1::node_service_server::NodeService {
    create_node(node::v1::CreateNodeRequest) -> node::v1::CreateNodeResponse
        = handlers::node::create;
    get_node(node::v1::GetNodeRequest) -> node::v1::GetNodeResponse = handlers::node::get;
    list_nodes(node::v1::ListNodesRequest) -> node::v1::ListNodesResponse = handlers::node::list;
    update_node(node::v1::UpdateNodeRequest) -> node::v1::UpdateNodeResponse
        = handlers::node::update;
    delete_node(node::v1::DeleteNodeRequest) -> node::v1::DeleteNodeResponse
        = handlers::node::delete;
    create_join_token(node::v1::CreateJoinTokenRequest) -> node::v1::CreateJoinTokenResponse
        = handlers::enrollment::create_join_token;
    revoke_node_certificate(node::v1::RevokeNodeCertificateRequest)
        -> node::v1::RevokeNodeCertificateResponse = handlers::renewal::revoke;
    drain_node(node::v1::DrainNodeRequest) -> node::v1::DrainNodeResponse = handlers::node::drain;
    undrain_node(node::v1::UndrainNodeRequest)
        -> node::v1::UndrainNodeResponse = handlers::node::undrain;
    confirm_node_removals(node::v1::ConfirmNodeRemovalsRequest)
        -> node::v1::ConfirmNodeRemovalsResponse = handlers::node::confirm_removals;
    write_off_node(node::v1::WriteOffNodeRequest) -> node::v1::WriteOffNodeResponse
        = handlers::restore::write_off;
    get_restore(node::v1::GetRestoreRequest) -> node::v1::GetRestoreResponse
        = handlers::restore::get;
    declare_restore(node::v1::DeclareRestoreRequest) -> node::v1::DeclareRestoreResponse
        = handlers::restore::declare;
    get_node_sync(node::v1::GetNodeSyncRequest) -> node::v1::GetNodeSyncResponse
        = handlers::node::sync;
    create_node_command(node::v1::CreateNodeCommandRequest)
        -> node::v1::CreateNodeCommandResponse = handlers::command::create;
    get_node_command(node::v1::GetNodeCommandRequest) -> node::v1::GetNodeCommandResponse
        = handlers::command::get;
    list_node_commands(node::v1::ListNodeCommandsRequest)
        -> node::v1::ListNodeCommandsResponse = handlers::command::list;
    set_node_control_address(node::v1::SetNodeControlAddressRequest)
        -> node::v1::SetNodeControlAddressResponse = handlers::node::set_control_address;
    cancel_node_command(node::v1::CancelNodeCommandRequest)
        -> node::v1::CancelNodeCommandResponse = handlers::command::cancel;
} and {
    type StreamNodeLogsStream = handlers::log::Log;

    async fn stream_node_logs(
        &self,
        request: Request<node::v1::StreamNodeLogsRequest>,
    ) -> Result<Response<Self::StreamNodeLogsStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::of(&metadata, &extensions);
        let log = handlers::log::stream(&self.0, &caller, message).await?;
        Ok(Response::new(log))
    }
}}

service! { usage::v1::usage_service_server::UsageService {
    get_user_usage(usage::v1::GetUserUsageRequest) -> usage::v1::GetUserUsageResponse
        = handlers::usage::of_user;
    get_tenant_usage(usage::v1::GetTenantUsageRequest) -> usage::v1::GetTenantUsageResponse
        = handlers::usage::of_tenant;
    get_node_usage(usage::v1::GetNodeUsageRequest) -> usage::v1::GetNodeUsageResponse
        = handlers::usage::of_node;
    explain_user_usage(usage::v1::ExplainUserUsageRequest)
        -> usage::v1::ExplainUserUsageResponse = handlers::explain::user_usage;
} and {
    type WatchUsageStream = handlers::watch::Watched;

    async fn watch_usage(
        &self,
        request: Request<usage::v1::WatchUsageRequest>,
    ) -> Result<Response<Self::WatchUsageStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::of(&metadata, &extensions);
        let watched = handlers::watch::usage(&self.0, &caller, message).await?;
        Ok(Response::new(watched))
    }
}}

service! { audit::v1::audit_service_server::AuditService {
    list_audit_events(audit::v1::ListAuditEventsRequest) -> audit::v1::ListAuditEventsResponse
        = handlers::audit::list;
    get_audit_event(audit::v1::GetAuditEventRequest) -> audit::v1::GetAuditEventResponse
        = handlers::audit::get;
    verify_chain(audit::v1::VerifyChainRequest) -> audit::v1::VerifyChainResponse
        = handlers::audit::verify;
} and {
    type ExportAuditEventsStream = handlers::audit::Export;

    async fn export_audit_events(
        &self,
        request: Request<audit::v1::ExportAuditEventsRequest>,
    ) -> Result<Response<Self::ExportAuditEventsStream>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let caller = Caller::of(&metadata, &extensions);
        let export = handlers::audit::export(&self.0, &caller, &message)?;
        Ok(Response::new(export))
    }
}}

service! { system::v1::system_service_server::SystemService {
    get_system_info(system::v1::GetSystemInfoRequest) -> system::v1::GetSystemInfoResponse
        = handlers::system::info;
    get_dashboard(system::v1::GetDashboardRequest) -> system::v1::GetDashboardResponse
        = handlers::dashboard::of_all;
    get_tenant_dashboard(system::v1::GetTenantDashboardRequest)
        -> system::v1::GetTenantDashboardResponse = handlers::dashboard::of_tenant;
}}

service! { pki::v1::signer_service_server::SignerService {
    sign_joining_node(pki::v1::SignJoiningNodeRequest) -> pki::v1::SignJoiningNodeResponse
        = handlers::enrollment::sign_joining_node;
    sign_renewing_node(pki::v1::SignRenewingNodeRequest) -> pki::v1::SignRenewingNodeResponse
        = handlers::renewal::sign_renewing_node;
    sign_lapsed_node(pki::v1::SignLapsedNodeRequest) -> pki::v1::SignLapsedNodeResponse
        = handlers::renewal::sign_lapsed_node;
}}
