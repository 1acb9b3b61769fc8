//! Lists and their pages.

use tonic::Code;
use vpnpanel_api::{
    node::v1::ListNodesRequest,
    user::v1::{DeleteUserRequest, ListUsersRequest, ListUsersResponse, UserStatus},
};
use vpnpanel_domain::TenantId;

use crate::support::{Caller, Panel, assert_refused, fields};

fn page(tenant: TenantId, size: i32, token: &str) -> ListUsersRequest {
    ListUsersRequest {
        tenant_id: tenant.to_string(),
        page_size: size,
        page_token: token.to_owned(),
        ..ListUsersRequest::default()
    }
}

async fn list(caller: &Caller, request: ListUsersRequest) -> ListUsersResponse {
    let listed = caller.users().list_users(caller.ask(request)).await;
    listed.unwrap().into_inner()
}

fn names(page: &ListUsersResponse) -> Vec<&str> {
    page.users
        .iter()
        .map(|user| user.username.as_str())
        .collect()
}

#[tokio::test]
async fn pages_hold_every_user_once_while_others_come_and_go() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(admin.new_user(tenant, &format!("u{n}"), &[]).await.id);
    }
    let first = list(&admin, page(tenant, 3, "")).await;
    assert_eq!(names(&first), ["u0", "u1", "u2"]);
    // One of a page that was read goes, and new ones come: the rest stays where it was.
    let gone = DeleteUserRequest {
        tenant_id: tenant.to_string(),
        user_id: ids[1].clone(),
        etag: String::new(),
    };
    admin.users().delete_user(admin.ask(gone)).await.unwrap();
    admin.new_user(tenant, "late", &[]).await;
    let second = list(&admin, page(tenant, 3, &first.next_page_token)).await;
    assert_eq!(names(&second), ["u3", "u4", "u5"]);
    let third = list(&admin, page(tenant, 3, &second.next_page_token)).await;
    assert_eq!(names(&third), ["u6", "late"]);
    assert_eq!(third.next_page_token, "");
}

#[tokio::test]
async fn filters_choose_and_a_page_token_holds_for_its_filter_only() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    let group = admin.new_group(tenant, "some", &[]).await;
    for name in ["anna", "Anton", "bert"] {
        admin.new_user(tenant, name, &[]).await;
    }
    admin.new_user(tenant, "annika", &[&group.id]).await;
    let prefixed = ListUsersRequest {
        username_prefix: "AN".to_owned(),
        ..page(tenant, 2, "")
    };
    let first = list(&admin, prefixed.clone()).await;
    assert_eq!(names(&first), ["anna", "Anton"]);
    let rest = ListUsersRequest {
        page_token: first.next_page_token.clone(),
        ..prefixed
    };
    assert_eq!(names(&list(&admin, rest).await), ["annika"]);

    let grouped = ListUsersRequest {
        group_id: group.id,
        ..page(tenant, 0, "")
    };
    assert_eq!(names(&list(&admin, grouped).await), ["annika"]);
    let expired = ListUsersRequest {
        status: UserStatus::Expired.into(),
        ..page(tenant, 0, "")
    };
    assert!(names(&list(&admin, expired).await).is_empty());

    for foreign in [
        page(tenant, 2, &first.next_page_token),
        page(tenant, 2, "junk"),
    ] {
        let refused = admin.users().list_users(admin.ask(foreign)).await;
        assert_refused(refused, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let refused = admin
        .users()
        .list_users(admin.ask(page(tenant, 1001, "")))
        .await;
    assert_eq!(fields(refused), ["page_size"]);
}

#[tokio::test]
async fn shared_and_dedicated_nodes_are_listed_apart() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    let admin = panel.admin().await;
    admin.new_node("shared", None).await;
    admin.new_node("ours", Some(tenant)).await;
    for (owner, expected) in [(String::new(), "shared"), (tenant.to_string(), "ours")] {
        let request = ListNodesRequest {
            tenant_id: owner,
            ..ListNodesRequest::default()
        };
        let listed = admin.nodes().list_nodes(admin.ask(request)).await.unwrap();
        let nodes = listed.into_inner().nodes;
        assert_eq!(nodes.len(), 1);
        assert_eq!(nodes[0].name, expected);
    }
}
