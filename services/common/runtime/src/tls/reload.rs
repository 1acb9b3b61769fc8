//! Notices that certificate files were replaced (by an operator, cert-manager, an ACME client).

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// Calls `reload` whenever the contents of `paths` changed and all of them can be read, until
/// `stop`. Contents are compared, not times: symlink swaps and restored backups count, a `touch`
/// does not. A failed reload is logged and tried again at the next look.
pub async fn watch_files<E: std::fmt::Display>(
    paths: Vec<PathBuf>,
    every: Duration,
    stop: CancellationToken,
    mut reload: impl FnMut() -> Result<(), E> + Send,
) {
    let mut seen = fingerprint(&paths).await;
    let mut look = tokio::time::interval(every);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let found = fingerprint(&paths).await;
        if found.is_none() || found == seen {
            continue;
        }
        match reload() {
            Ok(()) => {
                seen = found;
                tracing::info!(files = ?paths, "certificates reloaded");
            }
            Err(error) => tracing::error!(files = ?paths, %error, "certificates not reloaded"),
        }
    }
}

async fn fingerprint(paths: &[PathBuf]) -> Option<[u8; 32]> {
    let mut hash = Sha256::new();
    for path in paths {
        let contents = read(path).await?;
        hash.update((contents.len() as u64).to_be_bytes());
        hash.update(contents);
    }
    Some(hash.finalize().into())
}

/// A file that is absent for the moment of its replacement is looked for again.
async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}
