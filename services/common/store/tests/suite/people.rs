//! Who may give whom what, and who has to stay: roles, memberships and accounts.

use std::collections::BTreeSet;

use vpnpanel_domain::{AccountId, TenantId};
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    AccountPatch, Grantor, Joining, NewAccount, NewRole, NewSession, Page, Proof, RolePatch, Store,
    StoreError, fresh_id, on_each_database,
};

use crate::fixture::new_tenant;

on_each_database!(
    the_last_owner_stays,
    the_last_administrator_stays,
    of_two_owners_who_leave_at_once_one_stays,
    of_two_administrators_who_leave_at_once_one_stays,
    a_disabled_owner_counts_for_nothing,
    nobody_gives_what_they_do_not_hold,
    what_a_grantor_holds_is_read_in_the_database,
    a_credential_narrows_what_its_account_may_give,
    nobody_touches_an_account_that_may_do_more,
    a_role_never_permits_more_than_its_editor_holds,
    built_in_roles_and_roles_in_use_stay,
    built_in_roles_follow_the_product,
    a_newcomer_is_made_with_its_membership_or_not_at_all,
    members_are_those_of_the_tenant,
    a_disabled_or_deleted_account_has_no_sessions,
);

const PLATFORM_ONLY: [&str; 2] = ["account.write", "role.write"];
const IN_TENANTS: [&str; 3] = ["member.write", "user.read", "user.write"];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn everything() -> BTreeSet<String> {
    set(&PLATFORM_ONLY)
        .union(&set(&IN_TENANTS))
        .cloned()
        .collect()
}

fn role(name: &str, permissions: BTreeSet<String>) -> NewRole {
    NewRole {
        name: name.to_owned(),
        description: format!("the {name}"),
        permissions,
    }
}

/// A grantor whose credential permits what its account holds.
fn by(account: AccountId) -> Grantor {
    Grantor {
        account,
        credential: everything(),
        platform_only: set(&PLATFORM_ONLY),
    }
}

struct People {
    test: TestStore,
    store: Store,
    tenant: TenantId,
    admin: AccountId,
}

impl People {
    /// The roles, a tenant without members, and an administrator.
    async fn new(test: TestStore) -> Self {
        let store = test.store.clone();
        let roles = [
            role("admin", everything()),
            role("owner", set(&IN_TENANTS)),
            role("operator", set(&["user.read", "user.write"])),
            role("auditor", set(&["user.read", "account.write"])),
        ];
        assert!(store.seed_roles(&roles).await.unwrap());
        let tenant = new_tenant(&store, "acme").await;
        let mut this = Self {
            test,
            store,
            tenant,
            admin: fresh_id(),
        };
        this.admin = this.account(None, "admin").await;
        this
    }

    async fn account(&self, tenant: Option<TenantId>, role: &str) -> AccountId {
        let new = new_account();
        let id = new.id;
        self.store.create_account(new).await.unwrap();
        self.store.set_membership(id, tenant, role).await.unwrap();
        id
    }

    async fn member(&self, role: &str) -> AccountId {
        self.account(Some(self.tenant), role).await
    }

    async fn give(
        &self,
        grantor: &Grantor,
        account: AccountId,
        role: &str,
    ) -> Result<(), StoreError> {
        let given = self
            .store
            .update_member(grantor, self.tenant, account, role, None)
            .await;
        given.map(drop)
    }

    async fn remove(&self, grantor: &Grantor, account: AccountId) -> Result<(), StoreError> {
        self.store
            .remove_member(grantor, self.tenant, account)
            .await
    }

    async fn platform_role(
        &self,
        grantor: &Grantor,
        account: AccountId,
        role: Option<&str>,
    ) -> Result<(), StoreError> {
        let patch = AccountPatch {
            platform_role: Some(role.map(str::to_owned)),
            ..AccountPatch::default()
        };
        let changed = self.store.update_account(grantor, account, patch, None);
        changed.await.map(drop)
    }

    async fn disable(&self, account: AccountId) -> Result<(), StoreError> {
        let admin = by(self.admin);
        let disabled = self.store.set_account_disabled(&admin, account, true);
        disabled.await.map(drop)
    }

    async fn delete(&self, account: AccountId) -> Result<(), StoreError> {
        self.store
            .delete_account(&by(self.admin), account, None)
            .await
    }

    async fn roles_in_tenant(&self) -> Vec<String> {
        let members = self.store.members(self.tenant, Page::first(100)).await;
        members.unwrap().into_iter().map(|it| it.role).collect()
    }
}

fn new_account() -> NewAccount {
    let id: AccountId = fresh_id();
    NewAccount {
        id,
        email: format!("{id}@example.com"),
        display_name: "Ada".to_owned(),
        password_hash: Some("$argon2id$…".to_owned()),
        password_change_required: false,
    }
}

#[track_caller]
fn assert_last<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, StoreError::LastOfRole { role } if role == expected),
        "{error:?}"
    );
}

#[track_caller]
fn assert_exceeds<T: std::fmt::Debug>(result: Result<T, StoreError>, expected: &str) {
    let error = result.unwrap_err();
    assert!(
        matches!(&error, StoreError::GrantExceedsOwn { permission } if permission == expected),
        "{error:?}"
    );
}

async fn the_last_owner_stays(test: TestStore) {
    let people = People::new(test).await;
    let (owner, admin) = (people.member("owner").await, by(people.admin));
    assert_last(people.give(&admin, owner, "operator").await, "owner");
    assert_last(people.remove(&by(owner), owner).await, "owner");
    assert_last(people.disable(owner).await, "owner");
    assert_last(people.delete(owner).await, "owner");
    assert_eq!(people.roles_in_tenant().await, ["owner"]);

    // Another one frees it; the owner of another tenant does not.
    let elsewhere = new_tenant(&people.store, "other").await;
    people.account(Some(elsewhere), "owner").await;
    assert_last(people.remove(&admin, owner).await, "owner");
    people.member("owner").await;
    people.give(&admin, owner, "operator").await.unwrap();
    people.remove(&admin, owner).await.unwrap();
}

async fn the_last_administrator_stays(test: TestStore) {
    let people = People::new(test).await;
    let admin = by(people.admin);
    let demoted = people.platform_role(&admin, people.admin, Some("auditor"));
    assert_last(demoted.await, "admin");
    assert_last(
        people.platform_role(&admin, people.admin, None).await,
        "admin",
    );
    assert_last(people.disable(people.admin).await, "admin");
    assert_last(people.delete(people.admin).await, "admin");

    // Who is one in a tenant only is none of the platform.
    people.member("admin").await;
    assert_last(
        people.platform_role(&admin, people.admin, None).await,
        "admin",
    );
    let second = people.account(None, "auditor").await;
    let promoted = people.platform_role(&admin, second, Some("admin"));
    promoted.await.unwrap();
    people.delete(people.admin).await.unwrap();
}

async fn of_two_owners_who_leave_at_once_one_stays(test: TestStore) {
    let people = People::new(test).await;
    for round in 0..8 {
        let tenant = new_tenant(&people.store, &format!("tenant{round}")).await;
        let owners = [
            people.account(Some(tenant), "owner").await,
            people.account(Some(tenant), "owner").await,
        ];
        let stores = [people.test.another().await, people.test.another().await];
        let leave = async |store: &Store, owner: AccountId, way: usize| {
            let admin = by(people.admin);
            match way {
                0 => {
                    let changed = store.update_member(&admin, tenant, owner, "operator", None);
                    changed.await.map(drop)
                }
                1 => store.remove_member(&admin, tenant, owner).await,
                2 => {
                    let disabled = store.set_account_disabled(&admin, owner, true);
                    disabled.await.map(drop)
                }
                _ => store.delete_account(&admin, owner, None).await,
            }
        };
        let (one, two) = tokio::join!(
            leave(&stores[0], owners[0], round % 4),
            leave(&stores[1], owners[1], round / 2),
        );
        assert!(one.is_ok() != two.is_ok(), "{round}: {one:?} {two:?}");
        assert_last(one.and(two), "owner");
    }
}

async fn of_two_administrators_who_leave_at_once_one_stays(test: TestStore) {
    let people = People::new(test).await;
    let second = people.account(None, "admin").await;
    let stores = [people.test.another().await, people.test.another().await];
    let demote = async |store: &Store, grantor: AccountId, account: AccountId| {
        let patch = AccountPatch {
            platform_role: Some(None),
            ..AccountPatch::default()
        };
        let grantor = by(grantor);
        let changed = store.update_account(&grantor, account, patch, None);
        changed.await.map(drop)
    };
    let (one, two) = tokio::join!(
        demote(&stores[0], people.admin, people.admin),
        demote(&stores[1], second, second),
    );
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_last(one.and(two), "admin");
}

async fn a_disabled_owner_counts_for_nothing(test: TestStore) {
    let people = People::new(test).await;
    let (first, second) = (people.member("owner").await, people.member("owner").await);
    people.disable(second).await.unwrap();
    assert_last(people.remove(&by(people.admin), first).await, "owner");
    people.remove(&by(people.admin), second).await.unwrap();
    assert_eq!(people.roles_in_tenant().await, ["owner"]);
}

async fn nobody_gives_what_they_do_not_hold(test: TestStore) {
    let people = People::new(test).await;
    let owner = people.member("owner").await;
    let operator = people.member("operator").await;
    let target = people.member("operator").await;
    // In a tenant, what only the platform's methods ask for does not matter …
    people.give(&by(owner), target, "auditor").await.unwrap();
    people.give(&by(owner), target, "owner").await.unwrap();
    // … and an owner holds nothing on the platform.
    let promoted = people
        .platform_role(&by(owner), target, Some("auditor"))
        .await;
    assert_exceeds(promoted, "member.write");
    // Neither to others nor to oneself, and what is given away must be held too.
    assert_exceeds(
        people.give(&by(operator), operator, "owner").await,
        "member.write",
    );
    assert_exceeds(people.remove(&by(operator), target).await, "member.write");
    let stranger = new_tenant(&people.store, "other").await;
    let stranger = people.account(Some(stranger), "owner").await;
    let given = people.give(&by(stranger), target, "operator").await;
    assert_exceeds(given, "member.write");
    let newcomer = Joining::Newcomer(new_account());
    let added = people
        .store
        .add_member(&by(operator), people.tenant, newcomer, "owner")
        .await;
    assert_exceeds(added, "member.write");
    let nonsense = people.give(&by(owner), target, "king").await.unwrap_err();
    assert!(matches!(
        nonsense,
        StoreError::InvalidReference { what: "role", .. }
    ));
}

async fn what_a_grantor_holds_is_read_in_the_database(test: TestStore) {
    let people = People::new(test).await;
    let (first, second) = (people.member("owner").await, people.member("owner").await);
    let target = people.member("operator").await;
    // Its token still says owner.
    people
        .give(&by(people.admin), first, "operator")
        .await
        .unwrap();
    assert_exceeds(
        people.give(&by(first), target, "owner").await,
        "member.write",
    );
    people.member("owner").await;
    people.disable(second).await.unwrap();
    assert_exceeds(
        people
            .give(&by(second), target, "operator")
            .await
            .and(people.give(&by(second), target, "auditor").await),
        "user.read",
    );
}

async fn a_credential_narrows_what_its_account_may_give(test: TestStore) {
    let people = People::new(test).await;
    let target = people.member("auditor").await;
    let narrow = Grantor {
        credential: set(&["member.write", "user.read"]),
        ..by(people.admin)
    };
    assert_exceeds(people.give(&narrow, target, "operator").await, "user.write");
    people
        .give(&by(people.admin), target, "operator")
        .await
        .unwrap();
}

async fn nobody_touches_an_account_that_may_do_more(test: TestStore) {
    let people = People::new(test).await;
    let helpdesk = role("helpdesk", set(&["account.write", "user.read"]));
    let made = people.store.create_role(&by(people.admin), helpdesk).await;
    made.unwrap();
    let helper = by(people.account(None, "helpdesk").await);
    let owner = people.member("owner").await;
    let auditor = people.member("auditor").await;
    for (account, beyond) in [(people.admin, "member.write"), (owner, "member.write")] {
        let reset = people
            .store
            .reset_password(&helper, account, "hash".to_owned());
        assert_exceeds(reset.await, beyond);
        let disabled = people.store.set_account_disabled(&helper, account, true);
        assert_exceeds(disabled.await, beyond);
        let deleted = people.store.delete_account(&helper, account, None);
        assert_exceeds(deleted.await, beyond);
        let renamed = AccountPatch {
            email: Some("mine@example.com".to_owned()),
            ..AccountPatch::default()
        };
        let renamed = people.store.update_account(&helper, account, renamed, None);
        assert_exceeds(renamed.await, beyond);
    }
    let own = people.platform_role(&helper, helper.account, Some("admin"));
    assert_exceeds(own.await, "member.write");
    let reset = people
        .store
        .reset_password(&helper, auditor, "hash".to_owned());
    assert!(reset.await.unwrap().password_change_required);
}

async fn a_role_never_permits_more_than_its_editor_holds(test: TestStore) {
    let people = People::new(test).await;
    let admin = by(people.admin);
    let editor = role("editor", set(&["role.write", "user.read"]));
    people.store.create_role(&admin, editor).await.unwrap();
    let editor = by(people.account(None, "editor").await);

    let wide = role("wide", set(&["user.write"]));
    let refused = people.store.create_role(&editor, wide.clone()).await;
    assert_exceeds(refused, "user.write");
    let narrow = role("narrow", set(&["user.read"]));
    let narrow = people.store.create_role(&editor, narrow).await.unwrap();
    let widen = |permissions| RolePatch {
        permissions: Some(permissions),
        ..RolePatch::default()
    };
    let patch = widen(set(&["user.read", "user.write"]));
    let refused = people
        .store
        .update_role(&editor, "narrow", patch.clone(), None);
    assert_exceeds(refused.await, "user.write");
    // Not even its own role, and nothing of a role that permits more.
    let refused = people
        .store
        .update_role(&editor, "editor", patch.clone(), None);
    assert_exceeds(refused.await, "user.write");
    people.store.create_role(&admin, wide).await.unwrap();
    let refused = people
        .store
        .update_role(&editor, "wide", widen(set(&[])), None);
    assert_exceeds(refused.await, "user.write");
    let refused = people.store.delete_role(&editor, "wide", None);
    assert_exceeds(refused.await, "user.write");

    let changed = people
        .store
        .update_role(&admin, "narrow", patch.clone(), Some(narrow.version))
        .await
        .unwrap();
    assert_eq!(changed.permissions, patch.permissions.unwrap());
    let stale = people
        .store
        .update_role(&admin, "narrow", widen(set(&[])), Some(narrow.version))
        .await;
    assert!(matches!(stale, Err(StoreError::StaleVersion)));
}

async fn built_in_roles_and_roles_in_use_stay(test: TestStore) {
    let people = People::new(test).await;
    let admin = by(people.admin);
    let changed = people
        .store
        .update_role(&admin, "operator", RolePatch::default(), None);
    assert!(matches!(changed.await, Err(StoreError::RoleBuiltIn)));
    let deleted = people.store.delete_role(&admin, "operator", None).await;
    assert!(matches!(deleted, Err(StoreError::RoleBuiltIn)));
    let again = people.store.create_role(&admin, role("owner", set(&[])));
    assert!(matches!(
        again.await,
        Err(StoreError::AlreadyExists { what: "name" })
    ));

    let support = role("support", set(&["user.read"]));
    people.store.create_role(&admin, support).await.unwrap();
    let member = people.member("support").await;
    let deleted = people.store.delete_role(&admin, "support", None).await;
    assert!(matches!(deleted, Err(StoreError::RoleInUse)));
    people.delete(member).await.unwrap();
    people
        .store
        .delete_role(&admin, "support", None)
        .await
        .unwrap();
    let gone = people.store.role("support").await;
    assert!(matches!(gone, Err(StoreError::NotFound("role"))));
}

async fn built_in_roles_follow_the_product(test: TestStore) {
    let people = People::new(test).await;
    let before = people.store.role("owner").await.unwrap();
    let same = role("owner", set(&IN_TENANTS));
    assert!(!people.store.seed_roles(&[same]).await.unwrap());
    assert_eq!(people.store.role("owner").await.unwrap(), before);
    let grown = role("owner", set(&["plan.write"]));
    assert!(people.store.seed_roles(&[grown]).await.unwrap());
    let after = people.store.role("owner").await.unwrap();
    assert!(after.permissions.contains("plan.write") && after.builtin);
    assert!(after.version > before.version);
}

async fn a_newcomer_is_made_with_its_membership_or_not_at_all(test: TestStore) {
    let people = People::new(test).await;
    let (owner, new) = (by(people.member("owner").await), new_account());
    let add = async |tenant, joining, role: &str| {
        people.store.add_member(&owner, tenant, joining, role).await
    };
    let nowhere: TenantId = fresh_id();
    let refused = add(nowhere, Joining::Newcomer(new.clone()), "operator").await;
    assert!(matches!(refused, Err(StoreError::NotFound("tenant"))));
    let refused = add(people.tenant, Joining::Newcomer(new.clone()), "king").await;
    assert!(matches!(refused, Err(StoreError::InvalidReference { .. })));
    let found = people.store.account_by_email(&new.email).await.unwrap();
    assert!(found.is_none());
    let added = add(people.tenant, Joining::Newcomer(new.clone()), "operator").await;
    let added = added.unwrap();
    assert_eq!(
        (added.account_id, added.role.as_str()),
        (new.id, "operator")
    );
    let again = add(people.tenant, Joining::Account(new.id), "operator").await;
    assert!(matches!(
        again,
        Err(StoreError::AlreadyExists { what: "member" })
    ));
}

async fn members_are_those_of_the_tenant(test: TestStore) {
    let people = People::new(test).await;
    let other = new_tenant(&people.store, "other").await;
    let stranger = people.account(Some(other), "owner").await;
    let mut ours = Vec::new();
    for _ in 0..3 {
        ours.push(people.member("owner").await);
    }
    let mut page = Page::first(2);
    let mut listed = Vec::new();
    loop {
        let members = people.store.members(people.tenant, page).await.unwrap();
        let Some(last) = members.last() else { break };
        page = Page::after(2, last.account_id);
        listed.extend(members.into_iter().map(|member| member.account_id));
    }
    assert_eq!(listed, ours);
    let admin = by(people.admin);
    let refused = people.give(&admin, stranger, "operator").await;
    assert!(matches!(refused, Err(StoreError::NotFound("member"))));
    let refused = people.remove(&admin, stranger).await;
    assert!(matches!(refused, Err(StoreError::NotFound("member"))));
    let refused = people.store.members(fresh_id(), Page::first(1)).await;
    assert!(matches!(refused, Err(StoreError::NotFound("tenant"))));
}

async fn a_disabled_or_deleted_account_has_no_sessions(test: TestStore) {
    let people = People::new(test).await;
    let account = people.member("operator").await;
    let session = async |hash: &[u8]| {
        let new = NewSession {
            id: fresh_id(),
            account_id: account,
            user_agent: String::new(),
            address: String::new(),
            expires_at_ms: i64::MAX,
            proof: Proof::default(),
        };
        people.store.create_session(new, hash).await.unwrap();
    };
    let open = async || {
        let sessions = people.store.sessions(account, Page::first(9)).await;
        sessions.unwrap().len()
    };
    session(b"one").await;
    people.disable(account).await.unwrap();
    assert_eq!(open().await, 0);
    assert!(people.store.memberships(account).await.unwrap().is_empty());
    people
        .store
        .set_account_disabled(&by(people.admin), account, false)
        .await
        .unwrap();
    assert_eq!(open().await, 0, "what was ended stays so");
    assert_eq!(people.store.memberships(account).await.unwrap().len(), 1);
    session(b"two").await;
    let admin = by(people.admin);
    let reset = people
        .store
        .reset_password(&admin, account, "new".to_owned());
    reset.await.unwrap();
    assert_eq!(open().await, 0);
    session(b"three").await;
    let email = people.store.account(account).await.unwrap().email;
    people.delete(account).await.unwrap();
    assert_eq!(open().await, 0);
    assert!(people.store.account(account).await.is_err());
    let another = NewAccount {
        email,
        ..new_account()
    };
    people.store.create_account(another).await.unwrap();
}
