//! What is found out about a caller before a call is decided: who it is, whether roles of the
//! platform count where it calls from, and whether it calls too often. The layer does it in front
//! of every service; the guard does it where there is no layer.

use std::net::IpAddr;

use http::{Extensions, HeaderMap};
use vpnpanel_runtime::{PeerIdentity, rpc::ClientAddress, settings::CidrList, tls::Peer};

use crate::{AuthError, Authentication, Authenticator, Held, Limits, Principal};

/// Roles on the platform that do not count in this call, because it does not come from the
/// networks that they act from. Left in the extensions, so that the refusal can say why.
#[derive(Debug, Clone)]
pub(crate) struct Withheld(Vec<Held>);

impl Withheld {
    /// Whether the withheld roles would have permitted what was refused.
    pub(crate) fn permits(&self, permission: &str) -> bool {
        self.0
            .iter()
            .any(|held| held.permissions.contains(permission))
    }
}

/// The rules of admission.
#[derive(Debug, Clone, Default)]
pub(crate) struct Admission {
    limits: Option<Limits>,
    /// Where roles on the platform act from; everywhere when empty.
    admin_networks: CidrList,
}

impl Authenticator {
    /// Counts calls, and refuses those beyond the limits.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.admission.limits = Some(limits);
        self
    }

    /// Lets roles that are held on the platform count only in calls from these networks;
    /// everywhere when there are none.
    #[must_use]
    pub fn admin_networks(mut self, networks: CidrList) -> Self {
        self.admission.admin_networks = networks;
        self
    }

    /// Finds out who calls, and leaves it in `extensions`.
    ///
    /// # Errors
    /// [`AuthError::TooMany`].
    pub async fn admit(
        &self,
        headers: &HeaderMap,
        extensions: &mut Extensions,
    ) -> Result<(), AuthError> {
        let address = extensions.get::<ClientAddress>().map(|found| found.0);
        let mut found = self.authenticate(headers).await;
        if let Authentication::Verified(principal) = &mut found
            && !self.admission.is_admin_network(address)
        {
            let (principal_here, withheld) = split(principal);
            if !withheld.0.is_empty() {
                *principal = std::sync::Arc::new(principal_here);
                extensions.insert(withheld);
            }
        }
        // Nodes and services come by their certificates, which were checked by the listener.
        let certified =
            extensions.get::<Peer>().is_some() || extensions.get::<PeerIdentity>().is_some();
        if let Some(limits) = &self.admission.limits
            && !certified
        {
            limits.call(&found, address).await?;
        }
        extensions.insert(found);
        Ok(())
    }
}

impl Admission {
    /// Default-deny: where the address is not known and networks are named, it is none of them.
    fn is_admin_network(&self, address: Option<IpAddr>) -> bool {
        self.admin_networks.is_empty()
            || address.is_some_and(|address| self.admin_networks.contains(address))
    }
}

/// The caller without its roles on the platform, and those.
fn split(principal: &Principal) -> (Principal, Withheld) {
    let (platform, tenants) = principal
        .held
        .iter()
        .cloned()
        .partition(|held| held.tenant.is_none());
    let here = Principal {
        held: tenants,
        ..principal.clone()
    };
    (here, Withheld(platform))
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use async_trait::async_trait;
    use http::header::AUTHORIZATION;
    use secrecy::ExposeSecret;
    use vpnpanel_domain::{AccountId, SessionId, TenantId};
    use vpnpanel_runtime::clock::Clock;

    use super::*;
    use crate::{
        BuiltinPolicy, Credential, KeyRing, LimitSettings, Membership, RateLimiter, SigningKey,
        SourceError, Standing, StandingCache, StandingSource, TokenIssuer, TokenSettings,
        keys::tests::Keys,
        limits::{Limit, Quota, QuotaSetting, Verdict},
    };

    /// An administrator who owns a tenant too.
    struct Admin;

    #[async_trait]
    impl StandingSource for Admin {
        async fn standing(
            &self,
            _account: AccountId,
            _credential: Credential,
        ) -> Result<Option<Standing>, SourceError> {
            let held = |tenant, role: &str| Membership {
                tenant,
                role: role.to_owned(),
                suspended: false,
            };
            Ok(Some(Standing {
                password_change_required: false,
                second_factor_owed: Vec::new(),
                memberships: vec![held(None, "admin"), held(Some(tenant()), "owner")],
            }))
        }
    }

    fn tenant() -> TenantId {
        TenantId::from_parts(1, [1; 10])
    }

    async fn authenticator() -> (Authenticator, HeaderMap) {
        let keys = Keys::of(&SigningKey::generate().unwrap());
        let ring = KeyRing::open(keys).await.unwrap();
        let tokens = Arc::new(TokenIssuer::new(Arc::new(ring), TokenSettings::default()));
        let clock = Clock::system();
        let issued = tokens
            .issue(
                AccountId::from_parts(1, [0; 10]),
                SessionId::from_parts(1, [0; 10]),
                None,
                clock.unix_millis(),
            )
            .unwrap();
        let bearer = format!("Bearer {}", issued.token.expose_secret());
        let headers = HeaderMap::from_iter([(AUTHORIZATION, bearer.parse().unwrap())]);
        let standings = StandingCache::new(Arc::new(Admin), Duration::from_secs(60));
        let policy = Arc::new(BuiltinPolicy::default());
        (
            Authenticator::new(tokens, standings, policy, clock),
            headers,
        )
    }

    fn from(address: Option<&str>) -> Extensions {
        let mut extensions = Extensions::new();
        if let Some(address) = address {
            extensions.insert(ClientAddress(address.parse().unwrap()));
        }
        extensions
    }

    #[tokio::test]
    async fn roles_on_the_platform_count_in_the_admin_networks_only() {
        let (authenticator, headers) = authenticator().await;
        let networks = "10.0.0.0/8,2001:db8::/32".parse().unwrap();
        let authenticator = authenticator.admin_networks(networks);
        for (address, counts) in [
            (Some("10.1.2.3"), true),
            (Some("::ffff:10.1.2.3"), true),
            (Some("2001:db8:1::5"), true),
            (Some("11.0.0.1"), false),
            (Some("::10.1.2.3"), false),
            (Some("2001:db9::1"), false),
            (None, false),
        ] {
            let mut extensions = from(address);
            authenticator
                .admit(&headers, &mut extensions)
                .await
                .unwrap();
            let principal = crate::guard::principal(&extensions).unwrap();
            assert_eq!(principal.is_of_platform(), counts, "{address:?}");
            assert_eq!(principal.permits("job.run", None), counts, "{address:?}");
            assert!(principal.permits("user.write", Some(tenant())));
            let withheld = extensions.get::<Withheld>();
            assert_eq!(withheld.is_some_and(|w| w.permits("job.run")), !counts);
        }
    }

    #[tokio::test]
    async fn without_admin_networks_roles_count_everywhere() {
        let (authenticator, headers) = authenticator().await;
        let mut extensions = from(Some("203.0.113.9"));
        authenticator
            .admit(&headers, &mut extensions)
            .await
            .unwrap();
        assert!(
            crate::guard::principal(&extensions)
                .unwrap()
                .is_of_platform()
        );
    }

    /// Refuses, and remembers what it was asked to count.
    #[derive(Default)]
    struct Refusing(Mutex<Vec<(Limit, String)>>);

    #[async_trait]
    impl RateLimiter for Refusing {
        async fn count(&self, limit: Limit, key: &str, _quota: Quota) -> Verdict {
            self.0.lock().unwrap().push((limit, key.to_owned()));
            Verdict::Refused {
                retry_after: Duration::from_secs(7),
            }
        }
    }

    #[tokio::test]
    async fn callers_are_counted_by_credential_or_else_by_address() {
        let (authenticator, headers) = authenticator().await;
        let limiter = Arc::new(Refusing::default());
        let quota = "5/1m".parse::<QuotaSetting>().unwrap().0;
        let settings = LimitSettings {
            anonymous: quota,
            credential: quota,
            ..LimitSettings::OFF
        };
        let authenticator = authenticator.limits(Limits::new(Arc::clone(&limiter) as _, settings));
        let wrong = HeaderMap::from_iter([(AUTHORIZATION, "Bearer x".parse().unwrap())]);
        for headers in [&headers, &HeaderMap::new(), &wrong] {
            let refused = authenticator
                .admit(headers, &mut from(Some("192.0.2.1")))
                .await;
            assert!(matches!(refused, Err(AuthError::TooMany { .. })));
        }
        let counted = limiter.0.lock().unwrap().clone();
        assert_eq!(
            counted.iter().map(|(limit, _)| *limit).collect::<Vec<_>>(),
            [Limit::Credential, Limit::Anonymous, Limit::Anonymous]
        );
        assert_eq!(counted[1].1, "192.0.2.1");
    }

    #[tokio::test]
    async fn who_comes_by_certificate_is_not_counted() {
        let (authenticator, _) = authenticator().await;
        let settings = LimitSettings {
            anonymous: "5/1m".parse::<QuotaSetting>().unwrap().0,
            ..LimitSettings::OFF
        };
        let limits = Limits::new(Arc::new(Refusing::default()), settings);
        let authenticator = authenticator.limits(limits);
        let mut extensions = from(Some("192.0.2.1"));
        extensions.insert(PeerIdentity::control_plane("collector").unwrap());
        authenticator
            .admit(&HeaderMap::new(), &mut extensions)
            .await
            .unwrap();
    }
}
