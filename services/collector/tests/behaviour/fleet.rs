//! A control plane with one collector, its database and its authority; nodes and users on demand.

use std::{collections::BTreeSet, error::Error, net::SocketAddr, sync::Arc, time::Duration};

use rcgen::{KeyPair, PublicKeyData};
use tonic::transport::{Channel, Endpoint};
use uuid::Uuid;
use vpnpanel_api::{Call, Guard};
use vpnpanel_collector::{Dependencies, Settings};
use vpnpanel_domain::{
    DeviceId, GroupId, InboundId, Limit, Multiplier, NodeId, ResetStrategy, SpeedLimit, TenantId,
    UserId, Zone,
};
use vpnpanel_link::Attribution;
use vpnpanel_pki::{
    CertificateAuthority, MasterKey, NODE_VALIDITY, Sealer, StoredAuthority, context,
};
use vpnpanel_runtime::{
    PeerIdentity, Supervisor, TrustDomain,
    settings::{self, ListenAddr, MapEnvironment},
    tls::{ClientTls, Credentials, Dialer, ServerTls, TrustBundle},
};
use vpnpanel_store::{
    DeviceKeys, GroupPatch, InboundSettings, MakeNodeKey, NewAuthority, NewDevice, NewGroup,
    NewInbound, NewNode, NewNodeCertificate, NewTenant, NewUser, NodeKey, NodeSelector, Store,
    TenantLimits, User, WireGuard, Xray, fresh_id, testing::TestStore,
};

/// Certificates decide here; who signs in is another crate's subject.
#[derive(Debug, Clone, Copy)]
struct Everybody;

impl Guard for Everybody {
    async fn check(&self, _: Call<'_>) -> Result<(), tonic::Status> {
        Ok(())
    }
}

/// Makes sealed keys that are recognised in a desired state.
struct Keys(Arc<Sealer>);

impl MakeNodeKey for Keys {
    fn make_node_key(
        &self,
        inbound: InboundId,
        node: NodeId,
    ) -> Result<NodeKey, Box<dyn Error + Send + Sync>> {
        let sealed = self
            .0
            .seal(&context::inbound_key(inbound, node), &[7; 32])?;
        Ok(NodeKey {
            public_key: vec![8; 32],
            sealed_private_key: sealed,
        })
    }
}

pub(crate) struct Fleet {
    pub(crate) test: TestStore,
    pub(crate) store: Store,
    pub(crate) authority: CertificateAuthority,
    pub(crate) tenant: TenantId,
    pub(crate) group: GroupId,
    pub(crate) inbound: InboundId,
    pub(crate) link: SocketAddr,
    pub(crate) enrolment: SocketAddr,
    sealer: Arc<Sealer>,
    pub(crate) authority_id: Uuid,
    supervisor: Supervisor,
}

/// A node and what its agent shows.
#[derive(Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) credentials: Credentials,
}

impl Fleet {
    pub(crate) async fn new(test: TestStore) -> Self {
        Self::with(test, &[], unreachable_signer()).await
    }

    pub(crate) async fn with(test: TestStore, set: &[(&str, &str)], signer: Channel) -> Self {
        vpnpanel_runtime::install_crypto_provider();
        let store = test.store.clone();
        let sealer = Arc::new(Sealer::new(&MasterKey::from_bytes([3; 32])).unwrap());
        let (authority, stored) = authority(&sealer, test.clock.now_ms());
        let authority_id = store
            .ensure_authority(NewAuthority {
                kind: "node".to_owned(),
                certificate_der: stored.certificate_der,
                sealed_private_key: stored.sealed_key,
                not_after_ms: i64::MAX,
            })
            .await
            .unwrap()
            .id;
        let variables = [
            ("VPNPANEL_COLLECTOR_LISTEN", "127.0.0.1:0"),
            ("VPNPANEL_COLLECTOR_ENROLMENT_LISTEN", "127.0.0.1:0"),
            ("VPNPANEL_COLLECTOR_ADMIN_LISTEN", "127.0.0.1:0"),
            ("VPNPANEL_COLLECTOR_SERIAL_CHECK", "100ms"),
            ("VPNPANEL_COLLECTOR_DRAIN_SPREAD", "100ms"),
        ];
        let environment: MapEnvironment = variables.iter().chain(set).copied().collect();
        let settings: Settings = settings::from_environment(&environment).unwrap();
        assert_eq!(settings.listen, ListenAddr::any_loopback());
        let credentials = authority
            .issue_service("collector", &[], test.clock.now_ms())
            .unwrap()
            .credentials;
        let bundle = TrustBundle::new(authority.trust_bundle()).unwrap();
        let dependencies = Dependencies {
            store: store.clone(),
            sealer: Arc::clone(&sealer),
            guard: Everybody,
            signer,
            link_tls: ServerTls::mutual(credentials.clone(), &bundle, TrustDomain::default())
                .unwrap(),
            reflection: None,
            enrolment_tls: ServerTls::server_only(credentials).unwrap(),
        };
        let service = vpnpanel_collector::build(settings, dependencies)
            .await
            .unwrap();
        let mut supervisor = Supervisor::new(Duration::from_secs(10), Duration::ZERO);
        let addresses = supervisor.start(service).await.unwrap();
        let mut fleet = Self {
            link: addresses.of("link").unwrap(),
            enrolment: addresses.of("enrolment").unwrap(),
            tenant: fresh_id(),
            group: fresh_id(),
            inbound: fresh_id(),
            test,
            store,
            authority,
            sealer,
            authority_id,
            supervisor,
        };
        fleet.furnish().await;
        fleet
    }

    /// A tenant with an inbound on all of its nodes, and a group that uses it.
    async fn furnish(&mut self) {
        let tenant = NewTenant {
            id: self.tenant,
            name: "tenant".to_owned(),
            time_zone: Zone::utc(),
            limits: TenantLimits::default(),
        };
        self.store.create_tenant(tenant, None).await.unwrap();
        let inbound = NewInbound {
            id: self.inbound,
            tenant_id: Some(self.tenant),
            name: "wg".to_owned(),
            nodes: NodeSelector::default(),
            offered: false,
            settings: InboundSettings::WireGuard(WireGuard {
                port: 51820,
                ipv4_pool: "10.9.0.0/16".parse().unwrap(),
                ipv6_pool: None,
                dns: Vec::new(),
                mtu: 1420,
                keepalive_seconds: 25,
                client_allowed_ips: vec!["0.0.0.0/0".parse().unwrap()],
            }),
            sealed_secret: None,
        };
        let keys = Keys(Arc::clone(&self.sealer));
        self.store
            .create_inbound(inbound, &keys, None)
            .await
            .unwrap();
        let group = NewGroup {
            id: self.group,
            tenant_id: self.tenant,
            name: "everybody".to_owned(),
            inbound_ids: BTreeSet::from([self.inbound]),
        };
        self.store.create_group(group, None).await.unwrap();
    }

    /// An inbound of Xray with its secret, in the group.
    pub(crate) async fn xray(&self, name: &str, xray: Xray, secret: &[u8]) -> InboundId {
        let id: InboundId = fresh_id();
        let sealed = self.sealer.seal(&context::inbound_secret(id), secret);
        let new = NewInbound {
            id,
            tenant_id: Some(self.tenant),
            name: name.to_owned(),
            nodes: NodeSelector::default(),
            offered: false,
            settings: InboundSettings::Xray(xray),
            sealed_secret: Some(sealed.unwrap()),
        };
        let keys = Keys(Arc::clone(&self.sealer));
        self.store.create_inbound(new, &keys, None).await.unwrap();
        let group = self.store.group(self.tenant, self.group).await.unwrap();
        let mut inbound_ids = group.inbound_ids;
        inbound_ids.insert(id);
        let patch = GroupPatch {
            inbound_ids: Some(inbound_ids),
            ..GroupPatch::default()
        };
        let changed = self
            .store
            .update_group(self.tenant, self.group, patch, None);
        changed.await.unwrap();
        id
    }

    /// A node whose host has enrolled.
    pub(crate) async fn node(&self) -> Node {
        let id: NodeId = fresh_id();
        let node = NewNode {
            id,
            tenant_id: Some(self.tenant),
            name: format!("node {id}"),
            region: String::new(),
            address: "192.0.2.1".to_owned(),
            labels: Default::default(),
            multiplier: Multiplier::ONE,
            disabled: false,
        };
        let keys = Keys(Arc::clone(&self.sealer));
        self.store.create_node(node, &keys, None).await.unwrap();
        Node {
            id,
            credentials: self.enrol(id).await,
        }
    }

    /// A new certificate for a node; the ones before stop working.
    pub(crate) async fn enrol(&self, node: NodeId) -> Credentials {
        let identity = PeerIdentity::Node {
            tenant: Some(self.tenant.uuid()),
            node: node.uuid(),
        };
        let now = self.test.clock.now_ms();
        let (credentials, serial) = leaf(&self.authority, &identity, now);
        self.store
            .enrol_certificate(NewNodeCertificate {
                serial,
                node_id: node,
                authority_id: self.authority_id,
                spki_sha256: vec![0; 32],
                certificate_der: credentials.chain[0].to_vec(),
                not_before_ms: now,
                not_after_ms: now + 86_400_000,
            })
            .await
            .unwrap();
        credentials
    }

    /// A user with one device on the inbound; a limit of 0 is none.
    pub(crate) async fn user(&self, limit: u64) -> User {
        self.user_with(limit, ResetStrategy::None).await
    }

    /// As [`Fleet::user`], whose quota begins anew.
    pub(crate) async fn user_with(&self, limit: u64, reset_strategy: ResetStrategy) -> User {
        let id: UserId = fresh_id();
        let device: DeviceId = fresh_id();
        let new = NewUser {
            id,
            username: format!("user-{id}"),
            note: String::new(),
            group_ids: BTreeSet::from([self.group]),
            limit: Limit::from_wire(limit),
            speed: SpeedLimit::NONE,
            reset_strategy,
            expires_at_ms: None,
            on_hold_ms: None,
            disabled: false,
            plan_id: None,
            plan_version: None,
            next_plan: None,
            device_limit: 0,
            devices: vec![NewDevice {
                id: device,
                name: "phone".to_owned(),
                keys: DeviceKeys {
                    public_key: public_key(),
                    sealed_private_key: None,
                    sealed_preshared_key: None,
                    sealed_seed: self
                        .sealer
                        .seal(&context::device_seed(device), &[8; 32])
                        .unwrap(),
                },
            }],
            subscription: None,
        };
        self.store
            .create_user(self.tenant, new, None)
            .await
            .unwrap()
    }

    pub(crate) async fn reload(&self, user: &User) -> User {
        self.store.user(self.tenant, user.id).await.unwrap()
    }

    /// Raw bytes billed to a user's period. The books have to agree whenever somebody looks.
    pub(crate) async fn billed(&self, user: &User) -> u64 {
        let totals = self.store.ledger_totals(self.tenant).await.unwrap();
        assert!(totals.agree(), "the books do not agree: {totals:?}");
        let period = self.reload(user).await.period;
        assert_eq!(period.used.floor_bytes(), period.up + period.down);
        period.up + period.down
    }

    /// A channel to the node link that shows `credentials`.
    pub(crate) fn channel(&self, credentials: Option<Credentials>) -> Channel {
        let bundle = TrustBundle::new(self.authority.trust_bundle()).unwrap();
        let tls = ClientTls::new(&bundle, credentials).unwrap();
        dial(tls, self.link)
    }

    pub(crate) async fn stop(self) {
        self.supervisor.stop().await.unwrap();
    }
}

pub(crate) fn dial(tls: ClientTls, address: SocketAddr) -> Channel {
    let collector = PeerIdentity::control_plane("collector").unwrap();
    Dialer::new(tls, collector, TrustDomain::default())
        .unwrap()
        .channel(&address.to_string(), |endpoint| endpoint)
        .unwrap()
}

/// Who is billed for what a user counts.
pub(crate) fn attribution(user: &User) -> Attribution {
    Attribution {
        user: user.id,
        period: user.period.id,
        multiplier: Multiplier::ONE,
        leased: user.limit != Limit::None,
    }
}

pub(crate) fn authority(sealer: &Sealer, now_ms: i64) -> (CertificateAuthority, StoredAuthority) {
    let domain = TrustDomain::default();
    let stored = CertificateAuthority::create(&domain, sealer, now_ms).unwrap();
    let authority = CertificateAuthority::open(&stored, domain, sealer).unwrap();
    (authority, stored)
}

/// A key and a certificate for it, with its serial.
pub(crate) fn leaf(
    authority: &CertificateAuthority,
    identity: &PeerIdentity,
    now_ms: i64,
) -> (Credentials, Vec<u8>) {
    let key = KeyPair::generate().unwrap();
    let issued = authority
        .issue(
            identity,
            &key.subject_public_key_info(),
            NODE_VALIDITY,
            now_ms,
        )
        .unwrap();
    let credentials = Credentials {
        chain: issued.chain,
        key: rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
    };
    (credentials, hex::decode(issued.serial).unwrap())
}

pub(crate) fn unreachable_signer() -> Channel {
    Endpoint::from_static("http://127.0.0.1:1").connect_lazy()
}

fn public_key() -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(Uuid::now_v7().as_bytes());
    key[16..].copy_from_slice(Uuid::now_v7().as_bytes());
    key
}
