//! What an operator does, through the management API.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use vpnpanel_api::access::v1::inbound::Settings as InboundSettings;
use vpnpanel_api::access::v1::{
    CreateGroupRequest, CreateInboundRequest, Group, Inbound, NodeSelector, WireGuardSettings,
};
use vpnpanel_api::node::v1::{
    CreateJoinTokenRequest, CreateJoinTokenResponse, CreateNodeRequest, ListNodesRequest, Node,
    NodeState,
};
use vpnpanel_api::tenant::v1::{CreateTenantRequest, Tenant};
use vpnpanel_api::usage::v1::{GetTenantUsageRequest, Interval};
use vpnpanel_api::user::v1::{
    CreateUserRequest, DisableUserRequest, EnableUserRequest, ListUsersRequest, User,
};
use vpnpanel_client::{Client, new_request_id, retrying};
use vpnpanel_domain::{NodeId, UserId};
use vpnpanel_runtime::settings::Secret;

use crate::error::Error;

const ADMINISTRATOR: &str = "admin@localhost";
/// The label that says which pool a node is of.
const POOL: &str = "fleet-pool";
const ATTEMPTS: u32 = 8;
/// How long a control plane that was killed may be away, and how often it is tried.
const AWAY: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// A signed-in operator with a tenant of its own.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    client: Client,
    tenant: String,
    run: String,
}

impl Api {
    /// Signs in at a control plane that was just made, and makes the tenant of this run.
    pub(crate) async fn first(address: &str, one_time: &Secret, run: u64) -> Result<Self, Error> {
        let client = connect(address).await?;
        let signed_in = client.sign_in(ADMINISTRATOR, one_time.expose()).await;
        signed_in.map_err(Error::api("signing in"))?;
        let password = uuid::Uuid::new_v4().to_string();
        client
            .change_password(one_time.expose(), password.as_str())
            .await
            .map_err(Error::api("changing the one-time password"))?;
        Self::of(client, run).await
    }

    /// The same with a token.
    pub(crate) async fn with_token(address: &str, token: &Secret, run: u64) -> Result<Self, Error> {
        let client = connect(address).await?;
        client
            .use_token(token.expose())
            .await
            .map_err(Error::api("using the token"))?;
        Self::of(client, run).await
    }

    async fn of(client: Client, run: u64) -> Result<Self, Error> {
        let run = format!("fleet-{run:016x}");
        let request = CreateTenantRequest {
            tenant: Some(Tenant {
                name: run.clone(),
                ..Tenant::default()
            }),
            request_id: new_request_id(),
        };
        let made = client.tenants().create_tenant(request).await;
        let made = made.map_err(|s| Error::Api("making a tenant", s.into()))?;
        let tenant = made.into_inner().tenant;
        let tenant = tenant.ok_or(Error::Answer("making a tenant"))?.id;
        Ok(Self {
            client,
            tenant,
            run,
        })
    }

    /// An inbound on the nodes of a pool, and the group that uses it; gives the group's id.
    pub(crate) async fn create_pool(&self, pool: u32) -> Result<String, Error> {
        const DOING: &str = "making a pool";
        let wireguard = WireGuardSettings {
            port: 51_820 + pool,
            ipv4_pool: format!("10.{pool}.0.0/16"),
            ..WireGuardSettings::default()
        };
        let request = CreateInboundRequest {
            inbound: Some(Inbound {
                name: format!("{}-{pool}", self.run),
                nodes: Some(NodeSelector {
                    node_ids: Vec::new(),
                    labels: self.labels(pool),
                }),
                offered_to_tenants: true,
                settings: Some(InboundSettings::Wireguard(wireguard)),
                ..Inbound::default()
            }),
            request_id: new_request_id(),
            ..CreateInboundRequest::default()
        };
        let made = self.client.inbounds().create_inbound(request).await;
        let made = made.map_err(|s| Error::Api(DOING, s.into()))?.into_inner();
        let inbound = made.inbound.ok_or(Error::Answer(DOING))?.id;
        let request = CreateGroupRequest {
            tenant_id: self.tenant.clone(),
            group: Some(Group {
                name: format!("pool {pool}"),
                inbound_ids: vec![inbound],
                ..Group::default()
            }),
            request_id: new_request_id(),
        };
        let made = self.client.groups().create_group(request).await;
        let made = made.map_err(|s| Error::Api(DOING, s.into()))?.into_inner();
        Ok(made.group.ok_or(Error::Answer(DOING))?.id)
    }

    /// A shared node, and what its host enrols with.
    pub(crate) async fn create_node(
        &self,
        index: u32,
        pool: u32,
    ) -> Result<CreateJoinTokenResponse, Error> {
        const DOING: &str = "making a node";
        let request = CreateNodeRequest {
            node: Some(Node {
                name: format!("{}-{index}", self.run),
                address: "192.0.2.1".to_owned(),
                labels: self.labels(pool),
                ..Node::default()
            }),
            request_id: new_request_id(),
            ..CreateNodeRequest::default()
        };
        let made = retrying(ATTEMPTS, async || {
            Ok(self.client.nodes().create_node(request.clone()).await?)
        });
        let made = made.await.map_err(Error::api(DOING))?.into_inner();
        let request = CreateJoinTokenRequest {
            node_id: made.node.ok_or(Error::Answer(DOING))?.id,
            ..CreateJoinTokenRequest::default()
        };
        let token = self.client.nodes().create_join_token(request).await;
        Ok(token.map_err(|s| Error::Api(DOING, s.into()))?.into_inner())
    }

    /// A user with a limit, 0 for none.
    pub(crate) async fn create_user(
        &self,
        index: u32,
        pool: u32,
        group: &str,
        limit: u64,
    ) -> Result<UserId, Error> {
        const DOING: &str = "making a user";
        let request = CreateUserRequest {
            tenant_id: self.tenant.clone(),
            user: Some(User {
                username: format!("user-{pool}-{index}"),
                group_ids: vec![group.to_owned()],
                data_limit_bytes: limit,
                ..User::default()
            }),
            request_id: new_request_id(),
        };
        let made = retrying(ATTEMPTS, async || {
            Ok(self.client.users().create_user(request.clone()).await?)
        });
        let made = made.await.map_err(Error::api(DOING))?.into_inner();
        let id = made.user.and_then(|user| user.id.parse().ok());
        id.ok_or(Error::Answer(DOING))
    }

    /// Switches a user on or off. A call that was cut off is made again: it changes nothing twice.
    pub(crate) async fn switch(&self, user: UserId, on: bool) -> Result<(), Error> {
        answered(async || self.try_switch(user, on).await)
            .await
            .map_err(Error::api("switching a user"))
    }

    async fn try_switch(&self, user: UserId, on: bool) -> Result<(), vpnpanel_client::Error> {
        let mut users = self.client.users();
        let (tenant_id, user_id) = (self.tenant.clone(), user.to_string());
        if on {
            let request = EnableUserRequest { tenant_id, user_id };
            users.enable_user(request).await?;
        } else {
            let request = DisableUserRequest { tenant_id, user_id };
            users.disable_user(request).await?;
        }
        Ok(())
    }

    /// Bytes billed to each user.
    pub(crate) async fn billed(&self) -> Result<HashMap<UserId, u64>, Error> {
        const DOING: &str = "reading what was billed";
        let request = ListUsersRequest {
            tenant_id: self.tenant.clone(),
            page_size: 1_000,
            ..ListUsersRequest::default()
        };
        let users = answered(async || self.client.pages(request.clone()).all().await).await;
        let users = users.map_err(Error::api(DOING))?.into_iter();
        users
            .map(|user| {
                let id = user.id.parse().map_err(|_| Error::Answer(DOING))?;
                Ok((id, user.used_bytes))
            })
            .collect()
    }

    /// Bytes billed on each node.
    pub(crate) async fn billed_by_node(&self) -> Result<HashMap<NodeId, u64>, Error> {
        const DOING: &str = "reading the nodes' usage";
        let request = GetTenantUsageRequest {
            tenant_id: self.tenant.clone(),
            interval: Interval::Day.into(),
            ..GetTenantUsageRequest::default()
        };
        let usage = answered(async || {
            let mut usage = self.client.usage();
            Ok(usage.get_tenant_usage(request.clone()).await?)
        });
        let usage = usage.await.map_err(Error::api(DOING))?.into_inner();
        let shares = usage.nodes.into_iter();
        shares
            .map(|share| {
                let id = share.id.parse().map_err(|_| Error::Answer(DOING))?;
                Ok((id, share.up_bytes + share.down_bytes))
            })
            .collect()
    }

    /// How many nodes the control plane holds to be there.
    pub(crate) async fn nodes_online(&self) -> Result<usize, Error> {
        let request = ListNodesRequest {
            page_size: 1_000,
            ..ListNodesRequest::default()
        };
        let nodes = self.client.pages(request).all().await;
        let nodes = nodes.map_err(Error::api("listing nodes"))?;
        let online = |node: &&Node| node.state() == NodeState::Online;
        Ok(nodes.iter().filter(online).count())
    }

    fn labels(&self, pool: u32) -> BTreeMap<String, String> {
        BTreeMap::from([(POOL.to_owned(), format!("{}-{pool}", self.run))])
    }
}

/// Makes a call that changes nothing twice until it is answered, for a while.
async fn answered<T>(
    mut call: impl AsyncFnMut() -> Result<T, vpnpanel_client::Error>,
) -> Result<T, vpnpanel_client::Error> {
    let began = Instant::now();
    loop {
        match call().await {
            Err(error) if was_cut_off(&error) && began.elapsed() < AWAY => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Whether the control plane or what it stands on is away, or went away during the call.
fn was_cut_off(error: &vpnpanel_client::Error) -> bool {
    match error {
        vpnpanel_client::Error::Api(error) => {
            error.reason.is_empty() || error.code == tonic::Code::Unavailable
        }
        vpnpanel_client::Error::Transport(_) => true,
        _ => false,
    }
}

async fn connect(address: &str) -> Result<Client, Error> {
    let builder = Client::builder(address).map_err(Error::api("connecting"))?;
    builder.connect().await.map_err(Error::api("connecting"))
}
