//! No secret leaves by a side door. Secrets that are known by sight are put wherever one can come
//! in, those that the product makes are noted as they are handed out, and then everything that came
//! out otherwise is searched for all of them: logs at their most talkative, traces, metrics,
//! errors, and what lies in the database.

mod seen;
mod traces;
mod wrong;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::transport::Channel;
use vpnpanel_api::agent::v1::EnrollRequest;
use vpnpanel_api::agent::v1::enrollment_service_client::EnrollmentServiceClient;
use vpnpanel_auth::TotpSecret;
use vpnpanel_cache::testing::TestRedis;
use vpnpanel_runtime::tls::{ClientTls, Dialer, pinned_client};
use vpnpanel_runtime::{PeerIdentity, TrustDomain};
use vpnpanel_store::testing::TestStore;

use self::seen::{CANARY, MASTER_KEY, Seen, base64};
use self::traces::Traces;
use self::wrong::{go_wrong_over_grpc, go_wrong_over_rest};
use crate::process::{PATIENCE, Process};
use crate::rest::{Answer, call};

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_output_with_sqlite() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Seen::default();
    exercise(folder.path(), &[], &mut seen).await;
    for name in ["vpnpanel.db", "vpnpanel.db-wal"] {
        let bytes = std::fs::read(folder.path().join(name)).unwrap_or_default();
        seen.came_out(name, bytes);
    }
    let leaks = seen.leaks();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_in_any_output_with_postgres_and_redis() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = Seen::default();
    let database = TestStore::postgres().await;
    if let Some(password) = password_of(database.guarded_url()) {
        seen.secret("the database's password", &password.into());
    }
    let redis = TestRedis::standalone();
    let password = format!("{CANARY}-redis");
    let secured = redis.command(&format!("CONFIG SET requirepass {password}"));
    assert_eq!(secured, "+OK");
    let redis = redis.url().replacen("://", &format!("://:{password}@"), 1);
    let settings = [
        ("VPNPANEL_DATABASE_URL", database.guarded_url()),
        ("VPNPANEL_REDIS_URL", redis.as_str()),
    ];
    exercise(folder.path(), &settings, &mut seen).await;
    let leaks = seen.leaks();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_not_repeated() {
    let unreachable = format!("postgres://someone:{CANARY}@127.0.0.1:1/none");
    let malformed = format!("postgres://someone:{CANARY}@[::/none");
    let redis = format!("redis://someone:{CANARY}@127.0.0.1:1/7");
    for (name, value) in [
        ("VPNPANEL_DATABASE_URL", unreachable.as_str()),
        ("VPNPANEL_DATABASE_URL", malformed.as_str()),
        ("VPNPANEL_DATABASE_URL", CANARY),
        ("VPNPANEL_MASTER_KEY", CANARY),
        ("VPNPANEL_REDIS_URL", redis.as_str()),
        ("VPNPANEL_REDIS_URL", CANARY),
        ("VPNPANEL_BOOTSTRAP_PASSWORD", CANARY),
    ] {
        let folder = tempfile::tempdir().unwrap();
        // A bootstrap password that is too weak is found out as late as the first start.
        let command: &[&str] = match name {
            "VPNPANEL_BOOTSTRAP_PASSWORD" => &["up", "--gateway-listen", "127.0.0.1:99999"],
            "VPNPANEL_REDIS_URL" => &["up"],
            _ => &["migrate", "status"],
        };
        let settings = [(name, value), ("VPNPANEL_LOG", "trace")];
        let mut process = Process::start(command, folder.path(), &settings);
        let (code, said) = process.wait().await;
        assert!(code.is_some_and(|code| code > 0) && !said.is_empty());
        assert!(!said.contains(CANARY), "{name}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_the_settings_is_told_of_at_start_without_them() {
    let folder = tempfile::tempdir().unwrap();
    let database = TestStore::postgres().await;
    let password = password_of(database.guarded_url()).expect("a server that asks for a password");
    let wrong = database.guarded_url().replacen(&password, CANARY, 1);
    let (server, _) = database.guarded_url().rsplit_once('/').unwrap();
    let none = format!("{server}/{CANARY}");
    for (url, state) in [(wrong, "28P01"), (none, "3D000")] {
        let settings = [
            ("VPNPANEL_DATABASE_URL", url.as_str()),
            ("VPNPANEL_LOG", "trace"),
        ];
        let mut process = Process::start(&["control-api"], folder.path(), &settings);
        let (code, said) = process.wait().await;
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(state), "{said}");
        assert!(!said.contains(&password), "{said}");
    }
}

/// The password in a URL such as `postgres://user:password@host/name`.
fn password_of(url: &str) -> Option<String> {
    let (user, _) = url.split_once("://")?.1.split_once('@')?;
    Some(user.split_once(':')?.1.to_owned())
}

/// Signs in, works, and goes wrong in every way there is, with secrets in all places.
async fn exercise(data: &Path, more: &[(&str, &str)], seen: &mut Seen) {
    let traces = Traces::listen().await;
    let bootstrap = format!("{CANARY}-bootstrap");
    let key = base64(MASTER_KEY);
    let collector = format!("http://{}", traces.address);
    let mut settings = vec![
        ("VPNPANEL_LOG", "trace"),
        ("VPNPANEL_BOOTSTRAP_PASSWORD", bootstrap.as_str()),
        ("VPNPANEL_MASTER_KEY", key.as_str()),
        ("VPNPANEL_OTLP_ENDPOINT", collector.as_str()),
        // More goes wrong here than is permitted to one account.
        ("VPNPANEL_LIMIT_SIGN_IN_ACCOUNT", "1000/1m"),
        ("VPNPANEL_LIMIT_SIGN_IN_ADDRESS", "1000/1m"),
        ("VPNPANEL_LIMIT_CONFIRMATION", "1000/1m"),
    ];
    settings.extend(more);
    let process = Process::start(&["up"], data, &settings);
    let listeners = process.listeners().await;
    let of = |service: &str, name: &str| listeners[&(service.to_owned(), name.to_owned())];

    let rest = of("gateway", "rest");
    let signed_in = sign_in(rest, &bootstrap, seen).await;
    let join_token = work(rest, &signed_in, seen).await;
    second_factor(rest, &signed_in, seen).await;
    go_wrong_over_rest(rest, &signed_in, seen).await;
    go_wrong_over_grpc(of("control-api", "api"), &signed_in, seen).await;
    enrol(of("collector", "enrolment"), &join_token, seen).await;
    let export = "/v1/auditEvents:export";
    // Events are chained, and so exported, a moment after they were written.
    let chained = async {
        loop {
            let answer = call(rest, "GET", export, &signed_in.header(), "").await;
            assert_eq!(answer.status, 200, "{}", answer.text);
            if answer.text.contains("RegenerateRecoveryCodes") {
                return answer.text;
            }
        }
    };
    let audit = timeout(PATIENCE, chained).await.expect("the whole log");
    assert!(audit.contains("CreateApiToken"), "{audit}");
    seen.came_out("the audit log", audit);

    for ((service, name), address) in &listeners {
        if name == "admin" {
            for path in ["/metrics", "/health"] {
                let answer = call(*address, "GET", path, &[], "").await;
                seen.came_out(format!("{path} of {service}"), answer.text);
            }
        }
    }
    seen.came_out("the log", process.stop().await);
    let traces = traces.received();
    let mentions = |name: &str| traces.windows(name.len()).any(|w| w == name.as_bytes());
    assert!(mentions("AuthService/Login"), "calls are traced");
    seen.came_out("traces", traces);
}

struct SignedIn {
    access: String,
    refresh: String,
}

impl SignedIn {
    fn header(&self) -> Vec<String> {
        vec![format!("authorization: Bearer {}", self.access)]
    }
}

fn tokens(answer: &Answer, seen: &mut Seen) -> SignedIn {
    let answer = answer.json();
    SignedIn {
        access: seen.secret("an access token", &answer["accessToken"]),
        refresh: seen.secret("a refresh token", &answer["refreshToken"]),
    }
}

async fn sign_in(rest: SocketAddr, bootstrap: &str, seen: &mut Seen) -> SignedIn {
    let post = async |path: &str, headers: &[String], body: Value| {
        let answer = call(rest, "POST", path, headers, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer
    };
    let password = format!("{CANARY}-Passwort 1");
    let email = "admin@localhost";
    let login = json!({"email": email, "password": bootstrap});
    let first = tokens(&post("/v1/auth/login", &[], login).await, seen);
    let change = json!({"currentPassword": bootstrap, "newPassword": password});
    let changed = post("/v1/auth/password", &first.header(), change).await;
    seen.secret("an access token", &changed.json()["accessToken"]);
    let login = json!({"email": email, "password": password});
    let second = tokens(&post("/v1/auth/login", &[], login).await, seen);
    let refresh = json!({"refreshToken": second.refresh});
    let third = tokens(&post("/v1/auth/refresh", &[], refresh.clone()).await, seen);
    // Used twice: its session is over.
    let reused = call(rest, "POST", "/v1/auth/refresh", &[], &refresh.to_string()).await;
    seen.error("a refresh token used twice", &reused);
    let ended = call(rest, "GET", "/v1/auth/me", &third.header(), "").await;
    seen.error("a session that is over", &ended);
    let login = json!({"email": email, "password": password});
    tokens(&post("/v1/auth/login", &[], login).await, seen)
}

/// Makes what holds secrets; returns a join token's answer.
async fn work(rest: SocketAddr, signed_in: &SignedIn, seen: &mut Seen) -> Value {
    let ask = async |method: &str, path: &str, body: Value| {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let answer = call(rest, method, path, &signed_in.header(), &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    };
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let tenants = ask("GET", "/v1/tenants", Value::Null).await;
    let tenant = id(&tenants["tenants"][0]);
    let inbound = json!({"name": "main", "offeredToTenants": true, "wireguard": {"port": 51820}});
    let inbound = id(&ask("POST", "/v1/inbounds", inbound).await);
    let xray = json!({
        "name": "reality",
        "offeredToTenants": true,
        "vless": {"vision": true, "security": {"reality": {"serverNames": ["example.com"]}}},
    });
    let xray = id(&ask("POST", "/v1/inbounds", xray).await);
    let group = json!({"name": "everyone", "inboundIds": [inbound, xray]});
    let group = id(&ask("POST", &format!("/v1/tenants/{tenant}/groups"), group).await);
    let node = json!({"name": "first", "address": "vpn.example.com"});
    let node = id(&ask("POST", "/v1/nodes", node).await);
    let users = format!("/v1/tenants/{tenant}/users");
    let user = json!({"username": "ada", "groupIds": [group]});
    let made = ask("POST", &users, user).await;
    let user = id(&made);
    subscription(rest, &made, seen).await;
    let connections = format!("{users}/{user}/connections");
    let connections = ask("GET", &connections, Value::Null).await;
    let config = connections["connections"][0]["wireguardConfig"].as_str();
    for line in config.unwrap_or_else(|| panic!("{connections}")).lines() {
        if let Some((_, key)) = line.split_once("PrivateKey = ") {
            seen.secret("a WireGuard private key", &key.into());
        } else if let Some((_, key)) = line.split_once("PresharedKey = ") {
            seen.secret("a WireGuard preshared key", &key.into());
        }
    }
    let link = connections["connections"][1]["shareLink"].as_str();
    let link = link.unwrap_or_else(|| panic!("{connections}"));
    let uuid = link
        .strip_prefix("vless://")
        .and_then(|it| it.split_once('@'));
    seen.secret("a VLESS credential", &uuid.expect("a VLESS link").0.into());
    let token = ask(
        "POST",
        &format!("/v1/nodes/{node}:createJoinToken"),
        json!({}),
    )
    .await;
    seen.secret("a join token", &token["token"]);
    let wanted = json!({"name": "backup", "permissions": ["tenant.read", "user.read"]});
    let made = ask("POST", "/v1/auth/apiTokens", wanted).await;
    let api_token = seen.secret("an API token", &made["token"]);
    let api_token = [format!("authorization: Bearer {api_token}")];
    let used = call(rest, "GET", "/v1/tenants", &api_token, "").await;
    assert_eq!(used.status, 200, "{}", used.text);
    let beyond = call(rest, "POST", "/v1/nodes", &api_token, "{}").await;
    seen.error("an API token beyond its scope", &beyond);
    token
}

/// Fetches a user's subscription, by the right link and by wrong ones.
async fn subscription(rest: SocketAddr, user: &Value, seen: &mut Seen) {
    let url = user["subscriptionUrl"].as_str().unwrap();
    let (_, token) = url.rsplit_once('/').unwrap();
    seen.secret("the token of a subscription", &token.into());
    for (path, status) in [
        (format!("/sub/{token}"), 200),
        (format!("/sub/{token}?format=json"), 200),
        (format!("/sub/{token}?format=html"), 200),
        (format!("/sub/{token}?format={CANARY}"), 400),
        (format!("/sub/{token}?colour={CANARY}"), 400),
        (format!("/sub/{token}{CANARY}"), 404),
        (format!("/sub/{token}/more"), 404),
    ] {
        let answer = call(rest, "GET", &path, &[], "").await;
        assert_eq!(answer.status, status, "{}", answer.text);
        if status >= 400 {
            seen.error("a fetch of a subscription", &answer);
        }
    }
}

/// Takes a second factor, loses the app, and goes wrong with its codes.
async fn second_factor(rest: SocketAddr, signed_in: &SignedIn, seen: &mut Seen) {
    let ask = async |path: &str, body: Value| {
        let path = format!("/v1/auth/{path}");
        let body = body.to_string();
        let answer = call(rest, "POST", &path, &signed_in.header(), &body).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    };
    let password = format!("{CANARY}-Passwort 1");
    let enrolled = ask("totp", json!({"password": password})).await;
    let secret = seen.secret("a TOTP secret", &enrolled["secret"]);
    let answer = call(
        rest,
        "POST",
        "/v1/auth/totp:confirm",
        &signed_in.header(),
        &json!({"totpCode": CANARY}).to_string(),
    )
    .await;
    seen.error("a code that is none", &answer);
    let secret = TotpSecret::from_bytes(&base32_decoded(&secret));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let code = secret.code(i64::try_from(now.as_secs() / 30).unwrap());
    let confirmed = ask("totp:confirm", json!({"totpCode": code.as_str()})).await;
    let codes: Vec<String> = confirmed["recoveryCodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|code| seen.secret("a recovery code", code))
        .collect();
    let login = async |more: Value| {
        let mut body = json!({"email": "admin@localhost", "password": password});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        call(rest, "POST", "/v1/auth/login", &[], &body.to_string()).await
    };
    seen.error("no second factor", &login(json!({})).await);
    let wrong = login(json!({"totpCode": CANARY})).await;
    seen.error("a wrong code at sign-in", &wrong);
    let wrong = login(json!({"recoveryCode": CANARY})).await;
    seen.error("a wrong recovery code", &wrong);
    let right = login(json!({"recoveryCode": codes[0]})).await;
    assert_eq!(right.status, 200, "{}", right.text);
    tokens(&right, seen);
    let again = login(json!({"recoveryCode": codes[0]})).await;
    seen.error("a recovery code used twice", &again);
    let body = json!({"password": password, "recoveryCode": codes[1]});
    let made = ask("totp:regenerateRecoveryCodes", body).await;
    for code in made["recoveryCodes"].as_array().unwrap() {
        seen.secret("a recovery code", code);
    }
}

/// RFC 4648, without padding, of what is well formed.
fn base32_decoded(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u64, 0);
    for letter in text.bytes() {
        let value = match letter {
            b'A'..=b'Z' => letter - b'A',
            _ => letter - b'2' + 26,
        };
        bits = bits << 5 | u64::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    bytes
}

async fn enrol(address: SocketAddr, join_token: &Value, seen: &mut Seen) {
    let pin = join_token["caPin"].as_str().unwrap();
    let pin: Vec<u8> = (0..32)
        .map(|at| u8::from_str_radix(&pin[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    let tls = ClientTls::from_config(pinned_client(pin.try_into().unwrap()).unwrap());
    let collector = PeerIdentity::control_plane("collector").unwrap();
    let channel: Channel = Dialer::new(tls, collector, TrustDomain::default())
        .unwrap()
        .channel(&address.to_string(), |endpoint| {
            endpoint.timeout(Duration::from_secs(30))
        })
        .unwrap();
    let mut client = EnrollmentServiceClient::new(channel);
    let right = join_token["token"].as_str().unwrap();
    for token in [CANARY, right] {
        let request = EnrollRequest {
            join_token: token.to_owned(),
            csr_der: CANARY.as_bytes().to_vec(),
        };
        seen.came_out("Debug of a request", {
            let mut shown = request.clone();
            shown.csr_der.clear();
            format!("{shown:?}")
        });
        seen.refusal(
            "a certificate request that is none",
            client.enroll(request).await,
        );
    }
}
