//! Argon2id (RFC 9106) with bounded memory: a fixed number of reused work areas behind a
//! semaphore, so that a burst of sign-ins can exhaust neither memory nor the worker threads, and
//! an unknown account costs exactly what a wrong password costs.

mod stored;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;
use tokio::sync::{AcquireError, Semaphore};

use self::stored::{Stored, params, phc};
use crate::AuthError;

const OUTPUT_BYTES: usize = 32;
const SALT_BYTES: usize = 16;

/// Cost of a password hash and how many are computed at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordSettings {
    /// Passes over the memory.
    pub time_cost: u32,
    /// Work area of one hash in KiB.
    pub memory_kib: u32,
    /// Lanes.
    pub parallelism: u32,
    /// Hashes computed at a time, each with a work area of its own.
    pub concurrency: usize,
    /// Strangers that may wait for a free work area; more are refused at once.
    pub queue: usize,
    /// The same for callers that are not strangers, whom no number of strangers keeps out.
    pub reserve: usize,
    /// Longest wait for a free work area.
    pub patience: Duration,
    /// Work areas are given back to the operating system after so long without a sign-in.
    pub idle: Duration,
}

impl Default for PasswordSettings {
    /// The baseline of ADR 0002: t = 2, m = 512 MiB, p = 2.
    fn default() -> Self {
        Self {
            time_cost: 2,
            memory_kib: 512 * 1024,
            parallelism: 2,
            concurrency: 1,
            queue: 16,
            reserve: 16,
            patience: Duration::from_secs(15),
            idle: Duration::from_secs(10),
        }
    }
}

/// Who asks for a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asking {
    /// Anybody.
    Stranger,
    /// Somebody who is signed in, or whose account was seen in the same network before. Goes
    /// ahead of strangers that wait.
    Known,
}

/// Outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// The password is the account's.
    pub matches: bool,
    /// It matches, and was hashed with other parameters than those in force.
    pub needs_rehash: bool,
}

/// Hashes and checks passwords. Cheap to clone; clones share the work areas.
#[derive(Debug, Clone)]
pub struct PasswordHasher {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: PasswordSettings,
    params: Params,
    running: Arc<Semaphore>,
    /// Strangers wait here for the few places among those who wait for `running`, so that never
    /// more of them are ahead of somebody known than are computed at a time.
    turn: Arc<Semaphore>,
    strangers: Arc<Semaphore>,
    known: Arc<Semaphore>,
    spare: Mutex<Spare>,
    /// KiB filled so far, over all hashes and passes.
    work: AtomicU64,
}

/// Work areas that nobody uses now.
#[derive(Default)]
struct Spare {
    areas: Vec<Vec<Block>>,
    /// Grows with each area that comes back, so that a release that was overtaken does nothing.
    turn: u64,
}

impl std::fmt::Debug for Spare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spare")
            .field("areas", &self.areas.len())
            .finish_non_exhaustive()
    }
}

impl PasswordHasher {
    /// Takes the parameters in force.
    ///
    /// # Errors
    /// [`AuthError::HashParameters`] when Argon2 does not allow them (RFC 9106, section 3.1).
    pub fn new(settings: PasswordSettings) -> Result<Self, AuthError> {
        let params = params(
            settings.memory_kib,
            settings.time_cost,
            settings.parallelism,
        )?;
        let concurrency = settings.concurrency.clamp(1, 64);
        Ok(Self {
            inner: Arc::new(Inner {
                running: Arc::new(Semaphore::new(concurrency)),
                turn: Arc::new(Semaphore::new(concurrency)),
                strangers: Arc::new(Semaphore::new(concurrency + settings.queue.min(10_000))),
                known: Arc::new(Semaphore::new(concurrency + settings.reserve.min(10_000))),
                spare: Mutex::default(),
                work: AtomicU64::new(0),
                params,
                settings,
            }),
        })
    }

    /// Hashes the new password of somebody known with a new salt; the text is in the PHC string
    /// format.
    ///
    /// # Errors
    /// [`AuthError::Saturated`], [`AuthError::Random`], [`AuthError::Interrupted`].
    pub async fn hash(&self, password: SecretString) -> Result<String, AuthError> {
        let mut salt = [0_u8; SALT_BYTES];
        getrandom::fill(&mut salt).map_err(|e| AuthError::Random(e.to_string()))?;
        let inner = Arc::clone(&self.inner);
        self.run(Asking::Known, move || {
            let output = inner.compute(&inner.params, &password, &salt)?;
            Ok(phc(&inner.params, &salt, &output))
        })
        .await
    }

    /// Checks a password against what is stored of the account; `None` stands for an account
    /// that does not exist or has no password: the work is done all the same, and the password
    /// does not match.
    ///
    /// # Errors
    /// [`AuthError::Saturated`], [`AuthError::MalformedHash`], [`AuthError::Interrupted`].
    pub async fn verify(
        &self,
        password: SecretString,
        stored: Option<&str>,
        asking: Asking,
    ) -> Result<Verdict, AuthError> {
        let stored = stored.map(Stored::parse).transpose()?;
        let inner = Arc::clone(&self.inner);
        self.run(asking, move || {
            let Some(stored) = stored else {
                inner.compute(&inner.params, &password, &[0; SALT_BYTES])?;
                return Ok(Verdict {
                    matches: false,
                    needs_rehash: false,
                });
            };
            let output = inner.compute(&stored.params, &password, &stored.salt)?;
            let matches = bool::from(output.as_slice().ct_eq(&stored.output));
            Ok(Verdict {
                matches,
                needs_rehash: matches && !inner.in_force(&stored.params),
            })
        })
        .await
    }

    /// How much hashing was done so far, in KiB filled: what a caller could measure as time.
    pub fn work(&self) -> u64 {
        self.inner.work.load(Ordering::Relaxed)
    }

    /// Whether a stored hash was made with other parameters than those in force.
    ///
    /// # Errors
    /// [`AuthError::MalformedHash`].
    pub fn needs_rehash(&self, stored: &str) -> Result<bool, AuthError> {
        Ok(!self.inner.in_force(&Stored::parse(stored)?.params))
    }

    /// Runs `work` on a blocking thread once a work area is free.
    async fn run<T: Send + 'static>(
        &self,
        asking: Asking,
        work: impl FnOnce() -> Result<T, AuthError> + Send + 'static,
    ) -> Result<T, AuthError> {
        let inner = &self.inner;
        let saturated = || AuthError::Saturated {
            retry_after: Duration::from_secs(2),
        };
        let admission = match asking {
            Asking::Stranger => &inner.strangers,
            Asking::Known => &inner.known,
        };
        let admitted = Arc::clone(admission)
            .try_acquire_owned()
            .map_err(|_| saturated())?;
        let waiting = async {
            let turn = match asking {
                Asking::Stranger => Some(Arc::clone(&inner.turn).acquire_owned().await?),
                Asking::Known => None,
            };
            Ok((turn, Arc::clone(&inner.running).acquire_owned().await?))
        };
        let running = tokio::time::timeout(inner.settings.patience, waiting)
            .await
            .map_err(|_| saturated())?
            .map_err(|_: AcquireError| AuthError::Interrupted)?;
        // The permits go with the work: a caller that hangs up does not stop the computation,
        // and must not let another one begin beside it.
        let work = move || {
            let _permits = (admitted, running);
            work()
        };
        let result = tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| AuthError::Interrupted)?;
        inner.release_when_idle();
        result
    }
}

impl Inner {
    fn in_force(&self, params: &Params) -> bool {
        params.m_cost() == self.params.m_cost()
            && params.t_cost() == self.params.t_cost()
            && params.p_cost() == self.params.p_cost()
    }

    fn compute(
        &self,
        params: &Params,
        password: &SecretString,
        salt: &[u8],
    ) -> Result<[u8; OUTPUT_BYTES], AuthError> {
        let blocks = params.block_count();
        let filled = u64::from(params.m_cost()) * u64::from(params.t_cost());
        self.work.fetch_add(filled, Ordering::Relaxed);
        let mut area = self.spare().areas.pop().unwrap_or_default();
        if area.len() < blocks {
            // Freed first: growing in place would hold both for a moment.
            drop(area);
            area = vec![Block::new(); blocks];
        }
        let mut output = [0_u8; OUTPUT_BYTES];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
        let result = argon2.hash_password_into_with_memory(
            password.expose_secret().as_bytes(),
            salt,
            &mut output,
            area.as_mut_slice(),
        );
        if area.len() <= self.params.block_count() {
            self.spare().areas.push(area);
        }
        result.map_err(|e| AuthError::HashParameters(e.to_string()))?;
        Ok(output)
    }

    /// Gives the spare areas back to the operating system unless one is used meanwhile.
    fn release_when_idle(self: &Arc<Self>) {
        let turn = {
            let mut spare = self.spare();
            spare.turn += 1;
            spare.turn
        };
        let inner = Arc::downgrade(self);
        let idle = self.settings.idle;
        tokio::spawn(async move {
            tokio::time::sleep(idle).await;
            if let Some(inner) = inner.upgrade() {
                let mut spare = inner.spare();
                if spare.turn == turn {
                    spare.areas.clear();
                }
            }
        });
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Spare> {
        // A panic while the lock was held leaves areas whose contents do not matter.
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use argon2::PasswordHash;

    use super::*;

    fn small() -> PasswordSettings {
        PasswordSettings {
            time_cost: 1,
            memory_kib: 64,
            parallelism: 2,
            concurrency: 2,
            ..PasswordSettings::default()
        }
    }

    fn hasher(settings: PasswordSettings) -> PasswordHasher {
        PasswordHasher::new(settings).unwrap()
    }

    #[tokio::test]
    async fn the_right_password_matches_and_no_other() {
        let hasher = hasher(small());
        let stored = hasher.hash("correct horse".into()).await.unwrap();
        let right = hasher
            .verify("correct horse".into(), Some(&stored), Asking::Stranger)
            .await;
        assert!(right.unwrap().matches);
        let wrong = hasher
            .verify("correct horsf".into(), Some(&stored), Asking::Stranger)
            .await;
        assert!(!wrong.unwrap().matches);
    }

    #[tokio::test]
    async fn an_unknown_account_never_matches() {
        let verdict = hasher(small())
            .verify("".into(), None, Asking::Stranger)
            .await
            .unwrap();
        assert!(!verdict.matches && !verdict.needs_rehash);
    }

    #[tokio::test]
    async fn a_hash_of_other_parameters_still_matches_and_wants_a_rehash() {
        let stored = hasher(small()).hash("pw".into()).await.unwrap();
        let now = hasher(PasswordSettings {
            memory_kib: 128,
            ..small()
        });
        let verdict = now
            .verify("pw".into(), Some(&stored), Asking::Stranger)
            .await
            .unwrap();
        assert!(verdict.matches && verdict.needs_rehash);
        let fresh = now.hash("pw".into()).await.unwrap();
        assert!(!now.needs_rehash(&fresh).unwrap());
        // A larger hash than the one in force is checked too, and its area not kept.
        let verdict = hasher(small())
            .verify("pw".into(), Some(&fresh), Asking::Stranger)
            .await;
        assert!(verdict.unwrap().matches);
    }

    #[tokio::test]
    async fn hashes_agree_with_the_crate_s_own_verifier() {
        let stored = hasher(small()).hash("pw".into()).await.unwrap();
        let parsed = PasswordHash::new(&stored).unwrap();
        use argon2::PasswordVerifier;
        Argon2::default().verify_password(b"pw", &parsed).unwrap();
    }

    #[tokio::test]
    async fn more_callers_than_queue_are_refused_with_a_time_to_retry() {
        let hasher = hasher(PasswordSettings {
            concurrency: 1,
            queue: 0,
            ..small()
        });
        let held = hasher.inner.strangers.try_acquire().unwrap();
        let guess = || hasher.verify("pw".into(), None, Asking::Stranger);
        let refused = guess().await.unwrap_err();
        assert!(matches!(refused, AuthError::Saturated { .. }), "{refused}");
        drop(held);
        guess().await.unwrap();
    }

    #[tokio::test]
    async fn somebody_known_waits_for_no_stranger_that_waits() {
        let hasher = hasher(PasswordSettings {
            concurrency: 1,
            queue: 8,
            ..small()
        });
        // A stranger has its turn, and as many as may wait for theirs.
        let turn = Arc::clone(&hasher.inner.turn)
            .acquire_owned()
            .await
            .unwrap();
        let one = async |asking| hasher.verify("pw".into(), None, asking).await;
        let strangers = futures::future::join_all((0..9).map(|_| one(Asking::Stranger)));
        tokio::pin!(strangers);
        tokio::select! {
            biased;
            _ = &mut strangers => panic!("a stranger went ahead"),
            known = one(Asking::Known) => known.map(drop).unwrap(),
        }
        assert!(one(Asking::Stranger).await.is_err(), "one too many");
        drop(turn);
        for stranger in strangers.await {
            stranger.unwrap();
        }
    }

    #[tokio::test]
    async fn work_areas_are_reused_and_never_more_than_the_concurrency() {
        let hasher = hasher(small());
        let many = (0..8).map(|_| hasher.hash("pw".into()));
        for hash in futures::future::join_all(many).await {
            hash.unwrap();
        }
        assert!((1..=2).contains(&hasher.inner.spare().areas.len()));
    }

    #[tokio::test]
    async fn work_areas_are_given_back_when_idle() {
        let hasher = hasher(PasswordSettings {
            idle: Duration::ZERO,
            ..small()
        });
        hasher.hash("pw".into()).await.unwrap();
        while !hasher.inner.spare().areas.is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn damaged_hashes_are_refused_without_work() {
        let hasher = hasher(small());
        for text in [
            "",
            "plain",
            "$argon2i$v=19$m=64,t=1,p=1$c29tZXNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=4294967295,t=1,p=1$c29tZXNhbHRzYWx0$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=64,t=1,p=1$c29tZXNhbHRzYWx0",
        ] {
            assert!(hasher.needs_rehash(text).is_err(), "{text}");
        }
    }
}
