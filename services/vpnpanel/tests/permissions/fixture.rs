//! What there is in the installation: tenants, and in each of them and on the platform one of
//! everything.

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message;
use vpnpanel_api::{
    access::v1::{
        CreateEndpointTemplateRequest, CreateGroupRequest, CreateInboundRequest, EndpointTemplate,
        Group, Inbound, WireGuardSettings, inbound::Settings,
    },
    node::v1::{CreateNodeCommandRequest, CreateNodeRequest, Node, NodeCommandKind},
    plan::v1::{CreatePlanRequest, Plan},
    user::v1::{
        BatchCreateUsersRequest, BatchUser, CreateUserDeviceRequest, CreateUserRequest, Device,
        User,
    },
};
use vpnpanel_domain::{AccountId, TenantId, Zone};
use vpnpanel_runtime::rpc::InProcess;
use vpnpanel_store::{
    AuditFilter, NewAccount, NewTenant, Page, Store, TenantLimits, TenantPatch, fresh_id,
};

use crate::{calls, stage::Stage};

pub(crate) const PASSWORD: &str = "a password of their own";
/// An id that nothing has.
pub(crate) const NOBODYS: &str = "0192f3c4-0000-7000-8000-00000000dead";

/// Where callers have roles.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tenants {
    pub(crate) ours: TenantId,
    pub(crate) theirs: TenantId,
    pub(crate) suspended: TenantId,
    /// Requires a second factor.
    pub(crate) strict: TenantId,
}

/// A role that the platform has made.
pub(crate) const MADE_ROLE: &str = "looker";

/// Ids of what there is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ids {
    /// A tenant that nobody has to do with.
    pub(crate) spare_tenant: String,
    of: HashMap<(Option<TenantId>, String), String>,
}

impl Ids {
    /// What a field of a request names, for example `node_id`, `node.id` or `name`.
    pub(crate) fn named(&self, path: &str, scope: Option<TenantId>) -> Option<String> {
        let path = path.replace(".id", "_id");
        let name = path.rsplit('.').next()?;
        if name == "name" {
            return Some(MADE_ROLE.to_owned());
        }
        self.of.get(&(scope, name.to_owned())).cloned()
    }

    fn put(&mut self, scope: Option<TenantId>, name: &str, id: String) {
        self.of.insert((scope, name.to_owned()), id);
    }
}

impl Stage {
    /// An account with roles; its password is [`PASSWORD`].
    pub(crate) async fn account(&self, roles: &[(Option<TenantId>, &str)]) -> (AccountId, String) {
        self.account_like(roles, false).await
    }

    pub(crate) async fn account_like(
        &self,
        roles: &[(Option<TenantId>, &str)],
        password_change_required: bool,
    ) -> (AccountId, String) {
        let id: AccountId = fresh_id();
        let email = format!("{id}@example.com");
        let new = NewAccount {
            id,
            email: email.clone(),
            display_name: "somebody".to_owned(),
            password_hash: Some(self.hash.clone()),
            password_change_required,
        };
        self.store.create_account(new).await.unwrap();
        for &(tenant, role) in roles {
            self.store.set_membership(id, tenant, role).await.unwrap();
        }
        (id, email)
    }

    pub(crate) async fn tenants(&self) -> Tenants {
        let tenants = Tenants {
            ours: tenant(&self.store, "ours").await,
            theirs: tenant(&self.store, "theirs").await,
            suspended: tenant(&self.store, "suspended").await,
            strict: tenant(&self.store, "strict").await,
        };
        let strict = TenantPatch {
            require_second_factor: Some(true),
            ..TenantPatch::default()
        };
        let store = &self.store;
        store
            .update_tenant(tenants.strict, strict, None)
            .await
            .unwrap();
        tenants
    }

    /// One of everything, everywhere; made by an administrator.
    pub(crate) async fn furnish(&self, tenants: &Tenants, admin: &str) -> Ids {
        let mut ids = Ids {
            spare_tenant: tenant(&self.store, "spare").await.to_string(),
            ..Ids::default()
        };
        let all = [
            tenants.ours,
            tenants.theirs,
            tenants.suspended,
            tenants.strict,
        ];
        for (number, scope) in [None].into_iter().chain(all.map(Some)).enumerate() {
            let tenant_id = scope.map(|id| id.to_string()).unwrap_or_default();
            let node = CreateNodeRequest {
                tenant_id: tenant_id.clone(),
                node: Some(Node {
                    name: format!("node-{number}"),
                    address: "vpn.example.com".to_owned(),
                    ..Node::default()
                }),
                request_id: String::new(),
            };
            let path = "/vpnpanel.node.v1.NodeService/CreateNode";
            let node_id = self.make(path, admin, &node).await;
            let command = CreateNodeCommandRequest {
                tenant_id: tenant_id.clone(),
                node_id: node_id.clone(),
                kind: NodeCommandKind::Resync.into(),
                ..CreateNodeCommandRequest::default()
            };
            ids.put(scope, "node_id", node_id);
            let path = "/vpnpanel.node.v1.NodeService/CreateNodeCommand";
            ids.put(scope, "command_id", self.make(path, admin, &command).await);
            let inbound = CreateInboundRequest {
                tenant_id: tenant_id.clone(),
                inbound: Some(Inbound {
                    name: "main".to_owned(),
                    settings: Some(Settings::Wireguard(WireGuardSettings {
                        port: 51_820,
                        ..WireGuardSettings::default()
                    })),
                    ..Inbound::default()
                }),
                request_id: String::new(),
            };
            let path = "/vpnpanel.access.v1.InboundService/CreateInbound";
            let inbound_id = self.make(path, admin, &inbound).await;
            let template = CreateEndpointTemplateRequest {
                tenant_id: tenant_id.clone(),
                endpoint_template: Some(EndpointTemplate {
                    inbound_id: inbound_id.clone(),
                    ..EndpointTemplate::default()
                }),
                request_id: String::new(),
            };
            ids.put(scope, "inbound_id", inbound_id);
            let path = "/vpnpanel.access.v1.EndpointTemplateService/CreateEndpointTemplate";
            let template = self.make(path, admin, &template).await;
            ids.put(scope, "endpoint_template_id", template);
            if scope.is_none() {
                continue;
            }
            let group = CreateGroupRequest {
                tenant_id: tenant_id.clone(),
                group: Some(Group {
                    name: "all".to_owned(),
                    ..Group::default()
                }),
                request_id: String::new(),
            };
            let path = "/vpnpanel.access.v1.GroupService/CreateGroup";
            ids.put(scope, "group_id", self.make(path, admin, &group).await);
            let plan = CreatePlanRequest {
                tenant_id: tenant_id.clone(),
                plan: Some(Plan {
                    name: "month".to_owned(),
                    ..Plan::default()
                }),
                request_id: String::new(),
            };
            let path = "/vpnpanel.plan.v1.PlanService/CreatePlan";
            let plan_id = self.make(path, admin, &plan).await;
            ids.put(scope, "plan_id", plan_id.clone());
            let batch = BatchCreateUsersRequest {
                tenant_id: tenant_id.clone(),
                plan_id,
                users: vec![BatchUser {
                    username: "bob".to_owned(),
                    ..BatchUser::default()
                }],
                request_id: String::new(),
            };
            let path = "/vpnpanel.user.v1.UserService/BatchCreateUsers";
            let operation = self.make(path, admin, &batch).await;
            ids.put(scope, "operation_id", operation);
            let user = CreateUserRequest {
                tenant_id: tenant_id.clone(),
                user: Some(User {
                    username: "ada".to_owned(),
                    ..User::default()
                }),
                request_id: String::new(),
            };
            let path = "/vpnpanel.user.v1.UserService/CreateUser";
            let user_id = self.make(path, admin, &user).await;
            let device = CreateUserDeviceRequest {
                tenant_id,
                user_id: user_id.clone(),
                device: Some(Device {
                    name: "phone".to_owned(),
                    ..Device::default()
                }),
                request_id: String::new(),
            };
            ids.put(scope, "user_id", user_id);
            let path = "/vpnpanel.user.v1.UserService/CreateUserDevice";
            ids.put(scope, "device_id", self.make(path, admin, &device).await);
        }
        for scope in [None].into_iter().chain(all.map(Some)) {
            let filter = AuditFilter::default();
            let events = self
                .store
                .audit_events(scope, &filter, Page::first(1))
                .await;
            ids.put(scope, "event_id", events.unwrap()[0].id.to_string());
            let (member, _) = self.account(&[(scope, "auditor")]).await;
            ids.put(scope, "account_id", member.to_string());
        }
        ids
    }

    /// Makes something; gives its id.
    async fn make<M: Message>(&self, path: &'static str, admin: &str, message: &M) -> String {
        let service = path.trim_start_matches('/').split('/').next().unwrap();
        let transport = InProcess::anonymous(self.router(service));
        let message = Bytes::from(message.encode_to_vec());
        let credentials = [format!("Bearer {admin}")];
        let made = calls::grpc_message(&transport, &credentials, path, message).await;
        // Every response that makes something holds it first, and that its id.
        let made = Wrapped::decode(made.unwrap()).unwrap();
        made.resource.unwrap().id
    }
}

/// The beginning of any response that holds one resource.
#[derive(Clone, PartialEq, Message)]
struct Wrapped {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(string, tag = "1")]
    id: String,
}

async fn tenant(store: &Store, name: &str) -> TenantId {
    let new = NewTenant {
        id: fresh_id(),
        name: name.to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    store.create_tenant(new, None).await.unwrap().id
}
