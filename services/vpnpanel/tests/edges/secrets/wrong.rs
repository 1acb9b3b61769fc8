//! Everything that goes wrong with a secret in it, over REST and gRPC.

use std::net::SocketAddr;

use serde_json::json;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use vpnpanel_api::agent::v1::EnrollRequest;
use vpnpanel_api::auth::v1::auth_service_client::AuthServiceClient;
use vpnpanel_api::auth::v1::{
    ConfirmTotpResponse, CreateApiTokenResponse, EnrollTotpResponse, GetMeRequest, LoginRequest,
    LoginResponse, RefreshRequest,
};

use super::SignedIn;
use super::seen::{CANARY, Seen};
use crate::rest::call;

pub(super) async fn go_wrong_over_rest(rest: SocketAddr, signed_in: &SignedIn, seen: &mut Seen) {
    let c = CANARY;
    let json_type = "content-type: application/json".to_owned();
    let login = "/v1/auth/login";
    let bodies = [
        (
            "a wrong password",
            login,
            json!({"email": "admin@localhost", "password": c}).to_string(),
        ),
        (
            "an unknown account",
            login,
            json!({"email": "nobody@localhost", "password": c}).to_string(),
        ),
        (
            "a password of the wrong type",
            login,
            json!({"email": "a@b", "password": [c]}).to_string(),
        ),
        (
            "a password as a number",
            login,
            format!(r#"{{"password": 1{c}}}"#),
        ),
        (
            "JSON that breaks off",
            login,
            format!(r#"{{"email": "a@b", "password": "{c}"#),
        ),
        (
            "JSON with a lone surrogate",
            login,
            format!(r#"{{"password": "{c}\ud800"}}"#),
        ),
        ("a body that is no JSON", login, format!("password={c}")),
        (
            "a field that is none",
            login,
            format!(r#"{{"email": "a@b", "colour": "{c}"}}"#),
        ),
        (
            "a password too long",
            login,
            json!({"email": "a@b", "password": c.repeat(1000)}).to_string(),
        ),
        (
            "a refresh token that is none",
            "/v1/auth/refresh",
            json!({"refreshToken": c}).to_string(),
        ),
        (
            "no refresh token",
            "/v1/auth/refresh",
            format!(r#"{{"refreshToken": {{"a": "{c}"}}}}"#),
        ),
    ];
    for (what, path, body) in bodies {
        let answer = call(rest, "POST", path, std::slice::from_ref(&json_type), &body).await;
        seen.error(what, &answer);
    }
    let me = "/v1/auth/me";
    let bearer = &signed_in.access;
    let spoiled = format!("{bearer}{c}");
    for (what, path, headers) in [
        (
            "a bearer that is none",
            me.to_owned(),
            format!("authorization: Bearer {c}"),
        ),
        (
            "a token that was changed",
            me.to_owned(),
            format!("authorization: Bearer {spoiled}"),
        ),
        (
            "another scheme",
            me.to_owned(),
            format!("authorization: Basic {c}"),
        ),
        (
            "a token without a scheme",
            me.to_owned(),
            format!("authorization: {bearer}"),
        ),
        ("a cookie", me.to_owned(), format!("cookie: session={c}")),
        ("an API key", me.to_owned(), format!("x-api-key: {c}")),
        (
            "a token in the query",
            format!("{me}?access_token={bearer}"),
            "x: y".to_owned(),
        ),
        (
            "a password in the query",
            format!("{me}?password={c}"),
            "x: y".to_owned(),
        ),
        (
            "a subscription that is none",
            format!("/sub/{c}"),
            "x: y".to_owned(),
        ),
        (
            "a path below one",
            format!("/sub/{c}/more"),
            "x: y".to_owned(),
        ),
        (
            "a path that does not decode",
            format!("/v1/{c}%ff"),
            "x: y".to_owned(),
        ),
        (
            "an id that is none",
            format!("/v1/tenants/{c}"),
            format!("authorization: Bearer {bearer}"),
        ),
        (
            "a page token that is none",
            format!("/v1/tenants?pageToken={c}"),
            format!("authorization: Bearer {bearer}"),
        ),
    ] {
        let answer = call(rest, "GET", &path, &[headers], "").await;
        seen.error(what, &answer);
    }
    let wrong = json!({"currentPassword": c, "newPassword": format!("{c} another")});
    let path = "/v1/auth/password";
    let answer = call(rest, "POST", path, &signed_in.header(), &wrong.to_string()).await;
    seen.error("a wrong current password", &answer);
    let weak = json!({"currentPassword": format!("{c}-Passwort 1"), "newPassword": "kana"});
    let answer = call(rest, "POST", path, &signed_in.header(), &weak.to_string()).await;
    seen.error("a weak new password", &answer);
}

pub(super) async fn go_wrong_over_grpc(api: SocketAddr, signed_in: &SignedIn, seen: &mut Seen) {
    let channel = Endpoint::from_shared(format!("http://{api}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut auth = AuthServiceClient::new(channel.clone());
    let login = LoginRequest {
        email: "admin@localhost".to_owned(),
        password: CANARY.to_owned(),
        ..LoginRequest::default()
    };
    seen.came_out("Debug of a request", format!("{login:?}"));
    seen.refusal("a wrong password over gRPC", auth.login(login).await);
    let refresh = RefreshRequest {
        refresh_token: CANARY.to_owned(),
        ..RefreshRequest::default()
    };
    seen.came_out("Debug of a request", format!("{refresh:?}"));
    seen.refusal("a refresh token over gRPC", auth.refresh(refresh).await);
    for bearer in [CANARY.to_owned(), format!("{}{CANARY}", signed_in.access)] {
        let request = request_with(&bearer);
        seen.refusal("a bad token over gRPC", auth.get_me(request).await);
    }
    auth.get_me(request_with(&signed_in.access)).await.unwrap();
    for shown in [
        format!(
            "{:?}",
            LoginResponse {
                access_token: CANARY.to_owned(),
                refresh_token: CANARY.to_owned(),
                ..LoginResponse::default()
            }
        ),
        format!(
            "{:?}",
            CreateApiTokenResponse {
                token: CANARY.to_owned(),
                ..CreateApiTokenResponse::default()
            }
        ),
        format!(
            "{:?}",
            EnrollTotpResponse {
                secret: CANARY.to_owned(),
                uri: CANARY.to_owned(),
            }
        ),
        format!(
            "{:?}",
            ConfirmTotpResponse {
                recovery_codes: vec![CANARY.to_owned()],
            }
        ),
    ] {
        seen.came_out("Debug of an answer", shown);
    }
    // Bytes that are no message, with a secret among them.
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let path = "/vpnpanel.auth.v1.AuthService/Login".parse().unwrap();
    let garbage = EnrollRequest {
        join_token: CANARY.to_owned(),
        csr_der: vec![0xff; 40],
    };
    let codec = tonic_prost::ProstCodec::<EnrollRequest, EnrollRequest>::default();
    let answer = grpc.unary(tonic::Request::new(garbage), path, codec).await;
    seen.refusal("another message", answer);
}

pub(super) fn request_with(bearer: &str) -> tonic::Request<GetMeRequest> {
    let mut request = tonic::Request::new(GetMeRequest::default());
    let metadata: &mut MetadataMap = request.metadata_mut();
    metadata.insert("authorization", format!("Bearer {bearer}").parse().unwrap());
    request
}
