//! The installation's master key: 32 bytes, from the environment or from a file that only its
//! owner may read. Everything sealed at rest is lost without it, so it belongs in the backup,
//! apart from the database.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::Error;

const LEN: usize = 32;

/// The key that everything at rest is sealed under.
pub struct MasterKey(Zeroizing<[u8; LEN]>);

impl MasterKey {
    /// A key of these bytes.
    pub fn from_bytes(bytes: [u8; LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A new random key.
    ///
    /// # Errors
    /// [`Error::Randomness`].
    pub fn generate() -> Result<Self, Error> {
        let mut bytes = Zeroizing::new([0; LEN]);
        getrandom::fill(bytes.as_mut()).map_err(|_| Error::Randomness)?;
        Ok(Self(bytes))
    }

    /// Reads a key from text: 44 characters of base64 or 64 of hexadecimal.
    ///
    /// # Errors
    /// [`Error::MasterKeyFormat`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        let decoded = Zeroizing::new(if text.len() == 2 * LEN {
            hex::decode(text).map_err(|_| Error::MasterKeyFormat)?
        } else {
            STANDARD.decode(text).map_err(|_| Error::MasterKeyFormat)?
        });
        let bytes: [u8; LEN] = decoded
            .as_slice()
            .try_into()
            .map_err(|_| Error::MasterKeyFormat)?;
        Ok(Self::from_bytes(bytes))
    }

    /// Reads the key from a file, or makes the file with a new key, mode 0600, durable before
    /// this returns.
    ///
    /// # Errors
    /// A file that others can read, that holds no key, or that cannot be read or made.
    pub fn load_or_create(path: &Path) -> Result<Self, Error> {
        match Self::read(path) {
            Err(Error::MasterKeyFile { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Self::generate()?
                    .create_file(path)
                    .map_err(|source| Error::file(path, source))?;
                // Of several processes that start at once, one has made the file.
                Self::read(path)
            }
            read => read,
        }
    }

    fn read(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::file(path, source);
        let file = File::open(path).map_err(failed)?;
        if file.metadata().map_err(failed)?.mode() & 0o077 != 0 {
            return Err(Error::MasterKeyPermissions {
                path: path.display().to_string(),
            });
        }
        let mut text = Zeroizing::new(String::new());
        file.take(1024).read_to_string(&mut text).map_err(failed)?;
        Self::parse(&text)
    }

    pub(crate) fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }

    /// Written beside and linked: a crash never leaves half a key, and a key that is there, made
    /// by another process meanwhile, is never replaced.
    fn create_file(&self, path: &Path) -> std::io::Result<()> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| std::io::Error::other("no randomness"))?;
        let beside = path.with_extension(hex::encode(random));
        let made = self
            .write(&beside)
            .and_then(|()| std::fs::hard_link(&beside, path));
        let removed = std::fs::remove_file(&beside);
        match made {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            Ok(()) | Err(_) => removed?,
        }
        if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(folder)?.sync_all()?;
        }
        Ok(())
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let text = Zeroizing::new(STANDARD.encode(self.bytes()));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_file_is_made_once_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let made = MasterKey::load_or_create(&path).unwrap();
        let read = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(made.bytes(), read.bytes());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn processes_that_start_at_once_get_the_same_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        let start = std::sync::Barrier::new(8);
        let keys: Vec<_> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        *MasterKey::load_or_create(&path).unwrap().bytes()
                    })
                })
                .collect();
            starts.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("master.key");
        MasterKey::load_or_create(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            MasterKey::load_or_create(&path),
            Err(Error::MasterKeyPermissions { .. })
        ));
    }

    #[test]
    fn text_of_the_wrong_length_or_alphabet_is_refused() {
        for text in ["", "short", &"g".repeat(64), &"A".repeat(40)] {
            assert!(
                matches!(MasterKey::parse(text), Err(Error::MasterKeyFormat)),
                "{text}"
            );
        }
        assert!(MasterKey::parse(&"0a".repeat(32)).is_ok());
    }
}
