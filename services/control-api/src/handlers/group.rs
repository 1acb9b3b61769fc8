//! Groups.

use std::collections::BTreeSet;

use vpnpanel_api::access::v1::{
    CreateGroupRequest, CreateGroupResponse, DeleteGroupRequest, DeleteGroupResponse,
    GetGroupRequest, GetGroupResponse, Group, ListGroupsRequest, ListGroupsResponse,
    UpdateGroupRequest, UpdateGroupResponse,
};
use vpnpanel_domain::{GroupId, InboundId, TenantId};
use vpnpanel_store::{self as store, GroupPatch, NewGroup, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, request, text, time},
};

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateGroupRequest,
) -> Result<CreateGroupResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "CreateGroup",
        &message.request_id,
        &message,
    )?;
    let group = message.group.unwrap_or_default();
    let new = NewGroup {
        id: fresh_id(),
        tenant_id,
        name: text::name("group.name", &group.name)?,
        inbound_ids: inbounds(&group)?,
    };
    let made = context
        .acting(caller)
        .create_group(new, key.as_ref())
        .await?;
    Ok(CreateGroupResponse {
        group: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetGroupRequest,
) -> Result<GetGroupResponse, Error> {
    let tenant_id = ids::required("tenant_id", &message.tenant_id)?;
    let id = ids::required("group_id", &message.group_id)?;
    Ok(GetGroupResponse {
        group: Some(context.store.group(tenant_id, id).await?.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListGroupsRequest,
) -> Result<ListGroupsResponse, Error> {
    let tenant_id: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let list = List::new("groups").of(tenant_id);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut groups = context.store.groups(tenant_id, page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut groups, |group| group.id.uuid());
    Ok(ListGroupsResponse {
        groups: groups.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateGroupRequest,
) -> Result<UpdateGroupResponse, Error> {
    let group = message.group.unwrap_or_default();
    let tenant_id: TenantId = ids::required("group.tenant_id", &group.tenant_id)?;
    let id: GroupId = ids::required("group.id", &group.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), &["name", "inbound_ids"])?;
    let name = mask.take("name", !group.name.is_empty(), &group.name);
    let inbound_ids = mask.take("inbound_ids", !group.inbound_ids.is_empty(), &group);
    let patch = GroupPatch {
        name: name
            .map(|name| text::name("group.name", name))
            .transpose()?,
        inbound_ids: inbound_ids.map(inbounds).transpose()?,
    };
    let version = etag::expected(&group.etag)?;
    let changed = context
        .acting(caller)
        .update_group(tenant_id, id, patch, version)
        .await?;
    Ok(UpdateGroupResponse {
        group: Some(changed.into_wire()),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteGroupRequest,
) -> Result<DeleteGroupResponse, Error> {
    let tenant_id = ids::required("tenant_id", &message.tenant_id)?;
    let id = ids::required("group_id", &message.group_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_group(tenant_id, id, version)
        .await?;
    Ok(DeleteGroupResponse {})
}

fn inbounds(group: &Group) -> Result<BTreeSet<InboundId>, Error> {
    Ok(ids::list("group.inbound_ids", &group.inbound_ids)?
        .into_iter()
        .collect())
}

impl IntoWire for store::Group {
    type Wire = Group;

    fn into_wire(self) -> Group {
        Group {
            id: self.id.to_string(),
            tenant_id: self.tenant_id.to_string(),
            name: self.name,
            inbound_ids: self.inbound_ids.iter().map(ToString::to_string).collect(),
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
