//! Notices that certificate files were replaced (by an operator, cert-manager, an ACME client).

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

/// Calls `reload` at the start, and whenever the contents of `paths` changed, until `stop`.
/// Contents are compared, not times: symlink swaps and restored backups count, a `touch` does not.
/// A failed reload is tried again at each look, because two files are never replaced at one moment;
/// it is logged once. A file may be absent for the moment of its replacement: it counts as changed
/// when it is absent still at the next look.
pub async fn watch_files<E: std::fmt::Display>(
    paths: Vec<PathBuf>,
    every: Duration,
    stop: CancellationToken,
    mut reload: impl FnMut() -> Result<(), E> + Send,
) {
    let (mut taken, mut refused) = (None, None);
    let mut absent = false;
    let mut look = tokio::time::interval(every);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = look.tick() => {}
        }
        let found = fingerprint(&paths).await;
        let for_the_moment = found.is_none() && !absent;
        absent = found.is_none();
        let settled = !absent && found == taken && refused.is_none();
        if for_the_moment || settled {
            continue;
        }
        match reload() {
            Ok(()) => {
                if taken.is_some() {
                    tracing::info!(files = ?paths, "certificates reloaded");
                }
                (taken, refused) = (found, None);
            }
            Err(error) => {
                if refused != Some(found) {
                    tracing::error!(files = ?paths, %error, "certificates not reloaded");
                }
                refused = Some(found);
            }
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

async fn read(path: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(path).await.ok()
}
