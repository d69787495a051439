//! The time that a report is about, as people write it: a year, a quarter, a month, a day, or any
//! two instants.

use std::fmt;
use std::str::FromStr;

use time::format_description::well_known::Rfc3339;
use time::{Date, Duration, Month, OffsetDateTime};

/// A period in UTC, its end not included.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Period {
    from: OffsetDateTime,
    to: OffsetDateTime,
}

/// What is wrong with a period.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no period: write a year (2026), a quarter (2026-Q4), a month (2026-11), a day (2026-11-25), or two \
     instants of RFC 3339 with a slash between them (2026-11-25T00:00:00Z/2026-11-25T12:00:00Z), the earlier first"
)]
pub struct PeriodError(String);

impl Period {
    /// Between two instants. None when it would be empty.
    pub fn between(from: OffsetDateTime, to: OffsetDateTime) -> Option<Self> {
        let utc = |time: OffsetDateTime| time.to_offset(time::UtcOffset::UTC);
        (from < to).then(|| Self {
            from: utc(from),
            to: utc(to),
        })
    }

    /// Its first instant.
    pub fn from(&self) -> OffsetDateTime {
        self.from
    }

    /// The first instant that is no longer in it.
    pub fn to(&self) -> OffsetDateTime {
        self.to
    }

    /// How long it is.
    pub fn duration(&self) -> Duration {
        self.to - self.from
    }

    /// Whole days, months, quarters and years, by their first and last day.
    fn of_days(first: Date, next: Date) -> Option<Self> {
        Self::between(first.midnight().assume_utc(), next.midnight().assume_utc())
    }

    fn parse(text: &str) -> Option<Self> {
        if let Some((from, to)) = text.split_once('/') {
            let instant = |text| OffsetDateTime::parse(text, &Rfc3339).ok();
            return Self::between(instant(from)?, instant(to)?);
        }
        let parts: Vec<&str> = text.split('-').collect();
        let (&year, rest) = parts.split_first()?;
        let year: i32 = digits(year, 4)?.into();
        match *rest {
            [] => Self::of_days(month(year, 1)?, month(year.checked_add(1)?, 1)?),
            [quarter] if quarter.starts_with('Q') => {
                let quarter = u8::try_from(digits(quarter.get(1..)?, 1)?).ok()?;
                let first = (1..=4).contains(&quarter).then(|| quarter * 3 - 2)?;
                Self::of_days(month(year, first)?, months_later(year, first, 3)?)
            }
            [number] => {
                let number = u8::try_from(digits(number, 2)?).ok()?;
                Self::of_days(month(year, number)?, months_later(year, number, 1)?)
            }
            [number, day] => {
                let number = Month::try_from(u8::try_from(digits(number, 2)?).ok()?).ok()?;
                let day = u8::try_from(digits(day, 2)?).ok()?;
                let first = Date::from_calendar_date(year, number, day).ok()?;
                Self::of_days(first, first.next_day()?)
            }
            _ => None,
        }
    }
}

impl FromStr for Period {
    type Err = PeriodError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text).ok_or_else(|| PeriodError(text.to_owned()))
    }
}

impl fmt::Display for Period {
    /// As [`FromStr`] reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |time: OffsetDateTime| time.format(&Rfc3339).map_err(|_| fmt::Error);
        write!(f, "{}/{}", text(self.from)?, text(self.to)?)
    }
}

/// A number of exactly so many digits.
fn digits(text: &str, length: usize) -> Option<u16> {
    (text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// First day of a month.
fn month(year: i32, number: u8) -> Option<Date> {
    Date::from_calendar_date(year, Month::try_from(number).ok()?, 1).ok()
}

fn months_later(year: i32, number: u8, months: u8) -> Option<Date> {
    match number + months {
        next @ 1..=12 => month(year, next),
        next => month(year.checked_add(1)?, next - 12),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::macros::datetime;

    use super::*;

    fn bounds(text: &str) -> (OffsetDateTime, OffsetDateTime) {
        let period: Period = text.parse().unwrap();
        (period.from(), period.to())
    }

    #[test]
    fn a_month_ends_where_the_next_begins() {
        assert_eq!(
            bounds("2026-11"),
            (
                datetime!(2026-11-01 00:00 UTC),
                datetime!(2026-12-01 00:00 UTC)
            )
        );
        assert_eq!(
            bounds("2026-12"),
            (
                datetime!(2026-12-01 00:00 UTC),
                datetime!(2027-01-01 00:00 UTC)
            )
        );
    }

    #[test]
    fn years_quarters_days_and_instants_are_periods() {
        assert_eq!(bounds("2026").1, datetime!(2027-01-01 00:00 UTC));
        assert_eq!(
            bounds("2026-Q4"),
            (
                datetime!(2026-10-01 00:00 UTC),
                datetime!(2027-01-01 00:00 UTC)
            )
        );
        assert_eq!(bounds("2028-02-29").1, datetime!(2028-03-01 00:00 UTC));
        assert_eq!(
            bounds("2026-11-25T10:00:00+02:00/2026-11-25T09:00:00Z"),
            (
                datetime!(2026-11-25 08:00 UTC),
                datetime!(2026-11-25 09:00 UTC)
            )
        );
    }

    #[test]
    fn what_is_no_period_is_refused_with_the_way_to_write_one() {
        for text in [
            "",
            "26",
            "2026-13",
            "2026-Q5",
            "2026-Q0",
            "2026-02-30",
            "2026-1",
            "2026-11-25T10:00:00Z/2026-11-25T10:00:00Z",
            "2026-11-25T10:00:00/2026-11-26T10:00:00",
            "2026-11-25-01",
        ] {
            let error = text.parse::<Period>().unwrap_err().to_string();
            assert!(error.contains("2026-Q4"), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9QTZ:/+ -]{0,30}") {
            if let Ok(period) = text.parse::<Period>() {
                prop_assert!(period.from() < period.to());
                prop_assert_eq!(period.to_string().parse::<Period>().unwrap(), period);
            }
        }
    }
}
