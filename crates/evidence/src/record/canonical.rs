//! The one way in which a record is written: RFC 8785. A record that is written in another way is
//! not read, so that no two entries say the same.

use super::{LONGEST, MOST, Record};

/// Why a record cannot become an entry.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It has no canonical form.
    #[error("record cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// It is longer than an entry of tlog-tiles can be.
    #[error("record of {found} bytes, an entry holds at most {LONGEST}: write it in parts")]
    TooLong {
        /// Its length in canonical form.
        found: usize,
    },
    /// It has a number that other readers of JSON get wrong.
    #[error("record with a number of more than {MOST}, at byte {at}")]
    TooGreat {
        /// Where in the canonical form.
        at: usize,
    },
}

/// Why an entry is no record.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or not of this schema.
    #[error("no record of this schema: {0}")]
    Json(#[from] serde_json::Error),
    /// JSON of this schema, but not in canonical form, or with more in it than the schema has.
    #[error(
        "not in the canonical form of RFC 8785, or with fields that the schema does not have: at byte {at}"
    )]
    NotCanonical {
        /// The first byte that differs from the canonical form.
        at: usize,
    },
    /// A number that other readers of JSON get wrong.
    #[error("a number of more than {MOST}, at byte {at}")]
    TooGreat {
        /// Its first byte.
        at: usize,
    },
}

impl Record {
    /// The canonical form.
    ///
    /// # Errors
    /// When it is too long, or has a number in it that is too great.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let entry = serde_json_canonicalizer::to_vec(self)?;
        if entry.len() > LONGEST {
            return Err(EncodeError::TooLong { found: entry.len() });
        }
        match too_great(&entry) {
            Some(at) => Err(EncodeError::TooGreat { at }),
            None => Ok(entry),
        }
    }

    /// Reads the canonical form, and nothing else.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(entry: &[u8]) -> Result<Self, DecodeError> {
        let record: Self = serde_json::from_slice(entry)?;
        let canonical = serde_json_canonicalizer::to_vec(&record)?;
        if canonical != entry {
            let same = canonical.iter().zip(entry);
            return Err(DecodeError::NotCanonical {
                at: same.take_while(|(a, b)| a == b).count(),
            });
        }
        match too_great(entry) {
            Some(at) => Err(DecodeError::TooGreat { at }),
            None => Ok(record),
        }
    }
}

/// Where the first number is that is more than [`MOST`]. In canonical form an integer is a row of
/// digits outside of strings.
fn too_great(canonical: &[u8]) -> Option<usize> {
    let (mut in_string, mut escaped) = (false, false);
    let (mut begin, mut number) = (0, 0_u64);
    for (at, byte) in canonical.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'0'..=b'9' if !in_string => {
                if number == 0 {
                    begin = at;
                }
                number = number
                    .saturating_mul(10)
                    .saturating_add((byte - b'0').into());
                if number > MOST {
                    return Some(begin);
                }
                continue;
            }
            _ => {}
        }
        number = 0;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{a_window, record_of};

    #[test]
    fn keys_are_sorted_and_nothing_stands_between_tokens() {
        let text = String::from_utf8(record_of(a_window()).encode().unwrap()).unwrap();
        assert!(text.starts_with(r#"{"boot":""#), "{text}");
        assert!(!text.contains(": ") && !text.contains('\n'), "{text}");
    }

    #[test]
    fn a_record_comes_back_as_it_went() {
        let record = record_of(a_window());
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
    }

    #[test]
    fn a_field_that_the_schema_does_not_have_is_refused() {
        let text = String::from_utf8(record_of(a_window()).encode().unwrap()).unwrap();
        let more = text.replacen("{\"boot\"", "{\"aaa\":1,\"boot\"", 1);
        let error = Record::decode(more.as_bytes()).unwrap_err();
        assert!(
            matches!(error, DecodeError::NotCanonical { at: 2 }),
            "{error}"
        );
    }

    #[test]
    fn a_record_of_another_schema_is_refused_with_its_name() {
        let text = String::from_utf8(record_of(a_window()).encode().unwrap()).unwrap();
        let other = text.replace("sealwire.evidence/1", "sealwire.evidence/2");
        let error = Record::decode(other.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("sealwire.evidence/2"), "{error}");
    }

    #[test]
    fn a_number_that_others_would_read_as_another_is_refused_and_not_written() {
        let mut record = record_of(a_window());
        record.seq = MOST;
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
        let text = String::from_utf8(record.encode().unwrap()).unwrap();
        // The next that a double-precision float holds exactly.
        let more = text.replace("9007199254740991", "9007199254740992");
        let error = Record::decode(more.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::TooGreat { .. }), "{error}");
        record.seq = MOST + 1;
        let error = record.encode().unwrap_err();
        assert!(matches!(error, EncodeError::TooGreat { .. }), "{error}");
        // Digits in a text are none.
        record.seq = 0;
        record.pod.name = "\"99999999999999999999".to_owned();
        assert_eq!(Record::decode(&record.encode().unwrap()).unwrap(), record);
    }

    proptest! {
        #[test]
        fn one_changed_byte_gives_another_record_or_none(at in any::<prop::sample::Index>(), by in 1..=255_u8) {
            let record = record_of(a_window());
            let mut entry = record.encode().unwrap();
            let at = at.index(entry.len());
            entry[at] ^= by;
            if let Ok(read) = Record::decode(&entry) {
                prop_assert_ne!(read, record);
            }
        }

        #[test]
        fn arbitrary_bytes_are_no_record(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(Record::decode(&bytes).is_err());
        }
    }
}
