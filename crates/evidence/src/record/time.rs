//! Times in records: UTC, to the millisecond, written in one way only, so that a record has one
//! canonical form.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime, UtcOffset};

/// A moment, as `2026-11-25T21:00:00.125Z`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// The Unix epoch.
    pub const EPOCH: Self = Self(OffsetDateTime::UNIX_EPOCH);

    /// The moment, with what is finer than a millisecond cut off.
    pub fn new(moment: OffsetDateTime) -> Self {
        let moment = moment.to_offset(UtcOffset::UTC);
        let finer = Duration::nanoseconds(i64::from(moment.nanosecond() % 1_000_000));
        Self(moment.checked_sub(finer).unwrap_or(moment))
    }

    /// The moment as others want it.
    pub fn get(self) -> OffsetDateTime {
        self.0
    }

    /// Time from `earlier` to this moment; none when it comes first.
    pub fn since(self, earlier: Self) -> std::time::Duration {
        (self.0 - earlier.0).try_into().unwrap_or_default()
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(moment: OffsetDateTime) -> Self {
        Self::new(moment)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.format(&Rfc3339).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromStr for Timestamp {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let moment = OffsetDateTime::parse(text, &Rfc3339).ok();
        // With its offset taken off, a moment can be in a year that has not four digits.
        let utc = moment.and_then(|moment| moment.checked_to_offset(UtcOffset::UTC));
        utc.filter(|utc| (0..=9999).contains(&utc.year()))
            .map(Self::new)
            .ok_or("not a moment as RFC 3339 writes it, such as 2026-11-25T21:00:00Z")
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A moment in UTC, to the millisecond (RFC 3339).",
            "type": "string",
            "format": "date-time"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_as_it_is_written() {
        let text = "2026-11-25T21:00:00.125Z";
        assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
    }

    #[test]
    fn a_moment_that_utc_has_no_four_digits_for_is_refused() {
        for text in [
            "9999-12-31T23:59:59-23:59",
            "0000-01-01T00:30:00+01:00",
            "10000-01-01T00:00:00Z",
            "tomorrow",
        ] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }
}
