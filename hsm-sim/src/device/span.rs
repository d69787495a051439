//! A length of time as people write it: `250us`, `5ms`, `1.5s`, `2m`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time in settings and arguments.
#[derive(Copy, Clone, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Span(pub Duration);

/// Units by length, and their name.
const UNITS: [(&str, u64); 5] = [
    // Longest suffix first: "ms" ends in "s" as well.
    ("us", 1),
    ("µs", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("m", 60_000_000),
];

/// Nobody waits longer for a simulated device.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

impl Span {
    /// So many milliseconds.
    pub fn millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.as_micros();
        match micros {
            _ if micros.is_multiple_of(1_000_000) => write!(f, "{}s", micros / 1_000_000),
            _ if micros.is_multiple_of(1_000) => write!(f, "{}ms", micros / 1_000),
            _ => write!(f, "{micros}us"),
        }
    }
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let help = || format!("{text:?} is no length of time: write it as 250us, 5ms, 1.5s or 2m");
        let (number, unit) = UNITS
            .iter()
            .find_map(|(suffix, micros)| Some((text.strip_suffix(suffix)?, micros)))
            .ok_or_else(help)?;
        let plain = |c: char| c.is_ascii_digit() || c == '.';
        let number: f64 = Some(number)
            .filter(|number| number.chars().all(plain))
            .and_then(|number| number.parse().ok())
            .ok_or_else(help)?;
        let micros = Duration::from_micros(*unit);
        Duration::try_from_secs_f64(number * micros.as_secs_f64())
            .ok()
            .filter(|length| *length <= LONGEST)
            .map(|length| {
                // To whole microseconds, so that it is written as it was read.
                let rounded = (length + Duration::from_nanos(500)).as_micros();
                Self(Duration::from_micros(u64::try_from(rounded).unwrap_or(0)))
            })
            .ok_or_else(|| format!("{text:?} is too long: at most a day"))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_time_are_read_as_people_write_them() {
        for (text, micros) in [
            ("250us", 250),
            ("5ms", 5_000),
            ("1.5s", 1_500_000),
            ("2m", 120_000_000),
            ("0.03ms", 30),
        ] {
            assert_eq!(text.parse(), Ok(Span(Duration::from_micros(micros))));
        }
        for text in [
            "5",
            "ms",
            "-1ms",
            "5 parsecs",
            "infs",
            "1e3s",
            "25000000s",
            "..s",
        ] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_length_is_read_as_it_is_written(micros in 0..86_400_000_000_u64) {
            let span = Span(Duration::from_micros(micros));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<Span>();
        }
    }
}
