//! The audit log through the API: what events say, who may read which, verification and export.

use std::time::Duration;

use futures::StreamExt;
use tonic::Code;
use vpnpanel_api::{
    audit::v1::{
        AuditEvent, Breach, ChainLink, ExportAuditEventsRequest, GetAuditEventRequest,
        ListAuditEventsRequest, ListAuditEventsResponse, Outcome, VerifyChainRequest,
        VerifyChainResponse,
    },
    auth::v1::{GetMeRequest, LoginRequest, LogoutRequest},
    user::v1::{UpdateUserRequest, User},
};
use vpnpanel_auth::Role;
use vpnpanel_domain::TenantId;
use vpnpanel_store::{Attribution, Event};

use crate::support::{ADMIN, Caller, PASSWORD, Panel, assert_refused};

async fn list(caller: &Caller, request: ListAuditEventsRequest) -> ListAuditEventsResponse {
    let listed = caller.audit().list_audit_events(caller.ask(request)).await;
    listed.unwrap().into_inner()
}

fn of(tenant: TenantId) -> ListAuditEventsRequest {
    ListAuditEventsRequest {
        tenant_id: tenant.to_string(),
        ..ListAuditEventsRequest::default()
    }
}

async fn get(
    caller: &Caller,
    tenant: TenantId,
    event: &AuditEvent,
) -> Result<AuditEvent, tonic::Status> {
    let request = GetAuditEventRequest {
        tenant_id: tenant.to_string(),
        event_id: event.id.clone(),
    };
    let got = caller.audit().get_audit_event(caller.ask(request)).await?;
    Ok(got.into_inner().event.unwrap())
}

async fn verify(caller: &Caller, anchor: Option<ChainLink>) -> VerifyChainResponse {
    let request = VerifyChainRequest {
        tenant_id: String::new(),
        anchor,
    };
    let found = caller.audit().verify_chain(caller.ask(request)).await;
    found.unwrap().into_inner()
}

/// Chains what there is, as the scheduler would.
async fn chain(panel: &Panel) {
    let store = &panel.store;
    let hour = Duration::from_secs(3_600);
    store
        .register_job("chain-audit", "chains", hour)
        .await
        .unwrap();
    let lease = store.claim_job(&["chain-audit"], "test", hour).await;
    let lease = lease.unwrap().expect("the lease");
    while store.chain_audit(&lease, 1_000).await.unwrap() > 0 {}
    let end = vpnpanel_store::JobEnd {
        error: None,
        due_in: Duration::ZERO,
    };
    store.finish_job(&lease, end).await.unwrap();
}

#[tokio::test]
async fn an_event_says_who_did_what_and_how_it_was_before() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let user = owner.new_user(tenant, "ada", &[]).await;
    let request = UpdateUserRequest {
        user: Some(User {
            note: "vip".to_owned(),
            data_limit_bytes: 1 << 30,
            ..user.clone()
        }),
        update_mask: None,
    };
    owner.users().update_user(owner.ask(request)).await.unwrap();

    let listed = list(&owner, of(tenant)).await;
    let [changed, made] = listed.events.as_slice() else {
        panic!("{listed:?}")
    };
    assert_eq!(made.before, "");
    let after: serde_json::Value = serde_json::from_str(&made.after).unwrap();
    assert_eq!(after["username"], "ada");
    assert_eq!(changed.resource_type, "user");
    assert_eq!(changed.resource_id, user.id);
    assert_eq!(changed.tenant_id, tenant.to_string());
    assert_eq!(changed.roles, ["owner"]);
    assert_eq!(changed.outcome(), Outcome::Done);
    assert!(changed.credential.starts_with("session:"));
    assert!(changed.actor.starts_with("account:"));
    let before: serde_json::Value = serde_json::from_str(&changed.before).unwrap();
    let after: serde_json::Value = serde_json::from_str(&changed.after).unwrap();
    assert_eq!(
        (&before["note"], &after["note"]),
        (&"".into(), &"vip".into())
    );
    assert_eq!(after["dataLimitBytes"], "1073741824");
    assert_eq!(before.get("username"), None, "it did not change");
    assert_eq!(get(&owner, tenant, changed).await.unwrap(), *changed);
}

#[tokio::test]
async fn an_operator_sees_its_own_actions_and_a_stranger_none() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    let operator = panel.signed_in(Role::Operator, Some(tenant)).await;
    let auditor = panel.signed_in(Role::Auditor, Some(tenant)).await;
    owner.new_user(tenant, "of-owner", &[]).await;
    operator.new_user(tenant, "of-operator", &[]).await;

    let all = list(&auditor, of(tenant)).await.events;
    assert_eq!(all.len(), 2);
    let mine = list(&operator, of(tenant)).await.events;
    assert_eq!(mine, all[..1]);
    let theirs = ListAuditEventsRequest {
        actor: all[1].actor.clone(),
        ..of(tenant)
    };
    assert!(list(&operator, theirs.clone()).await.events.is_empty());
    assert_eq!(list(&auditor, theirs).await.events, all[1..]);
    get(&operator, tenant, &all[0]).await.unwrap();
    let refused = get(&operator, tenant, &all[1]).await;
    assert_refused(refused, Code::NotFound, "AUDIT_EVENT_NOT_FOUND");

    let stranger = panel
        .signed_in(Role::Owner, Some(panel.new_tenant("theirs").await))
        .await;
    let refused = get(&stranger, tenant, &all[0]).await;
    assert_refused(refused, Code::NotFound, "TENANT_NOT_FOUND");
    let export = ExportAuditEventsRequest {
        tenant_id: tenant.to_string(),
        after_sequence: 0,
    };
    let refused = operator
        .audit()
        .export_audit_events(operator.ask(export))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
}

#[tokio::test]
async fn events_are_paged_without_gaps_or_repeats() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let owner = panel.signed_in(Role::Owner, Some(tenant)).await;
    for number in 0..5 {
        owner.new_user(tenant, &format!("user-{number}"), &[]).await;
    }
    let mut seen = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListAuditEventsRequest {
            page_size: 2,
            page_token,
            ..of(tenant)
        };
        let page = list(&owner, request).await;
        seen.extend(page.events.into_iter().map(|event| event.id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(seen.len(), 5);
    assert!(seen.is_sorted_by(|one, next| one > next), "newest first");
}

#[tokio::test]
async fn a_refused_sign_in_is_in_the_log_alike_for_known_and_unknown_accounts() {
    let panel = Panel::start().await;
    let auditor = panel.signed_in(Role::Auditor, None).await;
    for email in [ADMIN, "nobody@example.com"] {
        let request = LoginRequest {
            email: email.to_owned(),
            password: "wrong".to_owned(),
            ..LoginRequest::default()
        };
        panel.anybody().auth().login(request).await.unwrap_err();
    }
    let request = ListAuditEventsRequest {
        method: "/vpnpanel.auth.v1.AuthService/Login".to_owned(),
        actor: "anonymous".to_owned(),
        ..ListAuditEventsRequest::default()
    };
    let events = list(&auditor, request).await.events;
    assert_eq!(events.len(), 2);
    for event in &events {
        assert_eq!(event.outcome(), Outcome::Refused);
        assert_eq!(event.reason, "SIGN_IN_REFUSED");
        assert_eq!(event.resource_type, "account");
        assert!(!event.resource_id.is_empty());
    }
}

#[tokio::test]
async fn a_sign_in_is_noted_with_the_roles_of_who_signs_in() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let auditor = panel.signed_in(Role::Auditor, None).await;
    let (owner, email) = panel.account(Role::Owner, Some(tenant)).await;
    panel.sign_in(&email, PASSWORD).await;
    let events = list(&auditor, ListAuditEventsRequest::default()).await;
    let of = |actor: &str| {
        let mut events = events.events.iter();
        let event = events.find(|it| it.resource_type == "session" && it.actor == actor);
        event.unwrap().roles.clone()
    };
    assert_eq!(of(&format!("account:{owner}")), [format!("owner@{tenant}")]);
    let me = auditor.auth().get_me(auditor.ask(GetMeRequest {})).await;
    let me = me.unwrap().into_inner().account.unwrap().id;
    assert_eq!(of(&format!("account:{me}")), ["auditor"]);
}

#[tokio::test]
async fn sign_ins_that_a_limit_keeps_back_are_noted_in_bounded_number() {
    let limit = ("VPNPANEL_LIMIT_SIGN_IN_ACCOUNT", "1/1h");
    let panel = Panel::start_with(&[limit]).await;
    let auditor = panel.signed_in(Role::Auditor, None).await;
    let (_, email) = panel.account(Role::Owner, None).await;
    for _ in 0..5 {
        let request = LoginRequest {
            email: email.clone(),
            password: "a guess".to_owned(),
            ..LoginRequest::default()
        };
        panel.anybody().auth().login(request).await.unwrap_err();
    }
    let events = list(&auditor, ListAuditEventsRequest::default()).await;
    let reasons: Vec<_> = events
        .events
        .iter()
        .filter(|event| event.outcome() == Outcome::Refused)
        .map(|event| event.reason.as_str())
        .collect();
    // A minute may have begun meanwhile.
    assert!(reasons.contains(&"SIGN_IN_REFUSED"), "{reasons:?}");
    let kept_back = reasons.iter().filter(|it| **it == "RATE_LIMITED").count();
    assert!((1..=2).contains(&kept_back), "{reasons:?}");
}

#[tokio::test]
async fn an_export_under_way_ends_with_the_session_that_asked_for_it() {
    let panel = Panel::start().await;
    let auditor = panel.signed_in(Role::Auditor, None).await;
    let somebody = panel.store.acting(Attribution::anonymous());
    for number in 0..1_000 {
        let event = Event::on("node", None, number);
        somebody.record(event).await.unwrap();
    }
    chain(&panel).await;
    let request = auditor.ask(ExportAuditEventsRequest::default());
    let exported = auditor.audit().export_audit_events(request).await;
    let mut events = exported.unwrap().into_inner();
    events.next().await.unwrap().unwrap();
    let out = auditor.auth().logout(auditor.ask(LogoutRequest {})).await;
    out.unwrap();
    let rest: Vec<_> = events.collect().await;
    assert!(rest.len() < 900, "{} more events", rest.len());
    let refused = rest.into_iter().find_map(Result::err).unwrap();
    assert_refused(
        Err::<(), _>(refused),
        Code::Unauthenticated,
        "SESSION_ENDED",
    );
}

#[tokio::test]
async fn a_chain_is_verified_and_exported_as_it_is() {
    let panel = Panel::start().await;
    let auditor = panel.signed_in(Role::Auditor, None).await;
    let unchained = verify(&auditor, None).await;
    assert_eq!(unchained.verified_count, 0);
    assert!(unchained.unchained_count > 0);
    assert!(unchained.unchained_oldest_age.is_some());

    chain(&panel).await;
    let found = verify(&auditor, None).await;
    assert_eq!(found.broken, None);
    assert_eq!(found.verified_count, unchained.unchained_count);
    assert_eq!(found.unchained_count, 0);
    let head = found.head.unwrap();
    assert!(!found.anchor_compared);
    assert!(verify(&auditor, Some(head.clone())).await.anchor_compared);
    let other = ChainLink {
        hash: vec![7; 32],
        ..head.clone()
    };
    let broken = verify(&auditor, Some(other)).await.broken.unwrap();
    assert_eq!(broken.breach(), Breach::Rewritten);

    let export = |after_sequence| ExportAuditEventsRequest {
        tenant_id: String::new(),
        after_sequence,
    };
    let stream = auditor
        .audit()
        .export_audit_events(auditor.ask(export(0)))
        .await
        .unwrap()
        .into_inner();
    let events: Vec<AuditEvent> = stream
        .map(|message| message.unwrap().event.unwrap())
        .collect()
        .await;
    let numbers: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    let expected: Vec<u64> = (1..=found.verified_count).collect();
    assert_eq!(numbers, expected);
    assert_eq!(events.last().unwrap().hash, head.hash);
    for (before, event) in events.iter().zip(&events[1..]) {
        assert_eq!(event.previous_hash, before.hash);
    }
    let rest = auditor
        .audit()
        .export_audit_events(auditor.ask(export(head.sequence - 1)))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rest.count().await, 1);
}
