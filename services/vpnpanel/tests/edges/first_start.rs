//! The first start, when it does not go well.

use std::net::TcpListener;

use serde_json::json;

use crate::process::Process;
use crate::rest::call;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_that_fails_has_told_the_password_that_it_made() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (command, variable) in [
        ("up", "VPNPANEL_GATEWAY_LISTEN"),
        ("up", "VPNPANEL_CONTROL_API_LISTEN"),
        ("control-api", "VPNPANEL_CONTROL_API_SERVICES_LISTEN"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let settings = [(variable, address.as_str())];
        let mut process = Process::start(&[command], folder.path(), &settings);
        let (code, said) = process.wait().await;
        assert_ne!(code, Some(0), "{said}");
        let password = said
            .lines()
            .find_map(|line| line.split_once("one-time password"))
            .map(|(_, password)| password.trim().to_owned())
            .unwrap_or_else(|| panic!("no password told: {said}"));

        let process = Process::start(&["up"], folder.path(), &[]);
        let gateway = process.listeners().await[&("gateway".to_owned(), "rest".to_owned())];
        let body = json!({"email": "admin@localhost", "password": password}).to_string();
        let answer = call(gateway, "POST", "/v1/auth/login", &[], &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let said = process.stop().await;
        assert!(!said.contains("one-time password"), "told again: {said}");
    }
}
