//! Devices of users.

use vpnpanel_api::user::v1::{
    CreateUserDeviceRequest, CreateUserDeviceResponse, DeleteUserDeviceRequest,
    DeleteUserDeviceResponse, Device, ListUserDevicesRequest, ListUserDevicesResponse,
};
use vpnpanel_store as store;

use super::user::named;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, ids, request, text, time},
    wireguard::keys,
};

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateUserDeviceRequest,
) -> Result<CreateUserDeviceResponse, Error> {
    let (tenant_id, user_id) = named(&message.tenant_id, &message.user_id)?;
    let key = request::key(
        caller,
        Some(tenant_id),
        "CreateUserDevice",
        &message.request_id,
        &message,
    )?;
    let device = message.device.unwrap_or_default();
    let name = text::name("device.name", &device.name)?;
    let new = if device.public_key.is_empty() {
        context.vault.new_device(&name)?
    } else {
        context
            .vault
            .device_of_key(&name, public_key(&device.public_key)?)?
    };
    let made = context
        .acting(caller)
        .create_user_device(tenant_id, user_id, new, key.as_ref())
        .await?;
    Ok(CreateUserDeviceResponse {
        device: Some(made.into_wire()),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListUserDevicesRequest,
) -> Result<ListUserDevicesResponse, Error> {
    let (tenant_id, user_id) = named(&message.tenant_id, &message.user_id)?;
    let devices = context.store.user_devices(tenant_id, user_id).await?;
    Ok(ListUserDevicesResponse {
        devices: devices.into_iter().map(IntoWire::into_wire).collect(),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteUserDeviceRequest,
) -> Result<DeleteUserDeviceResponse, Error> {
    let (tenant_id, user_id) = named(&message.tenant_id, &message.user_id)?;
    let device_id = ids::required("device_id", &message.device_id)?;
    context
        .acting(caller)
        .delete_user_device(tenant_id, user_id, device_id)
        .await?;
    Ok(DeleteUserDeviceResponse {})
}

/// A key that a user has brought.
fn public_key(bytes: &[u8]) -> Result<[u8; 32], Error> {
    let refused = |why| Error::field("device.public_key", why);
    let key = <[u8; 32]>::try_from(bytes)
        .map_err(|_| refused("must be the 32 bytes that `wg pubkey` prints"))?;
    if keys::is_usable(&key)? {
        Ok(key)
    } else {
        Err(refused("is not a key that anything can be agreed on with"))
    }
}

impl IntoWire for store::Device {
    type Wire = Device;

    fn into_wire(self) -> Device {
        Device {
            id: self.id.to_string(),
            name: self.name,
            public_key: self.public_key,
            key_is_users: self.key_is_users,
            create_time: Some(time::timestamp(self.created_at_ms)),
        }
    }
}
