//! How a user's devices connect, for the programs that do: one [`Endpoint`] for each way, of which
//! every format is made. No format reads the database or the clock.

mod clash;
mod endpoint;
mod fetches;
pub(crate) mod format;
mod links;
mod listing;
mod opened;
mod page;
mod profile;
mod quota;
mod share_link;
mod sing_box;
mod sip008;
pub(crate) mod token;
mod wireguard_files;
mod xray_config;
mod yaml;

use clash::clash;

pub(crate) use endpoint::{Access, ClientSecurity, Endpoint, XrayAccess};
pub use fetches::SubscriptionFetches;
pub(crate) use links::Links;
pub(crate) use opened::{all_opened, opened};
pub(crate) use page::Language;
pub(crate) use profile::{Profile, Rendered};
pub(crate) use quota::Quota;
pub(crate) use share_link::share_link;
pub(crate) use xray_config::xray_config;

/// A text against the file that holds it as it was looked at; `UPDATE_DOCS=1` writes the file.
#[cfg(test)]
#[track_caller]
fn golden(name: &str, text: &str) {
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
#[cfg(test)]
fn tool(name: &str) -> std::path::PathBuf {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let variable = format!("VPNPANEL_TEST_{}", name.to_uppercase().replace('-', "_"));
    std::env::var_os(variable).map_or_else(|| root.join("target/tools/bin").join(name), Into::into)
}

/// Has a program read a file of a text.
#[cfg(test)]
#[track_caller]
fn read_by(program: &str, arguments: &[&str], text: &str) {
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
