//! Two replicas on one database and one Redis: what is ended on one is over on the other within a
//! second, whatever becomes of Redis.

use std::time::{Duration, Instant};

use tonic::Code;
use vpnpanel_api::{
    account::v1::DisableAccountRequest,
    auth::v1::{
        ApiToken, ChangePasswordRequest, CreateApiTokenRequest, GetMeRequest, LoginRequest,
        LogoutRequest,
    },
    user::v1::ListUsersRequest,
};
use vpnpanel_auth::{
    Role, Signal,
    revocation::{Credential, Listed},
};
use vpnpanel_cache::testing::{TestRedis, eventually};
use vpnpanel_domain::{AccountId, SessionId, TenantId};
use vpnpanel_store::fresh_id;

use crate::support::{ADMIN, Caller, ONE_TIME_PASSWORD, PASSWORD, Panel, assert_refused, refusal};

const WITHIN: Duration = Duration::from_secs(1);

/// A session of the first administrator, as each replica sees it.
struct Session {
    here: Caller,
    there: Caller,
}

async fn two(redis: &TestRedis) -> (Panel, Panel) {
    let settings = [
        ("VPNPANEL_REDIS_URL", redis.url()),
        ("VPNPANEL_LIMIT_SIGN_IN_ACCOUNT", "off"),
    ];
    let one = Panel::start_with(&settings).await;
    let other = one.another(&settings).await;
    (one, other)
}

/// Both have a complete list of revocations, and hear each other.
async fn in_touch(panels: &[&Panel]) {
    for panel in panels {
        let cache = panel.access.cache();
        let nobody = Credential::Session(SessionId::from_parts(1, [0; 10]));
        eventually("the list is complete", async || {
            cache.revocations.check(nobody).await == Listed::Clear
        })
        .await;
    }
}

async fn sign_in(here: &Panel, there: &Panel) -> Session {
    let request = LoginRequest {
        email: ADMIN.to_owned(),
        password: ONE_TIME_PASSWORD.to_owned(),
        ..LoginRequest::default()
    };
    let tokens = here.anybody().auth().login(request).await.unwrap();
    let token = tokens.into_inner().access_token;
    let session = Session {
        here: here.with_token(&token),
        there: there.with_token(&token),
    };
    // Both remember it now.
    may_act(&session.here).await.unwrap();
    may_act(&session.there).await.unwrap();
    session
}

async fn may_act(caller: &Caller) -> Result<(), tonic::Status> {
    let request = caller.ask(GetMeRequest {});
    caller.auth().get_me(request).await.map(drop)
}

async fn log_out(caller: &Caller) {
    let request = caller.ask(LogoutRequest {});
    caller.auth().logout(request).await.unwrap();
}

/// The session is over everywhere in time, and stays so.
async fn is_over(session: &Session, ended: Instant) {
    for caller in [&session.here, &session.there] {
        eventually("the session is over", async || {
            may_act(caller).await.is_err()
        })
        .await;
    }
    assert!(ended.elapsed() < WITHIN, "{:?}", ended.elapsed());
    for caller in [&session.here, &session.there] {
        assert_refused(
            may_act(caller).await,
            Code::Unauthenticated,
            "SESSION_ENDED",
        );
    }
}

#[tokio::test]
async fn a_sign_out_on_one_replica_is_effective_on_the_other() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let (leaving, staying) = (sign_in(&one, &other).await, sign_in(&one, &other).await);
    let ended = Instant::now();
    log_out(&leaving.here).await;
    is_over(&leaving, ended).await;
    may_act(&staying.there).await.unwrap();
}

#[tokio::test]
async fn a_new_password_on_one_replica_ends_the_sessions_on_the_other() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let (session, another) = (sign_in(&one, &other).await, sign_in(&other, &one).await);
    let request = session.here.ask(ChangePasswordRequest {
        current_password: ONE_TIME_PASSWORD.to_owned(),
        new_password: PASSWORD.to_owned(),
    });
    let ended = Instant::now();
    session.here.auth().change_password(request).await.unwrap();
    is_over(&session, ended).await;
    is_over(&another, ended).await;
}

#[tokio::test]
async fn with_redis_killed_wiped_and_restarted_nothing_that_was_ended_comes_back() {
    let mut redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let before = sign_in(&one, &other).await;
    let (during, after) = (sign_in(&one, &other).await, sign_in(&one, &other).await);
    log_out(&before.here).await;

    redis.wipe();
    assert!(may_act(&before.here).await.is_err());
    is_over(&before, Instant::now()).await;
    may_act(&during.there).await.unwrap();

    redis.kill();
    is_over(&before, Instant::now()).await;
    let ended = Instant::now();
    log_out(&during.here).await;
    is_over(&during, ended).await;
    // Work goes on.
    may_act(&after.there).await.unwrap();
    let meanwhile = sign_in(&other, &one).await;

    redis.restart();
    is_over(&during, Instant::now()).await;
    in_touch(&[&one, &other]).await;
    for session in [&before, &during] {
        is_over(session, Instant::now()).await;
    }
    let ended = Instant::now();
    log_out(&meanwhile.there).await;
    is_over(&meanwhile, ended).await;
    may_act(&after.here).await.unwrap();
}

#[tokio::test]
async fn a_slow_redis_keeps_nobody_waiting_and_no_session_alive() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let (leaving, staying) = (sign_in(&one, &other).await, sign_in(&one, &other).await);
    const ASLEEP: Duration = Duration::from_secs(6);
    redis.sleep(ASLEEP.as_secs_f64());
    log_out(&leaving.there).await;
    let ended = Instant::now();
    is_over(&leaving, ended).await;
    let asked = Instant::now();
    for _ in 0..20 {
        may_act(&staying.here).await.unwrap();
    }
    assert!(asked.elapsed() < ASLEEP / 2, "they waited for Redis");
}

async fn sees_users(caller: &Caller, tenant: TenantId) -> Result<(), tonic::Status> {
    let request = caller.ask(ListUsersRequest {
        tenant_id: tenant.to_string(),
        ..ListUsersRequest::default()
    });
    caller.users().list_users(request).await.map(drop)
}

async fn account(caller: &Caller) -> AccountId {
    let me = caller.auth().get_me(caller.ask(GetMeRequest {})).await;
    me.unwrap()
        .into_inner()
        .account
        .unwrap()
        .id
        .parse()
        .unwrap()
}

#[tokio::test]
async fn what_changed_is_noticed_in_time_also_when_nobody_could_tell() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let (tenant, elsewhere) = (one.new_tenant("a").await, one.new_tenant("b").await);
    let owner = one.signed_in(Role::Owner, Some(tenant)).await;
    sees_users(&owner, tenant).await.unwrap();
    assert!(sees_users(&owner, elsewhere).await.is_err());
    // A replica that is cut off from Redis, while this one is not, can tell the database alone.
    let id = account(&owner).await;
    let ended = Instant::now();
    let ids = other
        .store
        .revoke_other_sessions(id, None, "disabled")
        .await;
    assert_eq!(ids.unwrap().len(), 1);
    eventually("it is noticed", async || {
        sees_users(&owner, tenant).await.is_err()
    })
    .await;
    assert!(ended.elapsed() < WITHIN, "{:?}", ended.elapsed());
    let (code, _) = refusal(sees_users(&owner, tenant).await);
    assert_eq!(code, Code::Unauthenticated);
}

/// Disables an account on one replica; it may do nothing on the other in time, by a session or a
/// token.
async fn is_shut_out_everywhere(one: &Panel, other: &Panel) {
    let tenant = one.new_tenant(&fresh_id::<TenantId>().to_string()).await;
    let admin = one.admin().await;
    let here = one.signed_in(Role::Owner, Some(tenant)).await;
    let request = here.ask(CreateApiTokenRequest {
        api_token: Some(ApiToken {
            name: "backup".to_owned(),
            tenant_id: tenant.to_string(),
            permissions: vec!["user.read".to_owned()],
            ..ApiToken::default()
        }),
    });
    let token = here.auth().create_api_token(request).await.unwrap();
    let there = other.with_token(here.token());
    let program = other.with_token(&token.into_inner().token);
    for caller in [&here, &there, &program] {
        sees_users(caller, tenant).await.unwrap();
    }
    // Another owner stays, or this one could not be disabled.
    one.account(Role::Owner, Some(tenant)).await;
    let request = admin.ask(DisableAccountRequest {
        account_id: account(&here).await.to_string(),
    });
    let disabled = Instant::now();
    admin.accounts().disable_account(request).await.unwrap();
    for caller in [&here, &there, &program] {
        eventually("the account is shut out", async || {
            sees_users(caller, tenant).await.is_err()
        })
        .await;
        assert!(disabled.elapsed() < WITHIN, "{:?}", disabled.elapsed());
        let refused = sees_users(caller, tenant).await;
        assert_refused(refused, Code::Unauthenticated, "SESSION_ENDED");
    }
}

#[tokio::test]
async fn an_account_disabled_on_one_replica_is_shut_out_on_the_other_with_and_without_redis() {
    let mut redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    is_shut_out_everywhere(&one, &other).await;
    redis.kill();
    is_shut_out_everywhere(&one, &other).await;
}

#[tokio::test]
async fn a_changed_role_is_effective_at_once_when_it_is_told() {
    let redis = TestRedis::standalone();
    let (one, other) = two(&redis).await;
    in_touch(&[&one, &other]).await;
    let (tenant, more) = (one.new_tenant("a").await, one.new_tenant("b").await);
    let owner = one.signed_in(Role::Owner, Some(tenant)).await;
    assert!(sees_users(&owner, more).await.is_err());
    let id = account(&owner).await;
    other
        .store
        .set_membership(id, Some(more), "auditor")
        .await
        .unwrap();
    let told = Instant::now();
    other
        .access
        .cache()
        .signals
        .ring(Signal::AccountChanged(id));
    eventually("it is noticed", async || {
        sees_users(&owner, more).await.is_ok()
    })
    .await;
    assert!(told.elapsed() < WITHIN, "{:?}", told.elapsed());
}
