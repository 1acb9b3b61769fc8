//! The status of a user is derived, here and nowhere else, so that every path (API, ingest,
//! desired state, scheduler) agrees, and whatever lifts one reason re-activates the user exactly
//! when no other reason holds.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Limit, MicroBytes};

/// What a user may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UserStatus {
    /// May connect.
    Active,
    /// May connect; the clock starts at the first traffic.
    OnHold,
    /// Used up the limit of the period.
    Limited,
    /// The end has passed.
    Expired,
    /// Disabled by hand.
    Disabled,
    /// Deleted, within retention.
    Deleted,
}

/// What the status is derived from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UserFacts {
    /// The user was deleted.
    pub deleted: bool,
    /// An operator disabled the user.
    pub disabled: bool,
    /// When the user ends, milliseconds of the Unix epoch; `None` is never.
    pub expires_at_ms: Option<i64>,
    /// The most the user may use in the current period.
    pub limit: Limit,
    /// Billed in the current period.
    pub used: MicroBytes,
    /// The clock of the user starts at its first traffic, and there was none yet.
    pub on_hold: bool,
}

impl UserFacts {
    /// The status at `now_ms`: deleted > disabled > expired > limited > on hold > active.
    pub fn status(&self, now_ms: i64) -> UserStatus {
        if self.deleted {
            UserStatus::Deleted
        } else if self.disabled {
            UserStatus::Disabled
        } else if self.expires_at_ms.is_some_and(|end| end <= now_ms) {
            UserStatus::Expired
        } else if self.limit.is_reached(self.used) {
            UserStatus::Limited
        } else if self.on_hold {
            UserStatus::OnHold
        } else {
            UserStatus::Active
        }
    }
}

impl UserStatus {
    /// Every status, in order of rising precedence.
    pub const ALL: [Self; 6] = [
        Self::Active,
        Self::OnHold,
        Self::Limited,
        Self::Expired,
        Self::Disabled,
        Self::Deleted,
    ];

    /// Whether a user of this status may pass traffic: nobody may whose tenant is suspended. A
    /// suspension is no status of a user, so that each is as before once it is lifted.
    pub const fn may_connect(self, tenant_suspended: bool) -> bool {
        !tenant_suspended && matches!(self, Self::Active | Self::OnHold)
    }

    /// The name in the API's filters, the database and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::OnHold => "on_hold",
            Self::Limited => "limited",
            Self::Expired => "expired",
            Self::Disabled => "disabled",
            Self::Deleted => "deleted",
        }
    }
}

impl fmt::Display for UserStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for UserStatus {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|status| status.as_str() == text)
            .ok_or_else(|| Error::UnknownUserStatus(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000;

    /// Facts in which every reason holds from bit 0 (on hold) up to bit 4 (deleted).
    fn facts(reasons: u8) -> UserFacts {
        UserFacts {
            on_hold: reasons & 1 != 0,
            limit: Limit::Bytes(10),
            used: if reasons & 2 != 0 {
                MicroBytes::from_bytes(10)
            } else {
                MicroBytes::ZERO
            },
            expires_at_ms: Some(if reasons & 4 != 0 { NOW } else { NOW + 1 }),
            disabled: reasons & 8 != 0,
            deleted: reasons & 16 != 0,
        }
    }

    #[test]
    fn the_strongest_of_any_set_of_reasons_wins() {
        for reasons in 0..32_u8 {
            let strongest = (8 - reasons.leading_zeros()) as usize;
            assert_eq!(
                facts(reasons).status(NOW),
                UserStatus::ALL[strongest],
                "{reasons:05b}"
            );
        }
    }

    #[test]
    fn lifting_one_reason_uncovers_the_next_and_only_then_activates() {
        let mut user = facts(0b1110);
        assert_eq!(user.status(NOW), UserStatus::Disabled);
        user.used = MicroBytes::ZERO;
        assert_eq!(
            user.status(NOW),
            UserStatus::Disabled,
            "a reset re-activates nobody disabled"
        );
        user.disabled = false;
        assert_eq!(user.status(NOW), UserStatus::Expired);
        user.expires_at_ms = None;
        assert_eq!(user.status(NOW), UserStatus::Active);
    }

    #[test]
    fn a_suspension_stops_everybody_and_changes_nobody() {
        for status in UserStatus::ALL {
            assert!(!status.may_connect(true));
            let connects = matches!(status, UserStatus::Active | UserStatus::OnHold);
            assert_eq!(status.may_connect(false), connects, "{status}");
        }
    }

    #[test]
    fn names_round_trip() {
        for status in UserStatus::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
        }
        assert!("Active".parse::<UserStatus>().is_err());
    }
}
