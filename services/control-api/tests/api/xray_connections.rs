//! What devices get of inbounds of Xray: what the nodes are told, and shown to nobody else.

use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::{Code, Status};
use vpnpanel_api::{
    access::v1::{
        GetInboundRequest, Inbound, NodeSelector, ShadowsocksCipher, ShadowsocksSettings,
        TrojanSettings, VlessSettings, VmessSettings, inbound::Settings,
        xray_security::Kind as Security,
    },
    user::v1::{Connection, ListUserConnectionsRequest, RevokeUserCredentialsRequest, User},
};
use vpnpanel_auth::Role;
use vpnpanel_domain::{InboundId, XrayProtocol};
use vpnpanel_pki::{DeviceSeed, context};
use vpnpanel_store::{AuditFilter, DesiredFacts, InboundSettings, NodePeerAccess, Page};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::support::{Caller, Panel};
use crate::xray::{certificate, create, grpc, request, security, socket, tls, vless, with_reality};

/// One inbound of each protocol and transport, on ports of their own.
async fn each(admin: &Caller) -> Vec<Inbound> {
    let names = ["vpn.example.com"];
    let trojan = |port, transport, security| {
        Settings::Trojan(TrojanSettings {
            port,
            transport,
            security,
        })
    };
    let plain = |port, transport, security| {
        Settings::Vless(VlessSettings {
            port,
            vision: false,
            transport,
            security,
        })
    };
    let shadowsocks = |port, cipher: ShadowsocksCipher| {
        Settings::Shadowsocks(ShadowsocksSettings {
            port,
            cipher: cipher.into(),
            ..ShadowsocksSettings::default()
        })
    };
    let all = [
        ("vision", Settings::Vless(vless())),
        ("socket", plain(1001, socket(), tls(&names))),
        ("stream", plain(1002, grpc("tunnel"), with_reality())),
        (
            "vmess",
            Settings::Vmess(VmessSettings {
                port: 1003,
                ..Default::default()
            }),
        ),
        (
            "vmess-tls",
            Settings::Vmess(VmessSettings {
                port: 1004,
                transport: socket(),
                tls: Some(certificate(&names)),
            }),
        ),
        ("trojan", trojan(1005, None, tls(&names))),
        ("trojan-grpc", trojan(1006, grpc("tunnel"), tls(&names))),
        ("ss-128", shadowsocks(1007, ShadowsocksCipher::Aes128Gcm)),
        ("ss-256", shadowsocks(1008, ShadowsocksCipher::Aes256Gcm)),
    ];
    let mut made = Vec::new();
    for (name, settings) in all {
        made.push(create(admin, name, settings).await.unwrap());
    }
    made
}

pub(crate) async fn connections(caller: &Caller, user: &User) -> Result<Vec<Connection>, Status> {
    let request = ListUserConnectionsRequest {
        tenant_id: user.tenant_id.clone(),
        user_id: user.id.clone(),
    };
    let listed = caller
        .users()
        .list_user_connections(caller.ask(request))
        .await?;
    Ok(listed.into_inner().connections)
}

/// What the node is told of an inbound: its protocol, the credential of the one peer, and the secret
/// of the inbound.
fn told(
    panel: &Panel,
    facts: &DesiredFacts,
    inbound: InboundId,
) -> (XrayProtocol, String, Vec<u8>) {
    let opened = facts.inbounds.iter().find(|it| it.id == inbound).unwrap();
    let InboundSettings::Xray(xray) = &opened.settings else {
        panic!("{opened:?}")
    };
    let peers = &facts.users[0].peers;
    let peer = peers.iter().find(|it| it.inbound_id == inbound).unwrap();
    let NodePeerAccess::Xray { sealed_seed, .. } = &peer.access else {
        panic!("{peer:?}")
    };
    let seed = panel
        .sealer
        .open(&context::device_seed(peer.device_id), sealed_seed)
        .unwrap();
    let credential = DeviceSeed::from_bytes(&seed)
        .unwrap()
        .credential(inbound, xray.protocol)
        .unwrap();
    let secret = opened.sealed_secret.as_ref().map(|sealed| {
        let secret = panel.sealer.open(&context::inbound_secret(inbound), sealed);
        secret.unwrap().to_vec()
    });
    (
        xray.protocol,
        credential.to_string(),
        secret.unwrap_or_default(),
    )
}

/// `make test-deps` puts Xray there; VPNPANEL_TEST_XRAY names another one.
fn xray() -> std::path::PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("VPNPANEL_TEST_XRAY")
        .map_or_else(|| root.join("target/tools/bin/xray"), Into::into)
}

#[tokio::test]
async fn a_connection_is_what_xray_reads_and_what_the_node_is_told() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let node = admin.new_node("berlin", None).await;
    let inbounds = each(&admin).await;
    let ids: Vec<&str> = inbounds.iter().map(|inbound| inbound.id.as_str()).collect();
    let group = admin.new_group(tenant, "all", &ids).await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;
    let found = connections(&admin, &user).await.unwrap();
    assert_eq!(found.len(), inbounds.len());
    let facts = panel.store.desired_state(node.id.parse().unwrap()).await;
    let facts = facts.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for connection in &found {
        assert!(connection.wireguard_config.is_empty());
        assert!(connection.qr_svg.contains("<svg"));
        let id: InboundId = connection.inbound_id.parse().unwrap();
        let (protocol, credential, secret) = told(&panel, &facts, id);
        let scheme = match protocol {
            XrayProtocol::Vless { .. } => "vless://",
            XrayProtocol::Vmess => "vmess://",
            XrayProtocol::Trojan => "trojan://",
            XrayProtocol::Shadowsocks { .. } => "ss://",
        };
        assert!(connection.share_link.starts_with(scheme));
        let config: serde_json::Value = serde_json::from_str(&connection.xray_config).unwrap();
        let outbound = &config["outbounds"][0];
        let user = &outbound["settings"]["vnext"][0]["users"][0]["id"];
        let server = &outbound["settings"]["servers"][0]["password"];
        let shown = user.as_str().or(server.as_str()).unwrap();
        match protocol {
            XrayProtocol::Shadowsocks { .. } => {
                assert_eq!(shown, format!("{}:{credential}", STANDARD.encode(&secret)));
            }
            _ => assert_eq!(shown, credential),
        }
        let reality = &outbound["streamSettings"]["realitySettings"];
        if let Some(shown) = reality["publicKey"].as_str() {
            let private: [u8; 32] = secret.try_into().unwrap();
            let public = PublicKey::from(&StaticSecret::from(private)).to_bytes();
            assert_eq!(shown, URL_SAFE_NO_PAD.encode(public));
        }
        let file = folder.path().join(format!("{}.json", connection.name));
        std::fs::write(&file, &connection.xray_config).unwrap();
        let said = Command::new(xray())
            .args(["run", "-test", "-config"])
            .arg(&file)
            .output()
            .expect("xray is installed: make test-deps");
        assert!(said.status.success(), "{}: {said:?}", connection.name);
    }
}

#[tokio::test]
async fn secrets_of_inbounds_are_answered_to_nobody_and_in_no_event() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let node = admin.new_node("berlin", None).await;
    let inbounds = each(&admin).await;
    let ids: Vec<&str> = inbounds.iter().map(|inbound| inbound.id.as_str()).collect();
    let group = admin.new_group(tenant, "all", &ids).await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;
    let given = certificate(&["given.example.com"]);
    let line = given.private_key.lines().nth(1).unwrap().to_owned();
    let settings = Settings::Trojan(TrojanSettings {
        port: 2000,
        security: security(Security::Tls(given)),
        ..TrojanSettings::default()
    });
    create(&admin, "given", settings).await.unwrap();

    let facts = panel.store.desired_state(node.id.parse().unwrap()).await;
    let facts = facts.unwrap();
    let mut secrets = vec![line];
    for inbound in &inbounds {
        let (_, credential, secret) = told(&panel, &facts, inbound.id.parse().unwrap());
        secrets.extend([
            credential,
            STANDARD.encode(&secret),
            URL_SAFE_NO_PAD.encode(&secret),
        ]);
        if let Ok(pem) = std::str::from_utf8(&secret) {
            secrets.extend(pem.lines().nth(1).map(str::to_owned));
        }
    }
    secrets.retain(|secret| !secret.is_empty());
    assert!(secrets.len() > 20);

    let auditor = panel.signed_in(Role::Auditor, None).await;
    let mut seen = String::new();
    for inbound in &inbounds {
        for caller in [&admin, &auditor] {
            let request = GetInboundRequest {
                tenant_id: String::new(),
                inbound_id: inbound.id.clone(),
            };
            let got = caller.inbounds().get_inbound(caller.ask(request)).await;
            let got = got.unwrap().into_inner().inbound.unwrap();
            // Debug redacts what is declared secret: the message's own bytes do not.
            seen += &String::from_utf8_lossy(&prost::Message::encode_to_vec(&got));
        }
    }
    connections(&admin, &user).await.unwrap();
    let refused = connections(&auditor, &user).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    for tenant in [None, Some(tenant)] {
        let all = AuditFilter::default();
        let events = panel.store.audit_events(tenant, &all, Page::first(1_000));
        seen += &format!("{:?}", events.await.unwrap());
    }
    assert!(seen.contains("vision") && seen.contains("given"));
    for secret in secrets {
        assert!(!seen.contains(&secret), "{secret}");
    }
}

#[tokio::test]
async fn revoked_credentials_let_nobody_in_and_the_same_request_revokes_once() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    admin.new_node("berlin", None).await;
    let wireguard = admin.new_inbound("wg", 51820).await;
    let vless = create(&admin, "vless", Settings::Vless(vless()))
        .await
        .unwrap();
    let group = admin
        .new_group(tenant, "all", &[&wireguard.id, &vless.id])
        .await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;
    let shown = async || {
        let found = connections(&admin, &user).await.unwrap();
        assert_eq!(found.len(), 2);
        let texts = found.into_iter();
        texts
            .map(|one| one.wireguard_config + &one.share_link)
            .collect::<Vec<_>>()
    };
    let revoke = async |caller: &Caller| {
        let request = RevokeUserCredentialsRequest {
            tenant_id: user.tenant_id.clone(),
            user_id: user.id.clone(),
            request_id: "0198c2a4-6d7e-7cc3-98c4-dc0c0c07398f".to_owned(),
        };
        let users = &mut caller.users();
        users.revoke_user_credentials(caller.ask(request)).await
    };
    let before = shown().await;
    assert_eq!(before, shown().await, "links are stable");
    revoke(&admin).await.unwrap();
    let after = shown().await;
    assert!(after.iter().all(|text| !before.contains(text)));
    revoke(&admin).await.unwrap();
    assert_eq!(shown().await, after);
    let auditor = panel.signed_in(Role::Auditor, Some(tenant)).await;
    let refused = revoke(&auditor).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_group_of_a_tenant_takes_inbounds_of_any_kind() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let node = owner.new_node("own", Some(tenant)).await;
    let mut own = request("own", Settings::Vless(vless()));
    own.tenant_id = tenant.to_string();
    let inbound = own.inbound.as_mut().unwrap();
    inbound.offered_to_tenants = false;
    inbound.nodes = Some(NodeSelector {
        node_ids: vec![node.id.clone()],
        ..NodeSelector::default()
    });
    let made = owner.inbounds().create_inbound(owner.ask(own)).await;
    let made = made.unwrap().into_inner().inbound.unwrap();
    let group = owner.new_group(tenant, "all", &[&made.id]).await;
    let user = owner.new_user(tenant, "ada", &[&group.id]).await;
    let found = connections(&owner, &user).await.unwrap();
    assert_eq!(
        (found.len(), found[0].node_id.as_str()),
        (1, node.id.as_str())
    );
}
