//! Which windows follow each other for a user. The window in force and the next one are announced
//! to the nodes, and from then on they stand: whatever is changed holds behind them. Only a window
//! that has no end may still get one.

use jiff::ToSpan;

use crate::{Error, ResetStrategy, Schedule, Window, Zone};

/// A window, and by what it was found: what a period's row keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// From when until when.
    pub window: Window,
    /// The strategy by which its end was found.
    pub strategy: ResetStrategy,
    /// Whose date the boundaries keep, milliseconds of the Unix epoch.
    pub anchor_ms: i64,
}

/// By what windows are found that are not announced yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// The strategy that the user has.
    pub strategy: ResetStrategy,
    /// The zone that the tenant has.
    pub zone: Zone,
}

impl Calendar {
    /// The first window of a user, or after a manual reset: its anchor is its beginning.
    ///
    /// # Errors
    /// [`Error::RollingDays`] and [`Error::InstantOutOfRange`].
    pub fn first(&self, starts_ms: i64) -> Result<Planned, Error> {
        let window = self.schedule(starts_ms)?.window_at(starts_ms)?;
        Ok(self.planned(window, starts_ms))
    }

    /// The window that begins where the last one ends; `None` when it never does. Another strategy
    /// than the last window's begins with a whole window, and keeps the date of its beginning.
    ///
    /// # Errors
    /// As [`Calendar::first`].
    pub fn after(&self, last: Planned) -> Result<Option<Planned>, Error> {
        let Some(end) = last.window.ends_ms else {
            return Ok(None);
        };
        if last.strategy != self.strategy {
            return self.first(end).map(Some);
        }
        let window = self.schedule(last.anchor_ms)?.window_from(end)?;
        Ok(Some(self.planned(window, last.anchor_ms)))
    }

    /// The window in force now, which comes some time after the last one: those between, of which
    /// nobody was told, are left out.
    ///
    /// # Errors
    /// As [`Calendar::first`].
    pub fn since(&self, last: Planned, now_ms: i64) -> Result<Option<Planned>, Error> {
        let Some(next) = self.after(last)? else {
            return Ok(None);
        };
        if next.window.ends_ms.is_none_or(|end| now_ms < end) {
            return Ok(Some(next));
        }
        let window = self.schedule(next.anchor_ms)?.window_at(now_ms)?;
        Ok(Some(self.planned(window, next.anchor_ms)))
    }

    /// A window without an end as it is when the strategy has become this one: a whole window of it
    /// is left, from now on or from its beginning where that is still to come.
    ///
    /// # Errors
    /// As [`Calendar::first`].
    pub fn ending(&self, endless: Planned, now_ms: i64) -> Result<Planned, Error> {
        let first = self.first(now_ms.max(endless.window.starts_ms))?;
        let window = Window {
            ends_ms: first.window.ends_ms,
            ..endless.window
        };
        Ok(Planned { window, ..first })
    }

    fn schedule(&self, anchor_ms: i64) -> Result<Schedule, Error> {
        Schedule::new(self.strategy, self.zone.clone(), anchor_ms)
    }

    fn planned(&self, window: Window, anchor_ms: i64) -> Planned {
        Planned {
            window,
            strategy: self.strategy,
            anchor_ms,
        }
    }
}

/// The calendar month of a zone that an instant lies in.
///
/// # Errors
/// [`Error::InstantOutOfRange`].
pub fn month_of(zone: &Zone, at_ms: i64) -> Result<Window, Error> {
    let first = zone.date_at(at_ms)?.first_of_month();
    let next = first
        .checked_add(1.month())
        .map_err(|_| Error::InstantOutOfRange(at_ms))?;
    Ok(Window {
        starts_ms: zone.start_of(first)?,
        ends_ms: Some(zone.start_of(next)?),
    })
}

/// The calendar day of a zone that an instant lies in.
///
/// # Errors
/// [`Error::InstantOutOfRange`].
pub fn day_of(zone: &Zone, at_ms: i64) -> Result<Window, Error> {
    let day = zone.date_at(at_ms)?;
    let next = day
        .tomorrow()
        .map_err(|_| Error::InstantOutOfRange(at_ms))?;
    Ok(Window {
        starts_ms: zone.start_of(day)?,
        ends_ms: Some(zone.start_of(next)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;
    const DAY_MS: i64 = 24 * HOUR_MS;

    fn at(text: &str) -> i64 {
        let instant: jiff::Timestamp = text.parse().unwrap();
        instant.as_millisecond()
    }

    fn calendar(strategy: ResetStrategy, zone: &str) -> Calendar {
        Calendar {
            strategy,
            zone: zone.parse().unwrap(),
        }
    }

    #[test]
    fn a_new_strategy_begins_with_a_whole_window_where_the_announced_ones_end() {
        let daily = calendar(ResetStrategy::Daily, "UTC");
        let current = daily.first(at("2026-01-30T10:00:00Z")).unwrap();
        let next = daily.after(current).unwrap().unwrap();
        let monthly = calendar(ResetStrategy::Monthly, "UTC");
        let first = monthly.after(next).unwrap().unwrap();
        assert_eq!(
            (first.window.starts_ms, first.window.ends_ms),
            (at("2026-02-01T00:00:00Z"), Some(at("2026-03-01T00:00:00Z")))
        );
        assert_eq!(first.anchor_ms, first.window.starts_ms);
        let never = calendar(ResetStrategy::None, "UTC");
        let last = never.after(first).unwrap().unwrap();
        assert_eq!(last.window.starts_ms, at("2026-03-01T00:00:00Z"));
        assert_eq!(never.after(last).unwrap(), None);
    }

    #[test]
    fn an_endless_window_gets_an_end_a_whole_step_away() {
        let never = calendar(ResetStrategy::None, "Europe/Berlin");
        let endless = never.first(at("2025-01-01T00:00:00Z")).unwrap();
        let now = at("2026-01-31T12:00:00Z");
        let ended = calendar(ResetStrategy::Monthly, "Europe/Berlin")
            .ending(endless, now)
            .unwrap();
        assert_eq!(ended.window.starts_ms, endless.window.starts_ms);
        assert_eq!(ended.window.ends_ms, Some(at("2026-02-27T23:00:00Z")));
        let ahead = calendar(ResetStrategy::Rolling { days: 2 }, "UTC")
            .ending(endless, at("2024-12-01T00:00:00Z"))
            .unwrap();
        assert_eq!(ahead.window.ends_ms, Some(at("2025-01-03T00:00:00Z")));
    }

    #[test]
    fn another_zone_makes_no_window_of_a_few_hours() {
        let utc = calendar(ResetStrategy::Monthly, "UTC");
        let current = utc.first(at("2026-01-15T10:00:00Z")).unwrap();
        let west = calendar(ResetStrategy::Monthly, "America/New_York");
        let next = west.after(current).unwrap().unwrap();
        assert_eq!(next.window.starts_ms, at("2026-02-15T00:00:00Z"));
        assert_eq!(next.window.ends_ms, Some(at("2026-03-15T04:00:00Z")));
        let daily = calendar(ResetStrategy::Daily, "UTC");
        let today = daily.first(at("2026-01-15T10:00:00Z")).unwrap();
        for zone in ["Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Niue"] {
            let next = calendar(ResetStrategy::Daily, zone).after(today).unwrap();
            let window = next.unwrap().window;
            assert_eq!(window.starts_ms, at("2026-01-16T00:00:00Z"));
            let length = window.ends_ms.unwrap() - window.starts_ms;
            assert!((12..36).contains(&(length / HOUR_MS)), "{zone}: {length}");
        }
    }

    #[test]
    fn after_a_long_absence_the_window_in_force_follows() {
        let daily = calendar(ResetStrategy::Daily, "Asia/Kathmandu");
        let current = daily.first(at("2026-01-01T10:00:00Z")).unwrap();
        let next = daily.after(current).unwrap().unwrap();
        let soon = next.window.ends_ms.unwrap() + 1;
        assert_eq!(
            daily.since(next, soon).unwrap(),
            daily.after(next).unwrap(),
            "nothing is left out where nothing was missed"
        );
        let now = next.window.ends_ms.unwrap() + 21 * DAY_MS + HOUR_MS;
        let since = daily.since(next, now).unwrap().unwrap();
        assert!(since.window.contains(now), "{since:?}");
        assert_eq!(
            since.window.ends_ms.unwrap() - since.window.starts_ms,
            DAY_MS
        );
        assert!(since.window.starts_ms >= next.window.ends_ms.unwrap());
    }

    #[test]
    fn months_are_those_of_the_zone_and_follow_each_other() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let march = month_of(&berlin, at("2026-03-31T21:59:59Z")).unwrap();
        assert_eq!(march.starts_ms, at("2026-02-28T23:00:00Z"));
        assert_eq!(march.ends_ms, Some(at("2026-03-31T22:00:00Z")));
        let april = month_of(&berlin, march.ends_ms.unwrap()).unwrap();
        assert_eq!(april.starts_ms, march.ends_ms.unwrap());
        for (month, days) in [("2028-02-15", 29), ("2027-02-15", 28), ("2026-12-31", 31)] {
            let month = month_of(&Zone::utc(), at(&format!("{month}T12:00:00Z"))).unwrap();
            assert_eq!(month.ends_ms.unwrap() - month.starts_ms, days * DAY_MS);
        }
    }
}
