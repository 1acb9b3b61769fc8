//! Subscriptions: who is shown the link, and what whoever has it is answered.

use base64::{Engine, engine::general_purpose::STANDARD};
use tonic::{Code, Response, Status};
use vpnpanel_api::{
    auth::v1::{ApiToken, CreateApiTokenRequest},
    subscription::v1::{GetSubscriptionRequest, GetSubscriptionResponse},
    user::v1::{
        DeleteUserRequest, DisableUserRequest, GetUserRequest, ListUserConnectionsRequest,
        ListUsersRequest, RevokeUserCredentialsRequest, RotateUserSubscriptionRequest,
        UpdateUserRequest, User,
    },
};
use vpnpanel_auth::Role;

use crate::support::{Caller, Panel, assert_refused, fields, refusal};

const BROWSER: &str = "text/html,application/xhtml+xml,*/*;q=0.8";

/// A user with WireGuard on one node.
pub(crate) async fn subscriber(panel: &Panel, admin: &Caller) -> User {
    let tenant = panel.default_tenant().await;
    admin.new_node("berlin", None).await;
    let inbound = admin.new_inbound("main", 51820).await;
    let group = admin.new_group(tenant, "all", &[&inbound.id]).await;
    admin.new_user(tenant, "ada", &[&group.id]).await
}

pub(crate) fn token(user: &User) -> String {
    let (base, token) = user.subscription_url.rsplit_once("/sub/").unwrap();
    assert!(base.starts_with("http"), "{}", user.subscription_url);
    token.to_owned()
}

pub(crate) fn asking(token: &str, format: &str) -> GetSubscriptionRequest {
    GetSubscriptionRequest {
        token: token.to_owned(),
        format: format.to_owned(),
        ..GetSubscriptionRequest::default()
    }
}

pub(crate) async fn fetch(
    panel: &Panel,
    message: GetSubscriptionRequest,
    headers: &[(&'static str, &str)],
) -> Result<Response<GetSubscriptionResponse>, Status> {
    let anybody = panel.anybody();
    let mut request = anybody.ask(message);
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    anybody.subscriptions().get_subscription(request).await
}

fn header<'a>(reply: &'a Response<GetSubscriptionResponse>, name: &str) -> &'a str {
    let value = reply.metadata().get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

pub(crate) fn text(reply: &Response<GetSubscriptionResponse>) -> String {
    let body = reply.get_ref().body.as_ref().unwrap();
    String::from_utf8(body.data.to_vec()).unwrap()
}

async fn get(caller: &Caller, user: &User) -> User {
    let request = GetUserRequest {
        tenant_id: user.tenant_id.clone(),
        user_id: user.id.clone(),
    };
    let found = caller.users().get_user(caller.ask(request)).await;
    found.unwrap().into_inner().user.unwrap()
}

#[tokio::test]
async fn the_link_is_shown_to_those_who_may_read_the_users_secrets_alone() {
    let settings = [("VPNPANEL_SUBSCRIPTION_URL", "https://vpn.example.com/")];
    let panel = Panel::start_with(&settings).await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let link = user.subscription_url.clone();
    assert!(link.starts_with("https://vpn.example.com/sub/"), "{link}");

    let operator = panel.signed_in(Role::Operator, Some(tenant)).await;
    let auditor = panel.signed_in(Role::Auditor, Some(tenant)).await;
    let request = CreateApiTokenRequest {
        api_token: Some(ApiToken {
            tenant_id: tenant.to_string(),
            name: "reads".to_owned(),
            permissions: vec!["user.read".to_owned()],
            ..ApiToken::default()
        }),
    };
    let made = operator
        .auth()
        .create_api_token(operator.ask(request))
        .await;
    let reads = panel.with_token(&made.unwrap().into_inner().token);
    for caller in [&operator, &auditor, &reads] {
        assert_eq!(get(caller, &user).await.subscription_url, "");
        let request = ListUsersRequest {
            tenant_id: tenant.to_string(),
            ..ListUsersRequest::default()
        };
        let listed = caller.users().list_users(caller.ask(request)).await;
        let listed = listed.unwrap().into_inner().users;
        assert_eq!(listed[0].subscription_url, "");
    }
    for (caller, expected) in [
        (&operator, Some(link.as_str())),
        (&auditor, None),
        (&reads, None),
    ] {
        let request = ListUserConnectionsRequest {
            tenant_id: tenant.to_string(),
            user_id: user.id.clone(),
        };
        let read = caller
            .users()
            .list_user_connections(caller.ask(request))
            .await;
        let read = read.map(|it| it.into_inner().subscription_url);
        assert_eq!(read.ok().as_deref(), expected);
    }
    let printed = format!("{user:?}");
    assert!(!printed.contains(&token(&user)), "{printed}");
}

#[tokio::test]
async fn a_fetch_answers_with_the_configurations_and_what_may_be_used() {
    let settings = [
        ("VPNPANEL_SUBSCRIPTION_UPDATE_INTERVAL", "90m"),
        (
            "VPNPANEL_SUBSCRIPTION_SUPPORT_URL",
            "https://help.example.com",
        ),
    ];
    let panel = Panel::start_with(&settings).await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let request = UpdateUserRequest {
        user: Some(User {
            data_limit_bytes: 20_000,
            expire_time: Some(prost_types::Timestamp {
                seconds: 4_000_000_000,
                nanos: 0,
            }),
            id: user.id.clone(),
            tenant_id: user.tenant_id.clone(),
            ..User::default()
        }),
        update_mask: None,
    };
    let updated = admin.users().update_user(admin.ask(request)).await;
    updated.unwrap();
    let token = token(&user);

    let reply = fetch(&panel, asking(&token, "wireguard"), &[])
        .await
        .unwrap();
    assert!(text(&reply).starts_with("[Interface]\nPrivateKey = "));
    let info = "upload=0; download=0; total=20000; expire=4000000000";
    assert_eq!(header(&reply, "subscription-userinfo"), info);
    assert_eq!(header(&reply, "profile-update-interval"), "2");
    assert_eq!(header(&reply, "support-url"), "https://help.example.com");
    assert_eq!(
        header(&reply, "profile-web-page-url"),
        user.subscription_url
    );
    let title = header(&reply, "profile-title").strip_prefix("base64:");
    let title = String::from_utf8(STANDARD.decode(title.unwrap()).unwrap()).unwrap();
    assert!(!title.is_empty());
    let file = "attachment; filename=\"main-berlin.conf\"";
    assert_eq!(header(&reply, "content-disposition"), file);
    assert_eq!(header(&reply, "cache-control"), "no-store");

    // The same again has the same tag, and another form another.
    let again = fetch(&panel, asking(&token, "wireguard"), &[])
        .await
        .unwrap();
    let json = fetch(&panel, asking(&token, "json"), &[]).await.unwrap();
    assert_eq!(header(&again, "etag"), header(&reply, "etag"));
    assert_ne!(header(&json, "etag"), header(&reply, "etag"));
    let listed: serde_json::Value = serde_json::from_str(&text(&json)).unwrap();
    assert_eq!(listed["user"]["username"], "ada");
    assert_eq!(listed["connections"][0]["protocol"], "wireguard");
    assert_eq!(listed["connections"][0]["wireguardConfig"], text(&reply));
}

#[tokio::test]
async fn a_browser_gets_a_page_in_its_language_that_runs_nothing() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let token = token(&user);
    let headers = [("accept", BROWSER), ("accept-language", "fa-IR,en;q=0.5")];
    let page = fetch(&panel, asking(&token, ""), &headers).await.unwrap();
    let body = page.get_ref().body.as_ref().unwrap();
    assert_eq!(body.content_type, "text/html; charset=utf-8");
    assert!(text(&page).contains("<html lang=\"fa\" dir=\"rtl\">"));
    assert!(text(&page).contains(&user.subscription_url));
    assert_eq!(header(&page, "content-language"), "fa");
    assert_eq!(header(&page, "cache-control"), "no-store");
    let policy = header(&page, "content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-"),
        "{policy}"
    );
    assert!(!policy.contains("script-src"), "{policy}");

    let russian = GetSubscriptionRequest {
        lang: "ru".to_owned(),
        ..asking(&token, "")
    };
    let page = fetch(&panel, russian, &headers).await.unwrap();
    assert!(text(&page).contains("<html lang=\"ru\" dir=\"ltr\">"));
    let none = GetSubscriptionRequest {
        lang: "tlh".to_owned(),
        ..asking(&token, "html")
    };
    assert_eq!(fields(fetch(&panel, none, &[]).await), ["lang"]);
}

#[tokio::test]
async fn tokens_that_are_none_were_replaced_or_are_of_a_deleted_user_look_the_same() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let first = token(&user);
    let named = || (user.tenant_id.clone(), user.id.clone());
    let refused = async |token: &str| {
        let status = fetch(&panel, asking(token, ""), &[]).await.unwrap_err();
        let message = status.message().to_owned();
        (refusal::<()>(Err(status)), message)
    };
    let nobodys = refused(&"A".repeat(32)).await;
    let expected = (Code::NotFound, "SUBSCRIPTION_NOT_FOUND".to_owned());
    assert_eq!(nobodys.0, expected);
    assert_eq!(refused("").await, nobodys);
    assert_eq!(refused("../x ü").await, nobodys);

    // Of one request that comes twice the link is replaced once.
    let (tenant_id, user_id) = named();
    let request = RotateUserSubscriptionRequest {
        tenant_id,
        user_id,
        request_id: "01970000-0000-7000-8000-000000000007".to_owned(),
    };
    let mut rotated = Vec::new();
    for _ in 0..2 {
        let reply = admin
            .users()
            .rotate_user_subscription(admin.ask(request.clone()))
            .await;
        rotated.push(reply.unwrap().into_inner().user.unwrap());
    }
    assert_eq!(rotated[0], rotated[1]);
    let second = token(&rotated[0]);
    assert_ne!(second, first);
    assert_eq!(refused(&first).await, nobodys);
    let kept = fetch(&panel, asking(&second, "json"), &[]).await.unwrap();

    let (tenant_id, user_id) = named();
    let request = RevokeUserCredentialsRequest {
        tenant_id,
        user_id,
        request_id: String::new(),
    };
    let revoked = admin
        .users()
        .revoke_user_credentials(admin.ask(request))
        .await;
    let third = token(&revoked.unwrap().into_inner().user.unwrap());
    assert_eq!(refused(&second).await, nobodys);
    let renewed = fetch(&panel, asking(&third, "json"), &[]).await.unwrap();
    assert_ne!(text(&renewed), text(&kept), "the keys are others, too");

    // Who is cut off is told so, and goes on being answered; who is deleted is not.
    let (tenant_id, user_id) = named();
    let request = DisableUserRequest { tenant_id, user_id };
    admin
        .users()
        .disable_user(admin.ask(request))
        .await
        .unwrap();
    let disabled = fetch(&panel, asking(&third, "json"), &[]).await.unwrap();
    assert!(text(&disabled).contains("\"disabled\""));
    let (tenant_id, user_id) = named();
    let request = DeleteUserRequest {
        tenant_id,
        user_id,
        etag: String::new(),
    };
    admin.users().delete_user(admin.ask(request)).await.unwrap();
    assert_eq!(refused(&third).await, nobodys);
}

#[tokio::test]
async fn a_form_that_is_none_or_has_no_place_for_what_there_is_is_refused() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let token = token(&user);
    let wrong = fetch(&panel, asking(&token, "yaml"), &[]).await;
    assert_eq!(fields(wrong), ["format"]);
    for format in ["xray", "sip008"] {
        let refused = fetch(&panel, asking(&token, format), &[]).await;
        assert_refused(refused, Code::FailedPrecondition, "FORMAT_UNAVAILABLE");
    }
    let long = fetch(&panel, asking(&"x".repeat(257), ""), &[]).await;
    assert_eq!(fields(long), ["token"]);
}

#[tokio::test]
async fn the_last_fetch_of_a_user_is_shown_once_it_is_written_down_and_changes_nothing_else() {
    let panel = Panel::start().await;
    let admin = panel.admin().await;
    let user = subscriber(&panel, &admin).await;
    let token = token(&user);
    assert_eq!(user.subscription_fetch_time, None);
    for agent in ["v2rayNG/1.10.24", "SFA/1.12.12 (sing-box 1.12.12)"] {
        let headers = [("x-forwarded-user-agent", agent)];
        fetch(&panel, asking(&token, ""), &headers).await.unwrap();
    }
    let without_link = User {
        subscription_url: String::new(),
        ..user.clone()
    };
    assert_eq!(get(&admin, &user).await, without_link, "no fetch writes");
    panel.subscription_fetches.write_down().await;
    let after = get(&admin, &user).await;
    assert_eq!(after.subscription_client, "SFA/1.12.12 (sing-box 1.12.12)");
    assert!(after.subscription_fetch_time.is_some());
    assert_eq!(
        (after.etag, after.update_time),
        (user.etag, user.update_time)
    );
}
