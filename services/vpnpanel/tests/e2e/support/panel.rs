//! What an operator does in the panel, over REST.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use vpnpanel_node_agent::testing::{Namespace, eventually};

use super::Counted;
use super::rest::{Rest, integer};

const EMAIL: &str = "admin@localhost";
const PASSWORD: &str = "correct horse battery staple";

/// A signed-in operator of one tenant.
pub(crate) struct Panel<'a> {
    /// For calls that have no helper here.
    pub(crate) rest: Rest<'a>,
    /// The tenant.
    pub(crate) tenant: String,
}

/// A user and what is needed to be its device.
#[derive(Debug, Clone)]
pub(crate) struct Subscriber {
    /// The user's id.
    pub(crate) id: String,
    /// Configuration for `wg-quick`.
    pub(crate) configuration: String,
    /// The device's address in the tunnel.
    pub(crate) address: String,
}

/// Usage as the API shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Sum over the series.
    pub(crate) total: Counted,
    /// Billed bytes of the sum.
    pub(crate) billed: u64,
    /// The series: start of each step, seconds of the Unix epoch, and its bytes.
    pub(crate) points: BTreeMap<i64, Counted>,
    /// Raw bytes by node (of a user) or by node of all users (of a tenant).
    pub(crate) nodes: BTreeMap<String, Counted>,
}

impl<'a> Panel<'a> {
    /// Signs in for the first time, with the one-time password, and changes it.
    pub(crate) fn first_sign_in(host: &'a Namespace, gateway: &str, one_time: &str) -> Self {
        let rest = Rest::new(host, gateway);
        let login = rest.sign_in(EMAIL, one_time);
        assert_eq!(login["passwordChangeRequired"], true, "{login}");
        let body = json!({"currentPassword": one_time, "newPassword": PASSWORD});
        rest.post("/v1/auth/password", &body);
        Self::sign_in(host, gateway)
    }

    /// Signs in again, from any host.
    pub(crate) fn sign_in(host: &'a Namespace, gateway: &str) -> Self {
        let rest = Rest::new(host, gateway);
        rest.sign_in(EMAIL, PASSWORD);
        let tenants = rest.get("/v1/tenants");
        let tenant = tenants["tenants"][0]["id"].as_str().map(str::to_owned);
        let tenant = tenant.unwrap_or_else(|| {
            let made = rest.post("/v1/tenants", &json!({"name": "first"}));
            id_of(&made)
        });
        Self { rest, tenant }
    }

    /// Waits for the node that runs beside the control plane, tells where subscribers reach it,
    /// and returns its id.
    pub(crate) fn local_node(&self, address: &str) -> String {
        eventually("the local node is made", Duration::from_secs(30), || {
            !self.nodes().is_empty()
        });
        let node = id_of(&self.nodes()[0]);
        self.wait_node(&node, "ONLINE", Duration::from_secs(60));
        self.set_node_address(&node, address);
        node
    }

    /// Makes a shared WireGuard inbound that tenants may use, and returns its id.
    pub(crate) fn create_inbound(&self, name: &str, wireguard: Value) -> String {
        let body = json!({"name": name, "offeredToTenants": true, "wireguard": wireguard});
        id_of(&self.rest.post("/v1/inbounds", &body))
    }

    /// Makes a group and returns its id.
    pub(crate) fn create_group(&self, name: &str, inbounds: &[&str]) -> String {
        let path = format!("/v1/tenants/{}/groups", self.tenant);
        id_of(
            &self
                .rest
                .post(&path, &json!({"name": name, "inboundIds": inbounds})),
        )
    }

    /// Makes a user (0 is no limit) and waits until the nodes know it.
    pub(crate) fn create_user(&self, name: &str, group: &str, limit: u64) -> Subscriber {
        let path = format!("/v1/tenants/{}/users", self.tenant);
        let body = json!({
            "username": name, "groupIds": [group], "dataLimitBytes": limit.to_string(),
        });
        let id = id_of(&self.rest.post(&path, &body));
        self.wait_applied();
        let configuration = self.configuration(&id);
        let address = configuration
            .lines()
            .find_map(|line| line.strip_prefix("Address"))
            .and_then(|rest| rest.trim_start_matches([' ', '=']).split(['/', ',']).next())
            .unwrap_or_else(|| panic!("no address in {configuration}"))
            .trim()
            .to_owned();
        Subscriber {
            id,
            configuration,
            address,
        }
    }

    /// The user's first configuration.
    pub(crate) fn configuration(&self, user: &str) -> String {
        let path = format!("{}/connections", self.user_path(user));
        let answer = self.rest.get(&path);
        let text = answer["connections"][0]["wireguardConfig"].as_str();
        text.unwrap_or_else(|| panic!("no connection: {answer}"))
            .to_owned()
    }

    /// Where the user's programs fetch their configurations.
    pub(crate) fn subscription_url(&self, user: &str) -> String {
        let answer = self
            .rest
            .get(&format!("{}/connections", self.user_path(user)));
        let url = answer["subscriptionUrl"].as_str();
        url.unwrap_or_else(|| panic!("no link: {answer}"))
            .to_owned()
    }

    /// The user's configuration for a node.
    pub(crate) fn configuration_for(&self, user: &str, node: &str) -> String {
        let answer = self
            .rest
            .get(&format!("{}/connections", self.user_path(user)));
        let connections = answer["connections"].as_array();
        let text = connections.into_iter().flatten();
        let mut text = text.filter(|connection| connection["nodeId"] == node);
        let text = text
            .next()
            .and_then(|found| found["wireguardConfig"].as_str());
        text.unwrap_or_else(|| panic!("no connection to {node}: {answer}"))
            .to_owned()
    }

    /// The user.
    pub(crate) fn user(&self, id: &str) -> Value {
        self.rest.get(&self.user_path(id))
    }

    /// Billed bytes of the user's period; none while the control plane does not answer.
    pub(crate) fn used_bytes(&self, id: &str) -> Option<u64> {
        let answer = self
            .rest
            .call(Method::GET, &self.user_path(id), None)
            .ok()?;
        (answer.status == 200).then(|| integer(&answer.body["usedBytes"]))
    }

    /// Raw bytes of the user's current period.
    pub(crate) fn period(&self, id: &str) -> Counted {
        counted(&self.user(id)["period"])
    }

    /// Changes the user's limit.
    pub(crate) fn set_limit(&self, id: &str, limit: u64) -> Value {
        let path = format!("{}?updateMask=dataLimitBytes", self.user_path(id));
        self.rest
            .patch(&path, &json!({"dataLimitBytes": limit.to_string()}))
    }

    /// Changes how fast the user may receive, bits per second.
    pub(crate) fn set_speed_down(&self, id: &str, bps: u64) -> Value {
        let path = format!("{}?updateMask=speedLimitDownBps", self.user_path(id));
        self.rest
            .patch(&path, &json!({"speedLimitDownBps": bps.to_string()}))
    }

    /// The user's usage in quarters of an hour.
    pub(crate) fn user_usage(&self, id: &str) -> Usage {
        usage(&self.rest.get(&format!(
            "{}/usage?interval=INTERVAL_QUARTER_HOUR",
            self.user_path(id)
        )))
    }

    /// The tenant's usage.
    pub(crate) fn tenant_usage(&self) -> Usage {
        let path = format!(
            "/v1/tenants/{}/usage?interval=INTERVAL_QUARTER_HOUR",
            self.tenant
        );
        usage(&self.rest.get(&path))
    }

    /// A shared node's usage.
    pub(crate) fn node_usage(&self, node: &str) -> Usage {
        usage(&self.rest.get(&format!(
            "/v1/nodes/{node}/usage?interval=INTERVAL_QUARTER_HOUR"
        )))
    }

    /// Shared nodes.
    pub(crate) fn nodes(&self) -> Vec<Value> {
        let answer = self.rest.get("/v1/nodes");
        answer["nodes"].as_array().cloned().unwrap_or_default()
    }

    /// Makes a shared node that subscribers reach at an address, and returns its id.
    pub(crate) fn create_node(&self, name: &str, address: &str) -> String {
        id_of(
            &self
                .rest
                .post("/v1/nodes", &json!({"name": name, "address": address})),
        )
    }

    /// Makes a join token for a shared node.
    pub(crate) fn join_token(&self, node: &str) -> Value {
        self.rest
            .post(&format!("/v1/nodes/{node}:createJoinToken"), &json!({}))
    }

    /// Sets where subscribers reach a shared node.
    pub(crate) fn set_node_address(&self, node: &str, address: &str) {
        let path = format!("/v1/nodes/{node}?updateMask=address");
        self.rest.patch(&path, &json!({ "address": address }));
    }

    /// The newest restore of an older database.
    pub(crate) fn restore(&self) -> Value {
        self.rest.get("/v1/restore")
    }

    /// Says that the database was restored from a backup.
    pub(crate) fn declare_restore(&self) -> Value {
        self.rest.post("/v1/restore:declare", &json!({}))
    }

    /// Waits until nobody is awaited after a restore.
    pub(crate) fn wait_restored(&self) {
        eventually("every node has reported", Duration::from_secs(150), || {
            let restore = self.restore();
            restore["open"] != json!(true) && restore["closeTime"].is_string()
        });
    }

    /// Gives a node up; how many bytes of limits are free again.
    pub(crate) fn write_off(&self, node: &str) -> u64 {
        let path = format!("/v1/nodes/{node}:writeOff");
        integer(&self.rest.post(&path, &json!({}))["freedBytes"])
    }

    /// Has a node take no new sessions, or take them again.
    pub(crate) fn drain(&self, node: &str, on: bool) {
        let verb = if on { "drain" } else { "undrain" };
        let shown = self
            .rest
            .post(&format!("/v1/nodes/{node}:{verb}"), &json!({}));
        assert_eq!(shown["draining"] == json!(true), on, "{shown}");
    }

    /// Gives a node a command, and returns its id.
    pub(crate) fn command(&self, node: &str, kind: &str) -> String {
        let path = format!("/v1/nodes/{node}/commands");
        let kind = format!("NODE_COMMAND_KIND_{kind}");
        id_of(&self.rest.post(&path, &json!({ "kind": kind })))
    }

    /// Waits until a command has succeeded.
    pub(crate) fn wait_done(&self, node: &str, command: &str) -> Value {
        let path = format!("/v1/nodes/{node}/commands/{command}");
        let mut shown = Value::Null;
        eventually("the command has a result", Duration::from_secs(60), || {
            shown = self.rest.get(&path);
            shown["endTime"].is_string()
        });
        assert_eq!(shown["state"], "NODE_COMMAND_STATE_SUCCEEDED", "{shown}");
        shown
    }

    /// How far a node is behind.
    pub(crate) fn sync(&self, node: &str) -> Value {
        self.rest.get(&format!("/v1/nodes/{node}/sync"))
    }

    /// Says that users go from a node.
    pub(crate) fn confirm_removals(&self, node: &str) {
        let path = format!("/v1/nodes/{node}:confirmRemovals");
        self.rest.post(&path, &json!({}));
    }

    /// Waits until a node is in a state, by the last word of its name.
    pub(crate) fn wait_node(&self, node: &str, state: &str, limit: Duration) {
        eventually(&format!("the node is {state}"), limit, || {
            self.rest
                .call(Method::GET, &format!("/v1/nodes/{node}"), None)
                .is_ok_and(|answer| answer.body["state"] == format!("NODE_STATE_{state}"))
        });
    }

    /// Waits until every online node has applied what it should do.
    pub(crate) fn wait_applied(&self) {
        for node in self.nodes() {
            if node["state"] != "NODE_STATE_ONLINE" {
                continue;
            }
            let path = format!("/v1/nodes/{}/sync", id_of(&node));
            eventually(
                "the node applies its desired state",
                Duration::from_secs(20),
                || {
                    let sync = self.rest.get(&path);
                    let desired = integer(&sync["desiredRevision"]);
                    assert!(
                        sync["errors"].as_array().is_none_or(Vec::is_empty),
                        "{sync}"
                    );
                    desired > 0 && integer(&sync["appliedRevision"]) == desired
                },
            );
        }
    }

    fn user_path(&self, id: &str) -> String {
        format!("/v1/tenants/{}/users/{id}", self.tenant)
    }
}

/// The id of a resource.
pub(crate) fn id_of(resource: &Value) -> String {
    let id = resource["id"].as_str();
    id.unwrap_or_else(|| panic!("no id in {resource}"))
        .to_owned()
}

fn counted(value: &Value) -> Counted {
    Counted {
        up: integer(&value["upBytes"]),
        down: integer(&value["downBytes"]),
    }
}

fn usage(answer: &Value) -> Usage {
    let list = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    Usage {
        total: counted(&answer["total"]),
        billed: integer(&answer["total"]["billedBytes"]),
        points: list("points")
            .iter()
            .map(|point| (seconds(&point["startTime"]), counted(point)))
            .collect(),
        nodes: list("nodes")
            .iter()
            .map(|share| (id_of(share), counted(share)))
            .collect(),
    }
}

/// Seconds of the Unix epoch of an RFC 3339 time.
fn seconds(time: &Value) -> i64 {
    let time = time.as_str().expect("a time");
    time.parse::<prost_types::Timestamp>()
        .expect("a time")
        .seconds
}
