//! What tests of formats share: the files that hold them, and the programs that read them.

/// A text against the file that holds it as it was looked at; `UPDATE_DOCS=1` writes the file.
#[track_caller]
pub(super) fn golden(name: &str, text: &str) {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("src/subscription/golden")
        .join(name);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, text).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text, expected, "{}", file.display());
}

/// A program that `make test-deps` builds.
fn tool(name: &str) -> std::path::PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let variable = format!("VPNPANEL_TEST_{}", name.to_uppercase().replace('-', "_"));
    std::env::var_os(variable).map_or_else(|| root.join("target/tools/bin").join(name), Into::into)
}

/// Has a program read a file of a text.
#[track_caller]
pub(super) fn read_by(program: &str, arguments: &[&str], text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    std::fs::write(&file, text).unwrap();
    let said = std::process::Command::new(tool(program))
        .args(arguments)
        .arg(&file)
        .current_dir(folder.path())
        .output()
        .unwrap_or_else(|error| panic!("{program} is installed: make test-deps: {error}"));
    assert!(said.status.success(), "{said:?}");
}
