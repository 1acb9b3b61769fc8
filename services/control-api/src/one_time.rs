//! One-time passwords: made here, told once to whoever asked for them, and good for nothing but
//! choosing another one.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use vpnpanel_auth::PasswordHasher;
use vpnpanel_runtime::settings::Secret;

use crate::Error;

/// A password and its hash.
#[derive(Debug)]
pub(crate) struct OneTimePassword {
    pub(crate) password: Secret,
    pub(crate) hash: String,
}

impl OneTimePassword {
    /// Makes one.
    pub(crate) async fn generate(hasher: &PasswordHasher) -> Result<Self, Error> {
        Self::of(random()?, hasher).await
    }

    /// Takes one that was made elsewhere.
    pub(crate) async fn of(password: Secret, hasher: &PasswordHasher) -> Result<Self, Error> {
        let hash = hasher.hash(password.expose().into()).await?;
        Ok(Self { password, hash })
    }

    /// The password, on its way to whoever asked for it.
    pub(crate) fn told(&self) -> String {
        self.password.expose().to_owned()
    }
}

/// 144 random bits: 24 characters that need no quoting in a shell.
fn random() -> Result<Secret, Error> {
    let mut random = [0_u8; 18];
    getrandom::fill(&mut random).map_err(|e| Error::Random(e.to_string()))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(random)))
}
