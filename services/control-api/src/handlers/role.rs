//! Roles.

use std::collections::BTreeSet;

use vpnpanel_api::account::v1::{
    CreateRoleRequest, CreateRoleResponse, DeleteRoleRequest, DeleteRoleResponse, GetRoleRequest,
    GetRoleResponse, ListRolesRequest, ListRolesResponse, Role, UpdateRoleRequest,
    UpdateRoleResponse,
};
use vpnpanel_auth::policy;
use vpnpanel_store::{self as store, NewRole, RolePatch};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, etag, mask::Mask, text, time},
};

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateRoleRequest,
) -> Result<CreateRoleResponse, Error> {
    let role = message.role.unwrap_or_default();
    let new = NewRole {
        name: text::slug("role.name", &role.name)?,
        permissions: permissions(&role.permissions)?,
        description: text::line("role.description", &role.description)?,
    };
    let made = context
        .acting(caller)
        .create_role(&caller.grantor(None)?, new)
        .await?;
    context.policy.forget().await;
    Ok(CreateRoleResponse {
        role: Some(made.into_wire()),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetRoleRequest,
) -> Result<GetRoleResponse, Error> {
    Ok(GetRoleResponse {
        role: Some(context.store.role(&message.name).await?.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    _message: ListRolesRequest,
) -> Result<ListRolesResponse, Error> {
    let roles = context.store.roles().await?;
    Ok(ListRolesResponse {
        roles: roles.into_iter().map(IntoWire::into_wire).collect(),
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateRoleRequest,
) -> Result<UpdateRoleResponse, Error> {
    let role = message.role.unwrap_or_default();
    let mask = Mask::read(
        message.update_mask.as_ref(),
        &["description", "permissions"],
    )?;
    let about = &role.description;
    let permits = &role.permissions;
    let patch = RolePatch {
        description: mask
            .take("description", !about.is_empty(), about)
            .map(|about| text::line("role.description", about))
            .transpose()?,
        permissions: mask
            .take("permissions", !permits.is_empty(), permits)
            .map(|permits| permissions(permits))
            .transpose()?,
    };
    let version = etag::expected(&role.etag)?;
    let changed = context
        .acting(caller)
        .update_role(&caller.grantor(None)?, &role.name, patch, version)
        .await?;
    context.policy.forget().await;
    Ok(UpdateRoleResponse {
        role: Some(changed.into_wire()),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteRoleRequest,
) -> Result<DeleteRoleResponse, Error> {
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_role(&caller.grantor(None)?, &message.name, version)
        .await?;
    context.policy.forget().await;
    Ok(DeleteRoleResponse {})
}

/// Permissions that there are: a mistyped one would permit nothing, and nobody would notice.
fn permissions(names: &[String]) -> Result<BTreeSet<String>, Error> {
    let known = policy::all_permissions();
    for (index, name) in names.iter().enumerate() {
        if !known.contains(name) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            return Err(Error::field(
                format!("role.permissions[{index}]"),
                format!("is none of: {}", known.join(", ")),
            ));
        }
    }
    Ok(names.iter().cloned().collect())
}

impl IntoWire for store::Role {
    type Wire = Role;

    fn into_wire(self) -> Role {
        Role {
            name: self.name,
            description: self.description,
            permissions: self.permissions.into_iter().collect(),
            built_in: self.builtin,
            create_time: Some(time::timestamp(self.created_at_ms)),
            update_time: Some(time::timestamp(self.updated_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
