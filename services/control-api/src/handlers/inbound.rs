//! Inbounds.

use vpnpanel_api::access::v1::{
    CreateInboundRequest, CreateInboundResponse, DeleteInboundRequest, DeleteInboundResponse,
    GetInboundRequest, GetInboundResponse, Inbound, ListInboundsRequest, ListInboundsResponse,
    NodeSelector, UpdateInboundRequest, UpdateInboundResponse, inbound::Settings,
};
use vpnpanel_domain::{InboundId, TenantId};
use vpnpanel_store::{self as store, InboundPatch, NewInbound, StoreError, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
    wireguard::settings,
};

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
    let Some(Settings::Wireguard(wireguard)) = inbound.settings else {
        return Err(Error::field("inbound.wireguard", "is required"));
    };
    let new = NewInbound {
        id: fresh_id(),
        tenant_id,
        name: text::name("inbound.name", &inbound.name)?,
        nodes: selector(inbound.nodes.unwrap_or_default())?,
        offered: offered(tenant_id, inbound.offered_to_tenants)?,
        wireguard: settings::on_create(&wireguard)?,
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
    let changeable = [&["name", "nodes", "offered_to_tenants"], settings::FIELDS].concat();
    let mask = Mask::read(message.update_mask.as_ref(), &changeable)?;
    let name = mask.take("name", !inbound.name.is_empty(), &inbound.name);
    let offer = inbound.offered_to_tenants;
    let offer = mask.take("offered_to_tenants", offer, offer);
    let nodes = mask.take("nodes", inbound.nodes.is_some(), inbound.nodes);
    let patch = InboundPatch {
        name: name
            .map(|name| text::name("inbound.name", name))
            .transpose()?,
        nodes: nodes
            .map(|nodes| selector(nodes.unwrap_or_default()))
            .transpose()?,
        offered: offer.map(|is| offered(tenant_id, is)).transpose()?,
        wireguard: None,
    };
    let expected = etag::expected(&inbound.etag)?;
    let wireguard = inbound.settings.map(|Settings::Wireguard(it)| it);
    for attempt in 1.. {
        // Settings are kept whole. Where a part of them changes, the rest is taken from what is
        // read here, which must not have changed until it is written.
        let before = context.store.inbound(tenant_id, id).await?;
        let changed = settings::on_update(&mask, wireguard.as_ref(), &before.wireguard)?;
        let version = expected.or(changed.is_some().then_some(before.version));
        let patch = InboundPatch {
            wireguard: changed,
            ..patch.clone()
        };
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
            settings: Some(Settings::Wireguard(settings::into_wire(self.wireguard))),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
