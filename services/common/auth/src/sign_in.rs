//! Ways of proving to be an account. Each is one implementation of [`SignInMethod`], with a proof
//! type of its own; what follows a proof (sessions, tokens) does not know which way was taken.

use std::{net::IpAddr, sync::Arc};

use async_trait::async_trait;
use secrecy::SecretString;
use vpnpanel_domain::AccountId;

use crate::{Asking, AuthError, PasswordHasher, SourceError, limits::is_same_network};

/// A way of proving to be an account.
#[async_trait]
pub trait SignInMethod: Send + Sync + 'static {
    /// What the caller presents.
    type Proof: Send;

    /// The account that the proof is of.
    ///
    /// # Errors
    /// [`AuthError::SignInRefused`], the same for an unknown account as for a wrong proof.
    async fn verify(&self, proof: Self::Proof) -> Result<Proven, AuthError>;
}

/// An account that somebody has just proven to be. A proof takes a while: whoever opens a session
/// for it looks whether it still holds.
#[derive(Clone, PartialEq, Eq)]
pub struct Proven {
    /// The account.
    pub account: AccountId,
    /// The hash that a password was held against, as it is now; `None` where none was.
    pub password_hash: Option<String>,
}

/// Without the password's hash.
impl std::fmt::Debug for Proven {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Proven").field(&self.account).finish()
    }
}

/// E-mail address and password.
#[derive(Debug)]
pub struct PasswordProof {
    /// As typed; compared without regard to case.
    pub email: String,
    /// As typed.
    pub password: SecretString,
    /// Where it comes from, where that is known.
    pub address: Option<IpAddr>,
}

/// What is stored about an account's password.
#[derive(Debug, Clone)]
pub struct StoredPassword {
    /// The account.
    pub account: AccountId,
    /// Argon2id in the PHC string format; `None` for an account without a password.
    pub hash: Option<String>,
    /// Where somebody signed in to it lately: who comes from the same networks is not kept
    /// waiting for those who guess from others.
    pub seen_at: Vec<IpAddr>,
}

/// Where password hashes are kept.
#[async_trait]
pub trait CredentialSource: Send + Sync + 'static {
    /// The account of a lower-case e-mail address, if it exists and is enabled.
    async fn by_email(&self, email: &str) -> Result<Option<StoredPassword>, SourceError>;

    /// Replaces a hash, unless it has been changed since it was read.
    async fn replace_hash(
        &self,
        account: AccountId,
        read: &str,
        new: &str,
    ) -> Result<(), SourceError>;
}

/// Sign-in by password. Hashes made with older parameters are renewed on the way.
pub struct PasswordSignIn {
    credentials: Arc<dyn CredentialSource>,
    hasher: PasswordHasher,
}

impl std::fmt::Debug for PasswordSignIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PasswordSignIn").finish_non_exhaustive()
    }
}

impl PasswordSignIn {
    /// Checks passwords against what `credentials` keeps.
    pub fn new(credentials: Arc<dyn CredentialSource>, hasher: PasswordHasher) -> Self {
        Self {
            credentials,
            hasher,
        }
    }
}

#[async_trait]
impl SignInMethod for PasswordSignIn {
    type Proof = PasswordProof;

    async fn verify(&self, proof: PasswordProof) -> Result<Proven, AuthError> {
        let email = proof.email.trim().to_lowercase();
        let stored = self
            .credentials
            .by_email(&email)
            .await
            .map_err(AuthError::Source)?;
        let hash = stored.as_ref().and_then(|stored| stored.hash.as_deref());
        let seen_at = stored.as_ref().map(|stored| stored.seen_at.as_slice());
        let asking = asking(proof.address, seen_at.unwrap_or_default());
        let password = proof.password.clone();
        let verdict = self.hasher.verify(password, hash, asking).await?;
        let (Some(mut stored), true) = (stored, verdict.matches) else {
            return Err(AuthError::SignInRefused);
        };
        if let (Some(read), true) = (&stored.hash, verdict.needs_rehash) {
            let new = self.hasher.hash(proof.password).await?;
            self.credentials
                .replace_hash(stored.account, read, &new)
                .await
                .map_err(AuthError::Source)?;
            tracing::info!(event = "password_rehashed", account_id = %stored.account);
            stored.hash = Some(new);
        }
        Ok(Proven {
            account: stored.account,
            password_hash: stored.hash,
        })
    }
}

fn asking(address: Option<IpAddr>, seen_at: &[IpAddr]) -> Asking {
    match address {
        Some(address) if seen_at.iter().any(|seen| is_same_network(*seen, address)) => {
            Asking::Known
        }
        _ => Asking::Stranger,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::PasswordSettings;

    /// One account, `a@example.com`.
    struct One(Mutex<StoredPassword>);

    #[async_trait]
    impl CredentialSource for One {
        async fn by_email(&self, email: &str) -> Result<Option<StoredPassword>, SourceError> {
            let stored = self.0.lock().unwrap().clone();
            Ok((email == "a@example.com").then_some(stored))
        }

        async fn replace_hash(
            &self,
            _account: AccountId,
            read: &str,
            new: &str,
        ) -> Result<(), SourceError> {
            let mut stored = self.0.lock().unwrap();
            if stored.hash.as_deref() == Some(read) {
                stored.hash = Some(new.to_owned());
            }
            Ok(())
        }
    }

    fn hasher(memory_kib: u32) -> PasswordHasher {
        let settings = PasswordSettings {
            time_cost: 1,
            memory_kib,
            parallelism: 1,
            ..PasswordSettings::default()
        };
        PasswordHasher::new(settings).unwrap()
    }

    fn stored(account: AccountId, hash: Option<String>) -> StoredPassword {
        StoredPassword {
            account,
            hash,
            seen_at: vec!["198.51.100.7".parse().unwrap()],
        }
    }

    fn proof(email: &str, password: &str) -> PasswordProof {
        PasswordProof {
            email: email.to_owned(),
            password: password.into(),
            address: None,
        }
    }

    #[tokio::test]
    async fn wrong_password_unknown_account_and_no_password_are_refused_alike() {
        let hash = hasher(64).hash("right".into()).await.unwrap();
        let account = AccountId::from_parts(1, [1; 10]);
        for (hash, email, password) in [
            (Some(hash.clone()), "a@example.com", "wrong"),
            (Some(hash), "b@example.com", "right"),
            (None, "a@example.com", ""),
        ] {
            let source = Arc::new(One(Mutex::new(stored(account, hash))));
            let refused = PasswordSignIn::new(source, hasher(64))
                .verify(proof(email, password))
                .await;
            assert!(matches!(refused, Err(AuthError::SignInRefused)));
        }
    }

    #[tokio::test]
    async fn every_refusal_costs_the_same_work_as_a_wrong_password() {
        let right = hasher(64).hash("right".into()).await.unwrap();
        let account = AccountId::from_parts(1, [1; 10]);
        let mut works = Vec::new();
        for (hash, email, password) in [
            (Some(right.clone()), "a@example.com", "wrong"),
            (Some(right.clone()), "b@example.com", "right"),
            (Some(right.clone()), "", ""),
            (None, "a@example.com", "right"),
            (Some(right), "a@example.com", "right"),
        ] {
            let hasher = hasher(64);
            let source = Arc::new(One(Mutex::new(stored(account, hash))));
            let sign_in = PasswordSignIn::new(source, hasher.clone());
            let _outcome = sign_in.verify(proof(email, password)).await;
            works.push(hasher.work());
        }
        assert_eq!(works, [64; 5], "KiB filled by each");
    }

    #[tokio::test]
    async fn a_sign_in_renews_a_hash_of_older_parameters() {
        let hash = hasher(64).hash("right".into()).await.unwrap();
        let account = AccountId::from_parts(1, [1; 10]);
        let source = Arc::new(One(Mutex::new(stored(account, Some(hash)))));
        let now = hasher(128);
        let sign_in = PasswordSignIn::new(Arc::clone(&source) as _, now.clone());
        let signed_in = sign_in.verify(proof(" A@Example.COM ", "right")).await;
        let signed_in = signed_in.unwrap();
        assert_eq!(signed_in.account, account);
        let renewed = source.0.lock().unwrap().hash.clone().unwrap();
        assert_eq!(signed_in.password_hash.as_ref(), Some(&renewed));
        assert!(!now.needs_rehash(&renewed).unwrap());
    }

    #[test]
    fn only_who_comes_from_where_the_account_was_seen_is_known() {
        let account = AccountId::from_parts(1, [1; 10]);
        let seen_at = stored(account, None).seen_at;
        let from = |text: &str| asking(Some(text.parse().unwrap()), &seen_at);
        assert_eq!(from("198.51.100.250"), Asking::Known);
        assert_eq!(from("::ffff:198.51.100.1"), Asking::Known);
        assert_eq!(from("198.51.101.7"), Asking::Stranger);
        assert_eq!(asking(None, &seen_at), Asking::Stranger);
        assert_eq!(
            asking(Some("198.51.100.7".parse().unwrap()), &[]),
            Asking::Stranger
        );
    }
}
