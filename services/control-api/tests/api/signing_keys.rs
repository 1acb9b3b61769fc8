//! The keys of access tokens: published, rotated without a gap, and revoked at once.

use std::time::Duration;

use tonic::{Code, Status};
use vpnpanel_api::auth::v1::{
    GetJsonWebKeySetRequest, GetMeRequest, ListSigningKeysRequest, RevokeSigningKeyRequest,
    RotateSigningKeysRequest, SigningKeyState,
};
use vpnpanel_auth::Role;

use crate::support::{Caller, PASSWORD, Panel, assert_refused};

async fn me(caller: &Caller) -> Result<(), Status> {
    let answer = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    answer.map(drop)
}

async fn rotate(caller: &Caller) {
    let request = caller.ask(RotateSigningKeysRequest {});
    let rotated = caller.signing_keys().rotate_signing_keys(request).await;
    rotated.unwrap();
}

/// Ids of the keys in a state.
async fn keys(caller: &Caller, state: SigningKeyState) -> Vec<String> {
    let request = caller.ask(ListSigningKeysRequest {});
    let answer = caller.signing_keys().list_signing_keys(request).await;
    let keys = answer.unwrap().into_inner().signing_keys;
    keys.into_iter()
        .filter(|key| key.state() == state)
        .map(|key| key.kid)
        .collect()
}

async fn revoke(caller: &Caller, kid: &str) -> Result<(), Status> {
    let request = RevokeSigningKeyRequest {
        kid: kid.to_owned(),
    };
    let mut client = caller.signing_keys();
    client
        .revoke_signing_key(caller.ask(request))
        .await
        .map(drop)
}

async fn published(panel: &Panel) -> (Vec<String>, String) {
    let anybody = panel.anybody();
    let request = GetJsonWebKeySetRequest {};
    let answer = anybody.signing_keys().get_json_web_key_set(request).await;
    let answer = answer.unwrap();
    let cached = answer.metadata().get("cache-control").unwrap();
    let cached = cached.to_str().unwrap().to_owned();
    let keys = answer.into_inner().keys;
    for key in &keys {
        assert_eq!((key.kty.as_str(), key.crv.as_str()), ("OKP", "Ed25519"));
        assert_eq!((key.r#use.as_str(), key.alg.as_str()), ("sig", "EdDSA"));
        assert_eq!(key.x.len(), 43);
    }
    (keys.into_iter().map(|key| key.kid).collect(), cached)
}

#[tokio::test]
async fn a_rotation_refuses_nobody_here_or_on_a_replica_and_publishes_before_it_signs() {
    let panel = Panel::start().await;
    let replica = panel.another(&[]).await;
    let (_, email) = panel.account(Role::Admin, None).await;
    let before = panel.sign_in(&email, PASSWORD).await;
    rotate(&before).await;
    let (known, cached) = published(&panel).await;
    assert_eq!(cached, "public, max-age=60");
    assert_eq!(
        known.len(),
        3,
        "the old one, the one that signs, the next one"
    );
    let next = keys(&before, SigningKeyState::Standby).await;
    rotate(&before).await;
    assert_eq!(keys(&before, SigningKeyState::Active).await, next);
    assert!(known.contains(&next[0]), "published before it signed");

    let after = panel.sign_in(&email, PASSWORD).await;
    for token in [before.token(), after.token()] {
        me(&panel.with_token(token)).await.unwrap();
        me(&replica.with_token(token)).await.unwrap();
    }
    panel
        .database
        .clock
        .advance(Duration::from_secs(3600).as_millis() as i64);
    rotate(&panel.sign_in(&email, PASSWORD).await).await;
    let (left, _) = published(&panel).await;
    assert!(!left.contains(&known[0]), "retired after its last token");
}

#[tokio::test]
async fn tokens_of_a_revoked_key_stop_at_once_and_on_a_replica_at_its_next_look() {
    let panel = Panel::start().await;
    let replica = panel.another(&[]).await;
    let (_, email) = panel.account(Role::Admin, None).await;
    let admin = panel.sign_in(&email, PASSWORD).await;
    me(&replica.with_token(admin.token())).await.unwrap();
    let active = keys(&admin, SigningKeyState::Active).await;
    let unknown = revoke(&admin, "../../etc/passwd").await;
    assert_refused(unknown, Code::NotFound, "SIGNING_KEY_NOT_FOUND");
    revoke(&admin, &active[0]).await.unwrap();
    assert_refused(me(&admin).await, Code::Unauthenticated, "TOKEN_INVALID");
    assert!(!published(&panel).await.0.contains(&active[0]));

    let there = replica.with_token(admin.token());
    let refused = async {
        while me(&there).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), refused)
        .await
        .expect("the replica follows");
    assert_refused(me(&there).await, Code::Unauthenticated, "TOKEN_INVALID");
    let again = panel.sign_in(&email, PASSWORD).await;
    me(&again).await.unwrap();
    me(&replica.with_token(again.token())).await.unwrap();
}

#[tokio::test]
async fn keys_are_the_platform_s_business() {
    let panel = Panel::start().await;
    let tenant = panel.default_tenant().await;
    for role in [Role::Owner, Role::Auditor] {
        let member = panel.signed_in(role, Some(tenant)).await;
        let request = member.ask(ListSigningKeysRequest {});
        let listed = member.signing_keys().list_signing_keys(request).await;
        assert_refused(listed, Code::PermissionDenied, "PERMISSION_DENIED");
        let revoked = revoke(&member, "0123456789abcdef").await;
        assert_refused(revoked, Code::PermissionDenied, "PERMISSION_DENIED");
    }
}
