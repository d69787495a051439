//! PKCS#11 URIs (RFC 7512), as far as they name a token, a key and the file with the PIN. Strict:
//! what is not understood is refused, since a URI that is read differently than it was meant may
//! name another key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

/// What RFC 7512 lets stand unescaped in a path attribute, less what reads badly in a shell.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':');

/// A PKCS#11 URI. Displays without the PIN's file, for logs and evidence.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pkcs11Uri {
    token: Option<String>,
    manufacturer: Option<String>,
    model: Option<String>,
    serial: Option<String>,
    slot_id: Option<u64>,
    object: Option<String>,
    id: Option<Vec<u8>>,
    pin_source: Option<PathBuf>,
}

/// What is wrong with a PKCS#11 URI. Values are never repeated: one of them may be a PIN.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UriError {
    /// It does not begin with `pkcs11:`.
    #[error("not a PKCS#11 URI: it has to begin with pkcs11:")]
    Scheme,
    /// A part is not `name=value`.
    #[error("part {0} of the URI is not name=value")]
    Shape(usize),
    /// An attribute that is not understood here.
    #[error(
        "attribute {0:?} is not supported: use token, manufacturer, model, serial, slot-id, object, id, type and pin-source"
    )]
    Unknown(String),
    /// An attribute given twice.
    #[error("attribute {0:?} is given twice: keep one")]
    Duplicate(&'static str),
    /// A value that cannot be.
    #[error("attribute {name:?}: {problem}")]
    Value {
        /// The attribute.
        name: &'static str,
        /// What is wrong.
        problem: &'static str,
    },
    /// The PIN itself in the URI.
    #[error(
        "the PIN must not be in the URI: put it into a file with mode 0600 and write ?pin-source=file:/path"
    )]
    InlinePin,
    /// A path attribute behind the question mark, or the other way round.
    #[error("attribute {0:?} stands on the wrong side of the question mark")]
    Misplaced(String),
    /// Neither object nor id.
    #[error("the URI names no key: add object=LABEL or id=%HEX")]
    NoKey,
}

impl Pkcs11Uri {
    /// CKA_LABEL of the key.
    pub fn object(&self) -> Option<&str> {
        self.object.as_deref()
    }

    /// CKA_ID of the key.
    pub fn id(&self) -> Option<&[u8]> {
        self.id.as_deref()
    }

    /// The same with this CKA_ID.
    pub(crate) fn with_id(&self, id: &[u8]) -> Self {
        Self {
            id: Some(id.to_vec()),
            ..self.clone()
        }
    }

    /// The file with the PIN.
    pub fn pin_source(&self) -> Option<&Path> {
        self.pin_source.as_deref()
    }

    /// Whether a token with these properties is meant.
    pub(crate) fn matches_token(&self, token: &crate::Token, slot: u64) -> bool {
        let same =
            |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.token, &token.label)
            && same(&self.manufacturer, &token.manufacturer)
            && same(&self.model, &token.model)
            && same(&self.serial, &token.serial)
            && self.slot_id.is_none_or(|wanted| wanted == slot)
    }

    fn path_attribute(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "token" => set(&mut self.token, "token", text("token", value)?),
            "manufacturer" => set(
                &mut self.manufacturer,
                "manufacturer",
                text("manufacturer", value)?,
            ),
            "model" => set(&mut self.model, "model", text("model", value)?),
            "serial" => set(&mut self.serial, "serial", text("serial", value)?),
            "object" => set(&mut self.object, "object", text("object", value)?),
            "id" => set(&mut self.id, "id", bytes("id", value)?),
            "slot-id" => {
                let number = value.parse().map_err(|_| UriError::Value {
                    name: "slot-id",
                    problem: "not a decimal number",
                })?;
                set(&mut self.slot_id, "slot-id", number)
            }
            "type" if value == "private" => Ok(()),
            "type" => Err(UriError::Value {
                name: "type",
                problem: "only type=private names a private key",
            }),
            "pin-source" => Err(UriError::Misplaced(name.to_owned())),
            "pin-value" => Err(UriError::InlinePin),
            _ => Err(UriError::Unknown(printable(name))),
        }
    }

    fn query_attribute(&mut self, name: &str, value: &str) -> Result<(), UriError> {
        match name {
            "pin-source" => {
                let source = text("pin-source", value)?;
                let path = source.strip_prefix("file:").unwrap_or(&source);
                // file:///path is file:/path with an empty authority (RFC 8089).
                let path = path.strip_prefix("//").unwrap_or(path);
                if !path.starts_with('/') {
                    return Err(UriError::Value {
                        name: "pin-source",
                        problem: "write it as file:/absolute/path",
                    });
                }
                set(&mut self.pin_source, "pin-source", PathBuf::from(path))
            }
            "pin-value" => Err(UriError::InlinePin),
            "token" | "manufacturer" | "model" | "serial" | "object" | "id" | "slot-id"
            | "type" => Err(UriError::Misplaced(name.to_owned())),
            _ => Err(UriError::Unknown(printable(name))),
        }
    }
}

impl FromStr for Pkcs11Uri {
    type Err = UriError;

    fn from_str(uri: &str) -> Result<Self, UriError> {
        let rest = uri.strip_prefix("pkcs11:").ok_or(UriError::Scheme)?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut parsed = Self::default();
        for (number, part) in parts(path, ';') {
            let (name, value) = part.split_once('=').ok_or(UriError::Shape(number))?;
            parsed.path_attribute(name, value)?;
        }
        for (number, part) in parts(query, '&') {
            let (name, value) = part.split_once('=').ok_or(UriError::Shape(number))?;
            parsed.query_attribute(name, value)?;
        }
        if parsed.object.is_none() && parsed.id.is_none() {
            return Err(UriError::NoKey);
        }
        Ok(parsed)
    }
}

impl fmt::Display for Pkcs11Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escape = |text: &[u8]| percent_encode(text, ESCAPED).to_string();
        let id: Option<String> = self
            .id
            .as_ref()
            .map(|id| id.iter().map(|byte| format!("%{byte:02X}")).collect());
        let attributes = [
            (
                "token",
                self.token.as_ref().map(|text| escape(text.as_bytes())),
            ),
            (
                "manufacturer",
                self.manufacturer
                    .as_ref()
                    .map(|text| escape(text.as_bytes())),
            ),
            (
                "model",
                self.model.as_ref().map(|text| escape(text.as_bytes())),
            ),
            (
                "serial",
                self.serial.as_ref().map(|text| escape(text.as_bytes())),
            ),
            ("slot-id", self.slot_id.map(|number| number.to_string())),
            (
                "object",
                self.object.as_ref().map(|text| escape(text.as_bytes())),
            ),
            ("id", id),
        ];
        let given: Vec<String> = attributes
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| format!("{name}={value}")))
            .collect();
        write!(f, "pkcs11:{}", given.join(";"))
    }
}

fn parts(text: &str, separator: char) -> impl Iterator<Item = (usize, &str)> {
    let parts = (!text.is_empty()).then(|| text.split(separator));
    (1..).zip(parts.into_iter().flatten())
}

fn set<T>(field: &mut Option<T>, name: &'static str, value: T) -> Result<(), UriError> {
    match field.replace(value) {
        Some(_) => Err(UriError::Duplicate(name)),
        None => Ok(()),
    }
}

fn text(name: &'static str, value: &str) -> Result<String, UriError> {
    String::from_utf8(bytes(name, value)?).map_err(|_| UriError::Value {
        name,
        problem: "not UTF-8",
    })
}

fn bytes(name: &'static str, value: &str) -> Result<Vec<u8>, UriError> {
    let refuse = |problem| Err(UriError::Value { name, problem });
    if value.is_empty() {
        return refuse("empty");
    }
    let escapes = value.split('%').skip(1);
    let well_formed = |escape: &str| {
        escape
            .as_bytes()
            .get(..2)
            .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
    };
    if !escapes.into_iter().all(well_formed) {
        return refuse("a percent sign has to be followed by two hexadecimal digits");
    }
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("spaces and characters beyond ASCII have to be percent encoded");
    }
    Ok(percent_decode_str(value).collect())
}

/// An attribute's name, short enough and safe to print.
fn printable(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(32).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(uri: &str) -> Result<Pkcs11Uri, UriError> {
        uri.parse()
    }

    #[test]
    fn every_attribute_is_read_and_percent_decoded() {
        let uri = parse(
            "pkcs11:token=My%20token;manufacturer=Acme;model=X1;serial=0a;slot-id=7;object=web;id=%01%fF;type=private\
             ?pin-source=file:/run/pin",
        )
        .unwrap();
        assert_eq!(uri.object(), Some("web"));
        assert_eq!(uri.id(), Some(&[1, 255][..]));
        assert_eq!(uri.pin_source(), Some(Path::new("/run/pin")));
        let shown = uri.to_string();
        assert_eq!(
            shown,
            "pkcs11:token=My%20token;manufacturer=Acme;model=X1;serial=0a;slot-id=7;object=web;id=%01%FF"
        );
    }

    #[test]
    fn the_three_forms_of_a_file_are_the_same() {
        for form in ["file:/run/pin", "file:///run/pin", "/run/pin"] {
            let uri = parse(&format!("pkcs11:object=a?pin-source={form}")).unwrap();
            assert_eq!(uri.pin_source(), Some(Path::new("/run/pin")));
        }
    }

    #[test]
    fn an_inline_pin_is_refused_with_the_fix_and_not_repeated() {
        for uri in [
            "pkcs11:object=a?pin-value=98765",
            "pkcs11:object=a;pin-value=98765",
        ] {
            let message = parse(uri).unwrap_err().to_string();
            assert!(message.contains("pin-source=file:"), "{message}");
            assert!(!message.contains("98765"));
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        let refused = [
            ("http:object=a", "pkcs11:"),
            ("pkcs11:token=a", "names no key"),
            ("pkcs11:object=a;object=b", "twice"),
            ("pkcs11:object=a;library-version=3", "library-version"),
            ("pkcs11:object=a;x", "part 2"),
            ("pkcs11:object=a;", "part 2"),
            ("pkcs11:object=%2", "\"object\""),
            ("pkcs11:object=%zz", "\"object\""),
            ("pkcs11:object=a b", "\"object\""),
            ("pkcs11:object=%ff", "not UTF-8"),
            ("pkcs11:object=", "empty"),
            ("pkcs11:object=a;type=cert", "type=private"),
            ("pkcs11:object=a;slot-id=x", "slot-id"),
            ("pkcs11:object=a?pin-source=file:relative", "absolute"),
            ("pkcs11:object=a?token=b", "wrong side"),
            ("pkcs11:object=a;pin-source=file:/b", "wrong side"),
        ];
        for (uri, expected) in refused {
            let message = parse(uri).unwrap_err().to_string();
            assert!(message.contains(expected), "{uri}: {message}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_parses_to_the_same_again(token in "\\PC{1,20}", object in "\\PC{1,20}", id in prop::collection::vec(any::<u8>(), 1..20)) {
            let uri = Pkcs11Uri { token: Some(token), object: Some(object), id: Some(id), ..Pkcs11Uri::default() };
            prop_assert_eq!(parse(&uri.to_string()).unwrap(), uri);
        }

        #[test]
        fn no_input_panics(text in "(pkcs11:)?[a-z=;?&%:/-]{0,60}") {
            let _ = parse(&text);
        }
    }
}
