//! Inbounds.

use vpnpanel_api::access::v1::{
    CreateInboundRequest, CreateInboundResponse, DeleteInboundRequest, DeleteInboundResponse,
    GetInboundRequest, GetInboundResponse, Inbound, ListInboundsRequest, ListInboundsResponse,
    NodeSelector, UpdateInboundRequest, UpdateInboundResponse,
};
use vpnpanel_domain::{InboundId, TenantId};
use vpnpanel_store::{self as store, InboundPatch, NewInbound, StoreError, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    inbound_settings,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

/// Fields of every inbound that an update can name.
const OWN_FIELDS: &[&str] = &["name", "nodes", "offered_to_tenants"];

/// How often a change of a part of the settings is tried when others change them meanwhile.
const ATTEMPTS: usize = 4;

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateInboundRequest,
) -> Result<CreateInboundResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        tenant_id,
        "CreateInbound",
        &message.request_id,
        &message,
    )?;
    let inbound = message.inbound.unwrap_or_default();
    let id = fresh_id();
    let wire = inbound.settings.as_ref();
    let change = inbound_settings::on_create(&context.vault, id, wire, context.store.now_ms())?;
    let new = NewInbound {
        id,
        tenant_id,
        name: text::name("inbound.name", &inbound.name)?,
        nodes: selector(inbound.nodes.unwrap_or_default())?,
        offered: offered(tenant_id, inbound.offered_to_tenants)?,
        settings: change.settings,
        sealed_secret: change.sealed_secret.flatten(),
    };
    let made = context
        .acting(caller)
        .create_inbound(new, &context.vault, key.as_ref())
        .await?;
    Ok(CreateInboundResponse {
        inbound: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetInboundRequest,
) -> Result<GetInboundResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("inbound_id", &message.inbound_id)?;
    let found = context.store.inbound(tenant_id, id).await?;
    Ok(GetInboundResponse {
        inbound: Some(found.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListInboundsRequest,
) -> Result<ListInboundsResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let list = List::new("inbounds").of(&message.tenant_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut inbounds = context.store.inbounds(tenant_id, page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut inbounds, |inbound| inbound.id.uuid());
    Ok(ListInboundsResponse {
        inbounds: inbounds.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateInboundRequest,
) -> Result<UpdateInboundResponse, Error> {
    let inbound = message.inbound.unwrap_or_default();
    let tenant_id: Option<TenantId> = ids::optional("inbound.tenant_id", &inbound.tenant_id)?;
    let id: InboundId = ids::required("inbound.id", &inbound.id)?;
    let expected = etag::expected(&inbound.etag)?;
    for attempt in 1.. {
        // Settings are kept whole. Where a part of them changes, the rest is taken from what is
        // read here, which must not have changed until it is written.
        let before = context.store.inbound(tenant_id, id).await?;
        let changeable = [OWN_FIELDS, inbound_settings::fields(&before.settings)].concat();
        let mask = Mask::read(message.update_mask.as_ref(), &changeable)?;
        let change = inbound_settings::on_update(
            &context.vault,
            id,
            &mask,
            inbound.settings.as_ref(),
            &before.settings,
            context.store.now_ms(),
        )?;
        let version = expected.or(change.is_some().then_some(before.version));
        let patch = patch(&mask, tenant_id, &inbound, change)?;
        let outcome = context
            .acting(caller)
            .update_inbound(tenant_id, id, patch, version, &context.vault)
            .await;
        match outcome {
            Err(StoreError::StaleVersion) if expected.is_none() && attempt < ATTEMPTS => {}
            outcome => {
                return Ok(UpdateInboundResponse {
                    inbound: Some(outcome?.into_wire()),
                });
            }
        }
    }
    Err(Error::Stale)
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteInboundRequest,
) -> Result<DeleteInboundResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("inbound_id", &message.inbound_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_inbound(tenant_id, id, version)
        .await?;
    Ok(DeleteInboundResponse {})
}

fn patch(
    mask: &Mask<'_>,
    tenant: Option<TenantId>,
    inbound: &Inbound,
    change: Option<inbound_settings::Change>,
) -> Result<InboundPatch, Error> {
    let name = mask.take("name", !inbound.name.is_empty(), &inbound.name);
    let offer = inbound.offered_to_tenants;
    let offer = mask.take("offered_to_tenants", offer, offer);
    let nodes = mask.take("nodes", inbound.nodes.is_some(), inbound.nodes.clone());
    let (settings, sealed_secret) = change
        .map(|change| (change.settings, change.sealed_secret))
        .unzip();
    Ok(InboundPatch {
        name: name
            .map(|name| text::name("inbound.name", name))
            .transpose()?,
        nodes: nodes
            .map(|nodes| selector(nodes.unwrap_or_default()))
            .transpose()?,
        offered: offer.map(|is| offered(tenant, is)).transpose()?,
        settings,
        sealed_secret: sealed_secret.flatten(),
    })
}

fn offered(tenant: Option<TenantId>, offered: bool) -> Result<bool, Error> {
    if offered && tenant.is_some() {
        return Err(Error::field(
            "inbound.offered_to_tenants",
            "is for inbounds of the platform",
        ));
    }
    Ok(offered)
}

fn selector(nodes: NodeSelector) -> Result<store::NodeSelector, Error> {
    let ids = ids::list("inbound.nodes.node_ids", &nodes.node_ids)?;
    Ok(store::NodeSelector {
        node_ids: ids.into_iter().collect(),
        labels: nodes.labels,
    })
}

impl IntoWire for store::Inbound {
    type Wire = Inbound;

    fn into_wire(self) -> Inbound {
        Inbound {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
            name: self.name,
            nodes: Some(NodeSelector {
                node_ids: self
                    .nodes
                    .node_ids
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                labels: self.nodes.labels,
            }),
            offered_to_tenants: self.offered,
            settings: Some(inbound_settings::into_wire(self.settings)),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
