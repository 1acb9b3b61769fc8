//! Members of a tenant.

use vpnpanel_api::tenant::v1::{
    AddMemberRequest, AddMemberResponse, ListMembersRequest, ListMembersResponse, Member,
    RemoveMemberRequest, RemoveMemberResponse, UpdateMemberRequest, UpdateMemberResponse,
};
use vpnpanel_domain::{AccountId, TenantId};
use vpnpanel_store::{self as store, Joining, NewAccount, fresh_id};

use super::account::name_or_email;
use crate::{
    Error,
    caller::Caller,
    context::Context,
    one_time::OneTimePassword,
    wire::{IntoWire, etag, ids, mask::Mask, page::List, text, time},
};

pub(crate) async fn add(
    context: &Context,
    caller: &Caller,
    message: AddMemberRequest,
) -> Result<AddMemberResponse, Error> {
    let tenant: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let member = message.member.unwrap_or_default();
    let email = text::email("member.email", &member.email)?;
    let role = role(&member)?;
    let mut one_time = None;
    let joining = match context.store.account_by_email(&email).await? {
        Some(account) => Joining::Account(account.id),
        None => {
            let made = OneTimePassword::generate(&context.hasher).await?;
            let hash = one_time.insert(made).hash.clone();
            let display_name = name_or_email("member.display_name", &member.display_name, &email)?;
            Joining::Newcomer(NewAccount {
                id: fresh_id(),
                email,
                display_name,
                password_hash: Some(hash),
                password_change_required: true,
            })
        }
    };
    let grantor = caller.grantor(Some(tenant))?;
    let added = context
        .acting(caller)
        .add_member(&grantor, tenant, joining, role)
        .await?;
    context.standings.forget_account(added.account_id);
    tracing::info!(event = "member_added", tenant_id = %tenant, account_id = %added.account_id);
    Ok(AddMemberResponse {
        member: Some(added.into_wire()),
        one_time_password: one_time.map(|made| made.told()).unwrap_or_default(),
    })
}

pub(crate) async fn list(
    context: &Context,
    _caller: &Caller,
    message: ListMembersRequest,
) -> Result<ListMembersResponse, Error> {
    let tenant: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let list = List::new("members").of(tenant);
    let page = list.page(message.page_size, &message.page_token)?;
    let mut members = context.store.members(tenant, page.keyset()).await?;
    let next_page_token = list.cut(&page, &mut members, |member| member.account_id.uuid());
    Ok(ListMembersResponse {
        members: members.into_iter().map(IntoWire::into_wire).collect(),
        next_page_token,
    })
}

pub(crate) async fn update(
    context: &Context,
    caller: &Caller,
    message: UpdateMemberRequest,
) -> Result<UpdateMemberResponse, Error> {
    let member = message.member.unwrap_or_default();
    let tenant: TenantId = ids::required("member.tenant_id", &member.tenant_id)?;
    let account: AccountId = ids::required("member.account_id", &member.account_id)?;
    // It has one field that changes: whatever the mask names, it is that one.
    Mask::read(message.update_mask.as_ref(), &["role"])?;
    let version = etag::expected(&member.etag)?;
    let grantor = caller.grantor(Some(tenant))?;
    let changed = context
        .acting(caller)
        .update_member(&grantor, tenant, account, role(&member)?, version)
        .await?;
    context.standings.forget_account(account);
    Ok(UpdateMemberResponse {
        member: Some(changed.into_wire()),
    })
}

pub(crate) async fn remove(
    context: &Context,
    caller: &Caller,
    message: RemoveMemberRequest,
) -> Result<RemoveMemberResponse, Error> {
    let tenant: TenantId = ids::required("tenant_id", &message.tenant_id)?;
    let account: AccountId = ids::required("account_id", &message.account_id)?;
    let grantor = caller.grantor(Some(tenant))?;
    context
        .acting(caller)
        .remove_member(&grantor, tenant, account)
        .await?;
    context.standings.forget_account(account);
    tracing::info!(event = "member_removed", tenant_id = %tenant, account_id = %account);
    Ok(RemoveMemberResponse {})
}

fn role(member: &Member) -> Result<&str, Error> {
    if member.role.is_empty() {
        return Err(Error::field("member.role", "is required"));
    }
    Ok(&member.role)
}

impl IntoWire for store::Member {
    type Wire = Member;

    fn into_wire(self) -> Member {
        Member {
            tenant_id: self.tenant_id.to_string(),
            account_id: self.account_id.to_string(),
            email: self.email,
            display_name: self.display_name,
            role: self.role,
            disabled: self.disabled,
            create_time: Some(time::timestamp(self.created_at_ms)),
            etag: etag::of(self.version),
        }
    }
}
