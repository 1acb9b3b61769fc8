//! Endpoint templates.

use vpnpanel_api::access::v1::{
    CreateEndpointTemplateRequest, CreateEndpointTemplateResponse, DeleteEndpointTemplateRequest,
    DeleteEndpointTemplateResponse, EndpointTemplate, GetEndpointTemplateRequest,
    GetEndpointTemplateResponse, ListEndpointTemplatesRequest, ListEndpointTemplatesResponse,
    TlsFingerprint, UpdateEndpointTemplateRequest, UpdateEndpointTemplateResponse,
};
use vpnpanel_domain::{Alpn, EndpointTemplateId, Fingerprint, InboundId, NamePattern, TenantId};
use vpnpanel_store::{
    self as store, EndpointTemplateFilter, EndpointTemplatePatch, NewEndpointTemplate,
    Presentation, StoreError, fresh_id,
};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    presentation,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

const CHANGEABLE: &[&str] = &[
    "name_pattern",
    "address",
    "port",
    "server_name",
    "host",
    "fingerprint",
    "alpn",
    "order",
    "disabled",
];

/// How often a change of a part of the presentation is tried when others change it meanwhile.
const ATTEMPTS: usize = 4;

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateEndpointTemplateRequest,
) -> Result<CreateEndpointTemplateResponse, Error> {
    let tenant_id: Option<TenantId> = ids::optional("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        tenant_id,
        "CreateEndpointTemplate",
        &message.request_id,
        &message,
    )?;
    let template = message.endpoint_template.unwrap_or_default();
    let inbound_id: InboundId =
        ids::required("endpoint_template.inbound_id", &template.inbound_id)?;
    let all = Mask::read(None, CHANGEABLE)?;
    let presentation = merged(&all, &template, Presentation::default())?;
    let new = NewEndpointTemplate {
        id: fresh_id(),
        tenant_id,
        inbound_id,
        name_pattern: pattern(&template.name_pattern)?,
        order: template.order,
        disabled: template.disabled,
        presentation,
    };
    match context.store.inbound(tenant_id, inbound_id).await {
        Ok(inbound) => presentation::check(&new.presentation, &inbound.settings)?,
        // The store refuses it by the field that names it.
        Err(StoreError::NotFound(_)) => {}
        Err(error) => return Err(error.into()),
    }
    let made = context
        .acting(caller)
        .create_endpoint_template(new, key.as_ref())
        .await?;
    Ok(CreateEndpointTemplateResponse {
        endpoint_template: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetEndpointTemplateRequest,
) -> Result<GetEndpointTemplateResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("endpoint_template_id", &message.endpoint_template_id)?;
    let found = context.store.endpoint_template(tenant_id, id).await?;
    Ok(GetEndpointTemplateResponse {
        endpoint_template: Some(found.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListEndpointTemplatesRequest,
) -> Result<ListEndpointTemplatesResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let filter = EndpointTemplateFilter {
        inbound_id: ids::optional("inbound_id", &message.inbound_id)?,
    };
    let list = List::new("endpoint_templates")
        .of(&message.tenant_id)
        .of(&message.inbound_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut templates = context
        .store
        .endpoint_templates(tenant_id, filter, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut templates, |template| template.id.uuid());
    Ok(ListEndpointTemplatesResponse {
        endpoint_templates: templates.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateEndpointTemplateRequest,
) -> Result<UpdateEndpointTemplateResponse, Error> {
    let template = message.endpoint_template.unwrap_or_default();
    let tenant_id: Option<TenantId> =
        ids::optional("endpoint_template.tenant_id", &template.tenant_id)?;
    let id: EndpointTemplateId = ids::required("endpoint_template.id", &template.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let expected = etag::expected(&template.etag)?;
    for attempt in 1.. {
        // The presentation is kept whole: what does not change is taken from what is read here,
        // which must not have changed until it is written.
        let before = context.store.endpoint_template(tenant_id, id).await?;
        let presentation = merged(&mask, &template, before.presentation.clone())?;
        let is_changed = presentation != before.presentation;
        if is_changed {
            let inbound = context.store.inbound(tenant_id, before.inbound_id).await?;
            presentation::check(&presentation, &inbound.settings)?;
        }
        let patch = EndpointTemplatePatch {
            presentation: is_changed.then_some(presentation),
            ..patch(&mask, &template)?
        };
        let version = expected.or(is_changed.then_some(before.version));
        let outcome = context
            .acting(caller)
            .update_endpoint_template(tenant_id, id, patch, version)
            .await;
        match outcome {
            Err(StoreError::StaleVersion) if expected.is_none() && attempt < ATTEMPTS => {}
            outcome => {
                return Ok(UpdateEndpointTemplateResponse {
                    endpoint_template: Some(outcome?.into_wire()),
                });
            }
        }
    }
    Err(Error::Stale)
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteEndpointTemplateRequest,
) -> Result<DeleteEndpointTemplateResponse, Error> {
    let tenant_id = ids::optional("tenant_id", &message.tenant_id)?;
    let id = ids::required("endpoint_template_id", &message.endpoint_template_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_endpoint_template(tenant_id, id, version)
        .await?;
    Ok(DeleteEndpointTemplateResponse {})
}

/// What changes beside the presentation.
fn patch(mask: &Mask<'_>, template: &EndpointTemplate) -> Result<EndpointTemplatePatch, Error> {
    let name = &template.name_pattern;
    let name = mask.take("name_pattern", !name.is_empty(), name);
    let (order, disabled) = (template.order, template.disabled);
    Ok(EndpointTemplatePatch {
        name_pattern: name.map(|text| pattern(text)).transpose()?,
        order: mask.take("order", order != 0, order),
        disabled: mask.take("disabled", disabled, disabled),
        presentation: None,
    })
}

/// The presentation with the fields that the mask names.
fn merged(
    mask: &Mask<'_>,
    template: &EndpointTemplate,
    mut presentation: Presentation,
) -> Result<Presentation, Error> {
    let named = |name: &str, text: &str| mask.take(name, !text.is_empty(), ()).is_some();
    if named("address", &template.address) {
        presentation.address = host("endpoint_template.address", &template.address)?;
    }
    if named("server_name", &template.server_name) {
        presentation.server_name = host("endpoint_template.server_name", &template.server_name)?;
    }
    if named("host", &template.host) {
        presentation.host = host("endpoint_template.host", &template.host)?;
    }
    if let Some(port) = mask.take("port", template.port != 0, template.port) {
        let port = u16::try_from(port)
            .map_err(|_| Error::field("endpoint_template.port", "is at most 65535"))?;
        presentation.port = (port != 0).then_some(port);
    }
    let said = template.fingerprint();
    if let Some(said) = mask.take("fingerprint", said != TlsFingerprint::Unspecified, said) {
        presentation.fingerprint = fingerprint(said);
    }
    if let Some(names) = mask.take("alpn", !template.alpn.is_empty(), &template.alpn) {
        presentation.alpn = names
            .iter()
            .map(|name| {
                Alpn::named(name).ok_or_else(|| {
                    Error::field(
                        "endpoint_template.alpn",
                        "holds \"h2\" and \"http/1.1\" alone",
                    )
                })
            })
            .collect::<Result<_, _>>()?;
    }
    Ok(presentation)
}

fn host(field: &'static str, text: &str) -> Result<Option<String>, Error> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    text::host(field, text).map(Some)
}

fn pattern(text: &str) -> Result<NamePattern, Error> {
    let text = if text.trim().is_empty() {
        NamePattern::DEFAULT
    } else {
        text
    };
    text.parse()
        .map_err(|error: vpnpanel_domain::NamePatternError| {
            Error::field("endpoint_template.name_pattern", error.to_string())
        })
}

const FINGERPRINTS: [(TlsFingerprint, Fingerprint); 7] = [
    (TlsFingerprint::Chrome, Fingerprint::Chrome),
    (TlsFingerprint::Firefox, Fingerprint::Firefox),
    (TlsFingerprint::Safari, Fingerprint::Safari),
    (TlsFingerprint::Ios, Fingerprint::Ios),
    (TlsFingerprint::Android, Fingerprint::Android),
    (TlsFingerprint::Edge, Fingerprint::Edge),
    (TlsFingerprint::Random, Fingerprint::Random),
];

fn fingerprint(said: TlsFingerprint) -> Option<Fingerprint> {
    let found = FINGERPRINTS.iter().find(|(wire, _)| *wire == said);
    found.map(|(_, fingerprint)| *fingerprint)
}

impl IntoWire for store::EndpointTemplate {
    type Wire = EndpointTemplate;

    fn into_wire(self) -> EndpointTemplate {
        let said = self.presentation;
        let fingerprint = FINGERPRINTS
            .iter()
            .find(|(_, it)| Some(*it) == said.fingerprint)
            .map_or(TlsFingerprint::Unspecified, |(wire, _)| *wire);
        EndpointTemplate {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
            inbound_id: self.inbound_id.to_string(),
            name_pattern: self.name_pattern.to_string(),
            address: said.address.unwrap_or_default(),
            port: said.port.unwrap_or_default().into(),
            server_name: said.server_name.unwrap_or_default(),
            host: said.host.unwrap_or_default(),
            fingerprint: fingerprint.into(),
            alpn: said.alpn.iter().map(|it| it.name().to_owned()).collect(),
            order: self.order,
            disabled: self.disabled,
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
