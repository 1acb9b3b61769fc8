//! Accounts of the installation.

use vpnpanel_api::account::v1::{
    Account, AccountMembership, CreateAccountRequest, CreateAccountResponse, DeleteAccountRequest,
    DeleteAccountResponse, DisableAccountRequest, DisableAccountResponse, EnableAccountRequest,
    EnableAccountResponse, GetAccountRequest, GetAccountResponse, ListAccountsRequest,
    ListAccountsResponse, ResetAccountPasswordRequest, ResetAccountPasswordResponse,
    ResetAccountSecondFactorRequest, ResetAccountSecondFactorResponse,
    RevokeAccountSessionsRequest, RevokeAccountSessionsResponse, UpdateAccountRequest,
    UpdateAccountResponse,
};
use vpnpanel_domain::AccountId;
use vpnpanel_store::{self as store, AccountPatch, NewAccount, fresh_id};

use crate::{
    Error,
    caller::Caller,
    context::Context,
    one_time::OneTimePassword,
    wire::{etag, ids, mask::Mask, page::List, text, time},
};

const CHANGEABLE: &[&str] = &["email", "display_name", "platform_role"];

pub(crate) async fn create(
    context: &Context,
    caller: &Caller,
    message: CreateAccountRequest,
) -> Result<CreateAccountResponse, Error> {
    let account = message.account.unwrap_or_default();
    let email = text::email("account.email", &account.email)?;
    let display_name = name_or_email("account.display_name", &account.display_name, &email)?;
    let one_time = OneTimePassword::generate(&context.hasher).await?;
    let new = NewAccount {
        id: fresh_id(),
        email,
        display_name,
        password_hash: Some(one_time.hash.clone()),
        password_change_required: true,
    };
    let role = Some(account.platform_role.as_str()).filter(|role| !role.is_empty());
    let made = context
        .acting(caller)
        .create_account_with(&caller.grantor(None)?, new, role)
        .await?;
    tracing::info!(event = "account_made", account_id = %made.id);
    Ok(CreateAccountResponse {
        account: Some(shown(context, made).await?),
        one_time_password: one_time.told(),
    })
}

pub(crate) async fn get(
    context: &Context,
    _caller: &Caller,
    message: GetAccountRequest,
) -> Result<GetAccountResponse, Error> {
    let account = context.store.account(named(&message.account_id)?).await?;
    Ok(GetAccountResponse {
        account: Some(shown(context, account).await?),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListAccountsRequest,
) -> Result<ListAccountsResponse, Error> {
    let list = List::new("accounts").of(&message.email_prefix);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut accounts = context
        .store
        .accounts(&message.email_prefix, page.keyset())
        .await?;
    let next_page_token = list.cut(&page, &mut accounts, |account| account.id.uuid());
    let listed: Vec<AccountId> = accounts.iter().map(|account| account.id).collect();
    let mut roles = context.store.platform_roles(&listed).await?;
    let accounts = accounts
        .into_iter()
        .map(|account| {
            let role = roles.remove(&account.id).unwrap_or_default();
            into_wire(account, role, Vec::new())
        })
        .collect();
    Ok(ListAccountsResponse {
        accounts,
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateAccountRequest,
) -> Result<UpdateAccountResponse, Error> {
    let account = message.account.unwrap_or_default();
    let id: AccountId = ids::required("account.id", &account.id)?;
    let mask = Mask::read(message.update_mask.as_ref(), CHANGEABLE)?;
    let (email, name) = (&account.email, &account.display_name);
    let email = mask.take("email", !email.is_empty(), email);
    let display_name = mask.take("display_name", !name.is_empty(), name);
    let role = account.platform_role;
    let patch = AccountPatch {
        email: email
            .map(|email| text::email("account.email", email))
            .transpose()?,
        display_name: display_name
            .map(|name| text::name("account.display_name", name))
            .transpose()?,
        platform_role: mask
            .take("platform_role", !role.is_empty(), role)
            .map(|role| Some(role).filter(|role| !role.is_empty())),
    };
    let version = etag::expected(&account.etag)?;
    let changed = context
        .acting(caller)
        .update_account(&caller.grantor(None)?, id, patch, version)
        .await?;
    context.standings.forget_account(id);
    Ok(UpdateAccountResponse {
        account: Some(shown(context, changed).await?),
    })
}

pub(crate) async fn disable(
    context: &Context,
    caller: &Caller,
    message: DisableAccountRequest,
) -> Result<DisableAccountResponse, Error> {
    let account = set_disabled(context, caller, &message.account_id, true).await?;
    Ok(DisableAccountResponse {
        account: Some(account),
    })
}

pub(crate) async fn enable(
    context: &Context,
    caller: &Caller,
    message: EnableAccountRequest,
) -> Result<EnableAccountResponse, Error> {
    let account = set_disabled(context, caller, &message.account_id, false).await?;
    Ok(EnableAccountResponse {
        account: Some(account),
    })
}

pub(crate) async fn reset_password(
    context: &Context,
    caller: &Caller,
    message: ResetAccountPasswordRequest,
) -> Result<ResetAccountPasswordResponse, Error> {
    let id = named(&message.account_id)?;
    let one_time = OneTimePassword::generate(&context.hasher).await?;
    let account = context
        .acting(caller)
        .reset_password(&caller.grantor(None)?, id, one_time.hash.clone())
        .await?;
    context.standings.forget_account(id);
    tracing::info!(event = "password_reset", account_id = %id);
    Ok(ResetAccountPasswordResponse {
        account: Some(shown(context, account).await?),
        one_time_password: one_time.told(),
    })
}

pub(crate) async fn reset_second_factor(
    context: &Context,
    caller: &Caller,
    message: ResetAccountSecondFactorRequest,
) -> Result<ResetAccountSecondFactorResponse, Error> {
    let id = named(&message.account_id)?;
    context
        .acting(caller)
        .reset_second_factor(&caller.grantor(None)?, id)
        .await?;
    context.standings.forget_account(id);
    tracing::info!(event = "second_factor_reset", account_id = %id);
    Ok(ResetAccountSecondFactorResponse {})
}

pub(crate) async fn revoke_sessions(
    context: &Context,
    caller: &Caller,
    message: RevokeAccountSessionsRequest,
) -> Result<RevokeAccountSessionsResponse, Error> {
    let id = named(&message.account_id)?;
    let ended = context
        .acting(caller)
        .end_sessions_of(&caller.grantor(None)?, id)
        .await?;
    context.standings.forget_sessions(id, &ended).await;
    tracing::info!(event = "sessions_ended", account_id = %id, count = ended.len());
    Ok(RevokeAccountSessionsResponse {
        revoked_count: i32::try_from(ended.len()).unwrap_or(i32::MAX),
    })
}

pub(crate) async fn delete(
    context: &Context,
    caller: &Caller,
    message: DeleteAccountRequest,
) -> Result<DeleteAccountResponse, Error> {
    let id = named(&message.account_id)?;
    let version = etag::expected(&message.etag)?;
    context
        .acting(caller)
        .delete_account(&caller.grantor(None)?, id, version)
        .await?;
    context.standings.forget_account(id);
    tracing::info!(event = "account_deleted", account_id = %id);
    Ok(DeleteAccountResponse {})
}

async fn set_disabled(
    context: &Context,
    caller: &Caller,
    id: &str,
    disabled: bool,
) -> Result<Account, Error> {
    let id = named(id)?;
    let account = context
        .acting(caller)
        .set_account_disabled(&caller.grantor(None)?, id, disabled)
        .await?;
    context.standings.forget_account(id);
    shown(context, account).await
}

fn named(id: &str) -> Result<AccountId, Error> {
    ids::required("account_id", id)
}

/// The name of an account that is made: its e-mail address, where no name is given.
pub(crate) fn name_or_email(field: &'static str, name: &str, email: &str) -> Result<String, Error> {
    if name.is_empty() {
        // An address may be longer than a name.
        return Ok(email.chars().take(100).collect());
    }
    text::name(field, name)
}

/// An account with the roles it holds.
async fn shown(context: &Context, account: store::Account) -> Result<Account, Error> {
    let mut platform = context.store.platform_roles(&[account.id]).await?;
    let memberships = context.store.tenant_roles(account.id).await?;
    let memberships = memberships
        .into_iter()
        .map(|membership| AccountMembership {
            tenant_id: membership
                .tenant_id
                .map(|id| id.to_string())
                .unwrap_or_default(),
            tenant_name: membership.tenant_name,
            role: membership.role,
        })
        .collect();
    let platform_role = platform.remove(&account.id).unwrap_or_default();
    Ok(into_wire(account, platform_role, memberships))
}

pub(crate) fn into_wire(
    account: store::Account,
    platform_role: String,
    memberships: Vec<AccountMembership>,
) -> Account {
    Account {
        id: account.id.to_string(),
        email: account.email,
        display_name: account.display_name,
        platform_role,
        disabled: account.disabled,
        password_change_required: account.password_change_required,
        memberships,
        create_time: Some(time::timestamp(account.created_at_ms)),
        update_time: Some(time::timestamp(account.updated_at_ms)),
        etag: etag::of(account.version),
    }
}
