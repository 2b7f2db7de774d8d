//! The wall clock, in the wire's unit, and days. Deadlines use `Instant`, never
//! this.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970, UTC. Informative: nothing is ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub i64);

impl UnixMillis {
    /// The end of the year 9999: the wire and PostgreSQL know no later time.
    pub const LAST: Self = Self(253_402_300_799_999);

    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const DAY_MS: i64 = 24 * 3600 * 1000;
/// Of the calendar, which repeats after so many days and years.
const ERA_DAYS: i64 = 146_097;
const ERA_YEARS: i64 = 400;

/// A day of UTC, written `2026-11-21`; of the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Day {
    /// Since 1970.
    days: i64,
}

impl Day {
    pub const FIRST: Self = Self { days: -719_162 };
    pub const LAST: Self = Self { days: 2_932_896 };

    pub fn of(at: UnixMillis) -> Self {
        Self { days: at.0.div_euclid(DAY_MS) }.clamp(Self::FIRST, Self::LAST)
    }

    /// So many days earlier.
    pub fn before(self, days: i64) -> Self {
        Self { days: self.days.saturating_sub(days) }.clamp(Self::FIRST, Self::LAST)
    }

    /// Year, month and day, by Howard Hinnant's `civil_from_days`: years begin in
    /// March, so that the leap day is their last.
    fn civil(self) -> (i64, i64, i64) {
        let days = self.days + 719_468;
        let (era, of_era) = (days.div_euclid(ERA_DAYS), days.rem_euclid(ERA_DAYS));
        let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year + year / 4 - year / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        (year + era * ERA_YEARS + i64::from(month <= 2), month, day)
    }

    fn from_civil(year: i64, month: i64, day: i64) -> Self {
        let year = year - i64::from(month <= 2);
        let (era, of_era) = (year.div_euclid(ERA_YEARS), year.rem_euclid(ERA_YEARS));
        let of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
        let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
        Self { days: era * ERA_DAYS + days - 719_468 }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = self.civil();
        write!(f, "{year:04}-{month:02}-{day:02}")
    }
}

/// The text is no day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDay;

impl FromStr for Day {
    type Err = InvalidDay;

    fn from_str(text: &str) -> Result<Self, InvalidDay> {
        let parts: Vec<&str> = text.split('-').collect();
        let [year, month, day] = parts[..] else { return Err(InvalidDay) };
        let number = |text: &str, digits: usize| {
            let fits = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
            fits.then(|| text.parse().ok()).flatten().ok_or(InvalidDay)
        };
        let parsed = Self::from_civil(number(year, 4)?, number(month, 2)?, number(day, 2)?);
        // What was no day of its month is another one now.
        if parsed >= Self::FIRST && parsed.to_string() == text { Ok(parsed) } else { Err(InvalidDay) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (days, text) in [
            (0, "1970-01-01"),
            (-1, "1969-12-31"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_782, "2024-02-29"),
            (20_778, "2026-11-21"),
            (Day::FIRST.days, "0001-01-01"),
            (Day::LAST.days, "9999-12-31"),
        ] {
            assert_eq!(Day { days }.to_string(), text);
            assert_eq!(text.parse(), Ok(Day { days }), "{text}");
        }
        assert_eq!(Day::of(UnixMillis(-1)).to_string(), "1969-12-31");
        assert_eq!(Day::of(UnixMillis(951_868_799_999)).to_string(), "2000-02-29");
        assert_eq!(Day::of(UnixMillis(i64::MAX)), Day::LAST);
        let mut day = Day::FIRST;
        while day < Day::LAST {
            day = day.before(-97);
            assert_eq!(day.to_string().parse(), Ok(day), "{day}");
        }
    }
}
