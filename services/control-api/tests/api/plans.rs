//! Plans, and the life of users that are given them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_types::{Duration, FieldMask};
use tonic::Code;
use vpnpanel_api::plan::v1::{
    CreatePlanRequest, DeletePlanRequest, GetPlanRequest, ListPlansRequest, Plan,
    UndeletePlanRequest, UpdatePlanRequest,
};
use vpnpanel_api::user::v1::{
    ChangeUserPlanRequest, CreateUserDeviceRequest, CreateUserRequest, DeleteUserDeviceRequest,
    DeleteUserRequest, Device, ExtendUserRequest, ListUserConnectionsRequest,
    ListUserDevicesRequest, ListUsersRequest, NextPlan, NextPlanStart, ResetStrategy,
    UndeleteUserRequest, UpdateUserRequest, UsageReset, User, UserStatus,
};
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused, fields};

const DAY_S: i64 = 86_400;

async fn setting() -> (Panel, TenantId, Caller) {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    (panel, tenant, admin)
}

fn days(days: i64) -> Option<Duration> {
    Some(Duration {
        seconds: days * DAY_S,
        nanos: 0,
    })
}

async fn make(caller: &Caller, tenant: TenantId, plan: Plan) -> Result<Plan, tonic::Status> {
    let request = CreatePlanRequest {
        tenant_id: tenant.to_string(),
        plan: Some(plan),
        request_id: String::new(),
    };
    let made = caller.plans().create_plan(caller.ask(request)).await?;
    Ok(made.into_inner().plan.unwrap())
}

pub(crate) async fn new_plan(caller: &Caller, tenant: TenantId, name: &str) -> Plan {
    let plan = Plan {
        name: name.to_owned(),
        data_limit_bytes: 5_000,
        usage_reset: Some(UsageReset {
            strategy: ResetStrategy::Monthly.into(),
            rolling_days: 0,
        }),
        duration: days(30),
        speed_limit_up_bps: 1_000_000,
        device_limit: 2,
        ..Plan::default()
    };
    make(caller, tenant, plan).await.unwrap()
}

async fn user(caller: &Caller, tenant: TenantId, user: User) -> Result<User, tonic::Status> {
    let request = CreateUserRequest {
        tenant_id: tenant.to_string(),
        user: Some(user),
        request_id: String::new(),
    };
    let made = caller.users().create_user(caller.ask(request)).await?;
    Ok(made.into_inner().user.unwrap())
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

#[tokio::test]
async fn a_plan_is_made_listed_changed_archived_and_deleted() {
    let (_panel, tenant, admin) = setting().await;
    let tenant_id = tenant.to_string();
    let plan = new_plan(&admin, tenant, "Month").await;
    let again = Plan {
        name: "month".to_owned(),
        ..Plan::default()
    };
    let again = make(&admin, tenant, again).await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");
    let get = GetPlanRequest {
        tenant_id: tenant_id.clone(),
        plan_id: plan.id.clone(),
    };
    let got = admin.plans().get_plan(admin.ask(get.clone())).await;
    assert_eq!(got.unwrap().into_inner().plan.unwrap(), plan);

    let change = |plan: Plan, paths: &[&str]| {
        admin.ask(UpdatePlanRequest {
            plan: Some(plan),
            update_mask: Some(FieldMask {
                paths: paths.iter().map(|&path| path.to_owned()).collect(),
            }),
        })
    };
    let renews = Plan {
        duration: None,
        next_plan: Some(NextPlan {
            plan_id: plan.id.clone(),
            start: NextPlanStart::PlanEnd.into(),
        }),
        ..plan.clone()
    };
    let changed = change(renews.clone(), &["next_plan", "duration"]);
    let changed = admin.plans().update_plan(changed).await.unwrap();
    let changed = changed.into_inner().plan.unwrap();
    assert_eq!(changed.next_plan, renews.next_plan);
    assert_eq!((changed.duration, changed.data_limit_bytes), (None, 5_000));
    let stale = admin.plans().update_plan(change(renews, &["note"])).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    let first_use = Plan {
        starts_on_first_use: true,
        etag: String::new(),
        ..changed.clone()
    };
    let refused = change(first_use, &["starts_on_first_use"]);
    let refused = admin.plans().update_plan(refused).await;
    assert_eq!(fields(refused), ["starts_on_first_use"]);

    let ada = User {
        username: "ada".to_owned(),
        plan_id: plan.id.clone(),
        ..User::default()
    };
    user(&admin, tenant, ada).await.unwrap();
    let delete = DeletePlanRequest {
        tenant_id: tenant_id.clone(),
        plan_id: plan.id.clone(),
        etag: String::new(),
    };
    let archived = admin.plans().delete_plan(admin.ask(delete)).await.unwrap();
    let archived = archived.into_inner().plan.unwrap();
    assert!(archived.archive_time.is_some());
    let list = |show_archived| ListPlansRequest {
        tenant_id: tenant_id.clone(),
        show_archived,
        ..ListPlansRequest::default()
    };
    for (show, count) in [(false, 0), (true, 1)] {
        let listed = admin.plans().list_plans(admin.ask(list(show))).await;
        assert_eq!(listed.unwrap().into_inner().plans.len(), count);
    }
    let bob = User {
        username: "bob".to_owned(),
        plan_id: plan.id.clone(),
        ..User::default()
    };
    let refused = user(&admin, tenant, bob).await;
    assert_refused(refused, Code::FailedPrecondition, "PLAN_ARCHIVED");
    let undelete = UndeletePlanRequest {
        tenant_id: tenant_id.clone(),
        plan_id: plan.id.clone(),
    };
    let back = admin.plans().undelete_plan(admin.ask(undelete)).await;
    assert_eq!(back.unwrap().into_inner().plan.unwrap().archive_time, None);

    let unused = make(
        &admin,
        tenant,
        Plan {
            name: "unused".to_owned(),
            ..Plan::default()
        },
    );
    let unused = unused.await.unwrap();
    let delete = DeletePlanRequest {
        tenant_id: tenant_id.clone(),
        plan_id: unused.id.clone(),
        etag: unused.etag,
    };
    let gone = admin.plans().delete_plan(admin.ask(delete.clone())).await;
    assert_eq!(gone.unwrap().into_inner().plan, None);
    let gone = admin.plans().delete_plan(admin.ask(delete)).await;
    assert_refused(gone, Code::NotFound, "PLAN_NOT_FOUND");
}

#[tokio::test]
async fn junk_in_a_plan_names_its_fields() {
    let (_panel, tenant, admin) = setting().await;
    let named = Plan {
        name: "plan".to_owned(),
        ..Plan::default()
    };
    for (plan, field) in [
        (Plan::default(), "plan.name"),
        (
            Plan {
                starts_on_first_use: true,
                ..named.clone()
            },
            "plan.starts_on_first_use",
        ),
        (
            Plan {
                duration: Some(Duration {
                    seconds: 60,
                    nanos: 0,
                }),
                ..named.clone()
            },
            "plan.duration",
        ),
        (
            Plan {
                speed_limit_up_bps: 1,
                ..named.clone()
            },
            "plan.speed_limit_up_bps",
        ),
        (
            Plan {
                next_plan: Some(NextPlan {
                    plan_id: "x".to_owned(),
                    ..NextPlan::default()
                }),
                ..named.clone()
            },
            "plan.next_plan.plan_id",
        ),
        (
            Plan {
                usage_reset: Some(UsageReset {
                    strategy: ResetStrategy::Daily.into(),
                    rolling_days: 2,
                }),
                ..named.clone()
            },
            "plan.usage_reset.rolling_days",
        ),
    ] {
        let refused = make(&admin, tenant, plan).await;
        assert_eq!(fields(refused), [field]);
    }
    let elsewhere = Plan {
        next_plan: Some(NextPlan {
            plan_id: tenant.to_string(),
            ..NextPlan::default()
        }),
        ..named
    };
    let refused = make(&admin, tenant, elsewhere).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");
}

#[tokio::test]
async fn a_user_has_what_its_plan_says_where_it_is_given_nothing_else() {
    let (panel, tenant, admin) = setting().await;
    let plan = new_plan(&admin, tenant, "month").await;
    let ada = User {
        username: "ada".to_owned(),
        plan_id: plan.id.clone(),
        ..User::default()
    };
    let made = user(&admin, tenant, ada.clone()).await.unwrap();
    assert_eq!(made.plan_id, plan.id);
    assert_eq!((made.data_limit_bytes, made.device_limit), (5_000, 2));
    assert_eq!(made.speed_limit_up_bps, 1_000_000);
    assert_eq!(made.usage_reset, plan.usage_reset);
    let ends = made.expire_time.unwrap().seconds * 1_000 - panel.store.now_ms();
    assert!((ends - 30 * DAY_S * 1_000).abs() < 60_000, "{ends}");

    let bob = User {
        username: "bob".to_owned(),
        data_limit_bytes: 7,
        on_hold_duration: days(3),
        ..ada
    };
    let made = user(&admin, tenant, bob.clone()).await.unwrap();
    assert_eq!((made.data_limit_bytes, made.device_limit), (7, 2));
    assert_eq!(made.status(), UserStatus::OnHold);
    assert_eq!((made.expire_time, made.on_hold_duration), (None, days(3)));
    let both = User {
        username: "carol".to_owned(),
        expire_time: Some(prost_types::Timestamp::default()),
        ..bob.clone()
    };
    let refused = user(&admin, tenant, both).await;
    assert_eq!(fields(refused), ["user.on_hold_duration"]);
    let elsewhere = User {
        plan_id: tenant.to_string(),
        ..bob
    };
    let refused = user(&admin, tenant, elsewhere).await;
    assert_refused(refused, Code::InvalidArgument, "INVALID_REFERENCE");

    let list = ListUsersRequest {
        tenant_id: tenant.to_string(),
        plan_id: plan.id.clone(),
        status: UserStatus::OnHold.into(),
        ..ListUsersRequest::default()
    };
    let listed = admin.users().list_users(admin.ask(list)).await.unwrap();
    let shown = User {
        subscription_url: String::new(),
        ..made
    };
    assert_eq!(listed.into_inner().users, [shown]);
}

#[tokio::test]
async fn a_plan_is_changed_now_or_waits_in_the_queue() {
    let (_panel, tenant, admin) = setting().await;
    let plan = new_plan(&admin, tenant, "month").await;
    let ada = admin.new_user(tenant, "ada", &[]).await;
    let waits = User {
        next_plan: Some(NextPlan {
            plan_id: plan.id.clone(),
            start: NextPlanStart::Unspecified.into(),
        }),
        ..ada.clone()
    };
    let ada = update(&admin, waits, &["next_plan"]).await.unwrap();
    let next = ada.next_plan.clone().unwrap();
    assert_eq!(next.plan_id, plan.id);
    assert_eq!(next.start(), NextPlanStart::FirstEnd);
    let none = User {
        next_plan: None,
        ..ada.clone()
    };
    let ada = update(&admin, none, &["next_plan"]).await.unwrap();
    assert_eq!(ada.next_plan, None);

    let change = |etag: &str, request_id: &str| {
        admin.ask(ChangeUserPlanRequest {
            tenant_id: tenant.to_string(),
            user_id: ada.id.clone(),
            plan_id: plan.id.clone(),
            etag: etag.to_owned(),
            request_id: request_id.to_owned(),
        })
    };
    let stale = admin.users().change_user_plan(change("v1", "")).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    let id = "01970000-0000-7000-8000-000000000001";
    let mut seen = Vec::new();
    for _ in 0..2 {
        let changed = admin.users().change_user_plan(change("", id)).await;
        seen.push(changed.unwrap().into_inner().user.unwrap());
    }
    assert_eq!(seen[0], seen[1], "asked twice it is done once");
    assert_eq!(seen[0].data_limit_bytes, 5_000);
    assert_ne!(seen[0].period.as_ref().unwrap().id, ada.period.unwrap().id);
}

#[tokio::test]
async fn a_user_is_extended_once_for_each_request() {
    let (_panel, tenant, admin) = setting().await;
    let plan = new_plan(&admin, tenant, "month").await;
    let ada = User {
        username: "ada".to_owned(),
        plan_id: plan.id,
        ..User::default()
    };
    let ada = user(&admin, tenant, ada).await.unwrap();
    let request = ExtendUserRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
        days: 10,
        data_bytes: 500,
        request_id: "01970000-0000-7000-8000-000000000002".to_owned(),
    };
    for _ in 0..2 {
        let longer = admin.users().extend_user(admin.ask(request.clone())).await;
        let longer = longer.unwrap().into_inner().user.unwrap();
        let (before, after) = (ada.expire_time.unwrap(), longer.expire_time.unwrap());
        assert_eq!(after.seconds - before.seconds, 10 * DAY_S);
        assert_eq!(longer.data_limit_bytes, 5_000);
        assert_eq!(longer.period.unwrap().data_limit_bytes, 5_500);
    }
    let nothing = ExtendUserRequest {
        days: 0,
        data_bytes: 0,
        request_id: String::new(),
        ..request.clone()
    };
    let refused = admin.users().extend_user(admin.ask(nothing)).await;
    assert_eq!(fields(refused), ["days"]);
    let bob = admin.new_user(tenant, "bob", &[]).await;
    for (days, data_bytes, reason) in [(1, 0, "NO_EXPIRE_TIME"), (0, 1, "NO_DATA_LIMIT")] {
        let more = ExtendUserRequest {
            user_id: bob.id.clone(),
            days,
            data_bytes,
            request_id: String::new(),
            ..request.clone()
        };
        let refused = admin.users().extend_user(admin.ask(more)).await;
        assert_refused(refused, Code::FailedPrecondition, reason);
    }
}

#[tokio::test]
async fn a_deleted_user_is_found_and_taken_back() {
    let (_panel, tenant, admin) = setting().await;
    let ada = admin.new_user(tenant, "ada", &[]).await;
    let delete = DeleteUserRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
        etag: String::new(),
    };
    admin.users().delete_user(admin.ask(delete)).await.unwrap();
    let list = ListUsersRequest {
        tenant_id: tenant.to_string(),
        status: UserStatus::Deleted.into(),
        ..ListUsersRequest::default()
    };
    let listed = admin.users().list_users(admin.ask(list)).await.unwrap();
    let listed = listed.into_inner().users;
    assert_eq!(listed[0].id, ada.id);
    assert_eq!(listed[0].status(), UserStatus::Deleted);
    assert!(listed[0].delete_time.is_some());
    let undelete = UndeleteUserRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
    };
    let back = admin.users().undelete_user(admin.ask(undelete)).await;
    let back = back.unwrap().into_inner().user.unwrap();
    assert_eq!(
        (back.status(), back.delete_time),
        (UserStatus::Active, None)
    );
    assert_eq!(back.period, ada.period);
}

#[tokio::test]
async fn a_user_brings_a_key_that_is_never_known_here() {
    let (_panel, tenant, admin) = setting().await;
    admin.new_node("n1", None).await;
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    let ada = User {
        username: "ada".to_owned(),
        device_limit: 2,
        group_ids: vec![group.id],
        ..User::default()
    };
    let ada = user(&admin, tenant, ada).await.unwrap();
    let device = |name: &str, public_key: Vec<u8>| {
        admin.ask(CreateUserDeviceRequest {
            tenant_id: tenant.to_string(),
            user_id: ada.id.clone(),
            device: Some(Device {
                name: name.to_owned(),
                public_key,
                ..Device::default()
            }),
            request_id: String::new(),
        })
    };
    for bad in [vec![1; 31], vec![0; 32]] {
        let refused = admin.users().create_user_device(device("x", bad)).await;
        assert_eq!(fields(refused), ["device.public_key"]);
    }
    // Curve25519's base point: some key.
    let mut key = vec![0; 32];
    key[0] = 9;
    let made = admin
        .users()
        .create_user_device(device("laptop", key.clone()))
        .await;
    let made = made.unwrap().into_inner().device.unwrap();
    assert!(made.key_is_users);
    assert_eq!(made.public_key, key);
    let more = admin
        .users()
        .create_user_device(device("phone", vec![]))
        .await;
    assert_refused(more, Code::ResourceExhausted, "LIMIT_REACHED");

    let list = ListUserDevicesRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
    };
    let listed = admin.users().list_user_devices(admin.ask(list)).await;
    let listed = listed.unwrap().into_inner().devices;
    assert_eq!(listed.len(), 2);
    assert!(!listed[0].key_is_users);
    let connections = ListUserConnectionsRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
    };
    let shown = admin
        .users()
        .list_user_connections(admin.ask(connections))
        .await;
    let shown = shown.unwrap().into_inner().connections;
    let own: Vec<_> = shown
        .iter()
        .filter(|it| !it.wireguard_config.contains("PrivateKey = "))
        .collect();
    assert_eq!((shown.len(), own.len()), (2, 1));
    assert!(own[0].wireguard_config.contains("PresharedKey = "));
    assert!(!own[0].wireguard_config.contains(&STANDARD.encode(&key)));

    let delete = DeleteUserDeviceRequest {
        tenant_id: tenant.to_string(),
        user_id: ada.id.clone(),
        device_id: made.id,
    };
    let gone = admin
        .users()
        .delete_user_device(admin.ask(delete.clone()))
        .await;
    gone.unwrap();
    let gone = admin.users().delete_user_device(admin.ask(delete)).await;
    assert_refused(gone, Code::NotFound, "DEVICE_NOT_FOUND");
    let made = admin
        .users()
        .create_user_device(device("phone", vec![]))
        .await;
    assert!(!made.unwrap().into_inner().device.unwrap().key_is_users);
}
