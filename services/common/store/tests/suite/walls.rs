//! A tenant's calls reach what is the tenant's: with the id of anything of another tenant they
//! answer as for an id of nothing, and their lists and sums leave everything of others out.
//!
//! Each method of the store that takes a tenant is tried here, or says why not; the test at the
//! end finds those that are not. Behind walls a statement without its tenant fails in each of the
//! suite's tests: see `vpnpanel_store::testing`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use vpnpanel_domain::{
    AccountId, ApiTokenId, CommandId, EndpointTemplateId, GroupId, InboundId, Limit, MicroBytes,
    NextPlanStart, NodeId, OperationId, PlanId, TenantId,
};
use vpnpanel_link::collector::Policy;
use vpnpanel_store::testing::TestStore;
use vpnpanel_store::{
    ApiTokenOwner, AuditFilter, CommandKind, EndpointTemplateFilter, EndpointTemplatePatch, Event,
    Extension, Grantor, GroupPatch, InboundPatch, InboundSettings, Joining, NewApiToken, NewGroup,
    NewInbound, NewJoinToken, NewNodeCommand, NewOperation, NewPlan, NewRole, NewUser, NextPlan,
    NodePatch, NodeSelector, Page, PlanFilter, PlanPatch, PlanTerms, Store, StoreError, Stretch,
    TenantLimits, TenantPatch, UsageQuery, User, UserFilter, UserPatch, fresh_id, on_each_database,
};

use crate::audit::support::{chain, lease, somebody};
use crate::endpoint_templates::new_template;
use crate::fixture::{
    Agent, Keys, new_group, new_inbound, new_node, new_tenant, new_user, subscription_token,
    wireguard,
};
use crate::identity::new_account;

on_each_database!(
    what_is_another_tenants_is_not_found,
    lists_and_sums_are_of_one_tenant,
);

/// Methods that take a tenant and are not tried, and why.
const NOT_TRIED: [(&str, &str); 6] = [
    (
        "create_tenant",
        "the platform's: makes the tenant that it names",
    ),
    (
        "tenants",
        "the platform's: lists them for administrators, or for one account",
    ),
    (
        "create_api_token",
        "an account's: its tokens are counted whatever tenant they are for",
    ),
    (
        "create_node",
        "names nothing of a tenant's but the tenant itself; its list is tried",
    ),
    (
        "rebalance_users",
        "the collector's: of users of all tenants at once, which it has from the change log",
    ),
    ("set_membership", "of tests alone"),
];

/// Those of them that run without walls, for the same reasons, and because the restore barrier is of
/// all tenants' nodes.
const NOT_NARROWED: [&str; 5] = [
    "create_tenant",
    "tenants",
    "create_api_token",
    "rebalance_users",
    "write_off_node",
];

/// A tenant with one of everything.
struct Tenant {
    id: TenantId,
    node: NodeId,
    inbound: InboundId,
    template: EndpointTemplateId,
    group: GroupId,
    user: User,
    member: AccountId,
    token: ApiTokenId,
    command: CommandId,
    plan: PlanId,
    operation: OperationId,
}

impl Tenant {
    async fn new(store: &Store, name: &str, number: u8) -> Self {
        let id = new_tenant(store, name).await;
        let node = new_node(store, Some(id), "node").await;
        let pool = format!("10.{number}.0.0/16");
        let inbound = new_inbound(store, Some(id), "inbound", 51820, &pool).await;
        let template = fresh_id();
        let new = new_template(template, Some(id), inbound);
        store.create_endpoint_template(new, None).await.unwrap();
        let group = new_group(store, id, "everybody", [inbound]).await;
        let mut new = new_user("ada", [group]);
        new.limit = Limit::Bytes(1 << 30);
        let user = store.create_user(id, new, None).await.unwrap();
        let account = new_account(&format!("ada@{name}.example"));
        let member = account.id;
        store.create_account(account).await.unwrap();
        store
            .set_membership(member, Some(id), "owner")
            .await
            .unwrap();
        let token = fresh_id();
        let new = NewApiToken {
            id: token,
            account_id: member,
            tenant_id: Some(id),
            name: "token".to_owned(),
            hint: "vp_".to_owned(),
            hash: [number; 32],
            permissions: ["user.read".to_owned()].into(),
            expires_at_ms: i64::MAX / 2,
        };
        store.create_api_token(new).await.unwrap();
        let command = fresh_id();
        let new = NewNodeCommand {
            id: command,
            node_id: node,
            request_id: fresh_id(),
            kind: CommandKind::Resync,
            ttl_ms: 1_000,
        };
        store.create_node_command(Some(id), new).await.unwrap();
        let plan = fresh_id();
        let new = NewPlan {
            id: plan,
            tenant_id: id,
            name: "month".to_owned(),
            note: String::new(),
            terms: PlanTerms::default(),
        };
        store.create_plan(new, None).await.unwrap();
        let operation = fresh_id();
        let new = NewOperation {
            id: operation,
            plan_id: plan,
            users: vec![("eve".to_owned(), String::new())],
        };
        store.create_operation(id, new, None).await.unwrap();
        Self {
            plan,
            operation,
            id,
            node,
            inbound,
            template,
            group,
            user,
            member,
            token,
            command,
        }
    }

    /// Has its user use `bytes` in each direction.
    async fn use_bytes(&self, store: &Store, bytes: u64) {
        let state = store.desired_state(self.node).await.unwrap();
        let peer = state.users[0].peers[0].id;
        let agent = Agent::connect(store, self.node).await;
        let row = agent.row(peer, &self.user, (0, bytes), (0, bytes));
        let batch = agent.batch(vec![row], store.now_ms());
        store
            .ingest(vec![agent.submission(vec![batch])], &Policy::default())
            .await
            .unwrap();
    }
}

/// Two tenants, and somebody who may do everything in both.
async fn two(test: &TestStore) -> (Tenant, Tenant, Grantor) {
    let store = &test.store;
    let permissions: BTreeSet<String> = ["user.read".to_owned()].into();
    let roles = ["admin", "owner", "operator"].map(|name| NewRole {
        name: name.to_owned(),
        description: String::new(),
        permissions: permissions.clone(),
    });
    store.seed_roles(&roles).await.unwrap();
    let admin = new_account("admin@example.com");
    let grantor = Grantor {
        account: admin.id,
        credential: permissions,
        platform_only: BTreeSet::new(),
    };
    store.create_account(admin).await.unwrap();
    store
        .set_membership(grantor.account, None, "admin")
        .await
        .unwrap();
    let ours = Tenant::new(store, "ours", 20).await;
    let theirs = Tenant::new(store, "theirs", 21).await;
    (ours, theirs, grantor)
}

/// Calls, and notes that the method was tried.
macro_rules! call {
    ($tried:ident, $store:ident.$method:ident($($argument:expr),* $(,)?)) => {{
        $tried.insert(stringify!($method));
        $store.$method($($argument),*).await
    }};
}

/// As `call`, of which an error has to come that names nothing.
macro_rules! refused {
    ($tried:ident, $($call:tt)*) => {{
        let answer = call!($tried, $($call)*);
        assert!(
            matches!(answer, Err(StoreError::NotFound(_) | StoreError::InvalidReference { .. })),
            "{}: {answer:?}",
            stringify!($($call)*)
        );
    }};
}

async fn what_is_another_tenants_is_not_found(test: TestStore) {
    let (ours, theirs, by) = two(&test).await;
    let store = test.store.acting(somebody());
    let before = store.user(theirs.id, theirs.user.id).await.unwrap();
    let mut tried = BTreeSet::new();
    let (us, user) = (ours.id, theirs.user.id);

    refused!(tried, store.user(us, user));
    refused!(tried, store.connections(us, user));
    refused!(tried, store.user_usage(us, user, everything()));
    refused!(tried, store.explain_usage(us, user, (0, i64::MAX), 10));
    refused!(tried, store.user_periods(us, user, Page::first(1)));
    let named = UserPatch {
        username: Some("ours".to_owned()),
        limit: Some(Limit::None),
        disabled: Some(true),
        ..UserPatch::default()
    };
    refused!(tried, store.update_user(us, user, named, None));
    refused!(tried, store.set_user_disabled(us, user, true));
    refused!(tried, store.reset_user_usage(us, user, None));
    let token = subscription_token();
    refused!(
        tried,
        store.revoke_user_credentials(us, user, &Keys, token.clone(), None)
    );
    refused!(tried, store.rotate_subscription(us, user, token, None));
    refused!(tried, store.delete_user(us, user, None));
    refused!(tried, store.undelete_user(us, user));
    let more = Extension {
        bytes: 1,
        ..Extension::default()
    };
    refused!(tried, store.extend_user(us, user, more, None));
    refused!(
        tried,
        store.change_user_plan(us, user, theirs.plan, None, None)
    );
    let mine = ours.user.id;
    refused!(
        tried,
        store.change_user_plan(us, mine, theirs.plan, None, None)
    );
    let waits = UserPatch {
        next_plan: Some(Some(follows(theirs.plan))),
        ..UserPatch::default()
    };
    refused!(tried, store.update_user(us, mine, waits, None));
    refused!(tried, store.user_devices(us, user));
    let device = || new_user("x", []).devices.remove(0);
    refused!(tried, store.create_user_device(us, user, device(), None));
    let of_theirs = store.user_devices(theirs.id, user).await.unwrap()[0].id;
    refused!(tried, store.delete_user_device(us, user, of_theirs));
    refused!(tried, store.delete_user_device(us, mine, of_theirs));
    let made = || NewUser {
        plan_id: Some(theirs.plan),
        ..new_user("bob", [])
    };
    refused!(tried, store.create_user(us, made(), None));

    refused!(tried, store.plan(us, theirs.plan));
    let patch = PlanPatch::default();
    refused!(tried, store.update_plan(us, theirs.plan, patch, None));
    for patch in [
        PlanPatch {
            next: Some(Some(follows(theirs.plan))),
            ..PlanPatch::default()
        },
        PlanPatch {
            group_ids: Some([theirs.group].into()),
            ..PlanPatch::default()
        },
    ] {
        refused!(tried, store.update_plan(us, ours.plan, patch, None));
    }
    refused!(tried, store.delete_plan(us, theirs.plan, None));
    refused!(tried, store.undelete_plan(us, theirs.plan));
    let new = NewPlan {
        id: fresh_id(),
        tenant_id: us,
        name: "with theirs".to_owned(),
        note: String::new(),
        terms: PlanTerms {
            group_ids: [theirs.group].into(),
            ..PlanTerms::default()
        },
    };
    refused!(tried, store.create_plan(new, None));

    let all = Page::first(1);
    refused!(tried, store.operation(us, theirs.operation));
    refused!(
        tried,
        store.operation_items(us, theirs.operation, None, all)
    );
    refused!(tried, store.cancel_operation(us, theirs.operation));
    let new = NewOperation {
        id: fresh_id(),
        plan_id: theirs.plan,
        users: vec![("bob".to_owned(), String::new())],
    };
    refused!(tried, store.create_operation(us, new, None));
    let into = || new_user("bob", [theirs.group]);
    refused!(tried, store.create_user(us, into(), None));
    refused!(tried, store.create_users(us, vec![into()]));

    refused!(tried, store.group(us, theirs.group));
    let patch = GroupPatch {
        name: Some("ours".to_owned()),
        ..GroupPatch::default()
    };
    refused!(tried, store.update_group(us, theirs.group, patch, None));
    refused!(tried, store.delete_group(us, theirs.group, None));
    let new = NewGroup {
        id: fresh_id(),
        tenant_id: us,
        name: "with theirs".to_owned(),
        inbound_ids: [theirs.inbound].into(),
    };
    refused!(tried, store.create_group(new, None));

    refused!(tried, store.inbound(Some(us), theirs.inbound));
    refused!(tried, store.inbound(None, theirs.inbound));
    let nodes = NodeSelector {
        node_ids: [theirs.node].into(),
        ..NodeSelector::default()
    };
    for owner in [Some(us), None] {
        let patch = InboundPatch::default();
        refused!(
            tried,
            store.update_inbound(owner, theirs.inbound, patch, None, &Keys)
        );
        refused!(tried, store.delete_inbound(owner, theirs.inbound, None));
        let id = theirs.template;
        refused!(tried, store.endpoint_template(owner, id));
        let patch = EndpointTemplatePatch::default();
        refused!(
            tried,
            store.update_endpoint_template(owner, id, patch, None)
        );
        refused!(tried, store.delete_endpoint_template(owner, id, None));
        let new = new_template(fresh_id(), owner, theirs.inbound);
        refused!(tried, store.create_endpoint_template(new, None));
        let new = NewInbound {
            id: fresh_id(),
            tenant_id: owner,
            name: "on theirs".to_owned(),
            nodes: nodes.clone(),
            offered: false,
            settings: InboundSettings::WireGuard(wireguard(51821, "10.22.0.0/16")),
            sealed_secret: None,
        };
        refused!(tried, store.create_inbound(new, &Keys, None));

        refused!(tried, store.node(owner, theirs.node));
        let patch = NodePatch::default();
        refused!(
            tried,
            store.update_node(owner, theirs.node, patch, None, &Keys)
        );
        let token = NewJoinToken {
            hash: vec![1; 32],
            node_id: theirs.node,
            expires_at_ms: i64::MAX,
        };
        refused!(tried, store.create_join_token(owner, token));
        refused!(tried, store.revoke_node_certificates(owner, theirs.node));
        refused!(tried, store.confirm_removals(owner, theirs.node));
        refused!(tried, store.write_off_node(owner, theirs.node));
        refused!(tried, store.set_draining(owner, theirs.node, true));
        let command = NewNodeCommand {
            id: fresh_id(),
            node_id: theirs.node,
            request_id: fresh_id(),
            kind: CommandKind::Drain,
            ttl_ms: 1_000,
        };
        refused!(tried, store.create_node_command(owner, command));
        let (node, id) = (theirs.node, theirs.command);
        refused!(tried, store.node_command(owner, node, id));
        refused!(tried, store.node_command(owner, ours.node, id));
        refused!(tried, store.node_commands(owner, node, Page::first(1)));
        refused!(tried, store.cancel_node_command(owner, node, id));
        refused!(tried, store.cancel_node_command(owner, ours.node, id));
        let nowhere = String::new();
        refused!(tried, store.set_control_address(owner, node, nowhere));
        refused!(tried, store.delete_node(owner, theirs.node, None));
    }

    let member = theirs.member;
    refused!(
        tried,
        store.update_member(&by, us, member, "operator", None)
    );
    refused!(tried, store.remove_member(&by, us, member));
    let of = ApiTokenOwner::Tenant(us);
    refused!(tried, store.revoke_api_token(of, theirs.token));
    refused!(tried, store.tenant(fresh_id()));
    let patch = TenantPatch::default();
    refused!(tried, store.update_tenant(fresh_id(), patch, None));
    refused!(tried, store.set_tenant_suspended(fresh_id(), true));

    let event = Event::on("thing", Some(theirs.id), 1);
    store.record(event).await.unwrap();
    let all = AuditFilter::default();
    let events = store.audit_events(Some(theirs.id), &all, Page::first(1));
    let event = events.await.unwrap()[0].id;
    refused!(tried, store.audit_event(Some(us), event));
    refused!(tried, store.audit_event(None, event));

    let after = store.user(theirs.id, theirs.user.id).await.unwrap();
    assert_eq!(after, before);
    let kept = store.group(theirs.id, theirs.group).await.unwrap();
    assert_eq!(kept.name, "everybody");
    assert!(store.node(Some(theirs.id), theirs.node).await.is_ok());
    let kept = store.inbound(Some(theirs.id), theirs.inbound).await;
    assert_eq!(kept.unwrap().version, 1);
    let members = store.members(theirs.id, Page::first(10)).await.unwrap();
    assert_eq!(members[0].role, "owner");
    assert_all_are_tried(&tried, &LISTS.into());
}

fn follows(plan_id: PlanId) -> NextPlan {
    NextPlan {
        plan_id,
        start: NextPlanStart::default(),
    }
}

/// Methods that [`lists_and_sums_are_of_one_tenant`] tries.
const LISTS: [&str; 24] = [
    "endpoint_templates",
    "plans",
    "operations",
    "tenant_month",
    "tenant_use",
    "users",
    "groups",
    "nodes",
    "inbounds",
    "members",
    "add_member",
    "api_tokens",
    "tenant_usage",
    "user_counts",
    "online_counts",
    "traffic",
    "top_nodes",
    "top_users",
    "node_counts",
    "ledger_totals",
    "audit_events",
    "chained_events",
    "verify_audit",
    "tenant",
];

async fn lists_and_sums_are_of_one_tenant(test: TestStore) {
    let (ours, theirs, by) = two(&test).await;
    ours.use_bytes(&test.store, 10).await;
    theirs.use_bytes(&test.store, 1_000).await;
    let lease = lease(&test.store).await;
    // From now on: what was used before is counted too.
    for tenant in [ours.id, theirs.id] {
        let patch = TenantPatch {
            limits: Some(TenantLimits {
                bytes: Some(1 << 40),
                ..TenantLimits::default()
            }),
            ..TenantPatch::default()
        };
        test.store.update_tenant(tenant, patch, None).await.unwrap();
    }
    let store = test.store.acting(somebody());
    let (us, owner) = (ours.id, Some(ours.id));
    let mut tried = BTreeSet::new();

    for filter in [
        UserFilter::default(),
        UserFilter {
            username_prefix: Some("a".to_owned()),
            status: Some(ours.user.status),
            ..UserFilter::default()
        },
        UserFilter {
            group_id: Some(ours.group),
            ..UserFilter::default()
        },
    ] {
        let users = call!(tried, store.users(us, &filter, Page::first(10))).unwrap();
        assert_eq!(ids(&users, |it| it.id), [ours.user.id]);
    }
    let of_their_group = UserFilter {
        group_id: Some(theirs.group),
        ..UserFilter::default()
    };
    let none = call!(tried, store.users(us, &of_their_group, Page::first(10)));
    assert_eq!(none.unwrap(), []);
    let groups = call!(tried, store.groups(us, Page::first(10))).unwrap();
    assert_eq!(ids(&groups, |it| it.id), [ours.group]);
    for archived in [false, true] {
        let filter = PlanFilter {
            archived,
            ..PlanFilter::default()
        };
        let plans = call!(tried, store.plans(us, &filter, Page::first(10))).unwrap();
        assert_eq!(ids(&plans, |it| it.id), [ours.plan]);
    }
    let operations = call!(tried, store.operations(us, Page::first(10))).unwrap();
    assert_eq!(ids(&operations, |it| it.id), [ours.operation]);
    let month = call!(tried, store.tenant_month(us)).unwrap();
    assert_eq!(month.unwrap().used, MicroBytes::from_bytes(20));
    let used = call!(tried, store.tenant_use(us)).unwrap();
    assert_eq!((used.users, used.nodes, used.month), (1, 1, month));
    let nodes = call!(tried, store.nodes(owner, Page::first(10))).unwrap();
    assert_eq!(ids(&nodes, |it| it.id), [ours.node]);
    let inbounds = call!(tried, store.inbounds(owner, Page::first(10))).unwrap();
    assert_eq!(ids(&inbounds, |it| it.id), [ours.inbound]);
    let filter = EndpointTemplateFilter::default();
    let page = Page::first(10);
    let templates = call!(tried, store.endpoint_templates(owner, filter, page)).unwrap();
    assert_eq!(ids(&templates, |it| it.id), [ours.template]);
    let filter = EndpointTemplateFilter {
        inbound_id: Some(theirs.inbound),
    };
    let none = call!(tried, store.endpoint_templates(owner, filter, page));
    assert_eq!(none.unwrap(), []);
    assert_eq!(store.nodes(None, Page::first(10)).await.unwrap(), []);
    assert_eq!(store.inbounds(None, Page::first(10)).await.unwrap(), []);

    let members = call!(tried, store.members(us, Page::first(10))).unwrap();
    assert_eq!(ids(&members, |it| it.account_id), [ours.member]);
    let of = ApiTokenOwner::Tenant(us);
    let tokens = call!(tried, store.api_tokens(of, Page::first(10))).unwrap();
    assert_eq!(ids(&tokens, |it| it.id), [ours.token]);

    let usage = call!(tried, store.tenant_usage(us, everything())).unwrap();
    assert_eq!(usage.total.billed, MicroBytes::from_bytes(20));
    assert_eq!(ids(&usage.nodes, |it| it.0), [ours.node]);
    let counts = call!(tried, store.user_counts(owner)).unwrap();
    assert_eq!(counts.total(), 1);
    let online = call!(tried, store.online_counts(owner, 0, 0)).unwrap();
    assert_eq!(online.week, 1);
    let always = Stretch {
        from_ms: 0,
        to_ms: store.now_ms(),
    };
    let sums = call!(tried, store.traffic(owner, &[always])).unwrap();
    assert_eq!(sums[0].billed, MicroBytes::from_bytes(20));
    let nodes = call!(tried, store.top_nodes(owner, always, 10)).unwrap();
    assert_eq!(ids(&nodes, |it| it.id), [ours.node]);
    let users = call!(tried, store.top_users(owner, 0, 10)).unwrap();
    assert_eq!(ids(&users, |it| it.id), [ours.user.id]);
    let nodes = call!(tried, store.node_counts(owner)).unwrap();
    assert_eq!(nodes.online + nodes.offline + nodes.pending, 1);
    let totals = call!(tried, store.ledger_totals(us)).unwrap();
    assert!(totals.agree(), "{totals:?}");
    assert_eq!(totals.users.up, 10);

    // An account may be a member of both; that is what the one event below tells of.
    let joining = Joining::Account(theirs.member);
    let joined = call!(tried, store.add_member(&by, us, joining, "operator"));
    assert_eq!(joined.unwrap().tenant_id, us);
    for number in 0..3 {
        let event = Event::on("thing", Some(theirs.id), number);
        store.record(event).await.unwrap();
    }
    chain(&test.store, &lease).await;
    let all = AuditFilter::default();
    let events = call!(tried, store.audit_events(owner, &all, Page::first(10))).unwrap();
    assert_eq!(ids(&events, |it| it.tenant_id), [owner]);
    let events = call!(tried, store.chained_events(owner, Page::first(10))).unwrap();
    assert_eq!(ids(&events, |it| it.tenant_id), [owner]);
    let found = call!(tried, store.verify_audit(owner, None)).unwrap();
    assert_eq!((found.verified, found.broken), (1, None));
    let shown = call!(tried, store.tenant(us)).unwrap();
    assert_eq!(shown.name, "ours");
    assert_eq!(tried, LISTS.into());
}

fn ids<T, K>(items: &[T], id: impl Fn(&T) -> K) -> Vec<K> {
    items.iter().map(id).collect()
}

fn everything() -> UsageQuery {
    UsageQuery {
        from_ms: 0,
        to_ms: i64::MAX / 2,
        step_ms: 900_000,
    }
}

/// Every method of the store that takes a tenant is tried, and gives up the owner's rights.
fn assert_all_are_tried(tried: &BTreeSet<&str>, lists: &BTreeSet<&str>) {
    let methods = methods_of_tenants();
    for (name, reason) in NOT_TRIED {
        assert!(methods.contains_key(name), "{name} is gone: {reason}");
        assert!(!tried.contains(name), "{name} is tried: {reason}");
    }
    let reasons: BTreeSet<&str> = NOT_TRIED.iter().map(|it| it.0).collect();
    let missing: Vec<&String> = methods
        .keys()
        .map(|name| (name, name.as_str()))
        .filter(|(_, it)| !tried.contains(it) && !lists.contains(it) && !reasons.contains(it))
        .map(|it| it.0)
        .collect();
    assert!(missing.is_empty(), "try them with foreign ids: {missing:?}");
    for (name, body) in &methods {
        let is_narrowed = ["begin_in(", "read_in(", "snapshot_in("]
            .iter()
            .any(|open| body.contains(open));
        assert!(
            is_narrowed || NOT_NARROWED.contains(&name.as_str()),
            "{name} opens the database for all tenants"
        );
    }
}

/// Methods of the store that take a tenant, with their texts.
fn methods_of_tenants() -> BTreeMap<String, String> {
    let mut methods = BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = std::fs::read_to_string(path).unwrap();
            for method in text.split("\n    pub async fn ").skip(1) {
                let (head, rest) = method.split_once(") ->").unwrap_or((method, ""));
                let (name, arguments) = head.split_once('(').unwrap();
                let takes_a_tenant = [
                    "TenantId",
                    "NewGroup",
                    "NewNode,",
                    "NewInbound",
                    "NewApiToken",
                    "NewTenant",
                    "NewPlan",
                    "ApiTokenOwner",
                ]
                .iter()
                .any(|kind| arguments.contains(kind));
                if takes_a_tenant {
                    let body = rest.split("\n    }\n").next().unwrap_or_default();
                    methods.insert(name.to_owned(), body.to_owned());
                }
            }
        }
    }
    assert!(methods.len() > 40, "{methods:?}");
    methods
}
