//! Rotation of the keys that sign access tokens, on time and without anybody's doing: a key that
//! signs for ever is worth stealing for ever.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use vpnpanel_store::{Attribution, MakeSigningKey, SigningKeyTerms};

use super::{Job, Run};
use crate::{audit, error::Error, settings::Settings};

/// How often the job looks whether something is due.
const EVERY: Duration = Duration::from_secs(600);

/// What the rotation stands on.
#[derive(Clone)]
pub struct SigningKeys {
    /// Makes key pairs and seals their private halves.
    pub make: Arc<dyn MakeSigningKey>,
    /// How long a key has to be accepted after it has signed last.
    pub overlap: Duration,
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKeys")
            .field("overlap", &self.overlap)
            .finish_non_exhaustive()
    }
}

/// Rotates signing keys when the active one has signed for its lifetime, and retires those before.
#[derive(Debug)]
pub struct RotateSigningKeys {
    keys: SigningKeys,
    lifetime: Duration,
}

impl RotateSigningKeys {
    /// The job with the lifetime out of `settings`.
    #[must_use]
    pub fn new(settings: &Settings, keys: SigningKeys) -> Self {
        Self {
            keys,
            lifetime: settings.signing_key_lifetime.0,
        }
    }
}

#[async_trait]
impl Job for RotateSigningKeys {
    fn name(&self) -> &'static str {
        "rotate-signing-keys"
    }

    fn description(&self) -> &'static str {
        "Lets the next key sign access tokens when the active one has for its lifetime, and retires the ones before"
    }

    fn every(&self) -> Duration {
        EVERY.min(self.lifetime)
    }

    async fn run(&self, run: &Run<'_>) -> Result<u64, Error> {
        let who = Attribution::system("scheduler/signing-keys", audit::describe);
        let terms = SigningKeyTerms {
            lifetime: self.lifetime,
            overlap: self.keys.overlap,
        };
        let changed = run
            .store
            .acting(who)
            .tend_signing_keys(run.lease, self.keys.make.as_ref(), terms)
            .await?;
        run.metrics.effects(self.name(), changed);
        Ok(changed)
    }
}
