//! Tenants.

use prost_types::FieldMask;
use tonic::Code;
use vpnpanel_api::tenant::v1::{
    CreateTenantRequest, ListTenantsRequest, Tenant, UpdateTenantRequest,
};
use vpnpanel_auth::Role;

use crate::support::{Caller, Panel, assert_refused, fields};

async fn create(caller: &Caller, name: &str, zone: &str) -> Result<Tenant, tonic::Status> {
    let request = CreateTenantRequest {
        tenant: Some(Tenant {
            name: name.to_owned(),
            time_zone: zone.to_owned(),
            ..Tenant::default()
        }),
        request_id: String::new(),
    };
    let made = caller.tenants().create_tenant(caller.ask(request)).await?;
    Ok(made.into_inner().tenant.unwrap())
}

async fn listed(caller: &Caller) -> Vec<String> {
    let request = caller.ask(ListTenantsRequest::default());
    let listed = caller.tenants().list_tenants(request).await.unwrap();
    let tenants = listed.into_inner().tenants;
    tenants.into_iter().map(|tenant| tenant.name).collect()
}

#[tokio::test]
async fn the_platform_sees_all_tenants_and_members_their_own() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let acme = create(&admin, "Acme", "Europe/Berlin").await.unwrap();
    assert_eq!(listed(&admin).await, ["default", "Acme"]);
    let owner = panel
        .signed_in(Role::Owner, Some(acme.id.parse().unwrap()))
        .await;
    assert_eq!(listed(&owner).await, ["Acme"]);
    let auditor = panel.signed_in(Role::Auditor, None).await;
    assert_eq!(listed(&auditor).await, ["default", "Acme"]);
}

#[tokio::test]
async fn names_are_unique_and_zones_exist() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let utc = create(&admin, "Acme", "").await.unwrap();
    assert_eq!(utc.time_zone, "UTC");
    let again = create(&admin, " acme ", "").await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");
    let nowhere = create(&admin, "Other", "Mars/Base").await;
    assert_eq!(fields(nowhere), ["tenant.time_zone"]);
    let unnamed = create(&admin, "  ", "").await;
    assert_eq!(fields(unnamed), ["tenant.name"]);
}

#[tokio::test]
async fn an_owner_renames_its_tenant_unless_somebody_was_faster() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let rename = async |name: &str, etag: &str| {
        let request = UpdateTenantRequest {
            tenant: Some(Tenant {
                id: tenant.to_string(),
                name: name.to_owned(),
                time_zone: "Asia/Tokyo".to_owned(),
                etag: etag.to_owned(),
                ..Tenant::default()
            }),
            update_mask: Some(FieldMask {
                paths: vec!["name".to_owned()],
            }),
        };
        let changed = owner.tenants().update_tenant(owner.ask(request)).await?;
        Ok::<_, tonic::Status>(changed.into_inner().tenant.unwrap())
    };
    let renamed = rename("Acme", "").await.unwrap();
    assert_eq!(
        (renamed.name.as_str(), renamed.time_zone.as_str()),
        ("Acme", "UTC")
    );
    rename("Acme 2", &renamed.etag).await.unwrap();
    let stale = rename("Acme 3", &renamed.etag).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
}
