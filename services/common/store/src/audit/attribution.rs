//! Who acts: what every event of a transaction says about its author.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;
use vpnpanel_domain::{AccountId, NodeId, TenantId};

use super::Resource;
use crate::connect::Store;
use crate::error::{Result, StoreError};

/// Most roles in tenants that an event of the platform names.
const MOST_ELSEWHERE: usize = 20;

/// Who does something, through what, and how what they do is shown.
#[derive(Debug, Clone)]
pub struct Attribution {
    /// Who: `account:<id>`, `apiToken:<id>`, `service:<name>`, `node:<id>`, `system:<job>` or
    /// `anonymous`.
    pub actor: String,
    /// What they held when they did it.
    pub held: Vec<HeldRole>,
    /// What they showed: `session:<id>` or `apiToken:<id>`; empty for neither.
    pub credential: String,
    /// Where they called from; empty when that is not known.
    pub address: String,
    /// What their client calls itself.
    pub user_agent: String,
    /// Id of the request; empty outside of one.
    pub request_id: String,
    /// Path of the method, `/package.Service/Method`; empty outside of one.
    pub method: Cow<'static, str>,
    /// How resources are shown.
    pub describe: Describe,
}

/// A role, and where it was held; `None` is the platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldRole {
    /// Where.
    pub tenant: Option<TenantId>,
    /// Its name.
    pub role: String,
}

/// Shows a resource as it was and as it is, without secrets: the store knows nothing of the form
/// in which people see its rows. Where both are given, only what differs.
pub type Describe = fn(Option<Resource<'_>>, Option<Resource<'_>>) -> Described;

/// What an event shows of a resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Described {
    /// Before.
    pub before: Option<Value>,
    /// After.
    pub after: Option<Value>,
}

impl Attribution {
    /// Something that the control plane does by itself, for example `scheduler/expiry`.
    pub fn system(name: &str, describe: Describe) -> Self {
        Self {
            actor: format!("system:{name}"),
            describe,
            ..Self::anonymous()
        }
    }

    /// Somebody unknown.
    pub fn anonymous() -> Self {
        Self {
            actor: "anonymous".to_owned(),
            held: Vec::new(),
            credential: String::new(),
            address: String::new(),
            user_agent: String::new(),
            request_id: String::new(),
            method: Cow::Borrowed(""),
            describe: |_, _| Described::default(),
        }
    }

    /// The same request, by an account that has just proven to be one, with what it holds.
    #[must_use]
    pub fn by_account(self, account: AccountId, held: Vec<HeldRole>) -> Self {
        Self {
            actor: Self::account(account),
            held,
            ..self
        }
    }

    /// What outlives the request, where what was asked for goes on after it.
    pub(crate) fn to_json(&self) -> Value {
        let held = self
            .held
            .iter()
            .map(|held| json!({"tenant": held.tenant.map(|it| it.to_string()), "role": held.role}));
        json!({
            "actor": self.actor,
            "held": held.collect::<Vec<_>>(),
            "credential": self.credential,
            "address": self.address,
            "userAgent": self.user_agent,
            "requestId": self.request_id,
            "method": self.method,
        })
    }

    /// The one that [`Attribution::to_json`] wrote.
    pub(crate) fn from_json(stored: &Value, describe: Describe) -> Result<Self> {
        let corrupt = |what: &str| StoreError::corrupt("operations.attribution", what);
        let text = |name: &str| -> Result<String> {
            let value = stored.get(name).and_then(Value::as_str);
            Ok(value.ok_or_else(|| corrupt(name))?.to_owned())
        };
        let held = stored
            .get("held")
            .and_then(Value::as_array)
            .ok_or_else(|| corrupt("held"))?;
        let held = held.iter().map(|held| {
            let role = held.get("role").and_then(Value::as_str);
            let tenant = match held.get("tenant").and_then(Value::as_str) {
                None => None,
                Some(id) => Some(id.parse().map_err(|_| corrupt("tenant"))?),
            };
            Ok(HeldRole {
                tenant,
                role: role.ok_or_else(|| corrupt("role"))?.to_owned(),
            })
        });
        Ok(Self {
            actor: text("actor")?,
            held: held.collect::<Result<_>>()?,
            credential: text("credential")?,
            address: text("address")?,
            user_agent: text("userAgent")?,
            request_id: text("requestId")?,
            method: Cow::Owned(text("method")?),
            describe,
        })
    }

    /// How an account is named as an actor.
    pub fn account(id: AccountId) -> String {
        format!("account:{id}")
    }

    /// How a node is named as an actor.
    pub fn node(id: NodeId) -> String {
        format!("node:{id}")
    }

    /// Names of the roles that count in a tenant; the nil tenant is the platform. What somebody
    /// without a role on the platform does there is about their own account: then those that they
    /// hold in tenants are named with the tenant, the first 20 of them.
    pub(crate) fn roles_in(&self, tenant: Uuid) -> String {
        let counting = self
            .held
            .iter()
            .filter(|held| held.tenant.is_none_or(|held| held.uuid() == tenant));
        let mut roles: BTreeSet<Cow<'_, str>> =
            counting.map(|held| held.role.as_str().into()).collect();
        if roles.is_empty() && tenant.is_nil() {
            let elsewhere = self.held.iter().filter_map(|held| {
                let tenant = held.tenant?;
                Some(format!("{}@{tenant}", held.role).into())
            });
            roles = elsewhere.take(MOST_ELSEWHERE).collect();
        }
        roles.into_iter().collect::<Vec<_>>().join(",")
    }
}

impl Store {
    /// The same store, acting for somebody: every transaction that it commits writes what was
    /// done into the audit log.
    #[must_use]
    pub fn acting(&self, who: Attribution) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            acting: Some(Arc::new(who)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_the_same_when_it_goes_on() {
        let tenant = TenantId::new(Uuid::from_u128(7));
        let role = |tenant| HeldRole {
            tenant,
            role: "owner".to_owned(),
        };
        let who = Attribution {
            actor: "account:1".to_owned(),
            held: vec![role(None), role(Some(tenant))],
            credential: "session:2".to_owned(),
            address: "192.0.2.1".to_owned(),
            user_agent: "curl \"x\"".to_owned(),
            request_id: "r".to_owned(),
            method: "/a.B/C".into(),
            ..Attribution::anonymous()
        };
        let again = Attribution::from_json(&who.to_json(), who.describe).unwrap();
        assert_eq!(again.to_json(), who.to_json());
        assert_eq!(again.held, who.held);
        assert!(Attribution::from_json(&json!({}), who.describe).is_err());
    }

    #[test]
    fn an_event_names_the_roles_that_counted_where_it_happened() {
        let (one, two) = (
            TenantId::new(Uuid::from_u128(1)),
            TenantId::new(Uuid::from_u128(2)),
        );
        let held = |tenant, role: &str| HeldRole {
            tenant,
            role: role.to_owned(),
        };
        let who = Attribution {
            held: vec![
                held(Some(one), "owner"),
                held(None, "auditor"),
                held(Some(two), "operator"),
            ],
            ..Attribution::anonymous()
        };
        assert_eq!(who.roles_in(one.uuid()), "auditor,owner");
        assert_eq!(who.roles_in(two.uuid()), "auditor,operator");
        assert_eq!(who.roles_in(Uuid::nil()), "auditor");
        let of_tenants = Attribution {
            held: vec![held(Some(two), "operator"), held(Some(one), "owner")],
            ..Attribution::anonymous()
        };
        assert_eq!(
            of_tenants.roles_in(Uuid::nil()),
            format!("operator@{two},owner@{one}")
        );
        assert_eq!(of_tenants.roles_in(Uuid::from_u128(3)), "");
    }
}
