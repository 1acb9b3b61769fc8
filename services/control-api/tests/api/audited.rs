//! Every method that declares to be audited leaves an event of its own, and no secret with it. The
//! table says how each is called; a method that is not in it fails the test.

mod certificates;
mod credentials;
mod endpoint_templates;
mod people;
mod plans;

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use tonic::{Request, client::Grpc, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;
use vpnpanel_api::{
    METHODS, Method,
    access::v1::{
        CreateGroupRequest, CreateGroupResponse, CreateInboundRequest, CreateInboundResponse,
        DeleteGroupRequest, DeleteGroupResponse, DeleteInboundRequest, DeleteInboundResponse,
        Group, Inbound, UpdateGroupRequest, UpdateGroupResponse, UpdateInboundRequest,
        UpdateInboundResponse, WireGuardSettings, inbound::Settings,
    },
    auth::v1::{
        ChangePasswordRequest, ChangePasswordResponse, GetMeRequest, GetMeResponse, LoginRequest,
        LoginResponse, LogoutRequest, LogoutResponse, RefreshRequest, RefreshResponse,
    },
    node::v1::{
        CancelNodeCommandRequest, CancelNodeCommandResponse, CreateJoinTokenRequest,
        CreateJoinTokenResponse, CreateNodeCommandRequest, CreateNodeCommandResponse,
        CreateNodeRequest, CreateNodeResponse, DeleteNodeRequest, DeleteNodeResponse, Node,
        NodeCommandKind, SetNodeControlAddressRequest, SetNodeControlAddressResponse,
        UpdateNodeRequest, UpdateNodeResponse,
    },
    pki::v1::{SignJoiningNodeRequest, SignJoiningNodeResponse},
    tenant::v1::{
        CreateTenantRequest, CreateTenantResponse, Tenant, UpdateTenantRequest,
        UpdateTenantResponse,
    },
    user::v1::{
        CreateUserResponse, DeleteUserRequest, DeleteUserResponse, DisableUserRequest,
        DisableUserResponse, EnableUserRequest, EnableUserResponse, ListUserConnectionsRequest,
        ListUserConnectionsResponse, ResetUserUsageRequest, ResetUserUsageResponse,
        RevokeUserCredentialsRequest, RevokeUserCredentialsResponse, RotateUserSubscriptionRequest,
        RotateUserSubscriptionResponse, UpdateUserRequest, UpdateUserResponse, User,
    },
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;
use vpnpanel_store::{AuditEvent, AuditFilter, Page};

use crate::support::{ADMIN, Caller, ONE_TIME_PASSWORD, PASSWORD, Panel, create_user};

/// Given as a password where none is right.
const WRONG: &str = "canary of a wrong password";
const CHANGED: &str = "canary of a changed password";

/// What an event has to say about a call.
struct Expected {
    actor: String,
    resource_type: &'static str,
    /// `None` where the answer does not tell.
    resource_id: Option<String>,
}

struct Stage {
    panel: Panel,
    tenant: TenantId,
    admin: Caller,
    /// The administrator's account, as events name it.
    actor: String,
    user: User,
    group: Group,
    inbound: Inbound,
    node: Node,
    /// What must be in no event.
    secrets: Vec<String>,
}

impl Stage {
    async fn set() -> Self {
        let panel = Panel::start().await;
        let tenant = panel.default_tenant().await;
        let admin = panel.admin().await;
        let node = admin.new_node("n1", None).await;
        let inbound = admin.new_inbound("main", 51820).await;
        let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
        let user = admin.new_user(tenant, "ada", &[&group.id]).await;
        Self {
            actor: account(&admin).await,
            panel,
            tenant,
            admin,
            user,
            group,
            inbound,
            node,
            secrets: [PASSWORD, ONE_TIME_PASSWORD, WRONG, CHANGED]
                .map(str::to_owned)
                .to_vec(),
        }
    }

    async fn events(&self, tenant: Option<TenantId>) -> Vec<AuditEvent> {
        let all = AuditFilter::default();
        let page = Page::first(10_000);
        let events = self.panel.store.audit_events(tenant, &all, page).await;
        events.unwrap()
    }

    /// By the administrator.
    fn done(&self, resource_type: &'static str, id: &str) -> Expected {
        Expected {
            actor: self.actor.clone(),
            resource_type,
            resource_id: Some(id.to_owned()),
        }
    }
}

async fn account(caller: &Caller) -> String {
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    let me: GetMeResponse = me.unwrap().into_inner();
    format!("account:{}", me.account.unwrap().id)
}

/// Calls a method by its path, under a request id.
async fn call<M, R>(caller: &Caller, path: &'static str, id: &str, message: M) -> R
where
    M: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    try_call(caller, path, id, message).await.unwrap()
}

async fn try_call<M, R>(
    caller: &Caller,
    path: &'static str,
    id: &str,
    message: M,
) -> Result<R, tonic::Status>
where
    M: prost::Message + 'static,
    R: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(caller.transport.clone());
    client.ready().await.unwrap();
    let codec: ProstCodec<M, R> = ProstCodec::default();
    let mut request: Request<M> = caller.ask(message);
    request
        .metadata_mut()
        .insert("x-request-id", id.parse().unwrap());
    let path = PathAndQuery::from_static(path);
    Ok(client.unary(request, path, codec).await?.into_inner())
}

fn served() -> impl Iterator<Item = &'static Method> {
    let elsewhere = ["vpnpanel.agent.", "vpnpanel.scheduler."];
    METHODS
        .iter()
        .filter(|method| method.audited)
        .filter(move |m| !elsewhere.iter().any(|p| m.service.starts_with(p)))
}

/// Calls the method as it is meant to be called.
async fn perform(stage: &mut Stage, method: &'static Method, id: &str) -> Expected {
    let path = method.path;
    let service = method.service.rsplit('.').next().unwrap();
    let admin = stage.admin.clone();
    let tenant_id = stage.tenant.to_string();
    match (service, method.name) {
        ("AuthService", "Login") => {
            let request = login(ADMIN, ONE_TIME_PASSWORD);
            let tokens: LoginResponse = call(&stage.panel.anybody(), path, id, request).await;
            let caller = stage.panel.with_token(&tokens.access_token);
            stage
                .secrets
                .extend([tokens.access_token, tokens.refresh_token]);
            Expected {
                actor: account(&caller).await,
                resource_type: "session",
                resource_id: None,
            }
        }
        ("AuthService", "Refresh") => {
            // A refresh is no event: the reuse of a spent token is.
            let anybody = stage.panel.anybody();
            let tokens = anybody.auth().login(login(ADMIN, ONE_TIME_PASSWORD)).await;
            let token = tokens.unwrap().into_inner().refresh_token;
            let request = || RefreshRequest {
                refresh_token: token.clone(),
                ..RefreshRequest::default()
            };
            let before = stage.events(None).await.len();
            let _next: RefreshResponse = call(&anybody, path, "unused", request()).await;
            assert_eq!(stage.events(None).await.len(), before);
            let reused = try_call::<_, RefreshResponse>(&anybody, path, id, request()).await;
            reused.unwrap_err();
            stage.secrets.push(token);
            Expected {
                actor: "anonymous".to_owned(),
                resource_type: "session",
                resource_id: None,
            }
        }
        ("AuthService", "Logout") => {
            let leaving = stage.panel.signed_in(Role::Auditor, None).await;
            let actor = account(&leaving).await;
            let _bye: LogoutResponse = call(&leaving, path, id, LogoutRequest {}).await;
            Expected {
                actor,
                resource_type: "session",
                resource_id: None,
            }
        }
        ("AuthService", "ChangePassword") => {
            let caller = stage.panel.signed_in(Role::Auditor, None).await;
            let actor = account(&caller).await;
            let request = ChangePasswordRequest {
                current_password: PASSWORD.to_owned(),
                new_password: CHANGED.to_owned(),
            };
            let tokens: ChangePasswordResponse = call(&caller, path, id, request).await;
            stage.secrets.push(tokens.refresh_token);
            Expected {
                resource_id: actor.strip_prefix("account:").map(str::to_owned),
                actor,
                resource_type: "account",
            }
        }
        ("TenantService", "CreateTenant") => {
            let request = CreateTenantRequest {
                tenant: Some(Tenant {
                    name: "new".to_owned(),
                    ..Tenant::default()
                }),
                request_id: String::new(),
            };
            let made: CreateTenantResponse = call(&admin, path, id, request).await;
            stage.done("tenant", &made.tenant.unwrap().id)
        }
        ("TenantService", "UpdateTenant") => {
            let request = UpdateTenantRequest {
                tenant: Some(Tenant {
                    id: tenant_id.clone(),
                    time_zone: "Europe/Berlin".to_owned(),
                    ..Tenant::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateTenantResponse = call(&admin, path, id, request).await;
            stage.done("tenant", &tenant_id)
        }
        ("UserService", "CreateUser") => {
            let request = create_user(stage.tenant, "bob", &[&stage.group.id]);
            let made: CreateUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &made.user.unwrap().id)
        }
        ("UserService", "UpdateUser") => {
            let request = UpdateUserRequest {
                user: Some(User {
                    id: stage.user.id.clone(),
                    tenant_id,
                    note: "vip".to_owned(),
                    ..User::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &stage.user.id)
        }
        ("UserService", "DeleteUser") => {
            let user_id = admin.new_user(stage.tenant, "carol", &[]).await.id;
            let request = DeleteUserRequest {
                tenant_id,
                user_id: user_id.clone(),
                etag: String::new(),
            };
            let _gone: DeleteUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &user_id)
        }
        ("UserService", "DisableUser") => {
            let user_id = stage.user.id.clone();
            let request = DisableUserRequest { tenant_id, user_id };
            let _cut: DisableUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &stage.user.id)
        }
        ("UserService", "EnableUser") => {
            let user_id = stage.user.id.clone();
            let request = EnableUserRequest { tenant_id, user_id };
            let _back: EnableUserResponse = call(&admin, path, id, request).await;
            stage.done("user", &stage.user.id)
        }
        ("UserService", "RevokeUserCredentials") => {
            let request = RevokeUserCredentialsRequest {
                tenant_id,
                user_id: stage.user.id.clone(),
                request_id: String::new(),
            };
            let _new: RevokeUserCredentialsResponse = call(&admin, path, id, request).await;
            stage.done("user", &stage.user.id)
        }
        ("UserService", "RotateUserSubscription") => {
            let request = RotateUserSubscriptionRequest {
                tenant_id,
                user_id: stage.user.id.clone(),
                request_id: String::new(),
            };
            let new: RotateUserSubscriptionResponse = call(&admin, path, id, request).await;
            let url = new.user.unwrap().subscription_url;
            let (_, token) = url.rsplit_once('/').unwrap();
            stage.secrets.push(token.to_owned());
            stage.done("user", &stage.user.id)
        }
        ("UserService", "ResetUserUsage") => {
            let request = ResetUserUsageRequest {
                tenant_id,
                user_id: stage.user.id.clone(),
                request_id: String::new(),
            };
            let _reset: ResetUserUsageResponse = call(&admin, path, id, request).await;
            stage.done("user", &stage.user.id)
        }
        ("UserService", "ListUserConnections") => {
            let user_id = stage.user.id.clone();
            let request = ListUserConnectionsRequest { tenant_id, user_id };
            let shown: ListUserConnectionsResponse = call(&admin, path, id, request).await;
            for line in shown.connections[0].wireguard_config.lines() {
                let key = line.split_once("Key = ").map(|(_, key)| key.to_owned());
                stage.secrets.extend(key);
            }
            stage.done("user", &stage.user.id)
        }
        ("NodeService", "CreateNodeCommand") => {
            let request = CreateNodeCommandRequest {
                node_id: stage.node.id.clone(),
                kind: NodeCommandKind::Resync.into(),
                ..CreateNodeCommandRequest::default()
            };
            let made: CreateNodeCommandResponse = call(&admin, path, id, request).await;
            stage.done("nodeCommand", &made.command.unwrap().id)
        }
        ("NodeService", "CancelNodeCommand") => {
            let request = CreateNodeCommandRequest {
                node_id: stage.node.id.clone(),
                kind: NodeCommandKind::Resync.into(),
                ..CreateNodeCommandRequest::default()
            };
            let made = admin.nodes().create_node_command(admin.ask(request)).await;
            let command_id = made.unwrap().into_inner().command.unwrap().id;
            let request = CancelNodeCommandRequest {
                node_id: stage.node.id.clone(),
                command_id: command_id.clone(),
                ..CancelNodeCommandRequest::default()
            };
            let _cancelled: CancelNodeCommandResponse = call(&admin, path, id, request).await;
            stage.done("nodeCommand", &command_id)
        }
        ("NodeService", "SetNodeControlAddress") => {
            let request = SetNodeControlAddressRequest {
                node_id: stage.node.id.clone(),
                control_address: "192.0.2.7:50061".to_owned(),
                ..SetNodeControlAddressRequest::default()
            };
            let _set: SetNodeControlAddressResponse = call(&admin, path, id, request).await;
            stage.done("node", &stage.node.id)
        }
        ("GroupService", "CreateGroup") => {
            let request = CreateGroupRequest {
                tenant_id,
                group: Some(Group {
                    name: "some".to_owned(),
                    ..Group::default()
                }),
                request_id: String::new(),
            };
            let made: CreateGroupResponse = call(&admin, path, id, request).await;
            stage.done("group", &made.group.unwrap().id)
        }
        ("GroupService", "UpdateGroup") => {
            let request = UpdateGroupRequest {
                group: Some(Group {
                    name: "everybody".to_owned(),
                    ..stage.group.clone()
                }),
                update_mask: None,
            };
            let changed: UpdateGroupResponse = call(&admin, path, id, request).await;
            stage.group = changed.group.unwrap();
            stage.done("group", &stage.group.id)
        }
        ("GroupService", "DeleteGroup") => {
            let group_id = admin.new_group(stage.tenant, "gone", &[]).await.id;
            let request = DeleteGroupRequest {
                tenant_id,
                group_id: group_id.clone(),
                etag: String::new(),
            };
            let _gone: DeleteGroupResponse = call(&admin, path, id, request).await;
            stage.done("group", &group_id)
        }
        ("InboundService", "CreateInbound") => {
            let request = CreateInboundRequest {
                inbound: Some(Inbound {
                    name: "second".to_owned(),
                    settings: Some(Settings::Wireguard(WireGuardSettings {
                        port: 51821,
                        ..WireGuardSettings::default()
                    })),
                    ..Inbound::default()
                }),
                ..CreateInboundRequest::default()
            };
            let made: CreateInboundResponse = call(&admin, path, id, request).await;
            stage.done("inbound", &made.inbound.unwrap().id)
        }
        ("InboundService", "UpdateInbound") => {
            let request = UpdateInboundRequest {
                inbound: Some(Inbound {
                    id: stage.inbound.id.clone(),
                    name: "first".to_owned(),
                    ..Inbound::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateInboundResponse = call(&admin, path, id, request).await;
            stage.done("inbound", &stage.inbound.id)
        }
        ("InboundService", "DeleteInbound") => {
            let inbound_id = admin.new_inbound("gone", 51822).await.id;
            let request = DeleteInboundRequest {
                inbound_id: inbound_id.clone(),
                ..DeleteInboundRequest::default()
            };
            let _gone: DeleteInboundResponse = call(&admin, path, id, request).await;
            stage.done("inbound", &inbound_id)
        }
        ("NodeService", "CreateNode") => {
            let request = CreateNodeRequest {
                node: Some(Node {
                    name: "n2".to_owned(),
                    address: "n2.example.com".to_owned(),
                    ..Node::default()
                }),
                ..CreateNodeRequest::default()
            };
            let made: CreateNodeResponse = call(&admin, path, id, request).await;
            stage.done("node", &made.node.unwrap().id)
        }
        ("NodeService", "UpdateNode") => {
            let request = UpdateNodeRequest {
                node: Some(Node {
                    id: stage.node.id.clone(),
                    region: "eu".to_owned(),
                    ..Node::default()
                }),
                update_mask: None,
            };
            let _changed: UpdateNodeResponse = call(&admin, path, id, request).await;
            stage.done("node", &stage.node.id)
        }
        ("NodeService", "DeleteNode") => {
            let node_id = admin.new_node("gone", None).await.id;
            let request = DeleteNodeRequest {
                node_id: node_id.clone(),
                ..DeleteNodeRequest::default()
            };
            let _gone: DeleteNodeResponse = call(&admin, path, id, request).await;
            stage.done("node", &node_id)
        }
        ("NodeService", "CreateJoinToken") => {
            let token = join_token(stage, path, id).await;
            stage.secrets.push(token);
            stage.done("node", &stage.node.id)
        }
        ("SignerService", "SignJoiningNode") => {
            let create = "/vpnpanel.node.v1.NodeService/CreateJoinToken";
            let join_token = join_token(stage, create, "unused").await;
            stage.secrets.push(join_token.clone());
            let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
            let csr = CertificateParams::default().serialize_request(&key);
            let request = SignJoiningNodeRequest {
                join_token,
                csr_der: csr.unwrap().der().to_vec(),
            };
            let collector = stage.panel.service("collector");
            let _signed: SignJoiningNodeResponse = call(&collector, path, id, request).await;
            Expected {
                actor: "service:collector".to_owned(),
                ..stage.done("node", &stage.node.id)
            }
        }
        _ => {
            if let Some(expected) = certificates::perform(stage, method, id).await {
                return expected;
            }
            if let Some(expected) = credentials::perform(stage, method, id).await {
                return expected;
            }
            if let Some(expected) = endpoint_templates::perform(stage, method, id).await {
                return expected;
            }
            if let Some(expected) = plans::perform(stage, method, id).await {
                return expected;
            }
            let expected = people::perform(stage, method, id).await;
            expected.unwrap_or_else(|| {
                panic!("{path} is audited: say how it is called, and what its event is about")
            })
        }
    }
}

fn login(email: &str, password: &str) -> LoginRequest {
    LoginRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        ..LoginRequest::default()
    }
}

async fn join_token(stage: &Stage, path: &'static str, id: &str) -> String {
    let request = CreateJoinTokenRequest {
        node_id: stage.node.id.clone(),
        ..CreateJoinTokenRequest::default()
    };
    let made: CreateJoinTokenResponse = call(&stage.admin, path, id, request).await;
    made.token
}

#[tokio::test]
async fn every_audited_method_leaves_an_event_and_no_secret() {
    let mut stage = Stage::set().await;
    let anybody = stage.panel.anybody();
    for email in [ADMIN, "nobody@example.com"] {
        let refused = anybody.auth().login(login(email, WRONG)).await;
        refused.unwrap_err();
    }
    for (number, method) in served().enumerate() {
        let id = format!("request-{number}");
        let expected = perform(&mut stage, method, &id).await;
        let mut events = stage.events(None).await;
        events.extend(stage.events(Some(stage.tenant)).await);
        let found: Vec<_> = events.iter().filter(|it| it.request_id == id).collect();
        assert!(!found.is_empty(), "{} left no event", method.path);
        for event in &found {
            assert_eq!(event.method, method.path);
            assert_eq!(event.actor, expected.actor, "{}", method.path);
        }
        let is_told = found.iter().any(|event| {
            let id = expected.resource_id.as_ref();
            event.resource_type == expected.resource_type
                && id.is_none_or(|id| *id == event.resource_id)
        });
        assert!(is_told, "{}: {found:?}", method.path);
    }

    let mut events = stage.events(None).await;
    events.extend(stage.events(Some(stage.tenant)).await);
    let text = format!("{events:?}");
    assert!(text.contains("SIGN_IN_REFUSED") && text.contains("email-sha256:"));
    assert!(stage.secrets.len() > 10);
    for secret in &stage.secrets {
        assert!(!text.contains(secret.as_str()), "{secret}");
    }
}
