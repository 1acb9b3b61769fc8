//! Files for wg-quick and WireGuard's apps: one, or a zip archive of all of them, which the apps
//! import as it is. A file's name becomes the tunnel's, of at most 15 characters that WireGuard
//! permits in it.

use std::{
    collections::BTreeSet,
    io::{Cursor, Write},
};

use zeroize::Zeroizing;
use zip::{CompressionMethod, DateTime, ZipWriter, write::SimpleFileOptions};

use super::endpoint::{Access, Endpoint};
use crate::Error;

const MAX_NAME: usize = 15;

/// What to give.
#[derive(Debug)]
pub(crate) enum Files {
    /// The one file.
    One {
        name: String,
        text: Zeroizing<String>,
    },
    /// An archive of several.
    Archive(Vec<u8>),
}

/// The files; `None` where nothing is WireGuard's.
///
/// # Errors
/// Never in memory; what the archive's writer says is passed on.
pub(crate) fn wireguard_files(endpoints: &[Endpoint]) -> Result<Option<Files>, Error> {
    let mut taken = BTreeSet::new();
    let mut files: Vec<(String, Zeroizing<String>)> = endpoints
        .iter()
        .filter_map(|endpoint| match &endpoint.access {
            Access::WireGuard(config) => {
                let text = config.text(&endpoint.address, endpoint.port);
                Some((file_name(&endpoint.name, &mut taken), text))
            }
            Access::Xray(_) => None,
        })
        .collect();
    if files.len() > 1 {
        let archive =
            archive(&files).map_err(|_| Error::Corrupt("an archive of WireGuard files"))?;
        return Ok(Some(Files::Archive(archive)));
    }
    Ok(files.pop().map(|(name, text)| Files::One { name, text }))
}

/// Always the same for the same files: it has no times in it.
fn archive(files: &[(String, Zeroizing<String>)]) -> zip::result::ZipResult<Vec<u8>> {
    let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(DateTime::default())
        .unix_permissions(0o600);
    for (name, text) in files {
        archive.start_file(name, options)?;
        archive.write_all(text.as_bytes())?;
    }
    Ok(archive.finish()?.into_inner())
}

/// The name of a file that no other has.
fn file_name(name: &str, taken: &mut BTreeSet<String>) -> String {
    let plain = |c: char| {
        let permitted = c.is_ascii_alphanumeric() || "_=+.-".contains(c);
        if permitted { c } else { '_' }
    };
    let plain: String = name.chars().map(plain).collect();
    let mut number = 1;
    loop {
        let suffix = if number == 1 {
            String::new()
        } else {
            format!("-{number}")
        };
        let room = MAX_NAME.saturating_sub(suffix.len());
        let tunnel: String = plain.chars().take(room).chain(suffix.chars()).collect();
        // Windows tells no case apart.
        if taken.insert(tunnel.to_ascii_lowercase()) {
            return format!("{tunnel}.conf");
        }
        number += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscription::endpoint::tests::{all, wireguard};

    #[test]
    fn one_is_a_file_and_several_are_an_archive_that_others_open() {
        assert!(wireguard_files(&all()).unwrap().is_none());
        let Some(Files::One { name, text }) = wireguard_files(&[wireguard()]).unwrap() else {
            panic!("one file");
        };
        assert_eq!(name, "wire-berlin.conf");
        assert!(text.starts_with("[Interface]\nPrivateKey = "));

        let several = [wireguard(), wireguard(), all().remove(0)];
        let Some(Files::Archive(bytes)) = wireguard_files(&several).unwrap() else {
            panic!("an archive");
        };
        let Some(Files::Archive(again)) = wireguard_files(&several).unwrap() else {
            panic!("an archive");
        };
        assert_eq!(bytes, again);
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("all.zip"), bytes).unwrap();
        let opened = std::process::Command::new("python3")
            .args(["-m", "zipfile", "-e", "all.zip", "."])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert!(opened.status.success(), "{opened:?}");
        for name in ["wire-berlin.conf", "wire-berlin-2.conf"] {
            let read = std::fs::read_to_string(folder.path().join(name)).unwrap();
            assert_eq!(read, *text);
        }
    }

    #[test]
    fn a_file_has_a_name_that_a_tunnel_may_have_and_no_other_has() {
        let mut taken = BTreeSet::new();
        let mut name = |text: &str| file_name(text, &mut taken);
        assert_eq!(name("main-frankfurt-1"), "main-frankfurt-.conf");
        assert_eq!(name("main-frankfurt-2"), "main-frankfur-2.conf");
        assert_eq!(name("MAIN-frankfurt-3"), "MAIN-frankfur-3.conf");
        assert_eq!(name("a/../b Köln"), "a_.._b_K_ln.conf");
    }
}
