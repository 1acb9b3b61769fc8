//! Quota periods: where the windows of a reset strategy begin and end. Boundaries are UTC
//! instants computed from the tenant's calendar; once a window was sent to a node it never
//! changes, so nothing here depends on "now" beyond the instant that is asked for.

use std::fmt;
use std::str::FromStr;

use jiff::ToSpan;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::{Error, Zone};

const DAY_MS: i64 = 86_400_000;

/// When a user's quota begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetStrategy {
    /// Never: one period without an end.
    #[default]
    None,
    /// At each local midnight.
    Daily,
    /// At local midnight of the anchor's weekday.
    Weekly,
    /// At local midnight of the anchor's day of the month; in shorter months, of the last day.
    Monthly,
    /// At local midnight of the anchor's day of the year; for 29 February, else the 28th.
    Yearly,
    /// Every so many times 24 hours after the anchor.
    Rolling {
        /// From 1 to 3,660.
        days: u32,
    },
}

/// `[starts, ends)` of a period, milliseconds of the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window {
    /// First millisecond.
    pub starts_ms: i64,
    /// First millisecond after; `None` is never.
    pub ends_ms: Option<i64>,
}

impl Window {
    /// Whether the instant lies in the window.
    pub fn contains(&self, at_ms: i64) -> bool {
        self.starts_ms <= at_ms && self.ends_ms.is_none_or(|end| at_ms < end)
    }
}

/// A strategy in a calendar: what computes windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    strategy: ResetStrategy,
    zone: Zone,
    anchor_ms: i64,
    anchor: Date,
}

impl Schedule {
    /// A schedule whose first window starts at `anchor_ms` (the user's creation, its first
    /// traffic, or a manual reset) and whose boundaries keep the anchor's local date.
    ///
    /// # Errors
    /// [`Error::RollingDays`] and [`Error::InstantOutOfRange`].
    pub fn new(strategy: ResetStrategy, zone: Zone, anchor_ms: i64) -> Result<Self, Error> {
        strategy.validate()?;
        let anchor = zone.date_at(anchor_ms)?;
        Ok(Self {
            strategy,
            zone,
            anchor_ms,
            anchor,
        })
    }

    /// The window that contains the instant; for instants before the anchor, the first window.
    ///
    /// # Errors
    /// [`Error::InstantOutOfRange`] at the end of the calendar.
    pub fn window_at(&self, at_ms: i64) -> Result<Window, Error> {
        let at_ms = at_ms.max(self.anchor_ms);
        if self.strategy == ResetStrategy::None {
            return Ok(Window {
                starts_ms: self.anchor_ms,
                ends_ms: None,
            });
        }
        if let ResetStrategy::Rolling { days } = self.strategy {
            let length = i64::from(days) * DAY_MS;
            let starts_ms = at_ms - (at_ms - self.anchor_ms) % length;
            return Ok(Window {
                starts_ms,
                ends_ms: Some(starts_ms + length),
            });
        }
        // One step early, because a local date can begin before or after the UTC estimate.
        let mut number = self
            .steps_until(self.zone.date_at(at_ms)?)
            .saturating_sub(1)
            .max(0);
        let mut starts_ms = self.anchor_ms;
        loop {
            let boundary = self.boundary(number)?;
            if boundary > at_ms {
                return Ok(Window {
                    starts_ms,
                    ends_ms: Some(boundary),
                });
            }
            starts_ms = starts_ms.max(boundary);
            number += 1;
        }
    }

    /// The window that begins at `starts_ms`, which may lie between two boundaries where the zone
    /// was another one before. Such a window ends at the second boundary from there when the first
    /// is less than half a step away: nobody gets a whole quota for an hour.
    ///
    /// # Errors
    /// [`Error::InstantOutOfRange`] at the end of the calendar.
    pub fn window_from(&self, starts_ms: i64) -> Result<Window, Error> {
        let mut ends_ms = self.window_at(starts_ms)?.ends_ms;
        while let Some(end) = ends_ms.filter(|end| end - starts_ms < self.half_step_ms()) {
            ends_ms = self.window_at(end)?.ends_ms;
        }
        Ok(Window { starts_ms, ends_ms })
    }

    /// The window after `window`; `None` when it never ends.
    ///
    /// # Errors
    /// [`Error::InstantOutOfRange`] at the end of the calendar.
    pub fn after(&self, window: Window) -> Result<Option<Window>, Error> {
        window.ends_ms.map(|end| self.window_at(end)).transpose()
    }

    /// Windows that began after `window` up to `now_ms`, oldest first and at most `most`: those
    /// that a scheduler opens when it comes back after downtime.
    ///
    /// # Errors
    /// [`Error::InstantOutOfRange`] at the end of the calendar.
    pub fn missed(&self, window: Window, now_ms: i64, most: usize) -> Result<Vec<Window>, Error> {
        let mut windows = Vec::new();
        let mut last = window;
        while windows.len() < most && last.ends_ms.is_some_and(|end| end <= now_ms) {
            let Some(next) = self.after(last)? else { break };
            windows.push(next);
            last = next;
        }
        Ok(windows)
    }

    /// The strategy.
    pub fn strategy(&self) -> ResetStrategy {
        self.strategy
    }

    fn half_step_ms(&self) -> i64 {
        match self.strategy {
            ResetStrategy::None | ResetStrategy::Rolling { .. } => 0,
            ResetStrategy::Daily => DAY_MS / 2,
            ResetStrategy::Weekly => DAY_MS * 7 / 2,
            ResetStrategy::Monthly => DAY_MS * 14,
            ResetStrategy::Yearly => DAY_MS * 182,
        }
    }

    /// Boundary number `number`, counted from the anchor's own date.
    fn boundary(&self, number: i64) -> Result<i64, Error> {
        let out_of_range = |_| Error::InstantOutOfRange(self.anchor_ms);
        let date = match self.strategy {
            ResetStrategy::Daily => self.anchor.checked_add(number.days()),
            ResetStrategy::Weekly => self.anchor.checked_add(number.weeks()),
            // From the anchor each time, so that the 31st comes back after a short month.
            ResetStrategy::Monthly => self.anchor.checked_add(number.months()),
            ResetStrategy::Yearly => self.anchor.checked_add(number.years()),
            ResetStrategy::None | ResetStrategy::Rolling { .. } => Ok(self.anchor),
        }
        .map_err(out_of_range)?;
        self.zone.start_of(date)
    }

    /// An estimate, low by at most one, of the steps between the anchor's date and another.
    fn steps_until(&self, date: Date) -> i64 {
        let days = (date - self.anchor).get_days();
        let months = (i64::from(date.year()) - i64::from(self.anchor.year())) * 12
            + i64::from(date.month())
            - i64::from(self.anchor.month());
        match self.strategy {
            ResetStrategy::Daily => i64::from(days),
            ResetStrategy::Weekly => i64::from(days) / 7,
            ResetStrategy::Monthly => months - 1,
            ResetStrategy::Yearly => months / 12 - 1,
            ResetStrategy::None | ResetStrategy::Rolling { .. } => 0,
        }
    }
}

impl ResetStrategy {
    /// Checks the numbers inside.
    ///
    /// # Errors
    /// [`Error::RollingDays`].
    pub fn validate(self) -> Result<(), Error> {
        match self {
            Self::Rolling { days } if !(1..=3_660).contains(&days) => Err(Error::RollingDays(days)),
            _ => Ok(()),
        }
    }
}

/// `none`, `daily`, `weekly`, `monthly`, `yearly`, `rolling:30`: the form in the database.
impl fmt::Display for ResetStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Daily => f.write_str("daily"),
            Self::Weekly => f.write_str("weekly"),
            Self::Monthly => f.write_str("monthly"),
            Self::Yearly => f.write_str("yearly"),
            Self::Rolling { days } => write!(f, "rolling:{days}"),
        }
    }
}

impl FromStr for ResetStrategy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::UnknownResetStrategy(text.to_owned());
        let strategy = match text {
            "none" => Self::None,
            "daily" => Self::Daily,
            "weekly" => Self::Weekly,
            "monthly" => Self::Monthly,
            "yearly" => Self::Yearly,
            _ => {
                let days = text.strip_prefix("rolling:").ok_or_else(unknown)?;
                Self::Rolling {
                    days: days.parse().map_err(|_| unknown())?,
                }
            }
        };
        strategy.validate()?;
        Ok(strategy)
    }
}
