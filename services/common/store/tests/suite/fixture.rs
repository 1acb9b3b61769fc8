//! A tenant with a node, an inbound and a group, and what tests do with them.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use ipnet::Ipv4Net;
use vpnpanel_domain::{
    DeviceId, GroupId, InboundId, Limit, Multiplier, NodeId, PeerId, ResetStrategy,
    ShadowsocksCipher, SpeedLimit, TenantId, UserId, XrayProtocol, XrayTransport, Zone,
};
use vpnpanel_link::collector::ingest::{Decoded, Submission};
use vpnpanel_link::{
    Attribution, BootId, Bucket, CounterKey, Epoch, Generation, Hello, Incarnation, PROTOCOL, Pace,
    Payload, Range, Row, Seq, SpoolId, StateEpoch, wire,
};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    DeviceKeys, InboundSettings, MakeDeviceKeys, MakeNodeKey, NewDevice, NewGroup, NewInbound,
    NewNode, NewTenant, NewUser, NodeKey, NodePeer, NodePeerAccess, NodeSelector, Store,
    StoreError, SubscriptionToken, TenantLimits, User, WireGuard, Xray, XrayReality, XraySecurity,
    fresh_id,
};

/// Keys that are no keys: the store does not look at them.
pub(crate) struct Keys;

impl MakeNodeKey for Keys {
    fn make_node_key(
        &self,
        inbound: InboundId,
        node: NodeId,
    ) -> Result<NodeKey, Box<dyn std::error::Error + Send + Sync>> {
        Ok(NodeKey {
            public_key: node.as_bytes().to_vec(),
            sealed_private_key: inbound.as_bytes().to_vec(),
        })
    }
}

impl MakeDeviceKeys for Keys {
    fn make_device_keys(
        &self,
        _device: DeviceId,
    ) -> Result<DeviceKeys, Box<dyn std::error::Error + Send + Sync>> {
        Ok(DeviceKeys {
            public_key: random(),
            sealed_private_key: Some(random::<48>().to_vec()),
            sealed_preshared_key: Some(random::<48>().to_vec()),
            sealed_seed: random::<48>().to_vec(),
        })
    }
}

pub(crate) struct World {
    pub(crate) test: TestStore,
    pub(crate) store: Store,
    pub(crate) tenant: TenantId,
    pub(crate) node: NodeId,
    pub(crate) inbound: InboundId,
    pub(crate) group: GroupId,
}

impl World {
    /// A tenant, a shared node, an inbound on it with a pool, and a group with the inbound.
    pub(crate) async fn with_pool(test: TestStore, pool: &str) -> Self {
        let store = test.store.clone();
        let tenant = new_tenant(&store, "acme").await;
        let node = new_node(&store, None, "frankfurt").await;
        let inbound = new_inbound(&store, None, "main", 51820, pool).await;
        let group = new_group(&store, tenant, "everybody", [inbound]).await;
        Self {
            test,
            store,
            tenant,
            node,
            inbound,
            group,
        }
    }

    pub(crate) async fn new(test: TestStore) -> Self {
        Self::with_pool(test, "10.8.0.0/16").await
    }

    pub(crate) async fn user(&self, name: &str, limit: Limit) -> User {
        let mut new = new_user(name, [self.group]);
        new.limit = limit;
        self.store
            .create_user(self.tenant, new, None)
            .await
            .unwrap()
    }

    /// The peer of a user on a node.
    pub(crate) async fn peer(&self, node: NodeId, user: UserId) -> PeerId {
        let state = self.store.desired_state(node).await.unwrap();
        let user = state.users.iter().find(|it| it.id == user).unwrap();
        user.peers[0].id
    }
}

pub(crate) async fn new_tenant(store: &Store, name: &str) -> TenantId {
    let id = fresh_id();
    let new = NewTenant {
        id,
        name: name.to_owned(),
        time_zone: Zone::utc(),
        limits: TenantLimits::default(),
    };
    store.create_tenant(new, None).await.unwrap();
    id
}

pub(crate) async fn new_node(store: &Store, tenant: Option<TenantId>, name: &str) -> NodeId {
    let id = fresh_id();
    let new = NewNode {
        id,
        tenant_id: tenant,
        name: name.to_owned(),
        region: "eu".to_owned(),
        address: "192.0.2.1".to_owned(),
        labels: [("tier".to_owned(), "gold".to_owned())].into(),
        multiplier: Multiplier::ONE,
        disabled: false,
    };
    store.create_node(new, &Keys, None).await.unwrap();
    id
}

pub(crate) fn wireguard(port: u16, pool: &str) -> WireGuard {
    WireGuard {
        port,
        ipv4_pool: pool.parse::<Ipv4Net>().unwrap(),
        ipv6_pool: None,
        dns: vec!["9.9.9.9".parse().unwrap()],
        mtu: 1420,
        keepalive_seconds: 25,
        client_allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
    }
}

/// The address of a peer of WireGuard.
pub(crate) fn address(peer: &NodePeer) -> Ipv4Addr {
    match &peer.access {
        NodePeerAccess::WireGuard { ipv4, .. } => *ipv4,
        NodePeerAccess::Xray { .. } => panic!("{peer:?}"),
    }
}

/// A port of Xray with REALITY.
pub(crate) fn reality(port: u16, protocol: XrayProtocol) -> InboundSettings {
    InboundSettings::Xray(Xray {
        port,
        protocol,
        transport: XrayTransport::Tcp,
        security: XraySecurity::Reality(XrayReality {
            target: "example.com:443".to_owned(),
            server_names: vec!["example.com".to_owned()],
            public_key: [5; 32],
            short_ids: vec!["0102".parse().unwrap()],
        }),
    })
}

/// A port of Shadowsocks.
pub(crate) fn shadowsocks(port: u16) -> InboundSettings {
    let cipher = ShadowsocksCipher::Aes128;
    InboundSettings::Xray(Xray {
        port,
        protocol: XrayProtocol::Shadowsocks { cipher },
        transport: XrayTransport::Tcp,
        security: XraySecurity::None,
    })
}

pub(crate) async fn new_xray(
    store: &Store,
    tenant: Option<TenantId>,
    name: &str,
    settings: InboundSettings,
) -> Result<InboundId, StoreError> {
    let new = NewInbound {
        id: fresh_id(),
        tenant_id: tenant,
        name: name.to_owned(),
        nodes: NodeSelector::default(),
        offered: true,
        settings,
        sealed_secret: Some(vec![6; 60]),
    };
    Ok(store.create_inbound(new, &Keys, None).await?.id)
}

pub(crate) async fn new_inbound(
    store: &Store,
    tenant: Option<TenantId>,
    name: &str,
    port: u16,
    pool: &str,
) -> InboundId {
    let id = fresh_id();
    let new = NewInbound {
        id,
        tenant_id: tenant,
        name: name.to_owned(),
        nodes: NodeSelector::default(),
        offered: true,
        settings: InboundSettings::WireGuard(wireguard(port, pool)),
        sealed_secret: None,
    };
    store.create_inbound(new, &Keys, None).await.unwrap();
    id
}

pub(crate) async fn new_group(
    store: &Store,
    tenant: TenantId,
    name: &str,
    inbounds: impl Into<BTreeSet<InboundId>>,
) -> GroupId {
    let id = fresh_id();
    let new = NewGroup {
        id,
        tenant_id: tenant,
        name: name.to_owned(),
        inbound_ids: inbounds.into(),
    };
    store.create_group(new, None).await.unwrap();
    id
}

pub(crate) fn new_user(name: &str, groups: impl Into<BTreeSet<GroupId>>) -> NewUser {
    let device: DeviceId = fresh_id();
    let mut public_key = [0; 32];
    public_key[..16].copy_from_slice(device.as_bytes());
    NewUser {
        id: fresh_id(),
        username: name.to_owned(),
        note: String::new(),
        group_ids: groups.into(),
        limit: Limit::None,
        speed: SpeedLimit::NONE,
        reset_strategy: ResetStrategy::None,
        expires_at_ms: None,
        on_hold_ms: None,
        plan_id: None,
        plan_version: None,
        next_plan: None,
        device_limit: 0,
        disabled: false,
        devices: vec![NewDevice {
            id: device,
            name: "phone".to_owned(),
            keys: DeviceKeys {
                public_key,
                sealed_private_key: Some(vec![1; 48]),
                sealed_preshared_key: Some(vec![2; 48]),
                sealed_seed: vec![3; 48],
            },
        }],
        subscription: Some(subscription_token()),
    }
}

/// A token that nobody knows.
pub(crate) fn subscription_token() -> SubscriptionToken {
    SubscriptionToken {
        hash: random(),
        sealed: vec![4; 60],
    }
}

pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// An agent, as far as the ledger can tell.
pub(crate) struct Agent {
    pub(crate) node: NodeId,
    pub(crate) generation: Generation,
    pub(crate) state_epoch: StateEpoch,
    pub(crate) boot: BootId,
    pub(crate) epoch: Epoch,
    pub(crate) incarnation: Incarnation,
    spool: SpoolId,
    seq: AtomicU64,
}

impl Agent {
    pub(crate) async fn connect(store: &Store, node: NodeId) -> Self {
        let mut agent = Self {
            node,
            generation: Generation(0),
            state_epoch: StateEpoch(0),
            boot: BootId(random()),
            epoch: Epoch(random()),
            incarnation: Incarnation(random()),
            spool: SpoolId(random()),
            seq: AtomicU64::new(0),
        };
        agent.reconnect(store).await;
        agent
    }

    pub(crate) fn hello(&self) -> Hello {
        Hello {
            protocol_min: PROTOCOL,
            protocol_max: PROTOCOL,
            capabilities: Vec::new(),
            agent_version: "test".to_owned(),
            boot: self.boot,
            spool: self.spool,
            applied: None,
            epochs: Vec::new(),
            engines: Vec::new(),
            unknown_baselines: Vec::new(),
            leases: Vec::new(),
            generation: self.generation,
            state_epoch: self.state_epoch,
        }
    }

    pub(crate) async fn reconnect(&mut self, store: &Store) {
        let opening = store
            .open_stream(self.node, &self.hello(), Pace::default(), "test")
            .await
            .unwrap();
        self.generation = opening.welcome.generation;
        self.state_epoch = opening.welcome.state_epoch;
    }

    pub(crate) fn row(&self, peer: PeerId, user: &User, up: (u64, u64), down: (u64, u64)) -> Row {
        Row {
            counter: CounterKey {
                incarnation: self.incarnation,
                peer,
            },
            attribution: Attribution {
                user: user.id,
                period: user.period.id,
                multiplier: Multiplier::ONE,
                leased: user.limit != Limit::None,
            },
            bucket: Bucket::at(user.created_at_ms),
            up: Range::new(up.0, up.1).unwrap(),
            down: Range::new(down.0, down.1).unwrap(),
        }
    }

    /// The next batch of the agent's epoch.
    pub(crate) fn batch(&self, rows: Vec<Row>, written_at_ms: i64) -> Decoded {
        let seq = self.seq.fetch_add(1, Ordering::SeqCst) + 1;
        let payload = Payload {
            predecessor: None,
            written_at_ms,
            rows,
        };
        Decoded {
            batch: wire::seal(self.epoch, Seq(seq), &payload),
            payload: Ok(payload),
        }
    }

    pub(crate) fn submission(&self, batches: Vec<Decoded>) -> Submission {
        Submission {
            node: self.node,
            generation: self.generation,
            batches,
            segments: Vec::new(),
            leases: Vec::new(),
            leases_before: 0,
            lost: Vec::new(),
            reported: None,
        }
    }
}
