//! The wall clock, in the wire's unit, its difference from others, and days. Deadlines use `Instant`, never
//! this.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// By how much one clock is ahead of another one, in milliseconds; negative if it
/// is behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Ahead(i64);

impl Ahead {
    pub fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Of our clock, which was `asked` before a question to the other one that took
    /// `round_trip`. The other clock was read somewhere in between, and all three are
    /// whole milliseconds, so of all differences that are possible this is the smallest.
    pub fn at_least(asked: UnixMillis, round_trip: Duration, other: UnixMillis) -> Self {
        let round_trip = i64::try_from(round_trip.as_millis()).unwrap_or(i64::MAX);
        let first = asked.0.saturating_sub(other.0).saturating_sub(1);
        Self(0.clamp(first, first.saturating_add(round_trip).saturating_add(3)))
    }

    pub fn size(self) -> Duration {
        Duration::from_millis(self.0.unsigned_abs())
    }

    pub fn seconds(self) -> f64 {
        self.size().as_secs_f64().copysign(self.0 as f64)
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
    fn a_slow_answer_makes_no_clock_wrong() {
        let ahead = |asked, round_trip, other| {
            Ahead::at_least(UnixMillis(asked), Duration::from_millis(round_trip), UnixMillis(other))
        };
        for (asked, round_trip, other, expected) in [
            (1_000, 0, 1_000, 0),
            (1_000, 10, 1_005, 0),
            (1_000, 9_000, 9_500, 0),
            (1_000, 10, 1_015, -3),
            (61_000, 10, 1_000, 59_999),
            (1_000, 10, 61_000, -59_988),
            (i64::MAX, 10, -1, i64::MAX - 1),
        ] {
            assert_eq!(ahead(asked, round_trip, other), Ahead(expected), "{asked} {round_trip} {other}");
        }
        assert_eq!([Ahead(-1_500).seconds(), Ahead(0).seconds()], [-1.5, 0.0]);
    }

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
