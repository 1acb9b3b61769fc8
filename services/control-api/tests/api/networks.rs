//! Roles on the platform act from the networks of administration only, and nobody talks their way
//! into one of them.

use tonic::{Code, Status};
use vpnpanel_api::{
    auth::v1::{ApiToken, CreateApiTokenRequest, GetMeRequest, LoginRequest},
    tenant::v1::{CreateTenantRequest, ListTenantsRequest, Tenant},
    user::v1::ListUsersRequest,
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{Caller, PASSWORD, Panel, assert_refused};

const NETWORKS: [(&str, &str); 1] = [("VPNPANEL_ADMIN_CIDRS", "10.0.0.0/8,2001:db8:ad::/48")];

async fn create_tenant(caller: &Caller, name: &str) -> Result<(), Status> {
    let request = caller.ask(CreateTenantRequest {
        tenant: Some(Tenant {
            name: name.to_owned(),
            ..Tenant::default()
        }),
        ..CreateTenantRequest::default()
    });
    caller.tenants().create_tenant(request).await.map(drop)
}

async fn list_users(caller: &Caller, tenant: TenantId) -> Result<(), Status> {
    let request = caller.ask(ListUsersRequest {
        tenant_id: tenant.to_string(),
        ..ListUsersRequest::default()
    });
    caller.users().list_users(request).await.map(drop)
}

#[tokio::test]
async fn a_role_on_the_platform_counts_in_the_admin_networks_only() {
    let panel = Panel::start_with(&NETWORKS).await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    for (n, inside) in ["10.1.2.3", "::ffff:10.9.9.9", "2001:db8:ad::1"]
        .iter()
        .enumerate()
    {
        let admin = admin.saying(inside);
        create_tenant(&admin, &format!("made {n}")).await.unwrap();
        list_users(&admin, tenant).await.unwrap();
    }
    for outside in ["203.0.113.5", "2001:db8:ae::1", "::10.1.2.3", "11.0.0.1"] {
        let admin = admin.saying(outside);
        let refused = create_tenant(&admin, "no").await;
        assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
        // Nor does it count inside of a tenant, or in what a handler decides.
        let refused = list_users(&admin, tenant).await;
        assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
        let request = admin.ask(ListTenantsRequest::default());
        let tenants = admin.tenants().list_tenants(request).await;
        assert!(tenants.unwrap().into_inner().tenants.is_empty());
        admin
            .auth()
            .get_me(admin.ask(GetMeRequest {}))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn neither_an_api_token_nor_a_token_for_one_tenant_takes_a_role_on_the_platform_outside() {
    let panel = Panel::start_with(&NETWORKS).await;
    let tenant = panel.default_tenant().await;
    let (_, email) = panel.account(Role::Admin, None).await;
    let request = LoginRequest {
        email: email.clone(),
        password: PASSWORD.to_owned(),
        tenant_id: tenant.to_string(),
        ..LoginRequest::default()
    };
    let narrow = panel.anybody().auth().login(request).await.unwrap();
    let narrow = panel.with_token(&narrow.into_inner().access_token);
    let admin = panel.sign_in(&email, PASSWORD).await.saying("10.1.2.3");
    let request = admin.ask(CreateApiTokenRequest {
        api_token: Some(ApiToken {
            name: "backup".to_owned(),
            tenant_id: tenant.to_string(),
            permissions: vec!["user.read".to_owned()],
            ..ApiToken::default()
        }),
    });
    let made = admin.auth().create_api_token(request).await.unwrap();
    let token = panel.with_token(&made.into_inner().token);
    for caller in [narrow, token] {
        list_users(&caller.saying("10.1.2.3"), tenant)
            .await
            .unwrap();
        let refused = list_users(&caller.saying("203.0.113.5"), tenant).await;
        assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
    }
}

#[tokio::test]
async fn a_role_in_a_tenant_counts_everywhere() {
    let panel = Panel::start_with(&NETWORKS).await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let owner = owner.saying("203.0.113.5");
    list_users(&owner, tenant).await.unwrap();
    // Others are told nothing of what would be permitted from elsewhere.
    let refused = create_tenant(&owner, "no").await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let elsewhere = panel.new_tenant("elsewhere").await;
    let refused = list_users(&owner, elsewhere).await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn nobody_talks_their_way_into_a_network() {
    let panel = Panel::start_with(&NETWORKS).await;
    let token = panel.admin().await;
    let stranger = token.over(&panel.connected_from("203.0.113.5"));
    for said in [
        "10.0.0.1",
        "10.0.0.1, 10.0.0.1",
        "for=10.0.0.1",
        "garbage",
        "",
    ] {
        let refused = create_tenant(&stranger.saying(said), "no").await;
        assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
    }
    let admin = token.over(&panel.connected_from("10.0.0.7"));
    create_tenant(&admin, "yes").await.unwrap();
    let mapped = token.over(&panel.connected_from("::ffff:10.0.0.7"));
    create_tenant(&mapped, "yes, too").await.unwrap();
    // Where the address is not known, it is none of them.
    let refused = create_tenant(&token, "no").await;
    assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
}

#[tokio::test]
async fn a_gateway_in_a_process_of_its_own_is_believed_when_it_is_trusted() {
    let trusting = [NETWORKS[0], ("VPNPANEL_TRUSTED_PROXIES", "192.0.2.0/24")];
    let panel = Panel::start_with(&trusting).await;
    let admin = panel.admin().await;
    let through = |proxy| admin.over(&panel.connected_from(proxy));
    let gateway = through("192.0.2.8");
    create_tenant(&gateway.saying("10.0.0.7"), "yes")
        .await
        .unwrap();
    for said in ["203.0.113.5", "10.0.0.7, 203.0.113.5", "10.0.0.7, junk"] {
        let refused = create_tenant(&gateway.saying(said), "no").await;
        assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
    }
    let refused = create_tenant(&through("192.0.3.8").saying("10.0.0.7"), "no").await;
    assert_refused(refused, Code::PermissionDenied, "ADMIN_NETWORK_REQUIRED");
}
