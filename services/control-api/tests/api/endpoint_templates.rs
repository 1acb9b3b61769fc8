//! Endpoint templates: what subscribers are told by them, and what is refused.

use prost_types::FieldMask;
use tonic::{Code, Status};
use vpnpanel_api::{
    access::v1::{
        CreateEndpointTemplateRequest, DeleteEndpointTemplateRequest, EndpointTemplate,
        GetEndpointTemplateRequest, ListEndpointTemplatesRequest, TlsFingerprint,
        UpdateEndpointTemplateRequest, VmessSettings, inbound::Settings,
    },
    node::v1::{Node, UpdateNodeRequest},
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::{
    subscriptions::{asking, fetch, subscriber, text, token},
    support::{Caller, Panel, assert_refused, fields},
    xray::{socket, tls, vless},
    xray_connections::connections,
};

pub(crate) async fn create(
    caller: &Caller,
    tenant: Option<TenantId>,
    template: EndpointTemplate,
) -> Result<EndpointTemplate, Status> {
    let request = CreateEndpointTemplateRequest {
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        endpoint_template: Some(template),
        request_id: String::new(),
    };
    let made = caller
        .endpoint_templates()
        .create_endpoint_template(caller.ask(request))
        .await?;
    Ok(made.into_inner().endpoint_template.unwrap())
}

async fn update(
    caller: &Caller,
    template: EndpointTemplate,
    paths: &[&str],
) -> Result<EndpointTemplate, Status> {
    let request = UpdateEndpointTemplateRequest {
        endpoint_template: Some(template),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
    };
    let changed = caller
        .endpoint_templates()
        .update_endpoint_template(caller.ask(request))
        .await?;
    Ok(changed.into_inner().endpoint_template.unwrap())
}

fn of(inbound: &str, name_pattern: &str) -> EndpointTemplate {
    EndpointTemplate {
        inbound_id: inbound.to_owned(),
        name_pattern: name_pattern.to_owned(),
        ..EndpointTemplate::default()
    }
}

#[tokio::test]
async fn subscribers_are_told_what_templates_say_in_every_place() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let shown = async || connections(&admin, &user).await.unwrap();
    let plain = shown().await;
    let names: Vec<&str> = plain.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["main-berlin"]);
    let region = UpdateNodeRequest {
        node: Some(Node {
            id: plain[0].node_id.clone(),
            region: "de-ber".to_owned(),
            ..Node::default()
        }),
        update_mask: None,
    };
    admin.nodes().update_node(admin.ask(region)).await.unwrap();

    let inbound = &plain[0].inbound_id;
    let second = EndpointTemplate {
        order: 2,
        ..of(inbound, "{user} {days_left} {data_left} {status}")
    };
    let second = create(&admin, None, second).await.unwrap();
    let first = EndpointTemplate {
        order: 1,
        address: "cdn.example.com".to_owned(),
        port: 4000,
        ..of(inbound, "{flag} {node} {protocol}")
    };
    create(&admin, None, first).await.unwrap();
    let listed = shown().await;
    let names: Vec<&str> = listed.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["🇩🇪 berlin WireGuard", "ada ∞ ∞ active"]);
    let config = &listed[0].wireguard_config;
    assert!(
        config.contains("Endpoint = cdn.example.com:4000\n"),
        "{config}"
    );
    assert_eq!(listed[1].wireguard_config, plain[0].wireguard_config);

    let token = token(&user);
    for format in ["sing-box", "clash", "json"] {
        let reply = fetch(&panel, asking(&token, format), &[]).await.unwrap();
        let text = text(&reply);
        for expected in ["🇩🇪 berlin WireGuard", "ada ∞ ∞ active", "cdn.example.com"] {
            assert!(text.contains(expected), "{format}: {text}");
        }
    }

    // With none that counts, it is presented as it is.
    let disabled = EndpointTemplate {
        disabled: true,
        ..second
    };
    let filter = ListEndpointTemplatesRequest {
        inbound_id: inbound.clone(),
        ..ListEndpointTemplatesRequest::default()
    };
    update(&admin, disabled, &["disabled"]).await.unwrap();
    let all = admin
        .endpoint_templates()
        .list_endpoint_templates(admin.ask(filter))
        .await;
    let all = all.unwrap().into_inner().endpoint_templates;
    assert_eq!(all.len(), 2);
    let request = DeleteEndpointTemplateRequest {
        endpoint_template_id: all[1].id.clone(),
        etag: all[1].etag.clone(),
        ..DeleteEndpointTemplateRequest::default()
    };
    let deleted = admin
        .endpoint_templates()
        .delete_endpoint_template(admin.ask(request))
        .await;
    deleted.unwrap();
    assert_eq!(shown().await, plain);
}

#[tokio::test]
async fn a_template_says_what_its_inbound_has_a_place_for() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let wireguard = admin.new_inbound("wire", 51820).await.id;
    let reality = crate::xray::create(&admin, "reality", Settings::Vless(vless()));
    let reality = reality.await.unwrap().id;
    let socket = VmessSettings {
        port: 8443,
        transport: socket(),
        tls: match tls(&["vpn.example.com"]).and_then(|it| it.kind) {
            Some(vpnpanel_api::access::v1::xray_security::Kind::Tls(tls)) => Some(tls),
            other => panic!("{other:?}"),
        },
    };
    let socket = crate::xray::create(&admin, "socket", Settings::Vmess(socket));
    let socket = socket.await.unwrap().id;
    let text = |text: &str| text.to_owned();
    let cases: [(&str, &str, fn(&mut EndpointTemplate)); 11] = [
        (&wireguard, "server_name", |it| {
            it.server_name = "a.b".to_owned()
        }),
        (&wireguard, "host", |it| it.host = "a.b".to_owned()),
        (&wireguard, "alpn", |it| it.alpn = vec!["h2".to_owned()]),
        (&wireguard, "fingerprint", |it| {
            it.set_fingerprint(TlsFingerprint::Edge)
        }),
        (&wireguard, "address", |it| it.address = "a b".to_owned()),
        (&wireguard, "name_pattern", |it| {
            it.name_pattern = "{password}".to_owned()
        }),
        (&wireguard, "name_pattern", |it| {
            it.name_pattern = "{user".to_owned()
        }),
        (&reality, "server_name", |it| {
            it.server_name = "a.b".to_owned()
        }),
        (&reality, "alpn", |it| it.alpn = vec!["h2".to_owned()]),
        (&socket, "alpn", |it| it.alpn = vec!["h2".to_owned()]),
        (&socket, "alpn", |it| it.alpn = vec!["h3".to_owned()]),
    ];
    for (inbound, field, change) in cases {
        let mut template = of(inbound, "");
        change(&mut template);
        let refused = create(&admin, None, template).await;
        assert_eq!(fields(refused), [format!("endpoint_template.{field}")]);
    }
    let told = EndpointTemplate {
        server_name: text("cdn.example.com"),
        host: text("cdn.example.com"),
        fingerprint: TlsFingerprint::Firefox.into(),
        alpn: vec![text("http/1.1")],
        ..of(&socket, "")
    };
    let made = create(&admin, None, told.clone()).await.unwrap();
    assert_eq!(made.name_pattern, "{inbound}-{node}");
    assert_eq!(made.server_name, told.server_name);
    assert_eq!((&made.host, &made.alpn), (&told.host, &told.alpn));
    assert_eq!(made.fingerprint(), TlsFingerprint::Firefox);

    // What the mask names is emptied, what it does not name stays, and an old etag changes nothing.
    let empty = EndpointTemplate {
        host: String::new(),
        server_name: text("ignored.example.com"),
        ..made.clone()
    };
    let changed = update(&admin, empty, &["host"]).await.unwrap();
    assert_eq!(changed.host, "");
    assert_eq!(changed.server_name, told.server_name);
    let stale = update(&admin, made, &["order"]).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    let moved = update(&admin, changed, &["inbound_id"]).await;
    assert_eq!(fields(moved), ["update_mask"]);
}

#[tokio::test]
async fn a_tenant_presents_its_own_inbounds_and_sees_how_others_offered_are() {
    let panel = Panel::start().await;
    let ours = panel.default_tenant().await;
    let admin = panel.admin().await;
    let owner = panel.signed_in(Role::Owner, Some(ours)).await;
    let offered = admin.new_inbound("offered", 51820).await.id;
    let shared = create(&admin, None, of(&offered, "")).await.unwrap();
    let get = GetEndpointTemplateRequest {
        tenant_id: ours.to_string(),
        endpoint_template_id: shared.id.clone(),
    };
    let seen = owner
        .endpoint_templates()
        .get_endpoint_template(owner.ask(get))
        .await
        .unwrap();
    assert_eq!(seen.into_inner().endpoint_template, Some(shared.clone()));

    let refused = create(&owner, Some(ours), of(&offered, "")).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");
    let theirs = EndpointTemplate {
        tenant_id: ours.to_string(),
        order: 5,
        ..shared
    };
    let refused = update(&owner, theirs, &["order"]).await;
    assert_refused(refused, Code::NotFound, "ENDPOINT_TEMPLATE_NOT_FOUND");
}
