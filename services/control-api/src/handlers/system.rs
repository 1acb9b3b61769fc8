//! The installation itself.

use vpnpanel_api::system::v1::{GetSystemInfoRequest, GetSystemInfoResponse};

use crate::{Error, caller::Caller, context::Context, wire::time};

pub(crate) async fn info(
    context: &Context,
    _caller: &Caller,
    _message: GetSystemInfoRequest,
) -> Result<GetSystemInfoResponse, Error> {
    Ok(GetSystemInfoResponse {
        version: vpnpanel_runtime::VERSION.to_owned(),
        database: context.store.backend().as_str().to_owned(),
        server_time: Some(time::timestamp(context.store.now_ms())),
        ca_pin: context.authority.signer.pin(),
    })
}
