//! What follows when a user's plan is over, and when that is: decided here, whoever asks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, UserStatus};

/// When the next plan follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NextPlanStart {
    /// At the first of: the end of a period, of the period's bytes, of the user's time.
    #[default]
    FirstEnd,
    /// Once nothing is left: the user's time is over, or the bytes of a period without an end are.
    PlanEnd,
}

/// What the end of a plan is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlanFacts {
    /// What the user may do now, whether or not it is disabled by hand.
    pub status: UserStatus,
    /// The period in force has no end: its bytes do not come back.
    pub is_endless: bool,
    /// Since the user has this plan one period has followed another.
    pub is_period_over: bool,
}

impl NextPlanStart {
    /// Both.
    pub const ALL: [Self; 2] = [Self::FirstEnd, Self::PlanEnd];

    /// Whether the plan that the user has is over.
    pub const fn is_due(self, facts: PlanFacts) -> bool {
        let first = matches!(self, Self::FirstEnd);
        match facts.status {
            UserStatus::Expired => true,
            UserStatus::Limited => first || facts.is_endless,
            UserStatus::Active | UserStatus::OnHold => first && facts.is_period_over,
            UserStatus::Disabled | UserStatus::Deleted => false,
        }
    }

    /// The name in the database and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstEnd => "first_end",
            Self::PlanEnd => "plan_end",
        }
    }
}

impl fmt::Display for NextPlanStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NextPlanStart {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|start| start.as_str() == text)
            .ok_or_else(|| Error::UnknownNextPlanStart(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(start: NextPlanStart, status: UserStatus, is_endless: bool, over: bool) -> bool {
        start.is_due(PlanFacts {
            status,
            is_endless,
            is_period_over: over,
        })
    }

    #[test]
    fn an_end_of_time_ends_every_plan() {
        for start in NextPlanStart::ALL {
            assert!(due(start, UserStatus::Expired, false, false));
        }
    }

    #[test]
    fn bytes_that_come_back_end_a_plan_only_where_the_first_end_does() {
        for (start, endless, expected) in [
            (NextPlanStart::FirstEnd, false, true),
            (NextPlanStart::FirstEnd, true, true),
            (NextPlanStart::PlanEnd, false, false),
            (NextPlanStart::PlanEnd, true, true),
        ] {
            assert_eq!(due(start, UserStatus::Limited, endless, false), expected);
        }
    }

    #[test]
    fn a_plan_of_somebody_who_may_connect_ends_with_a_period_or_not_at_all() {
        for status in [UserStatus::Active, UserStatus::OnHold] {
            assert!(due(NextPlanStart::FirstEnd, status, false, true));
            assert!(!due(NextPlanStart::FirstEnd, status, true, false));
            assert!(!due(NextPlanStart::PlanEnd, status, true, true));
        }
        for status in [UserStatus::Disabled, UserStatus::Deleted] {
            assert!(!due(NextPlanStart::FirstEnd, status, true, true));
        }
    }

    #[test]
    fn names_round_trip() {
        for start in NextPlanStart::ALL {
            assert_eq!(start.to_string().parse(), Ok(start));
        }
        assert!("FirstEnd".parse::<NextPlanStart>().is_err());
    }
}
