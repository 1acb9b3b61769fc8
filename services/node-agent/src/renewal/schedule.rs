//! When a certificate is renewed, and by which way. Reads no clock: it is told the time.

use sha2::{Digest as _, Sha256};

use crate::enrollment::Identity;

/// Between two tries: a twentieth of the certificate's life, within these.
const SHORTEST_WAIT_MS: i64 = 1_000;
const FIRST_WAIT_MS: i64 = 60_000;
const LONGEST_WAIT_MS: i64 = 3_600_000;

/// How a certificate is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Over the node link, which the certificate still opens.
    Link,
    /// On the enrolment listener, by a proof: the certificate has ended.
    Enrolment,
}

/// When one certificate is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Schedule {
    due_ms: i64,
    ends_ms: i64,
    /// Not before.
    next_ms: i64,
    wait_ms: i64,
    longest_wait_ms: i64,
    /// Of a thousand, between 900 and 1,100: nodes that were enrolled together do not come together.
    spread: i64,
}

impl Schedule {
    /// Due at half of its life, ± 10 % of that: always the same for a certificate, and another for
    /// each.
    pub(super) fn of(identity: &Identity) -> Self {
        let leaf = identity.credentials.chain.first();
        let spread = spread(leaf.map_or(&[], |leaf| leaf.as_ref()));
        let begins_ms = identity.not_before_unix.saturating_mul(1_000);
        let ends_ms = identity.not_after_unix.saturating_mul(1_000);
        let life_ms = ends_ms.saturating_sub(begins_ms).max(0);
        let share_ms = life_ms / 20;
        Self {
            due_ms: begins_ms + life_ms / 2 / 1_000 * spread + life_ms / 2 % 1_000 * spread / 1_000,
            ends_ms,
            next_ms: i64::MIN,
            wait_ms: share_ms.clamp(SHORTEST_WAIT_MS, FIRST_WAIT_MS),
            longest_wait_ms: share_ms.clamp(SHORTEST_WAIT_MS, LONGEST_WAIT_MS),
            spread,
        }
    }

    /// How to ask now, if at all.
    pub(super) fn way(&self, now_ms: i64, connected: bool) -> Option<Way> {
        // A clock that was set back does not make the wait longer than any wait is.
        let left_ms = self.next_ms.saturating_sub(now_ms);
        if left_ms > 0 && left_ms <= self.longest_wait_ms.saturating_mul(2) {
            return None;
        }
        if now_ms >= self.ends_ms {
            return Some(Way::Enrolment);
        }
        (now_ms >= self.due_ms && connected).then_some(Way::Link)
    }

    /// It was asked: next time after a while, and after a longer one each time.
    pub(super) fn asked(&mut self, now_ms: i64) {
        self.next_ms = now_ms.saturating_add(self.wait_ms * self.spread / 1_000);
        self.wait_ms = (self.wait_ms * 2).min(self.longest_wait_ms);
    }
}

fn spread(certificate: &[u8]) -> i64 {
    let digest = Sha256::digest(certificate);
    let number = digest
        .iter()
        .take(4)
        .fold(0, |number, byte| number << 8 | i64::from(*byte));
    900 + number % 201
}
