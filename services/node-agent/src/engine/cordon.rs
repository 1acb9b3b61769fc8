//! Why an engine takes no new sessions. Each reason is a file in its folder: it stays so when the
//! agent or the host starts again.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// Why new sessions are not taken; each holds by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// Somebody has told the node so.
    Command,
    /// The desired state says so.
    Desired,
}

impl Reason {
    pub(super) const ALL: [Self; 2] = [Self::Command, Self::Desired];

    const fn file(self) -> &'static str {
        match self {
            Self::Command => "cordoned",
            Self::Desired => "draining",
        }
    }
}

/// The reasons that hold.
#[derive(Debug)]
pub(super) struct Reasons {
    folder: PathBuf,
    holding: BTreeSet<Reason>,
}

impl Reasons {
    /// Those that an earlier agent left in the folder.
    pub(super) fn of(folder: &Path) -> Self {
        let marked = |reason: &Reason| folder.join(reason.file()).exists();
        Self {
            folder: folder.to_owned(),
            holding: Reason::ALL.into_iter().filter(marked).collect(),
        }
    }

    /// Whether new sessions are not taken.
    pub(super) fn any(&self) -> bool {
        !self.holding.is_empty()
    }

    /// Notes a reason on the disk, or that it is gone; whether that is news.
    pub(super) fn set(&mut self, reason: Reason, on: bool) -> Result<bool, Error> {
        if self.holding.contains(&reason) == on {
            return Ok(false);
        }
        let marker = self.folder.join(reason.file());
        mark(&marker, on).map_err(Error::file(marker.display().to_string()))?;
        match on {
            true => self.holding.insert(reason),
            false => self.holding.remove(&reason),
        };
        Ok(true)
    }
}

fn mark(marker: &Path, on: bool) -> std::io::Result<()> {
    let Some(folder) = marker.parent() else {
        return Ok(());
    };
    if on {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        File::create(marker)?.sync_all()?;
    } else {
        match fs::remove_file(marker) {
            // With the folder, if not before.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
    }
    File::open(folder)?.sync_all()
}
