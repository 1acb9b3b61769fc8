//! The binary as a shell sees it: exit codes, and what is said on stdout and stderr.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::{Command, Output};

fn vpnpanel(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_vpnpanel"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VPNPANEL_") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .env("VPNPANEL_DATA_DIR", folder.path())
        .envs(environment.iter().copied())
        .current_dir(folder.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_bad_setting_names_its_variable_and_what_was_expected_and_exits_2() {
    let cases: [(&[&str], &str, &str, &str); 7] = [
        (
            &["control-api"],
            "VPNPANEL_LIMIT_SIGN_IN_ACCOUNT",
            "many",
            "expected a number and a time",
        ),
        (
            &["gateway"],
            "VPNPANEL_TRUSTED_PROXIES",
            "all",
            "expected networks separated by commas",
        ),
        (
            &["up"],
            "VPNPANEL_CONTROL_API_LISTEN",
            "here",
            "expected address:port",
        ),
        (
            &["collector"],
            "VPNPANEL_COLLECTOR_LISTEN",
            "here",
            "expected address:port",
        ),
        (
            &["scheduler"],
            "VPNPANEL_SHUTDOWN_DEADLINE",
            "soon",
            "expected a duration with a unit",
        ),
        (
            &["gateway"],
            "VPNPANEL_GATEWAY_MAX_BODY",
            "much",
            "expected a size in bytes",
        ),
        (
            &["migrate", "status"],
            "VPNPANEL_LOG",
            "=[",
            "expected a level",
        ),
    ];
    for (arguments, variable, value, expected) in cases {
        let output = vpnpanel(arguments, &[(variable, value)]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(
            said.contains(&format!("{variable}: '{value}' is not valid")),
            "{said}"
        );
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_secret_that_is_wrong_is_not_repeated() {
    let output = vpnpanel(
        &["migrate", "status"],
        &[("VPNPANEL_MASTER_KEY", "hunter2hunter2")],
    );
    let said = text(&output.stdout) + &text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("32 bytes"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn an_address_of_redis_that_is_wrong_is_told_without_its_password() {
    for (url, expected) in [
        ("redis://:hunter2@localhost/7", "name no database"),
        ("hunter2://localhost", "expected redis://"),
    ] {
        let output = vpnpanel(&["up"], &[("VPNPANEL_REDIS_URL", url)]);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("VPNPANEL_REDIS_URL"), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_wrong_use_of_the_command_line_exits_2_and_help_exits_0() {
    assert_eq!(vpnpanel(&["dance"], &[]).status.code(), Some(2));
    let help = vpnpanel(&["up", "--help"], &[]);
    assert_eq!(help.status.code(), Some(0));
    let said = text(&help.stdout);
    for variable in [
        "VPNPANEL_DATA_DIR",
        "VPNPANEL_MASTER_KEY",
        "VPNPANEL_OTLP_ENDPOINT",
    ] {
        assert!(said.contains(variable), "{variable}");
    }
}

#[test]
fn the_cost_of_password_hashes_is_found_and_printed_as_settings() {
    let arguments = ["tune-argon2", "--target", "20ms", "--memory", "32MiB"];
    let output = vpnpanel(&arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    let settings: Vec<(&str, &str)> = said
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split_once('=').unwrap())
        .collect();
    let names: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        names,
        [
            "VPNPANEL_ARGON2_MEMORY",
            "VPNPANEL_ARGON2_TIME_COST",
            "VPNPANEL_ARGON2_PARALLELISM"
        ]
    );
    // What is printed is what a service takes: help parses the variables, too.
    let help = vpnpanel(&["control-api", "--help"], &settings);
    assert_eq!(help.status.code(), Some(0), "{}", text(&help.stderr));
}

#[test]
fn the_schema_is_applied_and_taken_back_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("a.db").display());
    let migrate = |arguments: &[&str]| {
        let output = vpnpanel(
            &[&["migrate"], arguments].concat(),
            &[
                ("VPNPANEL_DATABASE_URL", &database),
                ("VPNPANEL_LOG", "error"),
            ],
        );
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(migrate(&["status"]).contains("pending: "));
    assert_eq!(migrate(&["up"]), "up to date\n");
    assert_eq!(migrate(&["down", "1"]).lines().count(), 1);
    assert_eq!(migrate(&["up"]), "up to date\n");
}

#[test]
fn the_audit_log_of_a_database_is_verified_and_exported_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", folder.path().join("a.db").display());
    let environment = [
        ("VPNPANEL_DATABASE_URL", database.as_str()),
        ("VPNPANEL_LOG", "error"),
    ];
    let run = |arguments: &[&str]| vpnpanel(arguments, &environment);
    assert_eq!(run(&["migrate", "up"]).status.code(), Some(0));
    let head = {
        use vpnpanel_store::{Attribution, Event, Options, Store};

        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let store = Store::connect(&database, Options::default()).await.unwrap();
            let acting = store.acting(Attribution::anonymous());
            for number in 0..3 {
                acting
                    .record(Event::on("thing", None, number))
                    .await
                    .unwrap();
            }
            let hour = std::time::Duration::from_secs(3_600);
            store.register_job("chain-audit", "", hour).await.unwrap();
            let lease = store.claim_job(&["chain-audit"], "test", hour).await;
            store
                .chain_audit(&lease.unwrap().unwrap(), 9)
                .await
                .unwrap();
            let found = store.verify_audit(None, None).await.unwrap();
            store.close().await;
            found.head.unwrap()
        })
    };
    let hash = head.hash.iter().map(|byte| format!("{byte:02x}"));
    let noted = format!("{}:{}", head.seq, hash.collect::<String>());
    let verified = run(&["audit", "verify"]);
    let said = text(&verified.stdout);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}",
        text(&verified.stderr)
    );
    assert_eq!(
        said,
        format!("platform: 3 events are as they were written; head {noted}\n")
    );
    let verify = |anchor: &str| {
        run(&[
            "audit", "verify", "--tenant", "platform", "--anchor", anchor,
        ])
    };
    let holds = verify(&noted);
    assert!(text(&holds.stdout).ends_with("; the anchor holds\n"));
    let rewritten = verify(&format!("2:{}", "0".repeat(64)));
    assert_eq!(rewritten.status.code(), Some(1));
    assert!(text(&rewritten.stdout).ends_with("; BROKEN at 2: rewritten\n"));
    assert_eq!(verify("nonsense").status.code(), Some(2));

    let exported = text(&run(&["audit", "export", "--after", "1"]).stdout);
    let lines: Vec<serde_json::Value> = exported
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 2, "{exported}");
    assert_eq!(lines[0]["sequence"], "2");
    assert_eq!(lines[1]["previousHash"], lines[0]["hash"]);
}

#[test]
fn the_log_of_certificates_is_compared_with_the_database_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let data = ("VPNPANEL_DATA_DIR", folder.path().to_str().unwrap());
    assert!(vpnpanel(&["migrate", "up"], &[data]).status.success());
    let done = vpnpanel(&["certificates", "reconcile"], &[data]);
    assert!(done.status.success(), "{}", text(&done.stderr));
    let said = "0 certificates taken in, 0 revoked, 0 passed over\n";
    assert_eq!(text(&done.stdout), said);

    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let log = ("VPNPANEL_CERTIFICATE_LOG_DIR", file.to_str().unwrap());
    let refused = vpnpanel(&["certificates", "reconcile"], &[data, log]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("VPNPANEL_CERTIFICATE_LOG_DIR"));
}
