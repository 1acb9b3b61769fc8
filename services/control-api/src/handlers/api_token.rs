//! API tokens: of the signed-in account, and those for a tenant.

use std::collections::BTreeSet;

use vpnpanel_api::auth::v1::{
    ApiToken, CreateApiTokenRequest, CreateApiTokenResponse, ListApiTokensRequest,
    ListApiTokensResponse, ListTenantApiTokensRequest, ListTenantApiTokensResponse,
    RevokeApiTokenRequest, RevokeApiTokenResponse, RevokeTenantApiTokenRequest,
    RevokeTenantApiTokenResponse,
};
use vpnpanel_auth::{ApiToken as Token, AuthError, Principal};
use vpnpanel_domain::{ApiTokenId, TenantId};
use vpnpanel_store::{self as store, ApiTokenOwner, NewApiToken, StoreError, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    wire::{IntoWire, ids, page::List, text, time},
};

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateApiTokenRequest,
) -> Result<CreateApiTokenResponse, Error> {
    let principal = caller.principal()?;
    let wanted = message.api_token.unwrap_or_default();
    let tenant_id = ids::optional("api_token.tenant_id", &wanted.tenant_id)?;
    let permissions = held(principal, tenant_id, &wanted.permissions)?;
    let token = Token::generate()?;
    let new = NewApiToken {
        id: fresh_id(),
        account_id: principal.account,
        tenant_id,
        name: text::name("api_token.name", &wanted.name)?,
        hint: token.hint(),
        hash: token.hash(),
        permissions,
        expires_at_ms: expiry(context, wanted.expire_time.as_ref())?,
    };
    let made = context.acting(caller).create_api_token(new).await?;
    Ok(CreateApiTokenResponse {
        api_token: Some(made.into_wire()),
        token: token.expose().to_owned(),
    })
}

pub(crate) async fn list(
    context: &Context,
    caller: &Caller,
    message: ListApiTokensRequest,
) -> Result<ListApiTokensResponse, Error> {
    let owner = ApiTokenOwner::Account(caller.principal()?.account);
    let (api_tokens, next_page_token) =
        page(context, owner, message.page_size, &message.page_token).await?;
    Ok(ListApiTokensResponse {
        api_tokens,
        next_page_token,
    })
}

pub(crate) async fn revoke(
    context: &Context,
    caller: &Caller,
    message: RevokeApiTokenRequest,
) -> Result<RevokeApiTokenResponse, Error> {
    let owner = ApiTokenOwner::Account(caller.principal()?.account);
    end(context, caller, owner, &message.api_token_id).await?;
    Ok(RevokeApiTokenResponse {})
}

pub(crate) async fn list_of_tenant(
    context: &Context,
    _caller: &Caller,
    message: ListTenantApiTokensRequest,
) -> Result<ListTenantApiTokensResponse, Error> {
    let owner = tenant_or_platform(&message.tenant_id)?;
    let (api_tokens, next_page_token) =
        page(context, owner, message.page_size, &message.page_token).await?;
    Ok(ListTenantApiTokensResponse {
        api_tokens,
        next_page_token,
    })
}

pub(crate) async fn revoke_of_tenant(
    context: &Context,
    caller: &Caller,
    message: RevokeTenantApiTokenRequest,
) -> Result<RevokeTenantApiTokenResponse, Error> {
    let owner = tenant_or_platform(&message.tenant_id)?;
    end(context, caller, owner, &message.api_token_id).await?;
    Ok(RevokeTenantApiTokenResponse {})
}

/// The permissions that a token shall have, if the caller's own credential has them. Whether the
/// account has them the store looks at, in the transaction.
fn held(
    principal: &Principal,
    tenant: Option<TenantId>,
    wanted: &[String],
) -> Result<BTreeSet<String>, Error> {
    if tenant.is_some() && !principal.belongs_to(tenant) {
        return Err(AuthError::TenantNotFound.into());
    }
    if wanted.is_empty() {
        let what = "is required: a token without any could do nothing";
        return Err(Error::field("api_token.permissions", what));
    }
    let missing = |permission: &&String| !principal.permits(permission, tenant);
    if let Some(permission) = wanted.iter().find(missing) {
        let permission = permission.clone();
        return Err(StoreError::GrantExceedsOwn { permission }.into());
    }
    if !wanted.iter().all(|it| principal.permits_change(it, tenant)) {
        return Err(AuthError::TenantSuspended.into());
    }
    Ok(wanted.iter().cloned().collect())
}

fn expiry(context: &Context, asked: Option<&prost_types::Timestamp>) -> Result<i64, Error> {
    let now = context.store.now_ms();
    let longest = context.api_token_max_life.as_millis();
    let longest = now.saturating_add(i64::try_from(longest).unwrap_or(i64::MAX));
    let Some(asked) = asked else {
        return Ok(longest);
    };
    let field = "api_token.expire_time";
    let at = time::unix_ms(field, asked)?;
    if at <= now {
        Err(Error::field(field, "must be in the future"))
    } else if at > longest {
        let days = context.api_token_max_life.as_secs() / 86_400;
        Err(Error::field(
            field,
            format!("must be at most {days} days from now"),
        ))
    } else {
        Ok(at)
    }
}

fn tenant_or_platform(tenant_id: &str) -> Result<ApiTokenOwner, Error> {
    let tenant = ids::optional("tenant_id", tenant_id)?;
    Ok(tenant.map_or(ApiTokenOwner::Platform, ApiTokenOwner::Tenant))
}

async fn page(
    context: &Context,
    owner: ApiTokenOwner,
    size: i32,
    token: &str,
) -> Result<(Vec<ApiToken>, String), Error> {
    let list = List::new("apiTokens").of(format!("{owner:?}"));
    let page = list.page(size, token)?;
    let mut tokens = context.store.api_tokens(owner, page.keyset()).await?;
    let next = list.cut(&page, &mut tokens, |token| token.id.uuid());
    let shown = tokens.into_iter().map(IntoWire::into_wire).collect();
    Ok((shown, next))
}

async fn end(
    context: &Context,
    caller: &Caller,
    owner: ApiTokenOwner,
    id: &str,
) -> Result<(), Error> {
    let id: ApiTokenId = ids::required("api_token_id", id)?;
    context.acting(caller).revoke_api_token(owner, id).await?;
    context.standings.forget_api_token(id).await;
    Ok(())
}

impl IntoWire for store::ApiToken {
    type Wire = ApiToken;

    fn into_wire(self) -> ApiToken {
        ApiToken {
            id: self.id.to_string(),
            name: self.name,
            tenant_id: self.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
            permissions: self.permissions.into_iter().collect(),
            expire_time: Some(time::timestamp(self.expires_at_ms)),
            account_id: self.account_id.to_string(),
            account_email: self.account_email,
            hint: self.hint,
            create_time: Some(time::timestamp(self.created_at_ms)),
            last_use_time: self.used_at_ms.map(time::timestamp),
        }
    }
}
