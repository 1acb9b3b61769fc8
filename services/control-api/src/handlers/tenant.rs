//! Tenants.

use vpnpanel_api::tenant::v1::{
    CreateTenantRequest, CreateTenantResponse, GetTenantLimitsRequest, GetTenantLimitsResponse,
    GetTenantRequest, GetTenantResponse, ListTenantsRequest, ListTenantsResponse,
    ResumeTenantRequest, ResumeTenantResponse, SetTenantLimitsRequest, SetTenantLimitsResponse,
    SuspendTenantRequest, SuspendTenantResponse, Tenant, TenantLimits as WireLimits, TenantMonth,
    UpdateTenantRequest, UpdateTenantResponse,
};
use vpnpanel_auth::Reach;
use vpnpanel_domain::{TenantId, Zone};
use vpnpanel_store::{self as store, NewTenant, TenantLimits, TenantPatch, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

const CHANGEABLE: &[&str] = &["name", "time_zone", "require_second_factor"];

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateTenantRequest,
) -> Result<CreateTenantResponse, Error> {
    let key = request::key(caller, None, "CreateTenant", &message.request_id, &message)?;
    let tenant = message.tenant.unwrap_or_default();
    let new = NewTenant {
        id: fresh_id(),
        name: text::name("tenant.name", &tenant.name)?,
        time_zone: zone(&tenant.time_zone)?,
        limits: limits(tenant.limits.unwrap_or_default()),
    };
    let made = context
        .acting(caller)
        .create_tenant(new, key.as_ref())
        .await?;
    Ok(CreateTenantResponse {
        tenant: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetTenantRequest,
) -> Result<GetTenantResponse, Error> {
    let id = ids::required("tenant_id", &message.tenant_id)?;
    Ok(GetTenantResponse {
        tenant: Some(context.store.tenant(id).await?.into_wire()),
    })
}

pub(crate) async fn get_limits(
    context: &Context,
    _caller: &Caller,
    message: GetTenantLimitsRequest,
) -> Result<GetTenantLimitsResponse, Error> {
    let id = ids::required("tenant_id", &message.tenant_id)?;
    let tenant = context.store.tenant(id).await?;
    let used = context.store.tenant_use(id).await?;
    Ok(GetTenantLimitsResponse {
        limits: Some(tenant.limits.into_wire()),
        user_count: used.users,
        node_count: used.nodes,
        month: used.month.map(IntoWire::into_wire),
    })
}

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListTenantsRequest,
) -> Result<ListTenantsResponse, Error> {
    let principal = caller.principal()?;
    if let Reach::Tenant(only) = principal.reach {
        let only = principal.belongs_to(Some(only)).then_some(only);
        return only_one(context, only).await;
    }
    if principal.reach == Reach::Platform && !principal.permits("tenant.read", None) {
        // A token for the platform says nothing about the tenants that its account belongs to.
        return only_one(context, None).await;
    }
    // Those of the platform see all tenants, others their own.
    let member = (!principal.permits("tenant.read", None)).then_some(principal.account);
    let list = List::new("tenants").of(member.map(|id| id.to_string()).unwrap_or_default());
    let page = list.page(message.page_size, &message.page_token)?;
    let mut tenants = context.store.tenants(member, page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut tenants, |tenant| tenant.id.uuid());
    Ok(ListTenantsResponse {
        tenants: tenants.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateTenantRequest,
) -> Result<UpdateTenantResponse, Error> {
    let tenant = message.tenant.unwrap_or_default();
    let id: TenantId = ids::required("tenant.id", &tenant.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let name = mask.take("name", !tenant.name.is_empty(), &tenant.name);
    let time_zone = mask.take("time_zone", !tenant.time_zone.is_empty(), &tenant.time_zone);
    let patch = TenantPatch {
        name: name
            .map(|name| text::name("tenant.name", name))
            .transpose()?,
        time_zone: time_zone.map(|name| zone(name)).transpose()?,
        limits: None,
        require_second_factor: mask.take(
            "require_second_factor",
            tenant.require_second_factor,
            tenant.require_second_factor,
        ),
    };
    let concerns_members = patch.require_second_factor.is_some();
    let version = etag::expected(&tenant.etag)?;
    let changed = context
        .acting(caller)
        .update_tenant(id, patch, version)
        .await?;
    if concerns_members {
        context.standings.forget_tenant(id);
    }
    Ok(UpdateTenantResponse {
        tenant: Some(changed.into_wire()),
    })
}

pub(crate) async fn set_limits(
    context: &Context,
    caller: &Caller,
    message: SetTenantLimitsRequest,
) -> Result<SetTenantLimitsResponse, Error> {
    let id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let patch = TenantPatch {
        limits: Some(limits(message.limits.unwrap_or_default())),
        ..TenantPatch::default()
    };
    let version = etag::expected(&message.etag)?;
    let changed = context
        .acting(caller)
        .update_tenant(id, patch, version)
        .await?;
    Ok(SetTenantLimitsResponse {
        tenant: Some(changed.into_wire()),
    })
}

pub(crate) async fn suspend(
    context: &Context,
    caller: &Caller,
    message: SuspendTenantRequest,
) -> Result<SuspendTenantResponse, Error> {
    let tenant = set_suspended(context, caller, &message.tenant_id, true).await?;
    Ok(SuspendTenantResponse {
        tenant: Some(tenant),
    })
}

pub(crate) async fn resume(
    context: &Context,
    caller: &Caller,
    message: ResumeTenantRequest,
) -> Result<ResumeTenantResponse, Error> {
    let tenant = set_suspended(context, caller, &message.tenant_id, false).await?;
    Ok(ResumeTenantResponse {
        tenant: Some(tenant),
    })
}

async fn set_suspended(
    context: &Context,
    caller: &Caller,
    id: &str,
    suspended: bool,
) -> Result<Tenant, Error> {
    let id: TenantId = ids::required("tenant_id", id)?;
    let tenant = context
        .acting(caller)
        .set_tenant_suspended(id, suspended)
        .await?;
    context.standings.forget_tenant(id);
    tracing::info!(event = "tenant_suspension", tenant_id = %id, suspended);
    Ok(tenant.into_wire())
}

fn limits(wire: WireLimits) -> TenantLimits {
    let limit = |most: u64| Some(most).filter(|&most| most > 0);
    TenantLimits {
        users: limit(wire.max_users),
        nodes: limit(wire.max_nodes),
        bytes: limit(wire.max_bytes),
    }
}

/// What a credential sees that is for one tenant.
async fn only_one(context: &Context, id: Option<TenantId>) -> Result<ListTenantsResponse, Error> {
    let mut answer = ListTenantsResponse::default();
    if let Some(id) = id {
        answer.tenants = vec![context.store.tenant(id).await?.into_wire()];
    }
    Ok(answer)
}

fn zone(name: &str) -> Result<Zone, Error> {
    if name.is_empty() {
        return Ok(Zone::utc());
    }
    name.parse().map_err(|error: vpnpanel_domain::Error| {
        Error::field("tenant.time_zone", error.to_string())
    })
}

impl IntoWire for store::Tenant {
    type Wire = Tenant;

    fn into_wire(self) -> Tenant {
        Tenant {
            id: self.id.to_string(),
            name: self.name,
            time_zone: self.time_zone.name().to_owned(),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
            limits: Some(self.limits.into_wire()),
            suspend_time: self.suspended_at_ms.map(time::timestamp),
            require_second_factor: self.require_second_factor,
        }
    }
}

impl IntoWire for TenantLimits {
    type Wire = WireLimits;

    fn into_wire(self) -> WireLimits {
        WireLimits {
            max_users: self.users.unwrap_or_default(),
            max_nodes: self.nodes.unwrap_or_default(),
            max_bytes: self.bytes.unwrap_or_default(),
        }
    }
}

impl IntoWire for store::TenantMonth {
    type Wire = TenantMonth;

    fn into_wire(self) -> TenantMonth {
        TenantMonth {
            start_time: Some(time::timestamp(self.starts_at_ms)),
            end_time: Some(time::timestamp(self.ends_at_ms)),
            billed_bytes: self.used.floor_bytes(),
            exhaust_time: self.over_at_ms.map(time::timestamp),
        }
    }
}
