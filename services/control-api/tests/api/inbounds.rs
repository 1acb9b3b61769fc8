//! Inbounds, the nodes that open them, and who may use them.

use prost_types::FieldMask;
use tonic::Code;
use vpnpanel_api::access::v1::{
    CreateGroupRequest, CreateInboundRequest, GetInboundRequest, Group, Inbound,
    ListInboundsRequest, NodeSelector, UpdateInboundRequest, WireGuardSettings, inbound::Settings,
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused, fields};

fn request(
    name: &str,
    tenant: Option<TenantId>,
    change: impl FnOnce(&mut Inbound),
) -> CreateInboundRequest {
    let mut inbound = Inbound {
        name: name.to_owned(),
        settings: Some(Settings::Wireguard(WireGuardSettings::default())),
        ..Inbound::default()
    };
    change(&mut inbound);
    CreateInboundRequest {
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        inbound: Some(inbound),
        request_id: String::new(),
    }
}

async fn create(caller: &Caller, request: CreateInboundRequest) -> Result<Inbound, tonic::Status> {
    let made = caller
        .inbounds()
        .create_inbound(caller.ask(request))
        .await?;
    Ok(made.into_inner().inbound.unwrap())
}

fn wireguard(inbound: &Inbound) -> WireGuardSettings {
    let Some(Settings::Wireguard(settings)) = &inbound.settings else {
        panic!("{inbound:?}")
    };
    settings.clone()
}

#[tokio::test]
async fn a_port_is_used_once_on_a_node() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let first = admin.new_node("n1", None).await;
    let second = admin.new_node("n2", None).await;
    let on = |node: &str| NodeSelector {
        node_ids: vec![node.to_owned()],
        ..NodeSelector::default()
    };
    let here = request("one", None, |it| it.nodes = Some(on(&first.id)));
    create(&admin, here).await.unwrap();
    let clash = request("two", None, |it| it.nodes = Some(on(&first.id)));
    assert_refused(
        create(&admin, clash).await,
        Code::FailedPrecondition,
        "PORT_IN_USE",
    );
    let elsewhere = request("two", None, |it| it.nodes = Some(on(&second.id)));
    create(&admin, elsewhere).await.unwrap();
    let nowhere = on("0198c2a4-6d7e-7cc3-98c4-dc0c0c07398f");
    let nowhere = request("three", None, |it| it.nodes = Some(nowhere));
    assert_refused(
        create(&admin, nowhere).await,
        Code::InvalidArgument,
        "INVALID_REFERENCE",
    );
}

#[tokio::test]
async fn pools_are_picked_apart_and_defaults_filled_in() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let one = wireguard(&admin.new_inbound("one", 0).await);
    let two = wireguard(&admin.new_inbound("two", 51821).await);
    assert_eq!(
        (one.port, one.mtu, one.persistent_keepalive_seconds),
        (51820, 1420, 25)
    );
    assert!(one.ipv4_pool.ends_with("/16"));
    assert_ne!(one.ipv4_pool, two.ipv4_pool);
    let none = request("three", None, |it| it.settings = None);
    assert_eq!(fields(create(&admin, none).await), ["inbound.settings"]);
}

#[tokio::test]
async fn a_part_of_the_settings_changes_and_a_pool_in_use_does_not_shrink() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    admin.new_user(tenant, "ada", &[&group.id]).await;
    let change = async |path: &str, settings: WireGuardSettings| {
        let request = UpdateInboundRequest {
            inbound: Some(Inbound {
                id: inbound.id.clone(),
                settings: Some(Settings::Wireguard(settings)),
                ..Inbound::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec![path.to_owned()],
            }),
        };
        let changed = admin.inbounds().update_inbound(admin.ask(request)).await?;
        Ok::<_, tonic::Status>(wireguard(&changed.into_inner().inbound.unwrap()))
    };
    let settings = WireGuardSettings {
        port: 4000,
        mtu: 1280,
        ..WireGuardSettings::default()
    };
    let changed = change("wireguard.port", settings).await.unwrap();
    assert_eq!((changed.port, changed.mtu), (4000, 1420));
    let elsewhere = WireGuardSettings {
        ipv4_pool: "192.168.0.0/24".to_owned(),
        ..WireGuardSettings::default()
    };
    let refused = change("wireguard.ipv4_pool", elsewhere).await;
    assert_refused(refused, Code::FailedPrecondition, "POOL_IN_USE");
}

#[tokio::test]
async fn tenants_use_their_own_inbounds_and_those_offered() {
    let panel = Panel::start().await;
    let (ours, theirs) = (
        panel.default_tenant().await,
        panel.new_tenant("theirs").await,
    );
    let admin = panel.admin().await;
    let owner = panel.signed_in(Role::Owner, Some(ours)).await;
    let offered = admin.new_inbound("offered", 1000).await;
    let kept = create(&admin, request("kept", None, |_| {})).await.unwrap();
    let own = create(&owner, request("own", Some(ours), |_| {}))
        .await
        .unwrap();
    let foreign = create(&admin, request("foreign", Some(theirs), |_| {}))
        .await
        .unwrap();

    let list = ListInboundsRequest {
        tenant_id: ours.to_string(),
        ..ListInboundsRequest::default()
    };
    let listed = owner
        .inbounds()
        .list_inbounds(owner.ask(list))
        .await
        .unwrap();
    let listed = listed.into_inner().inbounds;
    let names: Vec<&str> = listed.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["offered", "own"]);

    for hidden in [&kept, &foreign] {
        let get = GetInboundRequest {
            tenant_id: ours.to_string(),
            inbound_id: hidden.id.clone(),
        };
        let got = owner.inbounds().get_inbound(owner.ask(get)).await;
        assert_refused(got, Code::NotFound, "INBOUND_NOT_FOUND");
        let group = CreateGroupRequest {
            tenant_id: ours.to_string(),
            group: Some(Group {
                name: "all".to_owned(),
                inbound_ids: vec![hidden.id.clone()],
                ..Group::default()
            }),
            request_id: String::new(),
        };
        let refused = owner.groups().create_group(owner.ask(group)).await;
        assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");
    }
    owner.new_group(ours, "all", &[&offered.id, &own.id]).await;
    let offer = request("x", Some(ours), |it| it.offered_to_tenants = true);
    assert_eq!(
        fields(create(&owner, offer).await),
        ["inbound.offered_to_tenants"]
    );
}
