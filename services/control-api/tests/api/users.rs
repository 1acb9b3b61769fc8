//! Users.

use std::collections::HashSet;

use prost_types::{FieldMask, Timestamp};
use tonic::Code;
use vpnpanel_api::user::v1::{
    DeleteUserRequest, DisableUserRequest, EnableUserRequest, GetUserRequest,
    ResetUserUsageRequest, UpdateUserRequest, User, UserStatus,
};
use vpnpanel_domain::TenantId;
use vpnpanel_store::NodePeerAccess;

use crate::support::{Caller, Panel, assert_refused, create_user, fields};

async fn get(caller: &Caller, user: &User) -> Result<User, tonic::Status> {
    let request = GetUserRequest {
        tenant_id: user.tenant_id.clone(),
        user_id: user.id.clone(),
    };
    let got = caller.users().get_user(caller.ask(request)).await?;
    Ok(got.into_inner().user.unwrap())
}

async fn update(caller: &Caller, user: User, paths: &[&str]) -> Result<User, tonic::Status> {
    let request = UpdateUserRequest {
        user: Some(user),
        update_mask: Some(FieldMask {
            paths: paths.iter().map(|&path| path.to_owned()).collect(),
        }),
    };
    let changed = caller.users().update_user(caller.ask(request)).await?;
    Ok(changed.into_inner().user.unwrap())
}

async fn setting() -> (Panel, TenantId, Caller) {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    (panel, tenant, admin)
}

#[tokio::test]
async fn a_user_is_made_shown_and_deleted() {
    let (_panel, tenant, admin) = setting().await;
    let made = admin.new_user(tenant, "Ada", &[]).await;
    assert_eq!(made.status(), UserStatus::Active);
    assert_eq!(made.tenant_id, tenant.to_string());
    assert_eq!((made.used_bytes, made.data_limit_bytes), (0, 0));
    assert!(made.period.is_some() && !made.etag.is_empty());
    let shown = User {
        subscription_url: String::new(),
        ..made.clone()
    };
    assert_eq!(get(&admin, &made).await.unwrap(), shown);

    let again = create_user(tenant, "ADA", &[]);
    let again = admin.users().create_user(admin.ask(again)).await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");

    let delete = DeleteUserRequest {
        tenant_id: tenant.to_string(),
        user_id: made.id.clone(),
        etag: made.etag.clone(),
    };
    let deleted = admin.users().delete_user(admin.ask(delete.clone())).await;
    deleted.unwrap();
    assert_refused(get(&admin, &made).await, Code::NotFound, "USER_NOT_FOUND");
    let deleted = admin.users().delete_user(admin.ask(delete)).await;
    assert_refused(deleted, Code::NotFound, "USER_NOT_FOUND");
    admin.new_user(tenant, "ada", &[]).await;
}

#[tokio::test]
async fn junk_names_its_fields() {
    let (_panel, tenant, admin) = setting().await;
    let create = |user: User| {
        let mut request = create_user(tenant, "x", &[]);
        request.user = Some(user);
        admin.ask(request)
    };
    let named = |username: &str| User {
        username: username.to_owned(),
        ..User::default()
    };
    for bad in ["", "with space", &"x".repeat(65)] {
        let refused = admin.users().create_user(create(named(bad))).await;
        assert_eq!(fields(refused), ["user.username"], "{bad}");
    }
    let bad_group = User {
        group_ids: vec!["x".to_owned()],
        ..named("ada")
    };
    let refused = admin.users().create_user(create(bad_group)).await;
    assert_eq!(fields(refused), ["user.group_ids[0]"]);
    let unknown_group = User {
        group_ids: vec![tenant.to_string()],
        ..named("ada")
    };
    let refused = admin.users().create_user(create(unknown_group)).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");
    let mut request = create_user(tenant, "ada", &[]);
    request.request_id = "not a uuid".to_owned();
    let refused = admin.users().create_user(admin.ask(request)).await;
    assert_eq!(fields(refused), ["request_id"]);
}

#[tokio::test]
async fn an_update_changes_what_its_mask_names_and_nothing_else() {
    let (_panel, tenant, admin) = setting().await;
    let mut user = admin.new_user(tenant, "ada", &[]).await;
    user.note = "first".to_owned();
    user.data_limit_bytes = 1000;
    let user = update(&admin, user, &["note"]).await.unwrap();
    assert_eq!((user.note.as_str(), user.data_limit_bytes), ("first", 0));

    // Without a mask: what is set.
    let request = UpdateUserRequest {
        user: Some(User {
            id: user.id.clone(),
            tenant_id: user.tenant_id.clone(),
            data_limit_bytes: 2000,
            ..User::default()
        }),
        update_mask: None,
    };
    let changed = admin.users().update_user(admin.ask(request)).await;
    let user = changed.unwrap().into_inner().user.unwrap();
    assert_eq!((user.note.as_str(), user.data_limit_bytes), ("first", 2000));

    // Named and unset: back to nothing.
    let cleared = User {
        note: String::new(),
        data_limit_bytes: 0,
        ..user.clone()
    };
    let user = update(&admin, cleared, &["note", "data_limit_bytes"])
        .await
        .unwrap();
    assert_eq!((user.note.as_str(), user.data_limit_bytes), ("", 0));

    let refused = update(&admin, user, &["used_bytes"]).await;
    assert_eq!(fields(refused), ["update_mask"]);
}

#[tokio::test]
async fn a_stale_etag_changes_nothing() {
    let (_panel, tenant, admin) = setting().await;
    let first = admin.new_user(tenant, "ada", &[]).await;
    let note = |user: &User, note: &str| User {
        note: note.to_owned(),
        ..user.clone()
    };
    let second = update(&admin, note(&first, "one"), &["note"])
        .await
        .unwrap();
    assert_ne!(first.etag, second.etag);
    let stale = update(&admin, note(&first, "two"), &["note"]).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    let delete = DeleteUserRequest {
        tenant_id: tenant.to_string(),
        user_id: first.id.clone(),
        etag: first.etag.clone(),
    };
    let stale = admin.users().delete_user(admin.ask(delete)).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    assert_eq!(get(&admin, &first).await.unwrap().note, "one");
    // Without an etag the last one wins.
    let blind = User {
        etag: String::new(),
        ..note(&first, "three")
    };
    update(&admin, blind, &["note"]).await.unwrap();
}

#[tokio::test]
async fn status_follows_from_what_holds() {
    let (_panel, tenant, admin) = setting().await;
    let user = admin.new_user(tenant, "ada", &[]).await;
    let named = || (tenant.to_string(), user.id.clone());
    let disable = async || {
        let (tenant_id, user_id) = named();
        let request = admin.ask(DisableUserRequest { tenant_id, user_id });
        let changed = admin.users().disable_user(request).await.unwrap();
        changed.into_inner().user.unwrap()
    };
    let enable = async || {
        let (tenant_id, user_id) = named();
        let request = admin.ask(EnableUserRequest { tenant_id, user_id });
        let changed = admin.users().enable_user(request).await.unwrap();
        changed.into_inner().user.unwrap()
    };
    let disabled = disable().await;
    assert_eq!(disabled.status(), UserStatus::Disabled);
    assert_eq!(disable().await.etag, disabled.etag, "nothing changed");

    let ended = User {
        expire_time: Some(Timestamp {
            seconds: 1_000_000,
            nanos: 0,
        }),
        ..enable().await
    };
    let ended = update(&admin, ended, &["expire_time"]).await.unwrap();
    assert_eq!(ended.status(), UserStatus::Expired);
    disable().await;
    assert_eq!(enable().await.status(), UserStatus::Expired);

    let unending = User {
        expire_time: None,
        etag: String::new(),
        ..ended
    };
    let unending = update(&admin, unending, &["expire_time"]).await.unwrap();
    assert_eq!(unending.status(), UserStatus::Active);
}

#[tokio::test]
async fn a_repeated_request_makes_one_user() {
    let (_panel, tenant, admin) = setting().await;
    let mut request = create_user(tenant, "ada", &[]);
    request.request_id = "0198c2a4-6d7e-7cc3-98c4-dc0c0c07398f".to_owned();
    let at_once = (0..8).map(|_| {
        let mut users = admin.users();
        let request = admin.ask(request.clone());
        async move {
            users
                .create_user(request)
                .await
                .unwrap()
                .into_inner()
                .user
                .unwrap()
                .id
        }
    });
    let ids: HashSet<String> = futures::future::join_all(at_once)
        .await
        .into_iter()
        .collect();
    assert_eq!(ids.len(), 1);
    request.user = Some(User {
        username: "bob".to_owned(),
        ..User::default()
    });
    let other = admin.users().create_user(admin.ask(request)).await;
    assert_refused(other, Code::InvalidArgument, "REQUEST_ID_REUSED");
}

#[tokio::test]
async fn a_reset_opens_a_new_period_once_for_each_request() {
    let (_panel, tenant, admin) = setting().await;
    let user = admin.new_user(tenant, "ada", &[]).await;
    let reset = async |request_id: &str| {
        let request = ResetUserUsageRequest {
            tenant_id: tenant.to_string(),
            user_id: user.id.clone(),
            request_id: request_id.to_owned(),
        };
        let changed = admin.users().reset_user_usage(admin.ask(request)).await;
        changed
            .unwrap()
            .into_inner()
            .user
            .unwrap()
            .period
            .unwrap()
            .id
    };
    let first = reset("0198c2a4-6d7e-7cc3-98c4-dc0c0c07398f").await;
    assert_ne!(first, user.period.as_ref().unwrap().id);
    assert_eq!(reset("0198c2a4-6d7e-7cc3-98c4-dc0c0c07398f").await, first);
    assert_ne!(reset("").await, first);
}

#[tokio::test]
async fn fifty_users_made_at_once_have_fifty_addresses() {
    let (panel, tenant, admin) = setting().await;
    let node = admin.new_node("n1", None).await;
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    let at_once = (0..50).map(|n| {
        let (admin, group) = (admin.clone(), group.id.clone());
        async move {
            admin
                .new_user(tenant, &format!("user-{n}"), &[&group])
                .await
        }
    });
    futures::future::join_all(at_once).await;
    let facts = panel.store.desired_state(node.id.parse().unwrap()).await;
    let peers: Vec<_> = facts
        .unwrap()
        .users
        .into_iter()
        .flat_map(|user| user.peers)
        .collect();
    assert_eq!(peers.len(), 50);
    let shown = peers.iter().map(|peer| match &peer.access {
        NodePeerAccess::WireGuard {
            ipv4, public_key, ..
        } => (*ipv4, public_key.clone()),
        NodePeerAccess::Xray { .. } => panic!("{peer:?}"),
    });
    let (addresses, keys): (HashSet<_>, HashSet<_>) = shown.unzip();
    assert_eq!((addresses.len(), keys.len()), (50, 50));
}

#[tokio::test]
async fn a_speed_is_bounded_by_what_makes_sense_or_not_at_all() {
    let (_panel, tenant, admin) = setting().await;
    let mut request = create_user(tenant, "ada", &[]);
    if let Some(user) = &mut request.user {
        user.speed_limit_down_bps = 20_000_000;
    }
    let made = admin.users().create_user(admin.ask(request)).await;
    let made = made.unwrap().into_inner().user.unwrap();
    let speeds = |user: &User| (user.speed_limit_up_bps, user.speed_limit_down_bps);
    assert_eq!(speeds(&made), (0, 20_000_000));

    let mut wanted = made.clone();
    wanted.etag.clear();
    wanted.speed_limit_up_bps = 64_000;
    wanted.speed_limit_down_bps = 0;
    let changed = update(&admin, wanted.clone(), &["speed_limit_up_bps"]).await;
    assert_eq!(speeds(&changed.unwrap()), (64_000, 20_000_000));
    let changed = update(&admin, wanted.clone(), &["speed_limit_down_bps"]).await;
    assert_eq!(speeds(&changed.unwrap()), (64_000, 0));
    assert_eq!(speeds(&get(&admin, &made).await.unwrap()), (64_000, 0));

    for bad in [1, 63_999, 10_000_000_001] {
        wanted.speed_limit_up_bps = bad;
        let refused = update(&admin, wanted.clone(), &["speed_limit_up_bps"]).await;
        assert_eq!(fields(refused), ["user.speed_limit_up_bps"], "{bad}");
    }
}
