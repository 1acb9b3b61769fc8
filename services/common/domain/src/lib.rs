//! Pure rules: user status, periods, calendar, limits, typed ids
