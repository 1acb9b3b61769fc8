//! Everything that a subscription holds as JSON, for programs of one's own: names as in the contract's
//! JSON, 64-bit numbers as texts.

use serde_json::{Value, json};
use vpnpanel_domain::{UserStatus, XrayProtocol};
use zeroize::Zeroizing;

use super::{
    endpoint::{Access, Endpoint},
    quota::Quota,
    share_link::share_link,
};

/// The document.
pub(crate) fn listing(username: &str, endpoints: &[Endpoint], quota: &Quota) -> Zeroizing<String> {
    let connections: Vec<Value> = endpoints.iter().map(connection).collect();
    let mut user = json!({
        "username": username,
        "status": quota.status.as_str(),
        "mayConnect": matches!(quota.status, UserStatus::Active | UserStatus::OnHold),
        "usedBytes": quota.used().to_string(),
        "dataLimitBytes": quota.limit.unwrap_or(0).to_string(),
    });
    for (name, at_ms) in [
        ("renewTime", quota.renews_at_ms),
        ("expireTime", quota.expires_at_ms),
    ] {
        let time = at_ms.and_then(|at| jiff::Timestamp::from_millisecond(at).ok());
        if let Some(time) = time {
            user[name] = json!(time.to_string());
        }
    }
    let document = json!({ "version": 1, "user": user, "connections": connections });
    Zeroizing::new(format!("{document:#}\n"))
}

fn connection(endpoint: &Endpoint) -> Value {
    let mut connection = json!({
        "id": endpoint.id.to_string(),
        "name": endpoint.name,
        "address": endpoint.address,
        "port": endpoint.port,
    });
    match &endpoint.access {
        Access::WireGuard(config) => {
            connection["protocol"] = json!("wireguard");
            connection["wireguardConfig"] = json!(*config.text(&endpoint.address, endpoint.port));
        }
        Access::Xray(access) => {
            connection["protocol"] = json!(match access.protocol {
                XrayProtocol::Vless { .. } => "vless",
                XrayProtocol::Vmess => "vmess",
                XrayProtocol::Trojan => "trojan",
                XrayProtocol::Shadowsocks { .. } => "shadowsocks",
            });
            if let Some(link) = share_link(endpoint) {
                connection["shareLink"] = json!(*link);
            }
        }
    }
    connection
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::{endpoint::tests::subscribed, quota::tests::quota};

    #[test]
    fn the_document_holds_everything() {
        let text = listing("ada", &subscribed(), &quota());
        crate::subscription::testing::golden("listing.json", &text);
    }
}
