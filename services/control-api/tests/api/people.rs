//! Accounts, roles and members: made, changed, and effective at once.

use tonic::{Code, Status};
use vpnpanel_api::{
    account::v1::{
        Account, CreateAccountRequest, CreateRoleRequest, DeleteAccountRequest, DeleteRoleRequest,
        DisableAccountRequest, EnableAccountRequest, GetAccountRequest, GetRoleRequest,
        ListAccountsRequest, ListRolesRequest, ResetAccountPasswordRequest, Role as WireRole,
        UpdateAccountRequest, UpdateRoleRequest,
    },
    auth::v1::{ChangePasswordRequest, GetMeRequest, LoginRequest},
    tenant::v1::{
        AddMemberRequest, AddMemberResponse, ListMembersRequest, Member, RemoveMemberRequest,
        UpdateMemberRequest,
    },
    user::v1::ListUsersRequest,
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;

use crate::support::{ADMIN, Caller, PASSWORD, Panel, assert_refused, create_user, fields};

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask {
        paths: paths.iter().map(|&path| path.to_owned()).collect(),
    })
}

/// Makes an account; gives it and its one-time password.
async fn make(caller: &Caller, email: &str, role: &str) -> Result<(Account, String), Status> {
    let request = CreateAccountRequest {
        account: Some(Account {
            email: email.to_owned(),
            platform_role: role.to_owned(),
            ..Account::default()
        }),
    };
    let made = caller.accounts().create_account(caller.ask(request)).await;
    let made = made?.into_inner();
    Ok((made.account.unwrap(), made.one_time_password))
}

async fn add(
    caller: &Caller,
    tenant: TenantId,
    email: &str,
    role: &str,
) -> Result<AddMemberResponse, Status> {
    let request = AddMemberRequest {
        tenant_id: tenant.to_string(),
        member: Some(Member {
            email: email.to_owned(),
            role: role.to_owned(),
            ..Member::default()
        }),
    };
    let added = caller.tenants().add_member(caller.ask(request)).await;
    added.map(tonic::Response::into_inner)
}

async fn give(
    caller: &Caller,
    tenant: TenantId,
    account: &str,
    role: &str,
) -> Result<Member, Status> {
    let request = UpdateMemberRequest {
        member: Some(Member {
            tenant_id: tenant.to_string(),
            account_id: account.to_owned(),
            role: role.to_owned(),
            ..Member::default()
        }),
        update_mask: None,
    };
    let changed = caller.tenants().update_member(caller.ask(request)).await?;
    Ok(changed.into_inner().member.unwrap())
}

async fn my_id(caller: &Caller) -> String {
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    me.unwrap().into_inner().account.unwrap().id
}

/// Chooses a password of one's own in the place of a one-time one.
async fn settle(panel: &Panel, email: &str, one_time: &str) -> Caller {
    let caller = panel.sign_in(email, one_time).await;
    let request = ChangePasswordRequest {
        current_password: one_time.to_owned(),
        new_password: PASSWORD.to_owned(),
    };
    let tokens = caller.auth().change_password(caller.ask(request)).await;
    panel.with_token(&tokens.unwrap().into_inner().access_token)
}

async fn users(caller: &Caller, tenant: TenantId) -> Result<(), Status> {
    let request = ListUsersRequest {
        tenant_id: tenant.to_string(),
        ..ListUsersRequest::default()
    };
    let listed = caller.users().list_users(caller.ask(request)).await;
    listed.map(drop)
}

async fn sign_in(panel: &Panel, email: &str, password: &str) -> Result<(), Status> {
    let request = LoginRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        ..LoginRequest::default()
    };
    panel.anybody().auth().login(request).await.map(drop)
}

async fn new_role(caller: &Caller, name: &str, permits: &[&str]) -> Result<WireRole, Status> {
    let request = CreateRoleRequest {
        role: Some(WireRole {
            name: name.to_owned(),
            permissions: permits.iter().map(|&name| name.to_owned()).collect(),
            ..WireRole::default()
        }),
    };
    let made = caller.roles().create_role(caller.ask(request)).await?;
    Ok(made.into_inner().role.unwrap())
}

#[tokio::test]
async fn an_account_is_made_with_a_password_that_permits_nothing_but_its_change() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let (made, one_time) = make(&admin, "Ada@Example.com", "auditor").await.unwrap();
    assert_eq!(made.display_name, "Ada@Example.com");
    assert_eq!(made.platform_role, "auditor");
    assert!(made.password_change_required);
    assert!(one_time.len() >= 24);

    let fresh = panel.sign_in("ada@example.com", &one_time).await;
    let list = fresh.ask(ListAccountsRequest::default());
    let refused = fresh.accounts().list_accounts(list).await;
    assert_refused(refused, Code::PermissionDenied, "PASSWORD_CHANGE_REQUIRED");
    let ada = settle(&panel, "ada@example.com", &one_time).await;
    let request = ada.ask(ListAccountsRequest {
        email_prefix: "ADA@".to_owned(),
        ..ListAccountsRequest::default()
    });
    let listed = ada.accounts().list_accounts(request).await.unwrap();
    let [account] = &listed.into_inner().accounts[..] else {
        panic!("one account");
    };
    assert_eq!(account.id, made.id);
    assert_eq!(account.platform_role, "auditor");

    let again = make(&admin, "ada@EXAMPLE.com", "").await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_eq!(fields(make(&admin, "ada", "").await), ["account.email"]);
    let king = make(&admin, "king@example.com", "king").await;
    assert_refused(king, Code::InvalidArgument, "INVALID_REFERENCE");
}

#[tokio::test]
async fn what_happens_to_an_account_is_effective_at_once() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let ada = panel.signed_in(Role::Operator, Some(tenant)).await;
    let id = my_id(&ada).await;
    users(&ada, tenant).await.unwrap();

    let disable = DisableAccountRequest {
        account_id: id.clone(),
    };
    let disabled = admin.accounts().disable_account(admin.ask(disable)).await;
    let disabled = disabled.unwrap().into_inner().account.unwrap();
    assert!(disabled.disabled);
    assert_eq!(disabled.memberships[0].role, "operator");
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    let refused = sign_in(&panel, &disabled.email, PASSWORD).await;
    assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");

    let enable = EnableAccountRequest {
        account_id: id.clone(),
    };
    let enabled = admin.accounts().enable_account(admin.ask(enable)).await;
    assert!(!enabled.unwrap().into_inner().account.unwrap().disabled);
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    let ada = panel.sign_in(&disabled.email, PASSWORD).await;
    users(&ada, tenant).await.unwrap();

    let reset = ResetAccountPasswordRequest {
        account_id: id.clone(),
    };
    let request = admin.ask(reset);
    let reset = admin.accounts().reset_account_password(request).await;
    let one_time = reset.unwrap().into_inner().one_time_password;
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    let refused = sign_in(&panel, &disabled.email, PASSWORD).await;
    assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    let ada = settle(&panel, &disabled.email, &one_time).await;
    users(&ada, tenant).await.unwrap();

    let delete = DeleteAccountRequest {
        account_id: id.clone(),
        etag: String::new(),
    };
    admin
        .accounts()
        .delete_account(admin.ask(delete))
        .await
        .unwrap();
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    let get = GetAccountRequest { account_id: id };
    let gone = admin.accounts().get_account(admin.ask(get)).await;
    assert_refused(gone, Code::NotFound, "ACCOUNT_NOT_FOUND");
}

#[tokio::test]
async fn accounts_are_changed_by_mask_and_the_last_administrator_stays() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let (made, _) = make(&admin, "ada@example.com", "auditor").await.unwrap();
    let update = async |account: Account, paths: &[&str]| {
        let request = UpdateAccountRequest {
            account: Some(account),
            update_mask: mask(paths),
        };
        let changed = admin.accounts().update_account(admin.ask(request)).await?;
        Ok::<_, Status>(changed.into_inner().account.unwrap())
    };
    let renamed = Account {
        display_name: "Ada".to_owned(),
        platform_role: String::new(),
        ..made.clone()
    };
    let changed = update(renamed.clone(), &["display_name"]).await.unwrap();
    assert_eq!(changed.display_name, "Ada");
    assert_eq!(changed.platform_role, "auditor");
    let stale = update(renamed.clone(), &["platform_role"]).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    let changed = update(
        Account {
            etag: changed.etag,
            ..renamed
        },
        &["platform_role"],
    )
    .await
    .unwrap();
    assert_eq!(changed.platform_role, "");
    assert_eq!(
        fields(update(changed, &["disabled"]).await),
        ["update_mask"]
    );

    // The one of the first start goes, and then the last one stays.
    let request = admin.ask(ListAccountsRequest {
        email_prefix: ADMIN.to_owned(),
        ..ListAccountsRequest::default()
    });
    let first = admin.accounts().list_accounts(request).await.unwrap();
    let first = first.into_inner().accounts.remove(0);
    let delete = DeleteAccountRequest {
        account_id: first.id,
        etag: first.etag,
    };
    let deleted = admin.accounts().delete_account(admin.ask(delete)).await;
    deleted.unwrap();
    let own = Account {
        id: my_id(&admin).await,
        ..Account::default()
    };
    let refused = update(own.clone(), &["platform_role"]).await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_OF_ROLE");
    let disable = DisableAccountRequest { account_id: own.id };
    let refused = admin.accounts().disable_account(admin.ask(disable)).await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_OF_ROLE");
}

#[tokio::test]
async fn members_are_added_by_address_and_newcomers_get_a_password() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let added = add(&owner, tenant, "ada@example.com", "operator").await;
    let added = added.unwrap();
    assert_eq!(added.member.as_ref().unwrap().role, "operator");
    let ada = settle(&panel, "ada@example.com", &added.one_time_password).await;
    ada.new_user(tenant, "subscriber", &[]).await;

    let again = add(&owner, tenant, "ADA@example.com", "auditor").await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_eq!(
        fields(add(&owner, tenant, "x", "owner").await),
        ["member.email"]
    );
    let roleless = add(&owner, tenant, "b@example.com", "").await;
    assert_eq!(fields(roleless), ["member.role"]);

    // An account that is there keeps its password.
    let other = panel.new_tenant("other").await;
    let elsewhere = panel.signed_in(Role::Owner, Some(other)).await;
    let added = add(&elsewhere, other, "ada@example.com", "auditor").await;
    assert_eq!(added.unwrap().one_time_password, "");
    users(&ada, other).await.unwrap();

    let request = owner.ask(ListMembersRequest {
        tenant_id: tenant.to_string(),
        ..ListMembersRequest::default()
    });
    let listed = owner.tenants().list_members(request).await.unwrap();
    let roles: Vec<_> = listed
        .into_inner()
        .members
        .into_iter()
        .map(|member| member.role)
        .collect();
    assert_eq!(roles, ["owner", "operator"]);
    let theirs = owner.ask(ListMembersRequest {
        tenant_id: other.to_string(),
        ..ListMembersRequest::default()
    });
    let refused = owner.tenants().list_members(theirs).await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn a_new_role_and_a_lost_one_hold_at_once() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let ada = panel.signed_in(Role::Operator, Some(tenant)).await;
    let id = my_id(&ada).await;
    ada.new_user(tenant, "one", &[]).await;

    give(&owner, tenant, &id, "auditor").await.unwrap();
    users(&ada, tenant).await.unwrap();
    let request = ada.ask(create_user(tenant, "two", &[]));
    let refused = ada.users().create_user(request).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");

    let remove = RemoveMemberRequest {
        tenant_id: tenant.to_string(),
        account_id: id,
    };
    let removed = owner.tenants().remove_member(owner.ask(remove)).await;
    removed.unwrap();
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
}

#[tokio::test]
async fn the_last_owner_stays_and_nobody_rises_above_themselves() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let owner_id = my_id(&owner).await;
    let refused = give(&owner, tenant, &owner_id, "operator").await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_OF_ROLE");
    let remove = RemoveMemberRequest {
        tenant_id: tenant.to_string(),
        account_id: owner_id.clone(),
    };
    let refused = admin.tenants().remove_member(admin.ask(remove)).await;
    assert_refused(refused, Code::FailedPrecondition, "LAST_OF_ROLE");

    // An administrator's role, held in a tenant, is still more than an owner has there.
    let helper = add(&owner, tenant, "ada@example.com", "auditor").await;
    let helper = helper.unwrap().member.unwrap().account_id;
    new_role(&admin, "recruiter", &["member.read", "member.write"])
        .await
        .unwrap();
    give(&owner, tenant, &helper, "recruiter").await.unwrap();
    panel
        .store
        .set_membership(helper.parse().unwrap(), None, "auditor")
        .await
        .unwrap();
    let recruiter = panel.signed_in(Role::Auditor, Some(tenant)).await;
    let recruiter_id = my_id(&recruiter).await;
    give(&owner, tenant, &recruiter_id, "recruiter")
        .await
        .unwrap();
    for (account, role) in [
        (&recruiter_id, "owner"),
        (&helper, "operator"),
        (&owner_id, "recruiter"),
    ] {
        let refused = give(&recruiter, tenant, account, role).await;
        assert_refused(refused, Code::PermissionDenied, "GRANT_EXCEEDS_OWN");
    }
    let refused = add(&recruiter, tenant, "b@example.com", "operator").await;
    assert_refused(refused, Code::PermissionDenied, "GRANT_EXCEEDS_OWN");
    let found = panel.store.account_by_email("b@example.com").await.unwrap();
    assert!(found.is_none(), "nothing is made for a refused member");
    // A role that permits the same or less is fine.
    add(&recruiter, tenant, "c@example.com", "recruiter")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_custom_role_permits_what_it_says_from_one_call_to_the_next() {
    let panel = Panel::start().await;
    let (admin, tenant) = (panel.admin().await, panel.default_tenant().await);
    let role = new_role(&admin, "support", &["user.read"]).await.unwrap();
    assert!(!role.built_in);
    let again = new_role(&admin, "support", &[]).await;
    assert_refused(again, Code::AlreadyExists, "ALREADY_EXISTS");
    assert_eq!(
        fields(new_role(&admin, "Support", &[]).await),
        ["role.name"]
    );
    let mistyped = new_role(&admin, "other", &["user.read", "user.reed"]).await;
    assert_eq!(fields(mistyped), ["role.permissions[1]"]);

    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let ada = panel.signed_in(Role::Operator, Some(tenant)).await;
    give(&owner, tenant, &my_id(&ada).await, "support")
        .await
        .unwrap();
    users(&ada, tenant).await.unwrap();
    let create = async |name: &str| {
        let request = ada.ask(create_user(tenant, name, &[]));
        ada.users().create_user(request).await
    };
    let refused = create("one").await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");

    let update = async |permits: &[&str], etag: &str| {
        let request = UpdateRoleRequest {
            role: Some(WireRole {
                name: "support".to_owned(),
                permissions: permits.iter().map(|&name| name.to_owned()).collect(),
                etag: etag.to_owned(),
                ..WireRole::default()
            }),
            update_mask: mask(&["permissions"]),
        };
        let changed = admin.roles().update_role(admin.ask(request)).await?;
        Ok::<_, Status>(changed.into_inner().role.unwrap())
    };
    update(&["user.read", "user.write"], &role.etag)
        .await
        .unwrap();
    create("one").await.unwrap();
    let stale = update(&[], &role.etag).await;
    assert_refused(stale, Code::Aborted, "STALE_ETAG");
    update(&[], "").await.unwrap();
    let refused = users(&ada, tenant).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");

    let delete = async |name: &str| {
        let request = DeleteRoleRequest {
            name: name.to_owned(),
            etag: String::new(),
        };
        admin.roles().delete_role(admin.ask(request)).await
    };
    let refused = delete("support").await;
    assert_refused(refused, Code::FailedPrecondition, "ROLE_IN_USE");
    let refused = delete("owner").await;
    assert_refused(refused, Code::FailedPrecondition, "ROLE_BUILT_IN");
    give(&owner, tenant, &my_id(&ada).await, "auditor")
        .await
        .unwrap();
    delete("support").await.unwrap();
    assert_refused(delete("support").await, Code::NotFound, "ROLE_NOT_FOUND");
}

#[tokio::test]
async fn who_may_give_roles_may_read_them() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let list = |tenant_id: String| ListRolesRequest { tenant_id };
    let request = owner.ask(list(tenant.to_string()));
    let listed = owner.roles().list_roles(request).await.unwrap();
    let roles = listed.into_inner().roles;
    let names: Vec<_> = roles.iter().map(|role| role.name.as_str()).collect();
    assert_eq!(names, ["admin", "auditor", "operator", "owner"]);
    for role in &roles {
        let built_in: Role = role.name.parse().unwrap();
        assert_eq!(role.permissions, built_in.permissions());
        assert!(role.built_in && !role.description.is_empty());
    }
    let request = owner.ask(list(String::new()));
    let refused = owner.roles().list_roles(request).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
    let operator = panel.signed_in(Role::Operator, Some(tenant)).await;
    let request = operator.ask(GetRoleRequest {
        name: "owner".to_owned(),
        tenant_id: tenant.to_string(),
    });
    let refused = operator.roles().get_role(request).await;
    assert_refused(refused, Code::PermissionDenied, "PERMISSION_DENIED");
}
