//! Everybody who calls: no credentials, every kind of wrong ones, every role everywhere, API
//! tokens, and certificates.

use std::collections::BTreeSet;

use uuid::Uuid;
use vpnpanel_auth::{ApiToken, Role};
use vpnpanel_domain::{AccountId, TenantId};
use vpnpanel_runtime::{PeerIdentity, rpc::InProcess};

use crate::{
    credentials::Forge,
    expected::{Held, Pending, Reach, Who},
    fixture::Tenants,
    stage::Stage,
};

/// Somebody who calls.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) name: String,
    pub(crate) who: Who,
    /// Its `authorization` headers.
    pub(crate) credentials: Vec<String>,
    /// E-mail address of an account that has signed in.
    email: Option<String>,
}

impl Caller {
    fn by(name: impl Into<String>, who: Who, credential: String) -> Self {
        Self {
            name: name.into(),
            who,
            credentials: vec![format!("Bearer {credential}")],
            email: None,
        }
    }

    /// The way to a router.
    pub(crate) fn transport(&self, router: axum::Router) -> InProcess {
        match &self.who {
            Who::Certified(identity) => InProcess::of(router, identity.clone()),
            _ => InProcess::anonymous(router),
        }
    }

    /// Credentials that the call may end.
    pub(crate) async fn spendable(&self, stage: &Stage) -> Vec<String> {
        let (Some(email), Who::Account(held)) = (&self.email, &self.who) else {
            return self.credentials.clone();
        };
        let tenant = match held.reach {
            Reach::Tenant(tenant) => Some(tenant),
            _ => None,
        };
        vec![format!("Bearer {}", stage.sign_in(email, tenant).await)]
    }
}

impl Stage {
    /// Signs an account in that holds these roles.
    async fn member(
        &self,
        name: impl Into<String>,
        roles: &[(Option<TenantId>, &str)],
        reach: Reach,
        pending: Pending,
    ) -> Caller {
        let (_, email) = self.account_like(roles, pending == Pending::Password).await;
        let tenant = match reach {
            Reach::Tenant(tenant) => Some(tenant),
            _ => None,
        };
        let held = Held {
            roles: owned(roles),
            token: None,
            reach,
            pending,
        };
        let token = self.sign_in(&email, tenant).await;
        Caller {
            email: Some(email),
            ..Caller::by(name, Who::Account(held), token)
        }
    }

    /// An API token of a fresh account.
    async fn program(
        &self,
        name: &str,
        roles: &[(Option<TenantId>, &str)],
        tenant: Option<TenantId>,
        permissions: &[&str],
    ) -> Caller {
        let (account, _) = self.account(roles).await;
        let permissions = permissions.iter().map(|&it| it.to_owned()).collect();
        self.token_of(name, account, roles, tenant, permissions)
            .await
    }

    /// An API token of an account.
    pub(crate) async fn token_of(
        &self,
        name: &str,
        account: AccountId,
        roles: &[(Option<TenantId>, &str)],
        tenant: Option<TenantId>,
        permissions: BTreeSet<String>,
    ) -> Caller {
        let token = self.api_token(account, tenant, &permissions).await;
        let held = Held {
            roles: owned(roles),
            token: Some(permissions),
            reach: tenant.map_or(Reach::Platform, Reach::Tenant),
            pending: Pending::Nothing,
        };
        Caller::by(name, Who::Account(held), token)
    }

    /// Callers who are nobody.
    pub(crate) async fn nobodies(&self) -> Vec<Caller> {
        let forge = Forge::new(self).await;
        let nobody = |name: &str, reason, token| Caller::by(name, Who::Nobody(reason), token);
        let invalid = |name: &str, token| nobody(name, "TOKEN_INVALID", token);
        let ended = |name: &str, token| nobody(name, "SESSION_ENDED", token);

        let (admin, email) = self.account(&[(None, "admin")]).await;
        let revoked = self.sign_in(&email, None).await;
        self.sign_out(&revoked).await;
        let (gone, email) = self.account(&[(None, "auditor")]).await;
        let disabled = self.sign_in(&email, None).await;
        let all: BTreeSet<String> = names(Role::Auditor);
        let of_disabled = self.api_token(gone, None, &all).await;
        let by = vpnpanel_store::Grantor {
            account: admin,
            credential: names(Role::Admin),
            platform_only: BTreeSet::new(),
        };
        self.store
            .set_account_disabled(&by, gone, true)
            .await
            .unwrap();
        let mut callers = vec![
            Caller {
                credentials: Vec::new(),
                ..nobody("no token", "NO_CREDENTIALS", String::new())
            },
            Caller {
                credentials: vec!["Basic YWRtaW46YWRtaW4=".to_owned()],
                ..invalid("another scheme", String::new())
            },
            invalid("malformed", "x.y.z".to_owned()),
            invalid("empty", String::new()),
            nobody("expired", "TOKEN_EXPIRED", forge.expired().await),
            invalid("not yet valid", forge.not_yet_valid().await),
            invalid("wrong audience", forge.of_another_audience().await),
            invalid("wrong issuer", forge.of_another_issuer().await),
            invalid("unknown key", forge.of_an_unknown_key().await),
            invalid("another's key by our id", forge.of_a_key_by_our_id().await),
            invalid("HMAC by the public key", forge.by_a_shared_secret().await),
            invalid("unsigned", forge.unsigned().await),
            invalid("altered", forge.altered().await),
            ended("revoked session", revoked),
            ended("disabled account", disabled),
            ended("API token of a disabled account", of_disabled),
            invalid(
                "unknown API token",
                ApiToken::generate().unwrap().expose().to_owned(),
            ),
        ];
        let token = self
            .ended_api_token(admin, None, &all, 3_600_000, true)
            .await;
        callers.push(ended("revoked API token", token));
        let token = self.ended_api_token(admin, None, &all, -1, false).await;
        callers.push(ended("expired API token", token));
        callers.push(Caller {
            credentials: vec![
                format!("Bearer {}", forge.right().await),
                format!("Bearer {}", forge.right().await),
            ],
            ..invalid("two tokens", String::new())
        });
        callers
    }

    /// Callers who are somebody. Each has an account of its own, so that what one does to its
    /// sessions concerns no other.
    pub(crate) async fn somebodies(&self, tenants: &Tenants, custom: &[&str]) -> Vec<Caller> {
        let (ours, theirs) = (Some(tenants.ours), Some(tenants.theirs));
        let suspended = Some(tenants.suspended);
        let (all, done) = (Reach::Account, Pending::Nothing);
        let roles = Role::ALL.map(Role::as_str);
        let mut callers = Vec::new();
        for role in roles.iter().chain(custom).copied() {
            for (place, at) in [
                ("ours", ours),
                ("the suspended tenant", suspended),
                ("the platform", None),
            ] {
                let name = format!("{role} of {place}");
                callers.push(self.member(name, &[(at, role)], all, done).await);
            }
        }
        let narrow = Reach::Tenant(tenants.ours);
        let two = [(ours, "auditor"), (theirs, "owner")];
        let in_both = [(None, "auditor"), (suspended, "owner")];
        for (name, held, reach) in [
            ("no role", &[][..], all),
            ("auditor of ours, owner of theirs", &two[..], all),
            ("the same, for ours alone", &two[..], narrow),
            ("admin, for ours alone", &[(None, "admin")][..], narrow),
            ("auditor of all, owner of suspended", &in_both[..], all),
        ] {
            callers.push(self.member(name, held, reach, done).await);
        }
        for (name, held, pending) in [
            ("one-time password", (None, "admin"), Pending::Password),
            (
                "lacks a second factor",
                (Some(tenants.strict), "owner"),
                Pending::SecondFactor,
            ),
        ] {
            callers.push(self.member(name, &[held], all, pending).await);
        }
        let (admin, owner) = (Role::Admin.permissions(), Role::Owner.permissions());
        for (name, role, tenant, lists) in [
            ("admin's API token", (None, "admin"), None, admin),
            ("admin's API token for ours", (None, "admin"), ours, admin),
            ("owner's API token", (ours, "owner"), ours, owner),
            (
                "owner's API token, suspended",
                (suspended, "owner"),
                suspended,
                owner,
            ),
            (
                "owner's API token, user.read",
                (ours, "owner"),
                ours,
                &["user.read"][..],
            ),
        ] {
            callers.push(self.program(name, &[role], tenant, lists).await);
        }
        callers
    }

    /// Callers by certificate.
    pub(crate) fn certified(tenants: &Tenants) -> Vec<Caller> {
        let services = [
            "control-api",
            "collector",
            "scheduler",
            "gateway",
            "stranger",
        ];
        let services = services.map(|name| PeerIdentity::control_plane(name).unwrap());
        let nodes = [None, Some(tenants.ours.uuid())].map(|tenant| PeerIdentity::Node {
            tenant,
            node: Uuid::from_u128(1),
        });
        let caller = |identity: PeerIdentity| Caller {
            name: format!("{identity:?}"),
            who: Who::Certified(identity),
            credentials: Vec::new(),
            email: None,
        };
        services.into_iter().chain(nodes).map(caller).collect()
    }
}

/// What a role permits.
pub(crate) fn names(role: Role) -> BTreeSet<String> {
    role.permissions().iter().map(|&it| it.to_owned()).collect()
}

fn owned(roles: &[(Option<TenantId>, &str)]) -> Vec<(Option<TenantId>, String)> {
    let owned = roles.iter().map(|&(at, role)| (at, role.to_owned()));
    owned.collect()
}
