//! The binary against a live control plane on embedded defaults.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod control_plane;

use control_plane::{ControlPlane, PASSWORD};

#[test]
fn a_day_from_an_empty_database_to_a_disabled_user() {
    let plane = ControlPlane::start();
    let ctl = plane.signed_in();
    let port = [
        "inbound",
        "create-wireguard",
        "main",
        "--port",
        "51820",
        "--offered",
    ];
    ctl.done(&port);
    ctl.done(&["group", "create", "everyone", "--inbounds", "main"]);
    ctl.done(&["node", "add", "frankfurt-1", "--address", "vpn.example.com"]);
    let create = [
        "user",
        "create",
        "ada",
        "--groups",
        "everyone",
        "--data-limit",
        "20GB",
        "--expires",
        "30d",
    ];
    ctl.done(&create);
    let again = ctl.run(&create, "");
    assert_eq!(again.code, 6, "{}", again.err);

    let shown = ctl.json(&["user", "show", "ada"]);
    assert_eq!(shown["dataLimitBytes"], "20000000000");
    assert_eq!(shown["status"], "USER_STATUS_ACTIVE");
    ctl.done(&[
        "user",
        "set",
        "ada",
        "--data-limit",
        "30GB",
        "--note",
        "vip",
    ]);
    assert_eq!(ctl.json(&["user", "show", "ada"])["note"], "vip");

    let config = ctl.done(&["sub", "config", "ada"]);
    assert!(config.contains("PrivateKey"), "{config}");
    let url = ctl.done(&["sub", "show", "ada"]);
    assert!(url.contains("/sub/"), "{url}");
    let code = ctl.done(&["sub", "show", "ada", "--qr"]);
    assert!(code.contains('█') && code.ends_with(&url), "{code}");

    ctl.done(&["user", "disable", "ada"]);
    let table = ctl.done(&["user", "list", "--status", "disabled"]);
    let words: Vec<&str> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(words[..6], ["ada", "disabled", "0", "B", "30", "GB"]);
    ctl.done(&["user", "enable", "ada"]);
    assert_eq!(
        ctl.done(&["user", "list", "-o", "ndjson"]).lines().count(),
        1
    );
    assert!(
        ctl.done(&["user", "show", "ada", "-o", "yaml"])
            .contains("username: ada\n")
    );

    let figures = ctl.json(&["usage", "figures"]);
    assert_eq!(figures["users"]["active"], "1", "{figures}");
    let nothing = serde_json::json!([]);
    assert_eq!(ctl.json(&["usage", "top"]), nothing);
    assert_eq!(ctl.json(&["usage", "explain", "ada"]), nothing);

    ctl.done(&["node", "drain", "frankfurt-1"]);
    assert_eq!(ctl.json(&["node", "show", "frankfurt-1"])["draining"], true);
    let tenant = ctl.json(&["tenant", "list"])[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let events = ctl.json(&["audit", "list", "--tenant", &tenant, "--type", "user"]);
    assert!(events.as_array().unwrap().len() >= 4, "{events}");
    let jobs = ctl.json(&["job", "list", "--endpoint", &plane.scheduler]);
    assert!(!jobs.as_array().unwrap().is_empty(), "{jobs}");
}

#[test]
fn any_method_is_called_by_name_and_its_secrets_are_shown_when_asked_for() {
    let plane = ControlPlane::start();
    let ctl = plane.signed_in();
    let me = ctl.json(&["call", "vpnpanel.auth.v1.AuthService/GetMe"]);
    assert_eq!(me["account"]["email"], "admin@localhost");
    let login = [
        "call",
        "vpnpanel.auth.v1.AuthService/Login",
        "--no-auth",
        "-d",
        "-",
    ];
    let request = format!(r#"{{"email":"admin@localhost","password":"{PASSWORD}"}}"#);
    let hidden = ctl.run(&login, &request);
    assert_eq!(hidden.code, 0, "{}", hidden.err);
    assert!(
        hidden.out.contains(r#""accessToken": "[redacted]""#),
        "{}",
        hidden.out
    );
    let shown = ctl.run(&[&login[..], &["--show-secrets"]].concat(), &request);
    assert!(!shown.out.contains("[redacted]"));
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let plane = ControlPlane::start();
    let ctl = plane.ctl();
    assert_eq!(ctl.run(&["whoami"], "").code, 3, "no context");
    let login = [
        "login",
        "--server",
        &plane.address,
        "--email",
        "admin@localhost",
    ];
    assert_eq!(ctl.run(&login, "wrong\n").code, 3, "wrong password");
    drop(ctl);
    let ctl = plane.signed_in();
    assert_eq!(ctl.run(&["user", "show", "nobody"], "").code, 5);
    assert_eq!(
        ctl.run(&["user", "create", "b", "--data-limit", "lots"], "")
            .code,
        2
    );
    assert_eq!(ctl.run(&["user", "nothing"], "").code, 2);
    assert_eq!(ctl.run(&["call", "no.Such/Method"], "").code, 2);
    ctl.done(&["logout"]);
    assert_eq!(ctl.run(&["whoami"], "").code, 3, "signed out");
    let away = ["login", "--server", "http://127.0.0.1:1", "--email", "a@b"];
    assert_eq!(ctl.run(&away, "x\n").code, 8, "unreachable");
}

#[test]
fn tokens_are_readable_by_their_owner_alone_and_contexts_are_listed() {
    use std::os::unix::fs::PermissionsExt as _;
    let plane = ControlPlane::start();
    let ctl = plane.signed_in();
    let tokens = ctl.folder.path().join("tokens.json");
    let mode = std::fs::metadata(tokens).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let contexts = ctl.json(&["context", "list"]);
    assert_eq!(contexts[0]["server"], plane.address.as_str());
    assert_eq!(ctl.run(&["context", "use", "other"], "").code, 2);
    ctl.done(&["completion", "fish"]);
    let pages = ctl.folder.path().join("man");
    ctl.done(&["man", pages.to_str().unwrap()]);
    assert!(pages.join("vpnctl-user-create.1").exists());
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            ctl.done(&["completion", shell])
                .contains("create-wireguard")
        );
    }
}
