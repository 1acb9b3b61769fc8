//! The client against a small control plane of the real contract.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_plane;

use std::sync::atomic::Ordering;
use std::time::Duration;

use control_plane::{ControlPlane, tls};
use vpnpanel_client::api::auth::v1::GetMeRequest;
use vpnpanel_client::api::tenant::v1::{GetTenantRequest, ListTenantsRequest};
use vpnpanel_client::{Client, Code, Error, new_request_id, retrying};

async fn signed_in(server: &ControlPlane) -> Client {
    let client = Client::builder(&server.address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    client.sign_in("admin@localhost", "right").await.unwrap();
    client
}

#[tokio::test]
async fn a_sign_in_authorizes_every_stub_and_a_sign_out_ends_that() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = Client::builder(&server.address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    let refused = Error::from(client.auth().get_me(GetMeRequest {}).await.unwrap_err());
    assert_eq!(refused.code(), Some(Code::Unauthenticated));

    assert!(
        !client
            .sign_in("admin@localhost", "right")
            .await
            .unwrap()
            .password_change_required
    );
    client.auth().get_me(GetMeRequest {}).await.unwrap();
    client.clone().auth().get_me(GetMeRequest {}).await.unwrap();
    assert_eq!(server.state.renewals.load(Ordering::SeqCst), 0);

    client.sign_out().await.unwrap();
    client.auth().get_me(GetMeRequest {}).await.unwrap_err();
}

#[tokio::test]
async fn a_wrong_password_is_told_by_its_reason() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = Client::builder(&server.address)
        .unwrap()
        .connect_lazy()
        .unwrap();
    let error = client
        .sign_in("admin@localhost", "wrong")
        .await
        .unwrap_err();
    assert!(error.is("SIGN_IN_REFUSED"), "{error}");
    let error = error.api().unwrap();
    assert_eq!(error.retry_after, Some(Duration::from_secs(2)));
    assert_eq!(error.fields[0].field, "password");
    assert_eq!(error.metadata["attempts"], "3");
    assert!(!format!("{client:?}").contains("right"));
}

#[tokio::test]
async fn a_token_about_to_end_is_renewed_by_one_of_many_calls() {
    // Its life is over at once, so each call finds it due; the server refuses a refresh token
    // that comes twice.
    let server = ControlPlane::start(Duration::ZERO).await;
    let client = signed_in(&server).await;
    server.state.life_ms.store(900_000, Ordering::SeqCst);
    let calls = (0..20).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.auth().get_me(GetMeRequest {}).await.map(drop) })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    assert_eq!(server.state.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_refused_token_fails_one_call_and_is_renewed_before_the_next() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = signed_in(&server).await;
    server.state.revoke();
    client.auth().get_me(GetMeRequest {}).await.unwrap_err();
    client.auth().get_me(GetMeRequest {}).await.unwrap();
    assert_eq!(server.state.renewals.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_from_elsewhere_is_used_as_it_is() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = Client::builder(&server.address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    client.use_token("api-token").await.unwrap();
    client.auth().get_me(GetMeRequest {}).await.unwrap();
    assert!(matches!(
        client.use_token("two\nlines").await,
        Err(Error::Token)
    ));
}

#[tokio::test]
async fn pages_follow_each_other_to_the_last() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = signed_in(&server).await;
    let request = ListTenantsRequest {
        page_size: 4,
        ..Default::default()
    };
    let mut pages = client.pages(request.clone());
    let mut sizes = Vec::new();
    while let Some(page) = pages.next_page().await.unwrap() {
        sizes.push(page.len());
    }
    assert_eq!(sizes, [4, 4, 2]);
    assert_eq!(pages.next_page().await.unwrap(), None);
    let all = client.pages(request).all().await.unwrap();
    let names: Vec<&str> = all.iter().map(|tenant| tenant.name.as_str()).collect();
    assert_eq!(names, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn a_passing_failure_is_tried_again_and_a_lasting_one_is_not() {
    let server = ControlPlane::start(Duration::from_secs(900)).await;
    let client = signed_in(&server).await;
    let get = async |tenant_id: &str| {
        let request = GetTenantRequest {
            tenant_id: tenant_id.to_owned(),
        };
        let calls = server.state.calls.load(Ordering::SeqCst);
        let got = retrying(3, async || {
            Ok(client.tenants().get_tenant(request.clone()).await?)
        });
        (
            got.await.map(drop),
            server.state.calls.load(Ordering::SeqCst) - calls,
        )
    };
    let (got, calls) = get("flaky").await;
    assert_eq!((got.is_ok(), calls), (true, 3));
    let (got, calls) = get("down").await;
    assert_eq!(
        (got.unwrap_err().code(), calls),
        (Some(Code::Unavailable), 3)
    );
    let (got, calls) = get("nowhere").await;
    assert!(got.unwrap_err().is("TENANT_NOT_FOUND"));
    assert_eq!(calls, 1);
}

#[tokio::test]
async fn request_ids_are_new_each_time() {
    assert_ne!(new_request_id(), new_request_id());
    assert_eq!(new_request_id().len(), 36);
}

#[tokio::test]
async fn tls_is_as_good_as_the_authority_it_trusts() {
    let authority = tls::Authority::new();
    let server = ControlPlane::start_tls(&authority).await;
    let trusting = Client::builder(&server.address)
        .unwrap()
        .ca_pem(authority.pem());
    let client = trusting.connect().await.unwrap();
    client.sign_in("admin@localhost", "right").await.unwrap();

    let stranger = tls::Authority::new();
    let distrusting = Client::builder(&server.address)
        .unwrap()
        .ca_pem(stranger.pem());
    assert!(matches!(
        distrusting.connect().await,
        Err(Error::Transport(_))
    ));
    let misnamed = Client::builder(&server.address)
        .unwrap()
        .ca_pem(authority.pem());
    let misnamed = misnamed.server_name("somebody.else").connect().await;
    assert!(matches!(misnamed, Err(Error::Transport(_))));
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_at_once() {
    for address in ["", "localhost:50051", "ftp://host", "http://"] {
        assert!(
            matches!(Client::builder(address), Err(Error::Address(_))),
            "{address}"
        );
    }
}
