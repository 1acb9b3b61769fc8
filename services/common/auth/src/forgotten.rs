//! What was forgotten, and when. A remembered answer holds only when the database was asked for it
//! after the last change that concerns it; so an answer that was under way while the change was
//! made is not taken for a new one when it arrives.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use vpnpanel_domain::{AccountId, TenantId};

use crate::revocation::Credential;
use crate::signals::{Listener, Signal};

/// More marks than this become one that concerns everything: memory stays bounded, at the price of
/// asking the database again.
const MAX_MARKS: usize = 10_000;

/// What an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Account(AccountId),
    Credential(Credential),
    Tenant(TenantId),
}

/// Marks of what was forgotten. They last as long as answers are believed.
#[derive(Debug)]
pub(crate) struct Forgotten {
    believed: Duration,
    marks: RwLock<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    all: Option<Instant>,
    subjects: HashMap<Subject, Instant>,
}

impl Forgotten {
    /// For answers that are believed for so long.
    pub(crate) fn new(believed: Duration) -> Self {
        Self {
            believed,
            marks: RwLock::default(),
        }
    }

    /// Whether an answer that was asked for at `asked` still holds.
    pub(crate) fn holds(&self, asked: Instant, about: impl IntoIterator<Item = Subject>) -> bool {
        if asked.elapsed() >= self.believed {
            return false;
        }
        let marks = self.marks.read().unwrap_or_else(PoisonError::into_inner);
        let before = |mark: &Instant| *mark < asked;
        marks.all.as_ref().is_none_or(before)
            && (marks.subjects.is_empty()
                || about
                    .into_iter()
                    .all(|subject| marks.subjects.get(&subject).is_none_or(before)))
    }

    pub(crate) fn forget(&self, subject: Subject) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        if marks.subjects.len() >= MAX_MARKS {
            marks
                .subjects
                .retain(|_, mark| mark.elapsed() < self.believed);
        }
        if marks.subjects.len() >= MAX_MARKS {
            marks.subjects.clear();
            marks.all = Some(Instant::now());
        } else {
            marks.subjects.insert(subject, Instant::now());
        }
    }

    pub(crate) fn forget_all(&self) {
        let mut marks = self.marks.write().unwrap_or_else(PoisonError::into_inner);
        marks.subjects.clear();
        marks.all = Some(Instant::now());
    }
}

impl Listener for Forgotten {
    fn heard(&self, signal: &Signal) {
        match *signal {
            Signal::SessionEnded { session, .. } => {
                self.forget(Subject::Credential(Credential::Session(session)));
            }
            Signal::ApiTokenChanged(token) => {
                self.forget(Subject::Credential(Credential::ApiToken(token)));
            }
            Signal::AccountChanged(account) => self.forget(Subject::Account(account)),
            Signal::TenantChanged(tenant) => self.forget(Subject::Tenant(tenant)),
            Signal::Everything => self.forget_all(),
            Signal::PolicyChanged | Signal::SigningKeysChanged => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn account(n: u64) -> Subject {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        Subject::Account(AccountId::from_parts(1, bytes))
    }

    #[test]
    fn an_answer_that_was_asked_for_before_the_change_does_not_hold() {
        let forgotten = Forgotten::new(LONG);
        let before = Instant::now();
        forgotten.forget(account(1));
        assert!(!forgotten.holds(before, [account(1)]));
        assert!(!forgotten.holds(before, [account(2), account(1)]));
        assert!(forgotten.holds(before, [account(2)]));
        std::thread::sleep(Duration::from_millis(1));
        assert!(forgotten.holds(Instant::now(), [account(1)]));
    }

    #[test]
    fn an_old_answer_does_not_hold() {
        let forgotten = Forgotten::new(Duration::ZERO);
        assert!(!forgotten.holds(Instant::now(), [account(1)]));
    }

    #[test]
    fn more_marks_than_fit_concern_everything() {
        let forgotten = Forgotten::new(LONG);
        let before = Instant::now();
        for n in 0..=MAX_MARKS as u64 {
            forgotten.forget(account(n));
        }
        assert!(!forgotten.holds(before, [account(0)]));
        assert!(!forgotten.holds(before, [account(u64::MAX)]));
        assert!(forgotten.marks.read().unwrap().subjects.len() < MAX_MARKS);
    }
}
