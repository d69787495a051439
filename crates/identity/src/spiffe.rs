//! SPIFFE IDs, trust domains and patterns over them, as strict as the SPIFFE ID specification
//! (sections 2 and 2.4): whoever is lenient here takes one workload for another.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Longest SPIFFE ID, in bytes (specification section 2.3).
const MAX_ID: usize = 2048;

/// Longest trust domain, in bytes.
const MAX_DOMAIN: usize = 255;

const SCHEME: &str = "spiffe://";

/// The name of a workload, such as `spiffe://mesh.example/ns/shop/sa/web`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins in `text`.
    path: usize,
}

/// The name of a trust domain, such as `mesh.example`.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TrustDomain(String);

/// A set of SPIFFE IDs: `*` stands for exactly one path segment, a last `**` for one or more.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct SpiffeIdPattern {
    domain: TrustDomain,
    segments: Vec<Segment>,
    open: bool,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
enum Segment {
    Any,
    Exactly(String),
}

/// What is wrong with a SPIFFE ID, trust domain or pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SpiffeIdError {
    /// It does not begin with `spiffe://`.
    #[error("{0:?} does not begin with spiffe://")]
    Scheme(String),
    /// Longer than the specification allows.
    #[error("longer than {0} bytes")]
    TooLong(usize),
    /// The trust domain is empty or has other characters than a to z, 0 to 9, dot, dash and
    /// underscore.
    #[error(
        "trust domain {0:?} has to be of a-z, 0-9, '.', '-' and '_' alone: no upper case, port or user"
    )]
    TrustDomain(String),
    /// A path segment is empty, `.`, `..` or has other characters than letters, digits, dot,
    /// dash and underscore.
    #[error(
        "path segment {0:?} has to be of letters, digits, '.', '-' and '_', and not empty, '.' or '..'"
    )]
    Segment(String),
    /// `**` elsewhere than at the end.
    #[error("** stands for the rest of a path and has to be its last segment")]
    Rest,
    /// A wildcard within a segment.
    #[error("{0:?}: a * stands for one whole segment: list the names, or use *")]
    Wildcard(String),
    /// A pattern that no workload can match.
    #[error("a trust domain without a path matches no workload: add /** for all of them")]
    NoPath,
}

impl SpiffeId {
    /// The trust domain's name.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }

    /// The path with its leading slash; empty for the ID of a trust domain itself.
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        self.path().split('/').skip(1)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let (domain, path) = split(text)?;
        for segment in path.split('/').skip(1) {
            check_segment(segment)?;
        }
        Ok(Self {
            text: text.to_owned(),
            path: SCHEME.len() + domain.len(),
        })
    }
}

impl TrustDomain {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let allowed =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if text.len() > MAX_DOMAIN {
            return Err(SpiffeIdError::TooLong(MAX_DOMAIN));
        }
        if text.is_empty() || !text.bytes().all(allowed) {
            return Err(SpiffeIdError::TrustDomain(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl SpiffeIdPattern {
    /// Whether `id` is in the set.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        if id.trust_domain() != self.domain.0 {
            return false;
        }
        let mut rest = id.segments();
        for segment in &self.segments {
            match (segment, rest.next()) {
                (Segment::Any, Some(_)) => {}
                (Segment::Exactly(wanted), Some(is)) if wanted == is => {}
                _ => return false,
            }
        }
        self.open == rest.next().is_some()
    }
}

impl FromStr for SpiffeIdPattern {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let (domain, path) = split(text)?;
        if path.is_empty() {
            return Err(SpiffeIdError::NoPath);
        }
        let mut segments: Vec<_> = path.split('/').skip(1).collect();
        let open = segments.last() == Some(&"**");
        if open {
            segments.pop();
        }
        let segments = segments
            .into_iter()
            .map(|segment| match segment {
                "*" => Ok(Segment::Any),
                "**" => Err(SpiffeIdError::Rest),
                mixed if mixed.contains('*') => Err(SpiffeIdError::Wildcard(mixed.to_owned())),
                exact => check_segment(exact).map(|()| Segment::Exactly(exact.to_owned())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            domain: domain.parse()?,
            segments,
            open,
        })
    }
}

impl fmt::Display for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.domain)?;
        for segment in &self.segments {
            match segment {
                Segment::Any => f.write_str("/*")?,
                Segment::Exactly(text) => write!(f, "/{text}")?,
            }
        }
        if self.open {
            f.write_str("/**")
        } else {
            Ok(())
        }
    }
}

impl fmt::Debug for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for SpiffeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Splits into a checked trust domain and an unchecked path.
fn split(text: &str) -> Result<(&str, &str), SpiffeIdError> {
    if text.len() > MAX_ID {
        return Err(SpiffeIdError::TooLong(MAX_ID));
    }
    let rest = text
        .strip_prefix(SCHEME)
        .ok_or_else(|| SpiffeIdError::Scheme(text.chars().take(64).collect()))?;
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    domain.parse::<TrustDomain>()?;
    Ok((domain, path))
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(allowed) {
        return Err(SpiffeIdError::Segment(segment.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_is_split_into_trust_domain_and_path() {
        let id: SpiffeId = "spiffe://mesh.example/ns/shop/sa/web".parse().unwrap();
        assert_eq!(
            (id.trust_domain(), id.path()),
            ("mesh.example", "/ns/shop/sa/web")
        );
        let root: SpiffeId = "spiffe://mesh.example".parse().unwrap();
        assert_eq!(root.path(), "");
    }

    #[test]
    fn what_the_specification_forbids_is_refused() {
        let long = format!("spiffe://m/{}", "a".repeat(2048));
        let long_domain = format!("spiffe://{}/a", "a".repeat(256));
        for text in [
            "",
            "spiffe:/m/a",
            "SPIFFE://m/a",
            "https://m/a",
            "spiffe:///a",
            "spiffe://M/a",
            "spiffe://m:80/a",
            "spiffe://u@m/a",
            "spiffe://m/",
            "spiffe://m/a/",
            "spiffe://m//a",
            "spiffe://m/./a",
            "spiffe://m/../a",
            "spiffe://m/a?q",
            "spiffe://m/a#f",
            "spiffe://m/%41",
            "spiffe://m/a b",
            "spiffe://m/ä",
            "spiffe://m/*",
            &long,
            &long_domain,
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text} was accepted");
        }
    }

    #[test]
    fn a_pattern_matches_segments_and_never_across_trust_domains() {
        let cases = [
            ("spiffe://m/ns/*/sa/web", "spiffe://m/ns/shop/sa/web", true),
            ("spiffe://m/ns/*/sa/web", "spiffe://m/ns/a/b/sa/web", false),
            (
                "spiffe://m/ns/*/sa/web",
                "spiffe://other/ns/shop/sa/web",
                false,
            ),
            ("spiffe://m/ns/shop/**", "spiffe://m/ns/shop/sa/web", true),
            ("spiffe://m/ns/shop/**", "spiffe://m/ns/shop", false),
            (
                "spiffe://m/ns/shop/**",
                "spiffe://m/ns/shopping/sa/web",
                false,
            ),
            ("spiffe://m/**", "spiffe://m/a", true),
            ("spiffe://m/**", "spiffe://mm/a", false),
            ("spiffe://m/a", "spiffe://m/a", true),
            ("spiffe://m/a", "spiffe://m/a/b", false),
        ];
        for (pattern, id, expected) in cases {
            let pattern: SpiffeIdPattern = pattern.parse().unwrap();
            assert_eq!(
                pattern.matches(&id.parse().unwrap()),
                expected,
                "{pattern} and {id}"
            );
        }
        assert_eq!(
            "spiffe://m/**/a".parse::<SpiffeIdPattern>().unwrap_err(),
            SpiffeIdError::Rest
        );
    }

    #[test]
    fn a_pattern_that_would_not_do_what_it_looks_like_is_refused_with_the_right_form() {
        let refused = |text: &str| text.parse::<SpiffeIdPattern>().unwrap_err().to_string();
        assert!(refused("spiffe://m.example").contains("add /**"));
        assert!(refused("spiffe://m.example/ns/web-*").contains("one whole segment"));
        for text in [
            "spiffe://*/a",
            "spiffe://m/",
            "spiffe://m/a/",
            "spiffe://m/a//**",
            "m/a",
            "*",
        ] {
            assert!(
                text.parse::<SpiffeIdPattern>().is_err(),
                "{text} was accepted"
            );
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_accepted_is_kept_as_it_is(text in "(spiffe://)?\\PC{0,80}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }

        #[test]
        fn an_id_as_a_pattern_matches_itself_alone(domain in "[a-z0-9._-]{1,20}", path in prop::collection::vec("[A-Za-z0-9_-]{1,8}", 1..5), other in "[A-Za-z0-9_-]{1,8}") {
            let text = format!("spiffe://{domain}{}", path.iter().map(|s| format!("/{s}")).collect::<String>());
            let pattern: SpiffeIdPattern = text.parse().unwrap();
            prop_assert!(pattern.matches(&text.parse().unwrap()));
            let longer = format!("{text}/{other}");
            prop_assert!(!pattern.matches(&longer.parse().unwrap()));
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}
