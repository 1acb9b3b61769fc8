//! The configurations that devices get, against what the nodes are told.

use std::process::Command;

use base64::{Engine, engine::general_purpose::STANDARD};
use vpnpanel_api::user::v1::{Connection, ListUserConnectionsRequest, User};
use vpnpanel_pki::context;
use vpnpanel_store::{DesiredFacts, NodePeerAccess};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::support::{Caller, Panel};

async fn connections(caller: &Caller, user: &User) -> Vec<Connection> {
    let request = ListUserConnectionsRequest {
        tenant_id: user.tenant_id.clone(),
        user_id: user.id.clone(),
    };
    let listed = caller
        .users()
        .list_user_connections(caller.ask(request))
        .await;
    listed.unwrap().into_inner().connections
}

/// The value of a line `name = value`.
fn value<'a>(config: &'a str, name: &str) -> &'a str {
    let start = format!("{name} = ");
    config
        .lines()
        .find_map(|line| line.strip_prefix(&start))
        .unwrap_or_else(|| panic!("no {name} in the configuration"))
}

fn key(config: &str, name: &str) -> [u8; 32] {
    STANDARD
        .decode(value(config, name))
        .unwrap()
        .try_into()
        .unwrap()
}

fn public_of(private: [u8; 32]) -> Vec<u8> {
    PublicKey::from(&StaticSecret::from(private))
        .to_bytes()
        .to_vec()
}

/// What a configuration says is what the node is told.
fn assert_agree(panel: &Panel, connection: &Connection, facts: &DesiredFacts) {
    let config = &connection.wireguard_config;
    let inbound = &facts.inbounds[0];
    let peer = &facts.users[0].peers[0];
    let NodePeerAccess::WireGuard {
        public_key,
        sealed_preshared_key,
        ipv4,
        ..
    } = &peer.access
    else {
        panic!("{peer:?}")
    };
    assert_eq!(public_of(key(config, "PrivateKey")), *public_key);
    assert_eq!(value(config, "Address"), format!("{ipv4}/32"));
    let server = panel
        .sealer
        .open(
            &context::inbound_key(inbound.id, facts.node.id),
            inbound.sealed_private_key.as_deref().unwrap(),
        )
        .unwrap();
    let server: [u8; 32] = server.as_slice().try_into().unwrap();
    assert_eq!(public_of(server), key(config, "PublicKey"));
    let preshared = panel
        .sealer
        .open(
            &context::preshared_key(peer.device_id),
            sealed_preshared_key.as_deref().unwrap(),
        )
        .unwrap();
    assert_eq!(preshared.as_slice(), key(config, "PresharedKey"));
    let port = inbound.settings.wireguard().unwrap().port;
    let endpoint = format!("{}:{port}", facts.node.address);
    assert_eq!(value(config, "Endpoint"), endpoint);
}

#[tokio::test]
async fn a_configuration_is_what_wg_quick_reads_and_what_the_node_is_told() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let nodes = [
        admin.new_node("berlin", None).await,
        admin.new_node("amsterdam", None).await,
    ];
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;
    let found = connections(&admin, &user).await;
    let names: Vec<&str> = found.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["main-amsterdam", "main-berlin"]);

    let folder = tempfile::tempdir().unwrap();
    for connection in &found {
        let node = nodes
            .iter()
            .find(|node| node.id == connection.node_id)
            .unwrap();
        let facts = panel.store.desired_state(node.id.parse().unwrap()).await;
        assert_agree(&panel, connection, &facts.unwrap());
        assert!(connection.qr_svg.contains("<svg"));

        let file = folder.path().join("wg-test.conf");
        std::fs::write(&file, &connection.wireguard_config).unwrap();
        let stripped = Command::new("wg-quick").arg("strip").arg(&file).output();
        let stripped = stripped.expect("wireguard-tools are installed");
        assert!(stripped.status.success(), "{stripped:?}");
        let text = String::from_utf8(stripped.stdout).unwrap();
        assert!(text.contains("PrivateKey") && text.contains("Endpoint"));
        assert!(
            !text.contains("Address"),
            "wg-quick's own keys are understood"
        );
    }
}

#[tokio::test]
async fn a_group_that_gains_an_inbound_gives_it_to_its_users_and_takes_it_away() {
    use prost_types::FieldMask;
    use vpnpanel_api::access::v1::{Group, UpdateGroupRequest};

    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    admin.new_node("n1", None).await;
    let (one, two) = (
        admin.new_inbound("one", 51820).await,
        admin.new_inbound("two", 51821).await,
    );
    let group = admin.new_group(tenant, "all", &[&one.id]).await;
    let user = admin.new_user(tenant, "ada", &[&group.id]).await;
    let set = async |inbounds: Vec<String>| {
        let request = UpdateGroupRequest {
            group: Some(Group {
                id: group.id.clone(),
                tenant_id: tenant.to_string(),
                inbound_ids: inbounds,
                ..Group::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["inbound_ids".to_owned()],
            }),
        };
        admin
            .groups()
            .update_group(admin.ask(request))
            .await
            .unwrap();
        let found = connections(&admin, &user).await;
        found.into_iter().map(|one| one.name).collect::<Vec<_>>()
    };
    assert_eq!(
        set(vec![one.id.clone(), two.id.clone()]).await,
        ["one-n1", "two-n1"]
    );
    assert_eq!(set(vec![two.id.clone()]).await, ["two-n1"]);
    assert!(set(Vec::new()).await.is_empty());
}
