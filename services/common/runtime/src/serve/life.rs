//! What one connection is doing, and when it has had enough of our patience. hyper bounds the
//! reading of HTTP/1 headers alone, and with one time for a silent connection and a dribbling one;
//! HTTP/2, the choice between both, and clients that take nothing are left to its user.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::time::Instant;

use super::{ConnectionLimits, RESET_WINDOW};

/// No such moment.
const NEVER: u64 = u64::MAX;
/// An HTTP/2 connection begins with these bytes, and no HTTP/1 request does.
const HTTP2: &[u8] = b"PRI ";

/// The state of a connection. Moments are in milliseconds since it began; each field is right by
/// itself, and reading them a moment apart only moves a deadline by that moment.
#[derive(Debug)]
pub(super) struct Life {
    began: Instant,
    /// How many of the first bytes are those of HTTP/2 so far; it is HTTP/2 when all of them are.
    preface: AtomicUsize,
    /// A byte has come that does not belong to them.
    http1: AtomicBool,
    /// No request was ever begun.
    fresh: AtomicBool,
    /// Requests under way, answers that are still being sent included.
    requests: AtomicU32,
    /// When the last of them ended.
    idle_since: AtomicU64,
    /// When the first byte after that came.
    head_since: AtomicU64,
    /// Since when the other end takes nothing.
    stalled_since: AtomicU64,
    /// When the socket last had no room.
    full_at: AtomicU64,
    /// Requests given up in the window that began at `window`.
    resets: AtomicU32,
    window: AtomicU64,
}

/// What is to be done about a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing; look again by then.
    Wait(Duration),
    /// It is told to go, and may finish what is under way.
    Close(Reason),
    /// It is gone for us.
    Cut(Reason),
}

/// Why a connection was ended by us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    Idle,
    SlowHeaders,
    TakesNothing,
    Resets,
    SlowHandshake,
    FailedHandshake,
    Crowded,
}

impl Reason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SlowHeaders => "slow_headers",
            Self::TakesNothing => "takes_nothing",
            Self::Resets => "resets",
            Self::SlowHandshake => "slow_handshake",
            Self::FailedHandshake => "failed_handshake",
            Self::Crowded => "too_many_of_caller",
        }
    }
}

impl Life {
    pub(super) fn new(http2: bool) -> Self {
        Self {
            began: Instant::now(),
            preface: AtomicUsize::new(if http2 { HTTP2.len() } else { 0 }),
            http1: AtomicBool::new(false),
            fresh: AtomicBool::new(true),
            requests: AtomicU32::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(NEVER),
            stalled_since: AtomicU64::new(NEVER),
            full_at: AtomicU64::new(0),
            resets: AtomicU32::new(0),
            window: AtomicU64::new(0),
        }
    }

    pub(super) fn received(&self, bytes: &[u8]) {
        let known = self.preface.load(Relaxed);
        if known < HTTP2.len() && !self.http1.load(Relaxed) {
            // However few of them come at a time.
            let more = bytes.len().min(HTTP2.len() - known);
            if bytes[..more] == HTTP2[known..known + more] {
                self.preface.store(known + more, Relaxed);
            } else {
                self.http1.store(true, Relaxed);
            }
        }
        if self.requests.load(Relaxed) == 0 {
            // Refused when there is a first byte already, which is the one that counts.
            let _first = self
                .head_since
                .compare_exchange(NEVER, self.now(), Relaxed, Relaxed);
        }
    }

    pub(super) fn sent(&self, taken: bool) {
        if taken {
            self.stalled_since.store(NEVER, Relaxed);
        } else {
            let now = self.now();
            self.full_at.store(now, Relaxed);
            let _first = self
                .stalled_since
                .compare_exchange(NEVER, now, Relaxed, Relaxed);
        }
    }

    /// Whether the socket has had no room at some time since then.
    pub(super) fn was_full(&self, since: Instant) -> bool {
        let since = millis(since.saturating_duration_since(self.began));
        self.full_at.load(Relaxed) > since || self.stalled_since.load(Relaxed) != NEVER
    }

    pub(super) fn request_began(&self) {
        self.fresh.store(false, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(NEVER, Relaxed);
    }

    pub(super) fn request_ended(&self, answered: bool) {
        let now = self.now();
        if !answered {
            let window = self.window.load(Relaxed);
            if now.saturating_sub(window) > millis(RESET_WINDOW) {
                self.window.store(now, Relaxed);
                self.resets.store(0, Relaxed);
            }
            self.resets.fetch_add(1, Relaxed);
        }
        self.idle_since.store(now, Relaxed);
        self.requests.fetch_sub(1, Relaxed);
    }

    /// `told` says whether it was told to go before.
    pub(super) fn verdict(&self, limits: &ConnectionLimits, told: bool) -> Verdict {
        let now = self.now();
        if self.resets.load(Relaxed) > limits.max_resets {
            return match told {
                false => Verdict::Close(Reason::Resets),
                true => Verdict::Cut(Reason::Resets),
            };
        }
        // No deadline that begins after this look ends before the next.
        let mut next = limits.header_deadline.min(limits.write_deadline);
        let stalled = self.stalled_since.load(Relaxed);
        if stalled != NEVER {
            match left(now, stalled, limits.write_deadline) {
                Some(left) => next = next.min(left),
                None => return Verdict::Cut(Reason::TakesNothing),
            }
        }
        if self.requests.load(Relaxed) > 0 {
            return Verdict::Wait(next);
        }
        let http1 = self.preface.load(Relaxed) < HTTP2.len();
        let head = self.head_since.load(Relaxed);
        let (since, deadline, ended) = if http1 && head != NEVER {
            let ended = Verdict::Cut(Reason::SlowHeaders);
            (head, limits.header_deadline, ended)
        } else if self.fresh.load(Relaxed) {
            let ended = Verdict::Cut(Reason::SlowHeaders);
            (0, limits.header_deadline, ended)
        } else if told {
            // It had its time to say goodbye.
            return Verdict::Cut(Reason::Idle);
        } else {
            let ended = Verdict::Close(Reason::Idle);
            let since = self.idle_since.load(Relaxed);
            (since, limits.idle_timeout, ended)
        };
        match left(now, since, deadline) {
            Some(left) => Verdict::Wait(next.min(left)),
            None => ended,
        }
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NEVER - 1)
}

/// What is left of `deadline` after `since`.
fn left(now: u64, since: u64, deadline: Duration) -> Option<Duration> {
    let deadline = since.saturating_add(millis(deadline));
    let left = deadline.checked_sub(now).filter(|left| *left > 0)?;
    Some(Duration::from_millis(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How a connection stands when each deadline for headers passes at once.
    fn verdict(life: &Life) -> Verdict {
        let limits = ConnectionLimits {
            header_deadline: Duration::ZERO,
            ..ConnectionLimits::default()
        };
        life.verdict(&limits, false)
    }

    fn after_a_request(life: &Life) {
        life.request_began();
        life.request_ended(true);
    }

    #[test]
    fn a_lone_p_is_no_http2() {
        let life = Life::new(false);
        life.received(b"P");
        assert_eq!(verdict(&life), Verdict::Cut(Reason::SlowHeaders));
        life.received(b"OST / HTTP/1.1");
        after_a_request(&life);
        // Nor is it later, when the bytes would fit.
        life.received(b"PRI ");
        assert_eq!(verdict(&life), Verdict::Cut(Reason::SlowHeaders));
    }

    #[test]
    fn http2_is_known_however_its_first_bytes_come() {
        for pieces in [&[&b"PRI * HTTP/2.0"[..]][..], &[b"P", b"R", b"I", b" * "]] {
            let life = Life::new(false);
            for piece in pieces {
                life.received(piece);
            }
            // It has to ask for something in time all the same.
            assert_eq!(verdict(&life), Verdict::Cut(Reason::SlowHeaders));
            after_a_request(&life);
            life.received(b"a ping");
            assert!(matches!(verdict(&life), Verdict::Wait(_)));
        }
    }
}
