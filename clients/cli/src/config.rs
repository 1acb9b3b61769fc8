//! Contexts: the control planes that somebody works with, and the tenant of each. Their tokens
//! are in a file of their own that its owner alone may read.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// `config.json`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Config {
    /// The context that is used unless another is named.
    #[serde(default)]
    pub(crate) current: String,
    #[serde(default)]
    pub(crate) contexts: BTreeMap<String, Context>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Context {
    pub(crate) server: String,
    /// File of the authority that the server's certificate is from, where no public one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_file: Option<PathBuf>,
    /// Id of the tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tenant: Option<String>,
}

/// The tokens of a context. No `Debug`: they are secrets.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Tokens {
    pub(crate) access: String,
    pub(crate) refresh: String,
    /// Seconds since 1970.
    pub(crate) expires: i64,
}

/// The folder of both files.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// `$VPNCTL_CONFIG_DIR`, else `vpnctl` below `$XDG_CONFIG_HOME` or `~/.config`.
    pub(crate) fn of_environment() -> Result<Self, Failure> {
        let set = |name| std::env::var_os(name).filter(|v| !v.is_empty());
        if let Some(folder) = set("VPNCTL_CONFIG_DIR") {
            return Ok(Self(folder.into()));
        }
        let base = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")));
        base.map(|base| Self(base.join("vpnctl"))).ok_or_else(|| {
            Failure::Local("neither VPNCTL_CONFIG_DIR nor HOME is set: set one".into())
        })
    }

    pub(crate) fn config(&self) -> Result<Config, Failure> {
        read(&self.0.join("config.json"))
    }

    pub(crate) fn set_config(&self, config: &Config) -> Result<(), Failure> {
        self.write("config.json", config)
    }

    /// Holds other processes off the tokens until it is dropped: a refresh token that is used
    /// twice ends its session.
    pub(crate) fn lock(&self) -> Result<File, Failure> {
        fs::create_dir_all(&self.0).map_err(|e| failed(&self.0, &e))?;
        let path = self.0.join("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(|e| failed(&path, &e))?;
        file.lock().map_err(|e| failed(&path, &e))?;
        Ok(file)
    }

    pub(crate) fn tokens(&self, context: &str) -> Result<Option<Tokens>, Failure> {
        let mut all: BTreeMap<String, Tokens> = read(&self.0.join("tokens.json"))?;
        Ok(all.remove(context))
    }

    /// Keeps the tokens of a context, or forgets them. Call it under [`Folder::lock`].
    pub(crate) fn set_tokens(&self, context: &str, tokens: Option<Tokens>) -> Result<(), Failure> {
        let mut all: BTreeMap<String, Tokens> = read(&self.0.join("tokens.json"))?;
        match tokens {
            Some(tokens) => all.insert(context.to_owned(), tokens),
            None => all.remove(context),
        };
        self.write("tokens.json", &all)
    }

    /// Whole or not at all; mode 0600, as temporary files are made.
    fn write(&self, name: &str, value: &impl Serialize) -> Result<(), Failure> {
        let path = self.0.join(name);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(&self.0)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.0)?;
            serde_json::to_writer_pretty(&mut file, value)?;
            file.write_all(b"\n")?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            Ok(())
        };
        write().map_err(|e| failed(&path, &e))
    }
}

fn read<T: Default + DeserializeOwned>(path: &Path) -> Result<T, Failure> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(failed(path, &error)),
    };
    serde_json::from_slice(&text)
        .map_err(|e| Failure::Local(format!("{}: {e}; mend or remove it", path.display())))
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Local(format!("{}: {error}", path.display()))
}
