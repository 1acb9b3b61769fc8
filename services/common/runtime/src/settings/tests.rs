use std::io::Write as _;

use super::*;

/// Probes settings.
#[derive(Debug, Parser)]
#[command(name = "probe", version)]
struct Probe {
    #[command(flatten)]
    process: ProcessSettings,

    /// Where to listen.
    #[arg(long, env = "VPNPANEL_PROBE_LISTEN", default_value = "127.0.0.1:1")]
    listen: ListenAddr,

    /// The key that seals.
    #[arg(long, env = "VPNPANEL_PROBE_KEY", hide_env_values = true, value_parser = key)]
    key: Option<Secret>,

    /// Proxies whose word is taken.
    #[arg(long, env = "VPNPANEL_PROBE_PROXIES", default_value = "")]
    proxies: CidrList,
}

#[derive(Debug, Args)]
struct Demanding {
    /// The database's URL.
    #[arg(long, env = "VPNPANEL_PROBE_DATABASE")]
    database: String,
}

fn key(text: &str) -> Result<Secret, String> {
    if text.len() == 4 {
        Ok(Secret::new(text))
    } else {
        Err("expected 4 characters".to_owned())
    }
}

fn probe(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Probe, SettingsError> {
    let environment: MapEnvironment = environment.iter().copied().collect();
    let arguments = std::iter::once("probe").chain(arguments.iter().copied());
    parse(arguments.map(OsString::from), &environment)
}

#[test]
fn defaults_hold_where_nothing_is_set() {
    let probe = probe(&[], &[("VPNPANEL_PROBE_LISTEN", "")]).unwrap();
    assert_eq!(probe.listen.to_string(), "127.0.0.1:1");
    assert_eq!(probe.process.shutdown_deadline.to_string(), "20s");
    assert!(!probe.process.development);
    assert!(probe.key.is_none() && probe.proxies.is_empty());
}

#[test]
fn the_environment_sets_values_and_a_flag_wins_over_it() {
    let environment = [
        ("VPNPANEL_PROBE_LISTEN", "127.0.0.1:2"),
        ("VPNPANEL_DEVELOPMENT", "true"),
        ("VPNPANEL_PROBE_PROXIES", "10.0.0.0/8,192.0.2.1"),
    ];
    let from_environment = probe(&[], &environment).unwrap();
    assert_eq!(from_environment.listen.0.port(), 2);
    assert!(from_environment.process.development);
    assert_eq!(from_environment.proxies.0.len(), 2);
    assert_eq!(
        probe(&["--listen", "127.0.0.1:3"], &environment)
            .unwrap()
            .listen
            .0
            .port(),
        3
    );
}

#[test]
fn a_bad_value_names_its_variable_and_what_was_expected() {
    let error = probe(&[], &[("VPNPANEL_PROBE_LISTEN", "nowhere")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "VPNPANEL_PROBE_LISTEN: 'nowhere' is not valid: expected address:port, such as \
         127.0.0.1:50051 or [::]:50051"
    );
    let error = probe(&[], &[("VPNPANEL_LOG_FORMAT", "xml")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "VPNPANEL_LOG_FORMAT: 'xml' is not valid: expected one of auto, json, text"
    );
    let error = probe(&["--listen=nowhere"], &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("--listen: 'nowhere' is not valid"),
        "{error}"
    );
}

#[test]
fn a_secret_comes_from_a_file_too_and_is_never_shown() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "abcd").unwrap();
    let path = file.path().to_str().unwrap();
    let given = probe(&[], &[("VPNPANEL_PROBE_KEY_FILE", path)]).unwrap();
    assert_eq!(given.key.unwrap().expose(), "abcd");

    let both = [
        ("VPNPANEL_PROBE_KEY_FILE", path),
        ("VPNPANEL_PROBE_KEY", "abcd"),
    ];
    assert!(matches!(
        probe(&[], &both),
        Err(SettingsError::Ambiguous { .. })
    ));

    let error = probe(&[], &[("VPNPANEL_PROBE_KEY", "hunter2")])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "VPNPANEL_PROBE_KEY: the value (not shown) is not valid: expected 4 characters"
    );

    let error = probe(&[], &[("VPNPANEL_PROBE_KEY_FILE", "/nonexistent")]).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("VPNPANEL_PROBE_KEY_FILE: cannot read /nonexistent")
    );
}

#[test]
fn a_missing_value_names_its_variable() {
    let error = from_environment::<Demanding>(&MapEnvironment::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "VPNPANEL_PROBE_DATABASE is not set: The database's URL"
    );
    let set: MapEnvironment = [("VPNPANEL_PROBE_DATABASE", "sqlite://x")]
        .into_iter()
        .collect();
    assert_eq!(
        from_environment::<Demanding>(&set).unwrap().database,
        "sqlite://x"
    );
}

#[test]
fn help_lists_the_variables() {
    let help = probe(&["--help"], &[]).unwrap_err().to_string();
    for variable in [
        "VPNPANEL_PROBE_LISTEN",
        "VPNPANEL_SHUTDOWN_DEADLINE",
        "VPNPANEL_LOG",
    ] {
        assert!(
            help.contains(&format!("[env: {variable}")),
            "{variable}\n{help}"
        );
    }
}

#[test]
fn the_development_file_is_read_line_by_line() {
    let text = "# comment\nexport A=1\nB = \"two words\"\n\nC='x'\nD=\n";
    let file = EnvironmentFile::parse(text).unwrap();
    assert_eq!(file.get("A").unwrap().as_deref(), Some("1"));
    assert_eq!(file.get("B").unwrap().as_deref(), Some("two words"));
    assert_eq!(file.get("C").unwrap().as_deref(), Some("x"));
    assert_eq!(file.get("D").unwrap(), None);
    for (text, line) in [("A=1\nnonsense", 2), ("=x", 1), ("A=\"open", 1)] {
        match EnvironmentFile::parse(text) {
            Err(SettingsError::EnvironmentLine { line: found }) => assert_eq!(found, line),
            other => panic!("{text}: {other:?}"),
        }
    }
}
