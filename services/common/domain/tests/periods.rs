//! Windows of every strategy, at the places where calendars are awkward.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use jiff::civil::DateTime;
use jiff::tz::TimeZoneDatabase;
use proptest::prelude::*;
use vpnpanel_domain::{Error, ResetStrategy, Schedule, Window, Zone};

fn at(text: &str, zone: &str) -> i64 {
    let zone = TimeZoneDatabase::bundled().get(zone).unwrap();
    let civil: DateTime = text.parse().unwrap();
    zone.to_timestamp(civil).unwrap().as_millisecond()
}

fn schedule(strategy: ResetStrategy, zone: &str, anchor: &str) -> Schedule {
    Schedule::new(strategy, zone.parse().unwrap(), at(anchor, zone)).unwrap()
}

/// Starts of the first windows after the anchor.
fn starts(schedule: &Schedule, anchor: i64, count: usize) -> Vec<i64> {
    let mut window = schedule.window_at(anchor).unwrap();
    (0..count)
        .map(|_| {
            window = schedule.after(window).unwrap().unwrap();
            window.starts_ms
        })
        .collect()
}

#[test]
fn the_31st_means_the_last_day_and_comes_back() {
    let zone = "Europe/Berlin";
    let anchor = at("2026-01-31T15:00", zone);
    let monthly = schedule(ResetStrategy::Monthly, zone, "2026-01-31T15:00");
    let expected: Vec<_> = ["2026-02-28", "2026-03-31", "2026-04-30", "2026-05-31"]
        .map(|day| at(&format!("{day}T00:00"), zone))
        .into();
    assert_eq!(starts(&monthly, anchor, 4), expected);
    assert_eq!(
        monthly.window_at(anchor).unwrap(),
        Window {
            starts_ms: anchor,
            ends_ms: Some(expected[0])
        }
    );
}

#[test]
fn a_leap_day_is_the_28th_in_other_years() {
    let yearly = schedule(ResetStrategy::Yearly, "UTC", "2024-02-29T12:00");
    let anchor = at("2024-02-29T12:00", "UTC");
    let expected: Vec<_> = ["2025-02-28", "2026-02-28", "2027-02-28", "2028-02-29"]
        .map(|day| at(&format!("{day}T00:00"), "UTC"))
        .into();
    assert_eq!(starts(&yearly, anchor, 4), expected);
}

#[test]
fn days_follow_local_midnight_across_a_change_of_the_clock() {
    let daily = schedule(ResetStrategy::Daily, "Europe/Berlin", "2026-03-28T10:00");
    let lengths: Vec<_> = starts(&daily, at("2026-03-28T10:00", "Europe/Berlin"), 3)
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) / 3_600_000)
        .collect();
    assert_eq!(lengths, [23, 24]);
}

#[test]
fn a_midnight_that_does_not_exist_begins_after_the_gap() {
    // Beirut put its clocks forward at midnight.
    let daily = schedule(ResetStrategy::Daily, "Asia/Beirut", "2022-03-26T10:00");
    let first = starts(&daily, at("2022-03-26T10:00", "Asia/Beirut"), 1)[0];
    assert_eq!(first, at("2022-03-27T01:00", "Asia/Beirut"));
}

#[test]
fn a_midnight_that_comes_twice_begins_with_the_first() {
    // Havana put its clocks back from one o'clock to midnight.
    let zone = "America/Havana";
    let daily = schedule(ResetStrategy::Daily, zone, "2023-11-03T10:00");
    let starts = starts(&daily, at("2023-11-03T10:00", zone), 4);
    let lengths: Vec<_> = starts
        .windows(2)
        .map(|pair| (pair[1] - pair[0]) / 3_600_000)
        .collect();
    assert_eq!(lengths, [24, 25, 24]);
    assert_eq!(starts[1], at("2023-11-05T00:00", zone));
}

#[test]
fn each_end_of_a_month_is_kept_over_february_of_any_year() {
    for (anchor, expected) in [
        ("2027-12-29", ["2028-01-29", "2028-02-29", "2028-03-29"]),
        ("2027-12-30", ["2028-01-30", "2028-02-29", "2028-03-30"]),
        ("2026-12-29", ["2027-01-29", "2027-02-28", "2027-03-29"]),
        ("2026-12-31", ["2027-01-31", "2027-02-28", "2027-03-31"]),
    ] {
        let from = format!("{anchor}T23:59");
        let monthly = schedule(ResetStrategy::Monthly, "UTC", &from);
        let expected = expected.map(|day| at(&format!("{day}T00:00"), "UTC"));
        assert_eq!(starts(&monthly, at(&from, "UTC"), 3), expected, "{anchor}");
    }
}

#[test]
fn weeks_and_years_keep_their_day_over_a_change_of_the_clock() {
    let zone = "Europe/Berlin";
    let weekly = schedule(ResetStrategy::Weekly, zone, "2026-10-20T10:00");
    let expected = ["2026-10-27", "2026-11-03"].map(|day| at(&format!("{day}T00:00"), zone));
    let anchor = at("2026-10-20T10:00", zone);
    assert_eq!(starts(&weekly, anchor, 2), expected);
    let length = weekly.window_at(expected[0]).unwrap();
    assert_eq!(length.ends_ms.unwrap() - length.starts_ms, 7 * 86_400_000);
    let first = weekly.window_at(anchor).unwrap();
    assert_eq!(
        first.ends_ms.unwrap() - at("2026-10-20T00:00", zone),
        7 * 86_400_000 + 3_600_000
    );
    let rolling = schedule(ResetStrategy::Rolling { days: 7 }, zone, "2026-10-20T10:00");
    let window = rolling.window_at(anchor).unwrap();
    assert_eq!(window.ends_ms.unwrap() - anchor, 7 * 86_400_000);
}

#[test]
fn a_date_that_does_not_exist_makes_no_empty_window() {
    // Samoa had no 30 December 2011.
    let daily = schedule(ResetStrategy::Daily, "Pacific/Apia", "2011-12-28T10:00");
    let starts = starts(&daily, at("2011-12-28T10:00", "Pacific/Apia"), 3);
    assert_eq!(
        starts,
        ["2011-12-29", "2011-12-31", "2012-01-01"]
            .map(|day| at(&format!("{day}T00:00"), "Pacific/Apia"))
    );
}

#[test]
fn missed_windows_are_all_opened_in_order_and_bounded() {
    let rolling = schedule(
        ResetStrategy::Rolling { days: 2 },
        "UTC",
        "2026-01-01T06:00",
    );
    let anchor = at("2026-01-01T06:00", "UTC");
    let first = rolling.window_at(anchor).unwrap();
    let missed = rolling
        .missed(first, at("2026-01-08T00:00", "UTC"), 100)
        .unwrap();
    assert_eq!(missed.len(), 3);
    assert_eq!(missed[0].starts_ms, at("2026-01-03T06:00", "UTC"));
    assert!(missed[2].contains(at("2026-01-08T00:00", "UTC")));
    assert_eq!(
        rolling
            .missed(first, at("2026-12-01T00:00", "UTC"), 5)
            .unwrap()
            .len(),
        5
    );
}

#[test]
fn no_strategy_is_one_window_without_an_end() {
    let never = schedule(ResetStrategy::None, "UTC", "2026-01-01T00:00");
    let window = never.window_at(at("2036-01-01T00:00", "UTC")).unwrap();
    assert_eq!(window.ends_ms, None);
    assert_eq!(never.after(window).unwrap(), None);
}

#[test]
fn names_round_trip_and_bad_ones_are_refused() {
    for strategy in [
        ResetStrategy::None,
        ResetStrategy::Daily,
        ResetStrategy::Weekly,
        ResetStrategy::Monthly,
        ResetStrategy::Yearly,
        ResetStrategy::Rolling { days: 30 },
    ] {
        assert_eq!(strategy.to_string().parse(), Ok(strategy));
    }
    assert_eq!(
        "rolling:0".parse::<ResetStrategy>(),
        Err(Error::RollingDays(0))
    );
    assert!("hourly".parse::<ResetStrategy>().is_err());
    assert!("Mars/Olympus".parse::<Zone>().is_err());
}

proptest! {
    #[test]
    fn windows_tile_time_without_gap_or_overlap(
        anchor in 0_i64..4_000_000_000_000,
        offset in 0_i64..200_000_000_000,
        strategy in 0..5_usize,
        days in 1_u32..400,
        zone in 0..5_usize,
    ) {
        let strategy = [
            ResetStrategy::Daily,
            ResetStrategy::Weekly,
            ResetStrategy::Monthly,
            ResetStrategy::Yearly,
            ResetStrategy::Rolling { days },
        ][strategy];
        let zone = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Asia/Kathmandu", "Pacific/Apia"]
            [zone];
        let schedule = Schedule::new(strategy, zone.parse().unwrap(), anchor).unwrap();
        let window = schedule.window_at(anchor + offset).unwrap();
        prop_assert!(window.contains(anchor + offset));
        prop_assert!(window.starts_ms >= anchor);
        let end = window.ends_ms.unwrap();
        prop_assert_eq!(schedule.window_at(end - 1).unwrap(), window);
        prop_assert_eq!(schedule.window_at(window.starts_ms).unwrap(), window);
        let next = schedule.after(window).unwrap().unwrap();
        prop_assert_eq!(next.starts_ms, end);
        prop_assert!(next.ends_ms.unwrap() > end);
    }
}
