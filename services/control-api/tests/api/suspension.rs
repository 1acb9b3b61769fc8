//! Suspended tenants, and the limits that only the platform sets.

use tonic::{Code, Status};
use vpnpanel_api::{
    auth::v1::LogoutRequest,
    tenant::v1::{
        GetTenantLimitsRequest, GetTenantRequest, ResumeTenantRequest, SetTenantLimitsRequest,
        SuspendTenantRequest, Tenant, TenantLimits, UpdateTenantRequest,
    },
    user::v1::GetUserRequest,
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused, create_user, fields};

async fn suspend(caller: &Caller, tenant: TenantId) -> Result<Tenant, Status> {
    let request = SuspendTenantRequest {
        tenant_id: tenant.to_string(),
    };
    let changed = caller.tenants().suspend_tenant(caller.ask(request)).await?;
    Ok(changed.into_inner().tenant.unwrap())
}

async fn resume(caller: &Caller, tenant: TenantId) -> Result<Tenant, Status> {
    let request = ResumeTenantRequest {
        tenant_id: tenant.to_string(),
    };
    let changed = caller.tenants().resume_tenant(caller.ask(request)).await?;
    Ok(changed.into_inner().tenant.unwrap())
}

async fn create(caller: &Caller, tenant: TenantId, name: &str) -> Result<(), Status> {
    let request = caller.ask(create_user(tenant, name, &[]));
    caller.users().create_user(request).await.map(drop)
}

#[tokio::test]
async fn members_of_a_suspended_tenant_only_read_and_the_platform_goes_on() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let user = owner.new_user(tenant, "one", &[]).await;
    let suspended = suspend(&admin, tenant).await.unwrap();
    assert!(suspended.suspend_time.is_some());
    let again = suspend(&admin, tenant).await.unwrap();
    assert_eq!(again, suspended);

    let refused = create(&owner, tenant, "two").await;
    assert_refused(refused, Code::PermissionDenied, "TENANT_SUSPENDED");
    let get = || GetUserRequest {
        tenant_id: tenant.to_string(),
        user_id: user.id.clone(),
    };
    let read = owner.users().get_user(owner.ask(get())).await.unwrap();
    assert_eq!(read.into_inner().user.unwrap().status, user.status);
    create(&admin, tenant, "two").await.unwrap();
    // Whoever belongs elsewhere too is hindered only here.
    let other = panel.new_tenant("other").await;
    let elsewhere = panel.signed_in(Role::Owner, Some(other)).await;
    create(&elsewhere, other, "one").await.unwrap();

    let resumed = resume(&admin, tenant).await.unwrap();
    assert_eq!(resumed.suspend_time, None);
    create(&owner, tenant, "three").await.unwrap();
    suspend(&admin, tenant).await.unwrap();
    let out = owner.auth().logout(owner.ask(LogoutRequest {})).await;
    out.unwrap();
}

#[tokio::test]
async fn only_the_platform_suspends_resumes_and_limits() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let refused = suspend(&owner, tenant).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let refused = resume(&owner, tenant).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let request = SetTenantLimitsRequest {
        tenant_id: tenant.to_string(),
        limits: Some(TenantLimits::default()),
        etag: String::new(),
    };
    let refused = owner.tenants().set_tenant_limits(owner.ask(request)).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let request = UpdateTenantRequest {
        tenant: Some(Tenant {
            id: tenant.to_string(),
            limits: Some(TenantLimits {
                max_users: 1_000,
                ..TenantLimits::default()
            }),
            ..Tenant::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["limits".to_owned()],
        }),
    };
    let refused = owner.tenants().update_tenant(owner.ask(request)).await;
    assert_eq!(fields(refused), ["update_mask"]);
    let nowhere = TenantId::from_parts(1, [1; 10]);
    let missing = suspend(&panel.admin().await, nowhere).await;
    assert_refused(missing, Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn a_limit_of_users_holds_for_everybody_until_it_is_lifted() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let limit = async |max_users: u64, etag: &str| {
        let request = SetTenantLimitsRequest {
            tenant_id: tenant.to_string(),
            limits: Some(TenantLimits {
                max_users,
                ..TenantLimits::default()
            }),
            etag: etag.to_owned(),
        };
        let changed = admin
            .tenants()
            .set_tenant_limits(admin.ask(request))
            .await?;
        Ok::<_, Status>(changed.into_inner().tenant.unwrap())
    };
    let limited = limit(1, "").await.unwrap();
    assert_eq!(limited.limits.unwrap().max_users, 1);
    create(&admin, tenant, "one").await.unwrap();
    let refused = create(&admin, tenant, "two").await;
    assert_refused(refused, Code::ResourceExhausted, "LIMIT_REACHED");
    limit(0, &limited.etag).await.unwrap();
    create(&admin, tenant, "two").await.unwrap();
    let stale = limit(5, &limited.etag).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");

    let request = admin.ask(GetTenantRequest {
        tenant_id: tenant.to_string(),
    });
    let shown = admin.tenants().get_tenant(request).await.unwrap();
    let shown = shown.into_inner().tenant.unwrap();
    assert_eq!(shown.limits, Some(TenantLimits::default()));
}

#[tokio::test]
async fn a_tenant_sees_how_far_it_is_in_its_limits() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let auditor = panel.signed_in(Role::Auditor, Some(tenant)).await;
    let seen = async || {
        let request = auditor.ask(GetTenantLimitsRequest {
            tenant_id: tenant.to_string(),
        });
        let answer = auditor.tenants().get_tenant_limits(request).await;
        answer.unwrap().into_inner()
    };
    create(&admin, tenant, "one").await.unwrap();
    let free = seen().await;
    assert_eq!(free.limits, Some(TenantLimits::default()));
    assert_eq!((free.user_count, free.node_count, free.month), (1, 0, None));

    let limits = TenantLimits {
        max_users: 3,
        max_bytes: 1_000,
        ..TenantLimits::default()
    };
    let request = admin.ask(SetTenantLimitsRequest {
        tenant_id: tenant.to_string(),
        limits: Some(limits),
        etag: String::new(),
    });
    admin.tenants().set_tenant_limits(request).await.unwrap();
    create(&admin, tenant, "two").await.unwrap();
    let limited = seen().await;
    assert_eq!((limited.limits, limited.user_count), (Some(limits), 2));
    let month = limited.month.unwrap();
    assert_eq!((month.billed_bytes, month.exhaust_time), (0, None));
    assert!(month.start_time.unwrap().seconds < month.end_time.unwrap().seconds);
}
