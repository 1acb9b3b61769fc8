//! Limits: who calls too often is told when to come again, before anything costs anything, and nobody
//! can lock anybody else out.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use vpnpanel_api::{
    auth::v1::{ChangePasswordRequest, LoginRequest, RefreshRequest},
    system::v1::GetSystemInfoRequest,
};
use vpnpanel_cache::testing::{TestRedis, eventually};

use crate::support::{ADMIN, Caller, ONE_TIME_PASSWORD, PASSWORD, Panel, assert_refused, fields};

async fn log_in(caller: &Caller, email: &str, password: &str) -> Result<String, Status> {
    let request = caller.ask(LoginRequest {
        email: email.to_owned(),
        password: password.to_owned(),
        ..LoginRequest::default()
    });
    let tokens = caller.auth().login(request).await?;
    Ok(tokens.into_inner().access_token)
}

async fn system_info(caller: &Caller) -> Result<(), Status> {
    let request = caller.ask(GetSystemInfoRequest {});
    caller.system().get_system_info(request).await.map(drop)
}

#[track_caller]
fn assert_limited<T: std::fmt::Debug>(result: Result<T, Status>, limit: &str) {
    let status = result.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(info.reason, "RATE_LIMITED");
    assert_eq!(info.metadata["limit"], limit);
    let delay = details.retry_info().unwrap().retry_delay.unwrap();
    assert!(
        !delay.is_zero() && delay <= Duration::from_secs(3_600),
        "{delay:?}"
    );
    let header = status.metadata().get("retry-after").unwrap();
    let seconds: u64 = header.to_str().unwrap().parse().unwrap();
    assert!(seconds >= 1 && seconds >= delay.as_secs());
}

#[tokio::test]
async fn who_guesses_at_an_account_cannot_lock_its_owner_out() {
    let panel = Panel::start_with(&[("VPNPANEL_LIMIT_SIGN_IN_ACCOUNT", "5/1h")]).await;
    let anybody = panel.anybody();
    for host in 1..=5 {
        // From several hosts of one network, in several spellings.
        let caller = anybody.saying(&format!("198.51.100.{host}"));
        let email = if host % 2 == 0 {
            " ADMIN@LocalHost"
        } else {
            ADMIN
        };
        let refused = log_in(&caller, email, "guess").await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    let guessing = anybody.saying("198.51.100.77");
    assert_limited(log_in(&guessing, ADMIN, "guess").await, "sign_in_account");
    let right = log_in(&guessing, ADMIN, ONE_TIME_PASSWORD).await;
    assert_limited(right, "sign_in_account");
    // An account that does not exist is counted alike.
    for _ in 0..5 {
        let refused = log_in(&guessing, "nobody@localhost", "guess").await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    assert_limited(
        log_in(&guessing, "nobody@localhost", "x").await,
        "sign_in_account",
    );
    let owner = anybody.saying("203.0.113.5");
    log_in(&owner, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn who_guesses_at_many_accounts_is_limited_by_address() {
    let panel = Panel::start_with(&[("VPNPANEL_LIMIT_SIGN_IN_ADDRESS", "3/1h")]).await;
    let guessing = panel.anybody().saying("2001:db8::1");
    for n in 0..3 {
        let refused = log_in(&guessing, &format!("{n}@localhost"), "guess").await;
        assert_refused(refused, Code::Unauthenticated, "SIGN_IN_REFUSED");
    }
    let neighbour = panel.anybody().saying("2001:db8::ffff:1");
    assert_limited(
        log_in(&neighbour, "4@localhost", "guess").await,
        "sign_in_address",
    );
    let other = panel.anybody().saying("2001:db8:0:1::1");
    log_in(&other, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn calls_without_credentials_are_limited_by_address_and_others_are_not() {
    let settings = [
        ("VPNPANEL_LIMIT_ANONYMOUS", "4/1h"),
        ("VPNPANEL_LIMIT_CREDENTIAL", "6/1h"),
    ];
    let panel = Panel::start_with(&settings).await;
    let stranger = panel.anybody().saying("203.0.113.5");
    let token = log_in(&stranger, ADMIN, ONE_TIME_PASSWORD).await.unwrap();
    let junk = RefreshRequest {
        refresh_token: "junk".to_owned(),
        ..RefreshRequest::default()
    };
    let refused = stranger.auth().refresh(stranger.ask(junk)).await;
    assert_refused(refused, Code::Unauthenticated, "REFRESH_TOKEN_REFUSED");
    for _ in 0..2 {
        let refused = system_info(&stranger.with_token("junk")).await;
        assert_refused(refused, Code::Unauthenticated, "TOKEN_INVALID");
    }
    assert_limited(system_info(&stranger).await, "anonymous");
    let limited = log_in(&stranger, ADMIN, ONE_TIME_PASSWORD).await;
    assert_limited(limited, "anonymous");
    // Whoever is signed in is counted apart, wherever they are.
    let signed_in = stranger.with_token(&token);
    for n in 0..6 {
        let caller = signed_in.saying(&format!("203.0.113.{n}"));
        let refused = system_info(&caller).await;
        assert_refused(refused, Code::PermissionDenied, "PASSWORD_CHANGE_REQUIRED");
    }
    assert_limited(system_info(&signed_in).await, "credential");
}

#[tokio::test]
async fn a_stolen_session_cannot_be_used_to_guess_the_password() {
    let panel = Panel::start_with(&[("VPNPANEL_LIMIT_CONFIRMATION", "3/1h")]).await;
    let token = log_in(&panel.anybody(), ADMIN, ONE_TIME_PASSWORD)
        .await
        .unwrap();
    let thief = panel.with_token(&token);
    let guess = async |current: &str| {
        let request = thief.ask(ChangePasswordRequest {
            current_password: current.to_owned(),
            new_password: PASSWORD.to_owned(),
        });
        thief.auth().change_password(request).await.map(drop)
    };
    for _ in 0..3 {
        assert_eq!(fields(guess("guess").await), ["current_password"]);
    }
    assert_limited(guess(ONE_TIME_PASSWORD).await, "confirmation");
}

#[tokio::test]
async fn limits_can_be_switched_off() {
    let settings = [
        ("VPNPANEL_RATE_LIMITS", "false"),
        ("VPNPANEL_LIMIT_SIGN_IN_ACCOUNT", "1/1h"),
    ];
    let panel = Panel::start_with(&settings).await;
    for _ in 0..3 {
        log_in(&panel.anybody(), ADMIN, ONE_TIME_PASSWORD)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn replicas_count_together_and_without_redis_they_count_on() {
    let mut redis = TestRedis::standalone();
    let settings = [
        ("VPNPANEL_REDIS_URL", redis.url()),
        ("VPNPANEL_LIMIT_ANONYMOUS", "8/1h"),
    ];
    let one = Panel::start_with(&settings).await;
    let other = one.another(&settings).await;
    // In Redis eight are permitted, by the guard of one replica two.
    let mut network = 0;
    for panel in [&one, &other] {
        eventually("it counts in Redis", async || {
            network += 1;
            let caller = panel.anybody().saying(&format!("192.0.2.{network}"));
            permitted(&[&caller], 5).await == 5
        })
        .await;
    }
    let callers = [&one, &other].map(|panel| panel.anybody().saying("203.0.113.5"));
    assert_eq!(permitted(&[&callers[0], &callers[1]], 20).await, 8);
    redis.kill();
    let callers = [&one, &other].map(|panel| panel.anybody().saying("203.0.113.6"));
    assert_eq!(permitted(&[&callers[0], &callers[1]], 20).await, 4);
}

/// How many of so many calls, made by turns, are let in as far as the limits go.
async fn permitted(callers: &[&Caller], calls: usize) -> usize {
    let mut permitted = 0;
    for at in 0..calls {
        let status = system_info(callers[at % callers.len()]).await.unwrap_err();
        permitted += usize::from(status.code() != Code::ResourceExhausted);
    }
    permitted
}
