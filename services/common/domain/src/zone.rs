//! A tenant's time zone, out of the database that is compiled in: the host's own may be absent
//! (a `FROM scratch` image) or differ between replicas, and boundaries have to be the same on all.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::civil::{Date, Time};
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::Error;

/// An IANA time zone, such as `Europe/Berlin`.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

impl Zone {
    /// Coordinated universal time.
    pub fn utc() -> Self {
        Self {
            name: "UTC".to_owned(),
            rules: TimeZone::UTC,
        }
    }

    /// The IANA name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The civil date in this zone at an instant.
    ///
    /// # Errors
    /// [`Error::InstantOutOfRange`] outside of the years −9999 to 9999.
    pub(crate) fn date_at(&self, at_ms: i64) -> Result<Date, Error> {
        let instant =
            Timestamp::from_millisecond(at_ms).map_err(|_| Error::InstantOutOfRange(at_ms))?;
        Ok(self.rules.to_datetime(instant).date())
    }

    /// The instant at which a civil date begins in this zone. Where the clock is put forward
    /// over midnight, that is the first instant after the gap.
    pub(crate) fn start_of(&self, date: Date) -> Result<i64, Error> {
        let midnight = date.to_datetime(Time::midnight());
        self.rules
            .to_ambiguous_zoned_datetime(midnight)
            .compatible()
            .map(|zoned| zoned.timestamp().as_millisecond())
            .map_err(|_| Error::InstantOutOfRange(i64::MAX))
    }
}

impl FromStr for Zone {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        static DATABASE: OnceLock<TimeZoneDatabase> = OnceLock::new();
        let database = DATABASE.get_or_init(TimeZoneDatabase::bundled);
        let rules = database
            .get(name)
            .map_err(|_| Error::UnknownZone(name.to_owned()))?;
        let name = rules.iana_name().unwrap_or(name).to_owned();
        Ok(Self { name, rules })
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name)
    }
}
