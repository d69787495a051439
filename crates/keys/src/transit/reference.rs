//! References to transit keys, `vault-transit:mount/key`. Strict: nothing of one may reach beyond
//! its own path.

use std::fmt;
use std::str::FromStr;

/// Which key, in which mount.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TransitReference {
    mount: String,
    key: String,
}

/// What is wrong with a reference.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "{0:?} is no transit key: write it as vault-transit:mount/key, of letters, digits, -, _ and ., the mount possibly with slashes"
)]
pub struct TransitReferenceError(String);

impl TransitReference {
    /// Path of the mount.
    pub fn mount(&self) -> &str {
        &self.mount
    }

    /// Name of the key.
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl FromStr for TransitReference {
    type Err = TransitReferenceError;

    fn from_str(text: &str) -> Result<Self, TransitReferenceError> {
        let refuse = || TransitReferenceError(text.chars().take(100).collect());
        let path = text.strip_prefix("vault-transit:").ok_or_else(refuse)?;
        let (mount, key) = path.rsplit_once('/').ok_or_else(refuse)?;
        let good = |part: &str| {
            let allowed = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.');
            !part.is_empty() && part.bytes().all(allowed) && part.bytes().any(|c| c != b'.')
        };
        if path.split('/').all(good) {
            Ok(Self {
                mount: mount.to_owned(),
                key: key.to_owned(),
            })
        } else {
            Err(refuse())
        }
    }
}

impl fmt::Display for TransitReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vault-transit:{}/{}", self.mount, self.key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn mount_and_key_are_told_apart_and_nothing_reaches_beyond_them() {
        let reference: TransitReference = "vault-transit:team/transit/web.1".parse().unwrap();
        assert_eq!(
            (reference.mount(), reference.key()),
            ("team/transit", "web.1")
        );
        for bad in [
            "transit/web",
            "vault-transit:web",
            "vault-transit:/web",
            "vault-transit:transit/",
            "vault-transit:transit/../sys/web",
            "vault-transit:transit/a b",
            "vault-transit:transit/a?b",
            "vault-transit:transit//web",
        ] {
            assert!(bad.parse::<TransitReference>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same_again(mount in "[a-z0-9_-]{1,9}(/[a-z0-9]{1,9}){0,2}", key in "[A-Za-z0-9_-]{1,20}") {
            let reference = TransitReference { mount, key };
            prop_assert_eq!(reference.to_string().parse::<TransitReference>().unwrap(), reference);
        }

        #[test]
        fn no_input_panics(text in "(vault-transit:)?\\PC{0,40}") {
            let _ = text.parse::<TransitReference>();
        }
    }
}
