//! Subscriptions as programs fetch them: over the gateway, by nothing but the link.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::process::Process;
use crate::rest::{Answer, call};

const PASSWORD: &str = "given out only once";
const CHROME: &str = "user-agent: Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 (KHTML, like \
    Gecko) Chrome/142.0.0.0 Mobile Safari/537.36";
const HTML: &str = "accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

/// Makes a user with WireGuard, VLESS and Shadowsocks on one node; returns the path of the link.
async fn subscriber(rest: SocketAddr) -> String {
    let post = async |path: &str, token: &[String], body: Value| {
        let answer = call(rest, "POST", path, token, &body.to_string()).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        answer.json()
    };
    let id = |made: &Value| made["id"].as_str().unwrap().to_owned();
    let bearer = |made: &Value| {
        let token = made["accessToken"].as_str().unwrap();
        vec![format!("authorization: Bearer {token}")]
    };
    let login = json!({"email": "admin@localhost", "password": PASSWORD});
    let first = bearer(&post("/v1/auth/login", &[], login).await);
    let change =
        json!({"currentPassword": PASSWORD, "newPassword": "correct horse battery staple"});
    let admin = bearer(&post("/v1/auth/password", &first, change).await);
    let tenants = call(rest, "GET", "/v1/tenants", &admin, "").await.json();
    let tenant = format!("/v1/tenants/{}", id(&tenants["tenants"][0]));
    let mut inbounds = Vec::new();
    for inbound in [
        json!({"name": "wire", "offeredToTenants": true, "wireguard": {"port": 51820}}),
        json!({
            "name": "reality",
            "offeredToTenants": true,
            "vless": {"vision": true, "security": {"reality": {"serverNames": ["example.com"]}}},
        }),
        json!({"name": "shadow", "offeredToTenants": true, "shadowsocks": {"port": 8388}}),
    ] {
        inbounds.push(id(&post("/v1/inbounds", &admin, inbound).await));
    }
    let group = json!({"name": "everyone", "inboundIds": inbounds});
    let group = id(&post(&format!("{tenant}/groups"), &admin, group).await);
    let node = json!({"name": "berlin", "address": "vpn.example.com"});
    post("/v1/nodes", &admin, node).await;
    let user = json!({"username": "ada", "groupIds": [group], "dataLimitBytes": "20000000000"});
    let made = post(&format!("{tenant}/users"), &admin, user).await;
    let url = made["subscriptionUrl"].as_str().unwrap();
    let path = url.strip_prefix("https://vpn.example.com").unwrap();
    assert!(path.starts_with("/sub/"), "{path}");
    path.to_owned()
}

fn header<'a>(answer: &'a Answer, name: &str) -> &'a str {
    let value = answer.headers.get(name);
    value.map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_fetch_what_they_read_by_the_link_alone() {
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("VPNPANEL_BOOTSTRAP_PASSWORD", PASSWORD),
        ("VPNPANEL_SUBSCRIPTION_URL", "https://vpn.example.com"),
    ];
    let process = Process::start(&["up"], folder.path(), &settings);
    let rest = process.listeners().await[&("gateway".to_owned(), "rest".to_owned())];
    let path = subscriber(rest).await;
    let fetch = async |method: &str, path: &str, headers: &[&str]| {
        let headers: Vec<String> = headers.iter().map(|&line| line.to_owned()).collect();
        call(rest, method, path, &headers, "").await
    };

    for (agent, media_type, begins, holds) in [
        ("v2rayNG/1.10.24", "text/plain; charset=utf-8", "", ""),
        ("Happ/3.2.1/ios", "text/plain; charset=utf-8", "", ""),
        (
            "SFA/1.12.12 (Build 601; sing-box 1.12.12; language en_US)",
            "application/json",
            "{",
            "\"type\": \"wireguard\"",
        ),
        (
            "clash-verge/v2.4.3",
            "application/yaml; charset=utf-8",
            "",
            "proxies:\n  - ",
        ),
        (
            "shadowsocks-android/5.3.5",
            "application/json",
            "{",
            "\"method\": \"2022-blake3-aes-",
        ),
        ("curl/8.14.1", "text/plain; charset=utf-8", "", ""),
    ] {
        let agent = format!("user-agent: {agent}");
        let answer = fetch("GET", &path, &[&agent, "accept: */*"]).await;
        assert_eq!(answer.status, 200, "{agent}: {}", answer.text);
        assert_eq!(header(&answer, "content-type"), media_type, "{agent}");
        assert!(answer.text.starts_with(begins), "{agent}: {}", answer.text);
        assert!(answer.text.contains(holds), "{agent}: {}", answer.text);
        let info = "upload=0; download=0; total=20000000000";
        assert_eq!(header(&answer, "subscription-userinfo"), info);
        assert_eq!(header(&answer, "profile-update-interval"), "12");
        assert!(header(&answer, "profile-title").starts_with("base64:"));
        assert!(header(&answer, "content-disposition").starts_with("attachment; "));
        assert_eq!(header(&answer, "cache-control"), "no-store");
        assert!(header(&answer, "vary").contains("user-agent"));

        // What has not changed is not sent again; the figures come all the same.
        let known = format!("if-none-match: {}", header(&answer, "etag"));
        let again = fetch("GET", &path, &[&agent, "accept: */*", &known]).await;
        assert_eq!((again.status, again.text.as_str()), (304, ""));
        assert_eq!(header(&again, "subscription-userinfo"), info);
        let head = fetch("HEAD", &path, &[&agent]).await;
        assert_eq!((head.status, head.text.as_str()), (200, ""));
    }

    let page = fetch("GET", &path, &[CHROME, HTML, "accept-language: zh-CN"]).await;
    assert_eq!(header(&page, "content-type"), "text/html; charset=utf-8");
    assert_eq!(header(&page, "content-language"), "zh");
    assert_eq!(header(&page, "cache-control"), "no-store");
    assert_eq!(header(&page, "referrer-policy"), "no-referrer");
    let policy = header(&page, "content-security-policy");
    assert!(policy.contains("style-src 'sha256-"), "{policy}");
    assert!(page.text.contains("https://vpn.example.com/sub/"));

    // By name, whoever asks; a proxy's word is nothing here.
    let config = fetch("GET", &format!("{path}?format=wireguard"), &[CHROME, HTML]).await;
    assert!(config.text.starts_with("[Interface]\n"), "{}", config.text);
    let wrong = fetch("GET", &format!("{path}?format=none"), &[]).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text);

    let nobodys = format!("/sub/{}", "A".repeat(32));
    let mut refusals = Vec::new();
    for path in [nobodys.as_str(), "/sub/x", "/sub/%20%F0%9F%98%80"] {
        let answer = fetch("GET", path, &[]).await;
        assert_eq!(answer.status, 404, "{}", answer.text);
        assert!(header(&answer, "subscription-userinfo").is_empty());
        refusals.push(answer.json()["message"].clone());
    }
    refusals.dedup();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
    process.stop().await;
}
