//! Where variables come from: the process, a `.env` file in development, or a map in tests.

use std::collections::BTreeMap;
use std::path::Path;

use super::{DEVELOPMENT_VARIABLE, SettingsError};

/// Looks variables up.
pub trait Environment {
    /// The value of `name`; `None` when absent or empty.
    ///
    /// # Errors
    /// When the value is not Unicode.
    fn get(&self, name: &str) -> Result<Option<String>, SettingsError>;
}

/// Variables given as values.
#[derive(Debug, Clone, Default)]
pub struct MapEnvironment(BTreeMap<String, String>);

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for MapEnvironment {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

impl Environment for MapEnvironment {
    fn get(&self, name: &str) -> Result<Option<String>, SettingsError> {
        Ok(self.0.get(name).filter(|value| !value.is_empty()).cloned())
    }
}

/// The process's variables; those of a file fill what is absent.
#[derive(Debug, Clone, Default)]
pub struct ProcessEnvironment {
    file: MapEnvironment,
}

impl ProcessEnvironment {
    /// The process's variables alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// In development (`VPNPANEL_DEVELOPMENT=true`) `./.env` is read too; nowhere else.
    ///
    /// # Errors
    /// An unreadable or malformed `.env`.
    pub fn with_development_file() -> Result<Self, SettingsError> {
        let environment = Self::new();
        let path = Path::new(".env");
        if environment.get(DEVELOPMENT_VARIABLE)?.as_deref() != Some("true") || !path.exists() {
            return Ok(environment);
        }
        Ok(Self {
            file: EnvironmentFile::read(path)?,
        })
    }
}

impl Environment for ProcessEnvironment {
    fn get(&self, name: &str) -> Result<Option<String>, SettingsError> {
        match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Some(value)),
            Ok(_) | Err(std::env::VarError::NotPresent) => self.file.get(name),
            Err(std::env::VarError::NotUnicode(_)) => Err(SettingsError::NotUnicode {
                variable: name.to_owned(),
            }),
        }
    }
}

/// The `.env` format: `NAME=value` lines, `#` comments, optional `export` and quotes. No expansion.
#[derive(Debug)]
pub struct EnvironmentFile;

impl EnvironmentFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// An unreadable file, or the number of the first malformed line.
    pub fn read(path: &Path) -> Result<MapEnvironment, SettingsError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| SettingsError::EnvironmentFile {
                path: path.display().to_string(),
                source,
            })?;
        Self::parse(&text)
    }

    /// Parses the text of a file.
    ///
    /// # Errors
    /// The number of the first malformed line.
    pub fn parse(text: &str) -> Result<MapEnvironment, SettingsError> {
        let mut variables = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || SettingsError::EnvironmentLine { line: number + 1 };
            let line = line.strip_prefix("export ").unwrap_or(line);
            let (name, value) = line.split_once('=').ok_or_else(malformed)?;
            let name = name.trim();
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(malformed());
            }
            let value = unquote(value.trim()).ok_or_else(malformed)?;
            variables.insert(name.to_owned(), value.to_owned());
        }
        Ok(MapEnvironment(variables))
    }
}

fn unquote(value: &str) -> Option<&str> {
    for quote in ['"', '\''] {
        if let Some(rest) = value.strip_prefix(quote) {
            return rest.strip_suffix(quote);
        }
    }
    Some(value)
}
