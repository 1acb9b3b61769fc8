//! What a subscription says about what may be used, until when, and what was used.

use vpnpanel_domain::{Limit, UserStatus};
use vpnpanel_store::User;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// What a user may use and has used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Quota {
    /// Whether the user may connect.
    pub(crate) status: UserStatus,
    /// Bytes of the current period; `None` is no limit.
    pub(crate) limit: Option<u64>,
    /// Bytes sent by the user, as far as they are billed.
    pub(crate) up: u64,
    /// Bytes sent to the user, as far as they are billed.
    pub(crate) down: u64,
    /// When the period ends and the quota begins anew.
    pub(crate) renews_at_ms: Option<i64>,
    /// When the user's time ends.
    pub(crate) expires_at_ms: Option<i64>,
}

impl Quota {
    /// Of a user; where no traffic of its tenant's users passes, it may not connect either.
    pub(crate) fn of(user: &User, is_cut_off: bool) -> Self {
        let period = &user.period;
        let used = period.used.floor_bytes();
        // Programs add the two up and hold the sum against the limit: where a node's bytes are billed
        // otherwise than one to one, the two directions say nothing.
        let (up, down) = if period.up.checked_add(period.down) == Some(used) {
            (period.up, period.down)
        } else {
            (0, used)
        };
        Self {
            status: match user.status {
                UserStatus::Active | UserStatus::OnHold if is_cut_off => UserStatus::Disabled,
                status => status,
            },
            limit: match period.limit {
                Limit::None => None,
                Limit::Bytes(bytes) => Some(bytes),
            },
            up,
            down,
            renews_at_ms: period.ends_at_ms,
            expires_at_ms: user.expires_at_ms,
        }
    }

    /// Bytes.
    pub(crate) fn used(&self) -> u64 {
        self.up.saturating_add(self.down)
    }

    /// Bytes; `None` without a limit.
    pub(crate) fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.used()))
    }

    /// Whole days, rounded up, from `now` to the end of the user's time; `None` without one.
    pub(crate) fn days_left(&self, now_ms: i64) -> Option<i64> {
        let left = self.expires_at_ms?.saturating_sub(now_ms).max(0);
        Some(left / DAY_MS + i64::from(left % DAY_MS > 0))
    }

    /// The header by which programs show it: bytes, where 0 in all is no limit, and seconds of the
    /// Unix epoch.
    pub(crate) fn header(&self) -> String {
        let (up, down, total) = (self.up, self.down, self.limit.unwrap_or(0));
        let mut header = format!("upload={up}; download={down}; total={total}");
        if let Some(at_ms) = self.expires_at_ms {
            header.push_str(&format!("; expire={}", at_ms.div_euclid(1000)));
        }
        header
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Of somebody who has used a quarter, with twelve days to go from [`NOW_MS`].
    pub(crate) fn quota() -> Quota {
        Quota {
            status: UserStatus::Active,
            limit: Some(20_000_000_000),
            up: 1_000_000_000,
            down: 4_000_000_000,
            renews_at_ms: Some(NOW_MS + 5 * DAY_MS),
            expires_at_ms: Some(NOW_MS + 12 * DAY_MS),
        }
    }

    pub(crate) const NOW_MS: i64 = 1_790_000_000_000;

    #[test]
    fn the_header_is_as_programs_read_it() {
        let header = "upload=1000000000; download=4000000000; total=20000000000; \
            expire=1791036800";
        assert_eq!(quota().header(), header);
        let free = Quota {
            limit: None,
            expires_at_ms: None,
            ..quota()
        };
        assert_eq!(
            free.header(),
            "upload=1000000000; download=4000000000; total=0"
        );
    }

    #[test]
    fn what_is_left_never_falls_below_nothing() {
        assert_eq!(quota().left(), Some(15_000_000_000));
        let over = Quota {
            limit: Some(1),
            ..quota()
        };
        assert_eq!(over.left(), Some(0));
        assert_eq!(quota().days_left(NOW_MS), Some(12));
        assert_eq!(quota().days_left(NOW_MS + 1), Some(12));
        assert_eq!(quota().days_left(NOW_MS + 12 * DAY_MS - 1), Some(1));
        assert_eq!(quota().days_left(NOW_MS + 13 * DAY_MS), Some(0));
    }
}
