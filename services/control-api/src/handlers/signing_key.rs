//! The keys that sign access tokens.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use vpnpanel_api::auth::v1::{
    GetJsonWebKeySetRequest, GetJsonWebKeySetResponse, JsonWebKey, ListSigningKeysRequest,
    ListSigningKeysResponse, RevokeSigningKeyRequest, RevokeSigningKeyResponse,
    RotateSigningKeysRequest, RotateSigningKeysResponse, SigningKey, SigningKeyState,
};
use vpnpanel_store as store;

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, time},
};

pub(crate) async fn json_web_key_set(
    context: &Context,
    _caller: &Caller,
    _message: GetJsonWebKeySetRequest,
) -> Result<GetJsonWebKeySetResponse, Error> {
    let now = context.store.now_ms();
    let keys = context.store.signing_keys().await?;
    let keys = keys
        .into_iter()
        .filter(|key| key.retire_at_ms.is_none_or(|at| now < at))
        .map(|key| JsonWebKey {
            kty: "OKP".to_owned(),
            crv: "Ed25519".to_owned(),
            x: URL_SAFE_NO_PAD.encode(key.public_key),
            kid: key.kid,
            r#use: "sig".to_owned(),
            alg: "EdDSA".to_owned(),
        })
        .collect();
    Ok(GetJsonWebKeySetResponse { keys })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    _message: ListSigningKeysRequest,
) -> Result<ListSigningKeysResponse, Error> {
    Ok(ListSigningKeysResponse {
        signing_keys: all(context).await?,
    })
}

pub(crate) async fn rotate(
    context: &Context,
    caller: &Caller,
    _message: RotateSigningKeysRequest,
) -> Result<RotateSigningKeysResponse, Error> {
    let overlap = context.tokens.settings().key_overlap();
    context
        .acting(caller)
        .rotate_signing_keys(&context.vault, overlap)
        .await?;
    context.access.signing_keys_changed().await?;
    Ok(RotateSigningKeysResponse {
        signing_keys: all(context).await?,
    })
}

pub(crate) async fn revoke(
    context: &Context,
    caller: &Caller,
    message: RevokeSigningKeyRequest,
) -> Result<RevokeSigningKeyResponse, Error> {
    context
        .acting(caller)
        .revoke_signing_key(&message.kid, &context.vault)
        .await?;
    context.access.signing_keys_changed().await?;
    tracing::warn!(event = "signing_key_revoked", kid = message.kid);
    Ok(RevokeSigningKeyResponse {
        signing_keys: all(context).await?,
    })
}

async fn all(context: &Context) -> Result<Vec<SigningKey>, Error> {
    let keys = context.store.all_signing_keys().await?;
    Ok(keys.into_iter().map(IntoWire::into_wire).collect())
}

impl IntoWire for store::SigningKey {
    type Wire = SigningKey;

    fn into_wire(self) -> SigningKey {
        let state = match self.state {
            store::SigningKeyState::Standby => SigningKeyState::Standby,
            store::SigningKeyState::Active => SigningKeyState::Active,
            store::SigningKeyState::Retiring => SigningKeyState::Retiring,
            store::SigningKeyState::Retired => SigningKeyState::Retired,
        };
        SigningKey {
            kid: self.kid,
            state: state.into(),
            create_time: Some(time::timestamp(self.created_at_ms)),
            activate_time: self.activated_at_ms.map(time::timestamp),
            retire_time: self.retire_at_ms.map(time::timestamp),
        }
    }
}
