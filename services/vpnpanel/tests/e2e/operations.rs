//! Thousands of users made in one operation, by a control plane that is killed while at it: each is made
//! once, and the operation goes on by itself.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use vpnpanel_node_agent::testing::{Topology, eventually, require_root};

use crate::support::panel::id_of;
use crate::support::{ALL_IN_ONE, Chance, ControlPlane, setting};

#[test]
fn an_operation_goes_on_where_it_was_when_its_process_was_killed() {
    if !require_root() {
        return;
    }
    let mut chance = Chance::new("operation");
    let count = setting("VPNPANEL_TEST_BATCH", 4_000);
    let network = Topology::new("batch");
    let mut control = ControlPlane::start(network.node(), ALL_IN_ONE, &[]);
    let panel = control.first_panel();
    let inbound = panel.create_inbound("main", json!({}));
    let group = panel.create_group("everyone", &[&inbound]);
    let of_tenant = format!("/v1/tenants/{}", panel.tenant);
    let plan = json!({
        "name": "month", "dataLimitBytes": "1000000", "duration": "2592000s", "groupIds": [group],
    });
    let plan = id_of(&panel.rest.post(&format!("{of_tenant}/plans"), &plan));
    let names: Vec<Value> = (0..count)
        .map(|number| json!({"username": format!("user-{number:05}")}))
        .collect();
    let body = json!({"planId": plan, "users": names});
    let begun = Instant::now();
    let operation = panel
        .rest
        .post(&format!("{of_tenant}/users:batchCreate"), &body);
    assert_eq!(operation["totalCount"], count);
    let operation = format!("{of_tenant}/operations/{}", id_of(&operation));
    let done = |operation: &Value| operation["doneCount"].as_u64().unwrap_or_default();

    let mut seen = 0;
    for kill in 1..=3_u64 {
        eventually("it goes on", Duration::from_secs(90), || {
            let now = done(&panel.rest.get(&operation));
            assert!(now >= seen, "{now} after {seen}");
            let more = now > seen;
            seen = now;
            more
        });
        std::thread::sleep(Duration::from_millis(chance.between(0..400)));
        control.kill9();
        println!("kill {kill} after {seen}");
        control.start_all();
    }
    eventually("it ends", Duration::from_secs(300), || {
        panel.rest.get(&operation)["state"] == "OPERATION_STATE_ENDED"
    });
    println!("{count} users in {:?}", begun.elapsed());
    let ended = panel.rest.get(&operation);
    assert_eq!(done(&ended), count, "{ended}");
    assert_eq!(ended["failedCount"].as_u64().unwrap_or_default(), 0);

    let (mut made, mut token) = (std::collections::BTreeSet::new(), String::new());
    loop {
        let path = format!("{of_tenant}/users?pageSize=1000&pageToken={token}");
        let page = panel.rest.get(&path);
        for user in page["users"].as_array().into_iter().flatten() {
            let name = user["username"].as_str().expect("a name").to_owned();
            assert_eq!(user["planId"], plan.as_str());
            assert!(made.insert(name), "{user} is there twice");
        }
        token = page["nextPageToken"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(made.len() as u64, count);
}
