//! Finding a private key and its public half among a token's objects.

use cryptoki::error::Error;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use der::Decode;
use der::asn1::OctetStringRef;

use super::trouble::{answer, sign_error};
use crate::public_key::{PublicKey, PublicKeyError};
use crate::{OpenError, Pkcs11Uri};

/// A private key that was found.
pub(super) struct Located {
    pub(super) handle: ObjectHandle,
    pub(super) public: PublicKey,
    /// Its CKA_ID, by which later sessions find the same key again.
    pub(super) id: Vec<u8>,
    /// Whether others match the URI.
    pub(super) one_of_several: bool,
}

/// Finds the one private key that the URI names; of several, the one whose public half has the
/// fingerprint `certified`. The session must be logged in: before, a token shows no private objects,
/// and says no error.
pub(super) fn locate(
    session: &Session,
    uri: &Pkcs11Uri,
    certified: Option<&str>,
    token: &str,
) -> Result<Located, OpenError> {
    let failed = |error: Error| OpenError::Token {
        uri: uri.to_string(),
        source: sign_error(&error),
    };
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    template.extend(
        uri.object()
            .map(|label| Attribute::Label(label.as_bytes().to_vec())),
    );
    template.extend(uri.id().map(|id| Attribute::Id(id.to_vec())));
    let found = session.find_objects(&template).map_err(failed)?;
    let located = |handle: ObjectHandle| -> Result<Located, OpenError> {
        let id = identifier(session, handle).map_err(failed)?;
        let public = public_key(session, handle, &id).map_err(|source| OpenError::PublicKey {
            uri: uri.to_string(),
            source,
        })?;
        Ok(Located {
            handle,
            public,
            id,
            one_of_several: found.len() > 1,
        })
    };
    match found.as_slice() {
        [handle] => located(*handle),
        [] => {
            let all = session.find_objects(&template[..1]).map_err(failed)?;
            let seen: Vec<_> = all
                .iter()
                .take(20)
                .map(|handle| name(session, *handle))
                .collect();
            Err(OpenError::KeyMissing {
                uri: uri.to_string(),
                token: token.to_owned(),
                seen: if seen.is_empty() {
                    "none".to_owned()
                } else {
                    seen.join(", ")
                },
            })
        }
        several => {
            // One of them may be broken: it is not the certified one then.
            let mut keys = several.iter().filter_map(|handle| located(*handle).ok());
            if let Some(certified) = certified
                && let Some(key) = keys.find(|key| key.public.fingerprint() == certified)
            {
                return Ok(key);
            }
            let ids: Vec<_> = several
                .iter()
                .map(|handle| Ok(format!("id={}", escaped(&identifier(session, *handle)?))))
                .collect::<Result<_, Error>>()
                .map_err(failed)?;
            Err(OpenError::KeyAmbiguous {
                uri: uri.to_string(),
                ids: ids.join(", "),
            })
        }
    }
}

/// Finds the same key again in another session: none, one, or more by its name.
pub(super) fn relocate(
    session: &Session,
    uri: &Pkcs11Uri,
    id: &[u8],
) -> Result<Vec<ObjectHandle>, Error> {
    let mut template = vec![
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Id(id.to_vec()),
    ];
    template.extend(
        uri.object()
            .map(|label| Attribute::Label(label.as_bytes().to_vec())),
    );
    session.find_objects(&template)
}

/// The public half: its own object where there is one, else what the private object tells.
fn public_key(
    session: &Session,
    private: ObjectHandle,
    id: &[u8],
) -> Result<PublicKey, PublicKeyError> {
    let template = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::Id(id.to_vec()),
    ];
    let twins = session
        .find_objects(&template)
        .map_err(|error| PublicKeyError::Malformed(answer(&error)))?;
    let mut last = PublicKeyError::Missing;
    for handle in twins.into_iter().chain([private]) {
        match read_public(session, handle) {
            Ok(key) => return Ok(key),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn read_public(session: &Session, handle: ObjectHandle) -> Result<PublicKey, PublicKeyError> {
    let asked = [
        AttributeType::KeyType,
        AttributeType::PublicKeyInfo,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    let mut said = Said::default();
    // One by one: a token may refuse the whole question for one attribute that it does not have.
    for attribute in asked {
        if let Ok(values) = session.get_attributes(handle, &[attribute]) {
            values.into_iter().for_each(|value| said.take(value));
        }
    }
    said.public_key()
}

/// What an object says about a public key.
#[derive(Default)]
struct Said {
    kind: Option<KeyType>,
    info: Vec<u8>,
    params: Vec<u8>,
    point: Vec<u8>,
    modulus: Vec<u8>,
    exponent: Vec<u8>,
}

impl Said {
    fn take(&mut self, attribute: Attribute) {
        match attribute {
            Attribute::KeyType(kind) => self.kind = Some(kind),
            Attribute::PublicKeyInfo(value) => self.info = value,
            Attribute::EcParams(value) => self.params = value,
            Attribute::EcPoint(value) => self.point = value,
            Attribute::Modulus(value) => self.modulus = value,
            Attribute::PublicExponent(value) => self.exponent = value,
            _ => {}
        }
    }

    fn public_key(self) -> Result<PublicKey, PublicKeyError> {
        if !self.info.is_empty() {
            return PublicKey::from_spki_der(&self.info);
        }
        let kind = self.kind.ok_or(PublicKeyError::Missing)?;
        if kind == KeyType::RSA && !self.modulus.is_empty() {
            return PublicKey::from_rsa(&self.modulus, &self.exponent);
        }
        if self.point.is_empty() {
            return Err(PublicKeyError::Missing);
        }
        // CKA_EC_POINT is an OCTET STRING around the point (PKCS#11 v2.40 section 2.3.3); some
        // tokens leave the wrapping out.
        let point = OctetStringRef::from_der(&self.point)
            .map_or(self.point.as_slice(), |wrapped| wrapped.as_bytes());
        if kind == KeyType::EC_EDWARDS {
            PublicKey::from_ed25519(point)
        } else if kind == KeyType::EC {
            PublicKey::from_ec(&self.params, point)
        } else {
            Err(PublicKeyError::Unsupported(kind.to_string()))
        }
    }
}

fn identifier(session: &Session, handle: ObjectHandle) -> Result<Vec<u8>, Error> {
    let said = session.get_attributes(handle, &[AttributeType::Id])?;
    Ok(said
        .into_iter()
        .find_map(|attribute| {
            if let Attribute::Id(id) = attribute {
                Some(id)
            } else {
                None
            }
        })
        .unwrap_or_default())
}

fn name(session: &Session, handle: ObjectHandle) -> String {
    let label = session
        .get_attributes(handle, &[AttributeType::Label])
        .ok()
        .and_then(|said| {
            said.into_iter().find_map(|attribute| {
                if let Attribute::Label(label) = attribute {
                    Some(label)
                } else {
                    None
                }
            })
        })
        .unwrap_or_default();
    let id = identifier(session, handle).unwrap_or_default();
    format!(
        "{:?} (id={})",
        String::from_utf8_lossy(&label),
        escaped(&id)
    )
}

fn escaped(id: &[u8]) -> String {
    id.iter().map(|byte| format!("%{byte:02X}")).collect()
}
