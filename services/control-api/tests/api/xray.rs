//! Inbounds of Xray: what is refused, what is made for them, who sees what of it, and that what
//! devices get is what the nodes are told.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use prost_types::FieldMask;
use rcgen::{CertificateParams, KeyPair};
use tonic::{Code, Status};
use tonic_types::StatusExt;
use vpnpanel_api::access::v1::{
    CreateInboundRequest, GrpcTransport, Inbound, RealitySecurity, ShadowsocksCipher,
    ShadowsocksSettings, TlsSecurity, TrojanSettings, UpdateInboundRequest, VlessSettings,
    VmessSettings, WebSocketTransport, WireGuardSettings, XraySecurity, XrayTransport,
    inbound::Settings, xray_security::Kind as Security, xray_transport::Kind as Transport,
};
use x25519_dalek::{PublicKey, StaticSecret};

use crate::support::{Caller, Panel, assert_refused, fields};

pub(crate) fn request(name: &str, settings: Settings) -> CreateInboundRequest {
    CreateInboundRequest {
        inbound: Some(Inbound {
            name: name.to_owned(),
            offered_to_tenants: true,
            settings: Some(settings),
            ..Inbound::default()
        }),
        ..CreateInboundRequest::default()
    }
}

pub(crate) async fn create(
    caller: &Caller,
    name: &str,
    settings: Settings,
) -> Result<Inbound, Status> {
    let request = caller.ask(request(name, settings));
    let made = caller.inbounds().create_inbound(request).await?;
    Ok(made.into_inner().inbound.unwrap())
}

pub(crate) async fn update(
    caller: &Caller,
    id: &str,
    settings: Settings,
    paths: &[&str],
) -> Result<Inbound, Status> {
    let request = UpdateInboundRequest {
        inbound: Some(Inbound {
            id: id.to_owned(),
            settings: Some(settings),
            ..Inbound::default()
        }),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
    };
    let changed = caller
        .inbounds()
        .update_inbound(caller.ask(request))
        .await?;
    Ok(changed.into_inner().inbound.unwrap())
}

pub(crate) fn security(kind: Security) -> Option<XraySecurity> {
    Some(XraySecurity { kind: Some(kind) })
}

pub(crate) fn reality() -> RealitySecurity {
    RealitySecurity {
        server_names: vec!["www.example.org".to_owned()],
        ..RealitySecurity::default()
    }
}

pub(crate) fn with_reality() -> Option<XraySecurity> {
    security(Security::Reality(reality()))
}

pub(crate) fn socket() -> Option<XrayTransport> {
    Some(XrayTransport {
        kind: Some(Transport::Websocket(WebSocketTransport::default())),
    })
}

pub(crate) fn grpc(service: &str) -> Option<XrayTransport> {
    Some(XrayTransport {
        kind: Some(Transport::Grpc(GrpcTransport {
            service_name: service.to_owned(),
        })),
    })
}

pub(crate) fn vless() -> VlessSettings {
    VlessSettings {
        vision: true,
        security: with_reality(),
        ..VlessSettings::default()
    }
}

/// A certificate for names, and its key, PEM.
pub(crate) fn certificate(names: &[&str]) -> TlsSecurity {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let key = KeyPair::generate().unwrap();
    let made = CertificateParams::new(names).unwrap().self_signed(&key);
    TlsSecurity {
        certificate_chain: made.unwrap().pem(),
        private_key: key.serialize_pem(),
        ..TlsSecurity::default()
    }
}

pub(crate) fn tls(names: &[&str]) -> Option<XraySecurity> {
    security(Security::Tls(certificate(names)))
}

pub(crate) fn reality_of(inbound: &Inbound) -> RealitySecurity {
    let Some(Settings::Vless(vless)) = &inbound.settings else {
        panic!("{inbound:?}")
    };
    match vless.security.as_ref().and_then(|it| it.kind.clone()) {
        Some(Security::Reality(reality)) => reality,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_would_pass_in_the_clear_or_not_work_is_refused_by_its_field() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let vless = |change: fn(&mut VlessSettings)| {
        let mut settings = vless();
        change(&mut settings);
        Settings::Vless(settings)
    };
    let with = |change: fn(&mut RealitySecurity)| {
        let mut reality = reality();
        change(&mut reality);
        Settings::Trojan(TrojanSettings {
            security: security(Security::Reality(reality)),
            ..TrojanSettings::default()
        })
    };
    let by_tls = |change: fn(&mut TlsSecurity)| {
        let mut tls = certificate(&["vpn.example.com"]);
        change(&mut tls);
        Settings::Vmess(VmessSettings {
            tls: Some(tls),
            ..VmessSettings::default()
        })
    };
    let shadowsocks = |cipher: ShadowsocksCipher, key: &str| {
        Settings::Shadowsocks(ShadowsocksSettings {
            cipher: cipher.into(),
            server_key: key.to_owned(),
            ..ShadowsocksSettings::default()
        })
    };
    let cases = [
        ("vless.security", vless(|it| it.security = None)),
        (
            "vless.security",
            vless(|it| it.security = Some(XraySecurity::default())),
        ),
        ("vless.vision", vless(|it| it.transport = grpc("tunnel"))),
        (
            "vless.vision",
            vless(|it| (it.transport, it.security) = (socket(), tls(&["a.b"]))),
        ),
        (
            "vless.transport",
            vless(|it| (it.vision, it.transport) = (false, socket())),
        ),
        (
            "vless.transport.grpc.service_name",
            vless(|it| it.transport = grpc("")),
        ),
        ("vless.port", vless(|it| it.port = 70_000)),
        (
            "trojan.security",
            Settings::Trojan(TrojanSettings::default()),
        ),
        (
            "trojan.security.reality.server_names",
            with(|it| it.server_names.clear()),
        ),
        (
            "trojan.security.reality.server_names[0]",
            with(|it| it.server_names = vec!["a b".to_owned()]),
        ),
        (
            "trojan.security.reality.target",
            with(|it| it.target = "example.org".to_owned()),
        ),
        (
            "trojan.security.reality.private_key",
            with(|it| it.private_key = "AAAA".to_owned()),
        ),
        (
            "trojan.security.reality.short_ids[0]",
            with(|it| it.short_ids = vec!["abc".to_owned()]),
        ),
        (
            "trojan.security.reality.short_ids[1]",
            with(|it| it.short_ids = vec!["ab".to_owned(), "ab00".to_owned()]),
        ),
        (
            "vmess.tls.certificate_chain",
            by_tls(|it| it.certificate_chain.clear()),
        ),
        (
            "vmess.tls.certificate_chain",
            by_tls(|it| it.certificate_chain = "PEM".to_owned()),
        ),
        ("vmess.tls.private_key", by_tls(|it| it.private_key.clear())),
        (
            "vmess.tls.private_key",
            by_tls(|it| it.private_key = certificate(&["a.b"]).private_key),
        ),
        (
            "vmess.tls.server_name",
            by_tls(|it| it.server_name = "other.example.com".to_owned()),
        ),
        (
            "vmess.tls.server_name",
            by_tls(|it| *it = certificate(&["*.example.com"])),
        ),
        (
            "shadowsocks.server_key",
            shadowsocks(ShadowsocksCipher::Aes256Gcm, "AAECAwQFBgcICQoLDA0ODw=="),
        ),
        (
            "shadowsocks.server_key",
            shadowsocks(ShadowsocksCipher::Aes128Gcm, "not base64"),
        ),
    ];
    for (field, settings) in cases {
        let said = create(&admin, "refused", settings).await;
        assert_eq!(fields(said), [format!("inbound.{field}")]);
    }
}

#[tokio::test]
async fn a_certificate_that_has_ended_is_refused() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["vpn.example.com".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    let ended = TlsSecurity {
        certificate_chain: params.self_signed(&key).unwrap().pem(),
        private_key: key.serialize_pem(),
        ..TlsSecurity::default()
    };
    let settings = Settings::Trojan(TrojanSettings {
        security: security(Security::Tls(ended)),
        ..TrojanSettings::default()
    });
    let said = create(&admin, "refused", settings).await;
    let field = "inbound.trojan.security.tls.certificate_chain";
    assert_eq!(fields(said), [field]);
}

#[tokio::test]
async fn what_is_left_empty_is_made_and_an_update_leaves_it() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let made = create(&admin, "one", Settings::Vless(vless()))
        .await
        .unwrap();
    let Some(Settings::Vless(settings)) = &made.settings else {
        panic!("{made:?}")
    };
    assert_eq!((settings.port, settings.vision), (443, true));
    assert_eq!(
        settings.transport.as_ref().unwrap().kind,
        Some(Transport::Tcp(Default::default()))
    );
    let first = reality_of(&made);
    assert_eq!(first.target, "www.example.org:443");
    assert_eq!(first.short_ids.len(), 1);
    assert!(first.private_key.is_empty());
    assert_eq!(URL_SAFE_NO_PAD.decode(&first.public_key).unwrap().len(), 32);

    // What was read can be written back: secrets that are empty stay.
    let mut settings = settings.clone();
    let mut renamed = first.clone();
    renamed.server_names = vec!["www.example.net".to_owned()];
    settings.security = security(Security::Reality(renamed.clone()));
    let changed = update(
        &admin,
        &made.id,
        Settings::Vless(settings.clone()),
        &["vless.security"],
    )
    .await
    .unwrap();
    assert_eq!(reality_of(&changed), renamed);

    // Another key is another key.
    renamed.private_key = URL_SAFE_NO_PAD.encode([7; 32]);
    settings.security = security(Security::Reality(renamed));
    let changed = update(&admin, &made.id, Settings::Vless(settings), &["vless"])
        .await
        .unwrap();
    let public = PublicKey::from(&StaticSecret::from([7; 32])).to_bytes();
    assert_eq!(
        reality_of(&changed).public_key,
        URL_SAFE_NO_PAD.encode(public)
    );
    assert!(reality_of(&changed).private_key.is_empty());
}

#[tokio::test]
async fn a_certificate_is_shown_by_its_names_and_end_and_renewed_by_an_update() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let trojan = |tls: TlsSecurity| {
        Settings::Trojan(TrojanSettings {
            security: security(Security::Tls(tls)),
            ..TrojanSettings::default()
        })
    };
    let shown = |inbound: &Inbound| {
        let Some(Settings::Trojan(settings)) = &inbound.settings else {
            panic!("{inbound:?}")
        };
        match settings.security.as_ref().and_then(|it| it.kind.clone()) {
            Some(Security::Tls(tls)) => tls,
            other => panic!("{other:?}"),
        }
    };
    let names = ["*.example.com", "vpn.example.com"];
    let made = create(&admin, "one", trojan(certificate(&names)))
        .await
        .unwrap();
    let tls = shown(&made);
    assert_eq!(tls.certificate_names, names);
    assert_eq!(tls.server_name, "vpn.example.com");
    assert!(tls.certificate_expire_time.is_some());
    assert!(tls.certificate_chain.is_empty() && tls.private_key.is_empty());

    let named = TlsSecurity {
        server_name: "other.example.com".to_owned(),
        ..TlsSecurity::default()
    };
    let changed = update(&admin, &made.id, trojan(named), &["trojan.security"]).await;
    assert_eq!(shown(&changed.unwrap()).server_name, "other.example.com");
    let renewed = certificate(&["new.example.com"]);
    let changed = update(&admin, &made.id, trojan(renewed), &["trojan.security"]).await;
    assert_eq!(
        shown(&changed.unwrap()).certificate_names,
        ["new.example.com"]
    );
}

#[tokio::test]
async fn an_inbound_stays_of_its_kind_and_names_no_field_of_another() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let made = create(&admin, "one", Settings::Vless(vless()))
        .await
        .unwrap();
    let trojan = || {
        Settings::Trojan(TrojanSettings {
            security: with_reality(),
            ..TrojanSettings::default()
        })
    };
    let said = update(&admin, &made.id, trojan(), &[]).await;
    assert_eq!(fields(said), ["inbound.trojan"]);
    let said = update(
        &admin,
        &made.id,
        Settings::Vless(vless()),
        &["wireguard.port"],
    )
    .await;
    assert_eq!(fields(said), ["update_mask"]);
    let bare = VlessSettings {
        port: 8443,
        ..VlessSettings::default()
    };
    let said = update(
        &admin,
        &made.id,
        Settings::Vless(bare.clone()),
        &["vless.security"],
    )
    .await;
    assert_eq!(fields(said), ["inbound.vless.security"]);
    let moved = update(&admin, &made.id, Settings::Vless(bare), &["vless.port"]).await;
    let Some(Settings::Vless(settings)) = moved.unwrap().settings else {
        panic!("no VLESS")
    };
    assert_eq!((settings.port, settings.vision), (8443, true));
}

#[tokio::test]
async fn a_port_that_is_taken_is_refused_with_its_holder() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let node = admin.new_node("n1", None).await;
    let first = create(&admin, "first", Settings::Vless(vless()))
        .await
        .unwrap();
    let wireguard = WireGuardSettings {
        port: 443,
        ..WireGuardSettings::default()
    };
    create(&admin, "udp", Settings::Wireguard(wireguard))
        .await
        .unwrap();
    let second = create(&admin, "second", Settings::Vless(vless())).await;
    let status = second.clone().unwrap_err();
    assert_refused(second, Code::FailedPrecondition, "PORT_IN_USE");
    let details = status.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    for (key, value) in [
        ("port", "443"),
        ("transport", "TCP"),
        ("node_id", node.id.as_str()),
        ("inbound_id", first.id.as_str()),
    ] {
        assert_eq!(metadata.get(key).map(String::as_str), Some(value), "{key}");
    }
    assert!(status.message().contains("\"first\"") && status.message().contains("\"n1\""));
}
