//! Every method × every caller × every place that its request may name × gRPC and REST.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use prost::Message;
use tokio::sync::Semaphore;
use vpnpanel_api::{Access, METHODS, Method};
use vpnpanel_auth::{Role, policy};
use vpnpanel_domain::TenantId;
use vpnpanel_store::{Grantor, NewRole};

use crate::{
    bindings::{bindings, descriptor},
    callers::{Caller, names},
    calls::{self, Answer},
    expected::{Expected, Held, Policy, Roles, Who},
    fixture::{Ids, MADE_ROLE, Tenants},
    requests::{About, request},
    stage::Stage,
};

/// Callers that call at the same time.
const AT_ONCE: usize = 8;
/// No answer takes so long; a stream of a node is closed then.
const PATIENCE: Duration = Duration::from_secs(20);

/// Methods that end the session they are called by.
const SPENDING: &[&str] = &["/vpnpanel.auth.v1.AuthService/Logout"];

/// Methods that let nobody further without the password of a person, the token of a host, or a
/// connection of their own.
const ASKING_MORE: &[&str] = &[
    "/vpnpanel.agent.v1.EnrollmentService/Enroll",
    "/vpnpanel.agent.v1.EnrollmentService/Renew",
    "/vpnpanel.agent.v1.NodeControlService/GetStatus",
    "/vpnpanel.agent.v1.NodeControlService/RunCommand",
    "/vpnpanel.agent.v1.NodeControlService/StreamLogs",
    "/vpnpanel.agent.v1.NodeLinkService/Connect",
    "/vpnpanel.auth.v1.AuthService/ChangePassword",
    "/vpnpanel.pki.v1.SignerService/SignJoiningNode",
    "/vpnpanel.pki.v1.SignerService/SignLapsedNode",
    "/vpnpanel.pki.v1.SignerService/SignRenewingNode",
];

/// An installation with everything in it.
pub(crate) struct World {
    pub(crate) stage: Stage,
    pub(crate) tenants: Tenants,
    pub(crate) ids: Ids,
    pub(crate) roles: Roles,
}

/// One call and what became of it.
#[derive(Debug)]
struct Cell {
    caller: String,
    method: &'static Method,
    way: String,
    expected: Expected,
    answer: Answer,
}

impl World {
    pub(crate) async fn make() -> Self {
        let stage = Stage::set().await;
        let tenants = stage.tenants().await;
        let (admin, email) = stage.account(&[(None, "admin")]).await;
        let token = stage.sign_in(&email, None).await;
        let ids = stage.furnish(&tenants, &token).await;
        let grantor = Grantor {
            account: admin,
            credential: policy::all_permissions(),
            platform_only: policy::platform_only(),
        };
        for (name, permissions) in CUSTOM {
            let role = NewRole {
                name: (*name).to_owned(),
                description: String::new(),
                permissions: permissions.iter().map(|&it| it.to_owned()).collect(),
            };
            stage.store.create_role(&grantor, role).await.unwrap();
        }
        let suspended = stage.store.set_tenant_suspended(tenants.suspended, true);
        suspended.await.unwrap();
        let roles = stage.store.roles().await.unwrap();
        let roles = roles.into_iter().map(|role| (role.name, role.permissions));
        Self {
            roles: roles.collect(),
            stage,
            tenants,
            ids,
        }
    }

    fn policy(&self) -> Policy<'_> {
        Policy {
            roles: &self.roles,
            suspended: self.tenants.suspended,
        }
    }

    /// Calls a method in every way there is.
    async fn call(&self, caller: &Caller, method: &'static Method, cells: &mut Vec<Cell>) {
        let certified = matches!(caller.who, Who::Certified(_));
        if certified && method.service.ends_with(".NodeControlService") {
            // A node takes nobody's word for a certificate: it has to have seen it itself.
            return;
        }
        let router = self.stage.router(method.service);
        let transport = caller.transport(router);
        let described = descriptor(method);
        let tenant_field = match method.access {
            Access::Permission { tenant_field, .. } => tenant_field,
            _ => None,
        };
        let places = self.places(caller, tenant_field);
        let spends = SPENDING.contains(&method.path);
        let credentials = async || {
            if spends {
                caller.spendable(&self.stage).await
            } else {
                caller.credentials.clone()
            }
        };
        let message = |scope| {
            let ids = &self.ids;
            let about = About {
                scope,
                ids,
                in_earnest: false,
            };
            request(method, &described, about)
        };
        for &scope in &places {
            let bytes = Bytes::from(message(scope).encode_to_vec());
            let credentials = credentials().await;
            let answer = calls::grpc(&transport, &credentials, method.path, bytes);
            let answer = tokio::time::timeout(PATIENCE, answer).await;
            cells.push(Cell {
                caller: caller.name.clone(),
                method,
                way: format!("gRPC for {scope:?}"),
                expected: self.policy().expected(method, &caller.who, scope),
                answer: answer.unwrap_or_else(|_| panic!("{} by {}", method.path, caller.name)),
            });
        }
        // Nobody has a certificate in front of the gateway.
        if certified {
            return;
        }
        for binding in bindings(&described) {
            let in_path = tenant_field.is_some_and(|it| binding.captures().iter().any(|c| c == it));
            for &scope in places
                .iter()
                .filter(|it| it.is_some() == in_path || tenant_field.is_none())
            {
                let call = binding.call(&message(scope));
                let way = format!("{} {}", call.method, call.uri);
                let expected = if caller.credentials.len() > 1 {
                    // The gateway does not choose either.
                    Expected::Refused(Answer::of(tonic::Code::InvalidArgument, "MALFORMED_HEADER"))
                } else {
                    self.policy().expected(method, &caller.who, scope)
                };
                cells.push(Cell {
                    caller: caller.name.clone(),
                    method,
                    way,
                    expected,
                    answer: calls::rest(&self.stage.rest, &credentials().await, call).await,
                });
            }
        }
    }

    /// What the requests of a caller name: where it has roles, where it has none, the platform.
    fn places(&self, caller: &Caller, field: Option<&str>) -> BTreeSet<Option<TenantId>> {
        let ours = Some(self.tenants.ours);
        match (&caller.who, field) {
            (_, None) => [None].into(),
            (Who::Account(Held { roles, .. }), Some(_)) => {
                let mut places: BTreeSet<_> = [None, ours, Some(self.tenants.theirs)].into();
                places.extend(roles.iter().map(|(at, _)| *at));
                places
            }
            (Who::Nobody(_) | Who::Certified(_), Some(_)) => [ours].into(),
        }
    }

    /// For each permission a token that lists nothing else, and one that lists everything else;
    /// with the methods that ask for it.
    async fn tokens(&self) -> Vec<(Caller, Vec<&'static Method>)> {
        let mut found = Vec::new();
        let all = names(Role::Admin);
        let mut asking: BTreeMap<&str, Vec<&'static Method>> = BTreeMap::new();
        for method in METHODS {
            if let Access::Permission { name, .. } = method.access {
                asking.entry(name).or_default().push(method);
            }
        }
        let (role, ours) = ([(None, "admin")], Some(self.tenants.ours));
        for tenant in [None, ours] {
            for only in [true, false] {
                // An account has at most a hundred tokens.
                let (account, _) = self.stage.account(&role).await;
                for (&permission, methods) in &asking {
                    let mut lists = all.clone();
                    lists.retain(|it| (it == permission) == only);
                    let what = if only { "only" } else { "all but" };
                    let name = format!("API token of {what} {permission} for {tenant:?}");
                    let made = self.stage.token_of(&name, account, &role, tenant, lists);
                    found.push((made.await, methods.clone()));
                }
            }
        }
        found
    }
}

/// Roles beside those of the product.
const CUSTOM: &[(&str, &[&str])] = &[
    (MADE_ROLE, &["audit.readOwn", "usage.read", "user.read"]),
    (
        "keeper",
        &[
            "account.read",
            "group.read",
            "group.write",
            "member.write",
            "node.write",
            "tenant.create",
        ],
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_every_caller_as_it_declares() {
    let world = Arc::new(World::make().await);
    let custom: Vec<&str> = CUSTOM.iter().map(|(name, _)| *name).collect();
    let mut callers = world.stage.nobodies().await;
    callers.extend(world.stage.somebodies(&world.tenants, &custom).await);
    callers.extend(Stage::certified(&world.tenants));
    let everything = METHODS.iter().collect::<Vec<_>>();
    let mut tasks: Vec<_> = callers
        .into_iter()
        .map(|it| (it, everything.clone()))
        .collect();
    tasks.extend(world.tokens().await);

    let places = Arc::new(Semaphore::new(AT_ONCE));
    let running: Vec<_> = tasks
        .into_iter()
        .map(|(caller, methods)| {
            let (world, places) = (Arc::clone(&world), Arc::clone(&places));
            tokio::spawn(async move {
                let _place = places.acquire().await.unwrap();
                let mut cells = Vec::new();
                for method in methods {
                    world.call(&caller, method, &mut cells).await;
                }
                cells
            })
        })
        .collect();
    let mut cells = Vec::new();
    for task in running {
        cells.extend(task.await.unwrap());
    }

    let surprises: Vec<String> = cells
        .iter()
        .filter(|cell| !cell.expected.is(&cell.answer))
        .map(|cell| {
            let Cell {
                caller,
                method,
                way,
                expected,
                answer,
            } = cell;
            format!(
                "{caller}: {} by {way}\n    expected {expected:?}\n    got {answer:?}",
                method.path
            )
        })
        .collect();
    println!("{} cells", cells.len());
    assert!(
        surprises.is_empty(),
        "{} of {} cells surprise; the first:\n{}",
        surprises.len(),
        cells.len(),
        surprises[..surprises.len().min(40)].join("\n")
    );
    assert!(cells.len() > 5_000, "{} cells", cells.len());

    // Whoever is let in was not merely told that the request makes no sense. Where a tenant has
    // to be named, one that names none does not.
    for method in METHODS {
        let mut admitted = cells.iter().filter(|cell| {
            std::ptr::eq(cell.method, method) && cell.expected == Expected::Admitted
        });
        let reached = admitted.any(|it| !it.answer.reason.starts_with("INVALID_FIELD"));
        let excused = ASKING_MORE.contains(&method.path);
        assert!(reached || excused, "nobody has reached {}", method.path);
    }
}
