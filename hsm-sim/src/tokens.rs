//! Tokens and the keys in them, through PKCS#11 alone: no PIN ever stands in a command line.

use std::fmt;
use std::str::FromStr;

use cryptoki::context::Pkcs11;
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::{AuthPin, RawAuthPin};
use sealwire_keys::{KeyConfig, Pkcs11Config, PrivateKey, SecretFile};
use serde::Serialize;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::store::{Error, Store};

/// Kind of a key pair.
#[derive(Copy, Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyAlgorithm {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with 2048 bits.
    Rsa2048,
    /// RSA with 3072 bits.
    Rsa3072,
    /// Ed25519.
    Ed25519,
}

/// A key pair that is to be made.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// Token to make it in; made itself where there is none.
    pub token: String,
    /// CKA_LABEL.
    pub label: String,
    /// CKA_ID; random where none is given.
    pub id: Option<Vec<u8>>,
    /// Kind.
    pub algorithm: KeyAlgorithm,
    /// Whether a second key of the same label is wanted.
    pub allow_duplicate: bool,
}

/// A key pair that was made.
#[derive(Debug, Serialize)]
pub struct MadeKey {
    /// RFC 7512 URI for a configuration.
    pub uri: String,
    /// Token.
    pub token: String,
    /// CKA_LABEL.
    pub label: String,
    /// CKA_ID, in hexadecimal.
    pub id: String,
    /// Kind.
    pub algorithm: KeyAlgorithm,
    /// The file with the token's PIN.
    pub pin_file: PathBuf,
}

/// A token, to be looked at.
#[derive(Debug, Serialize)]
pub struct ShownToken {
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
    /// Its model.
    pub model: String,
    /// What is in it.
    pub objects: Vec<ShownObject>,
}

/// An object in a token, with the attributes that matter.
#[derive(Debug, Default, Serialize)]
pub struct ShownObject {
    /// CKA_CLASS.
    pub class: String,
    /// CKA_KEY_TYPE.
    pub key_type: String,
    /// CKA_LABEL.
    pub label: String,
    /// CKA_ID, in hexadecimal.
    pub id: String,
    /// CKA_PRIVATE.
    pub private: Option<bool>,
    /// CKA_SENSITIVE.
    pub sensitive: Option<bool>,
    /// CKA_ALWAYS_SENSITIVE.
    pub always_sensitive: Option<bool>,
    /// CKA_EXTRACTABLE.
    pub extractable: Option<bool>,
    /// CKA_NEVER_EXTRACTABLE.
    pub never_extractable: Option<bool>,
    /// CKA_LOCAL.
    pub local: Option<bool>,
}

impl Store {
    /// Makes a key pair that cannot leave its token, and the token where there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn make_key(&self, new: &NewKey) -> Result<MadeKey, Error> {
        check_name(&new.token)?;
        check_name(&new.label)?;
        let context = self.context()?;
        let slot = match find_slot(&context, &new.token)? {
            Some(slot) => slot,
            None => self.make_token(&context, &new.token)?,
        };
        let session = self.log_in(&context, slot, &new.token)?;
        let twins = session.find_objects(&[
            Attribute::Class(ObjectClass::PRIVATE_KEY),
            Attribute::Label(new.label.as_bytes().to_vec()),
        ])?;
        if !twins.is_empty() && !new.allow_duplicate {
            return Err(Error::Duplicate {
                token: new.token.clone(),
                label: new.label.clone(),
            });
        }
        let id = match &new.id {
            Some(id) => id.clone(),
            None => session.generate_random_vec(8)?,
        };
        generate(&session, new, &id)?;
        Ok(MadeKey {
            uri: format!(
                "pkcs11:token={};object={}?pin-source=file:{}",
                new.token,
                new.label,
                self.pin_file(&new.token).display()
            ),
            token: new.token.clone(),
            label: new.label.clone(),
            id: hex(&id),
            algorithm: new.algorithm,
            pin_file: self.pin_file(&new.token),
        })
    }

    /// Every token and what is in it.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn show(&self) -> Result<Vec<ShownToken>, Error> {
        let context = self.context()?;
        let mut tokens = Vec::new();
        for slot in context.get_slots_with_initialized_token()? {
            let info = context.get_token_info(slot)?;
            let label = info.label().trim_end().to_owned();
            let session = self.log_in(&context, slot, &label)?;
            let objects = session.find_objects(&[])?;
            tokens.push(ShownToken {
                serial: info.serial_number().trim_end().to_owned(),
                model: info.model().trim_end().to_owned(),
                objects: objects
                    .into_iter()
                    .map(|object| show(&session, object))
                    .collect::<Result<_, _>>()?,
                label,
            });
        }
        tokens.sort_by(|a, b| a.label.cmp(&b.label));
        Ok(tokens)
    }

    /// A key in a token, to sign with or to see its public half.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open_key(&self, token: &str, label: &str) -> Result<Arc<dyn PrivateKey>, Error> {
        self.open_key_with(token, label, None)
    }

    /// The same, of several with that label the one with this CKA_ID.
    pub(crate) fn open_key_with(
        &self,
        token: &str,
        label: &str,
        id: Option<&[u8]>,
    ) -> Result<Arc<dyn PrivateKey>, Error> {
        let id = id.map_or_else(String::new, |id| {
            let bytes: String = id.iter().map(|byte| format!("%{byte:02X}")).collect();
            format!(";id={bytes}")
        });
        let uri = format!(
            "pkcs11:token={token};object={label}{id}?pin-source=file:{}",
            self.pin_file(token).display()
        );
        let uri = uri.parse().map_err(|_| Error::Name(label.to_owned()))?;
        Ok(sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(
            Pkcs11Config {
                module: self.module().to_owned(),
                uri,
                max_sessions: NonZeroUsize::MIN,
                queue: 1,
                wait: Duration::from_secs(5),
                generate: None,
                certified: None,
                state: None,
            },
        )))?)
    }

    fn make_token(&self, context: &Pkcs11, label: &str) -> Result<Slot, Error> {
        let empty = context
            .get_slots_with_token()?
            .into_iter()
            .find(|slot| {
                context
                    .get_token_info(*slot)
                    .is_ok_and(|info| !info.token_initialized())
            })
            .ok_or(Error::NoModule)?;
        let officer = self.new_pin(&self.so_pin_file(label))?;
        let user = self.new_pin(&self.pin_file(label))?;
        context.init_token(empty, &officer, label)?;
        // SoftHSM gives an initialised token another slot.
        let slot = find_slot(context, label)?.unwrap_or(empty);
        let session = context.open_rw_session(slot)?;
        session.login(UserType::So, Some(&officer))?;
        session.init_pin(&user)?;
        session.logout()?;
        Ok(slot)
    }

    /// A random PIN of 128 bits, also written to a file for its owner alone.
    fn new_pin(&self, path: &std::path::Path) -> Result<AuthPin, Error> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).map_err(
            |error| Error::File {
                path: path.to_owned(),
                source: error.into(),
            },
        )?;
        let pin = hex(&random);
        self.write(path, pin.as_bytes())?;
        Ok(AuthPin::new(pin.into()))
    }

    fn log_in(&self, context: &Pkcs11, slot: Slot, token: &str) -> Result<Session, Error> {
        let pin =
            SecretFile::read(&self.pin_file(token)).map_err(sealwire_keys::OpenError::from)?;
        let session = context.open_rw_session(slot)?;
        session.login_with_raw(
            UserType::User,
            &RawAuthPin::new(Box::new(pin.expose().to_vec())),
        )?;
        Ok(session)
    }
}

impl FromStr for KeyAlgorithm {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Ok(match name {
            "p256" => Self::P256,
            "p384" => Self::P384,
            "rsa2048" => Self::Rsa2048,
            "rsa3072" => Self::Rsa3072,
            "ed25519" => Self::Ed25519,
            other => {
                return Err(format!(
                    "{other:?}: use p256, p384, rsa2048, rsa3072 or ed25519"
                ));
            }
        })
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Rsa2048 => "rsa2048",
            Self::Rsa3072 => "rsa3072",
            Self::Ed25519 => "ed25519",
        })
    }
}

fn generate(session: &Session, new: &NewKey, id: &[u8]) -> Result<(), Error> {
    let named = [
        Attribute::Token(true),
        Attribute::Label(new.label.as_bytes().to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    let mut public = named.to_vec();
    public.push(Attribute::Verify(true));
    let mut private = named.to_vec();
    private.extend([
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    // Named curves in DER: OBJECT IDENTIFIER prime256v1, secp384r1, Ed25519.
    let curve = |oid: &[u8]| Attribute::EcParams(oid.to_vec());
    let rsa = |bits: u64| {
        [
            Attribute::ModulusBits(bits.into()),
            Attribute::PublicExponent(vec![1, 0, 1]),
        ]
    };
    let mechanism = match new.algorithm {
        KeyAlgorithm::P256 => {
            public.push(curve(&[
                0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
            ]));
            Mechanism::EccKeyPairGen
        }
        KeyAlgorithm::P384 => {
            public.push(curve(&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]));
            Mechanism::EccKeyPairGen
        }
        KeyAlgorithm::Ed25519 => {
            // SoftHSM wants the curve by its name, as a PrintableString.
            public.push(curve(b"\x13\x0cedwards25519"));
            Mechanism::EccEdwardsKeyPairGen
        }
        KeyAlgorithm::Rsa2048 => {
            public.extend(rsa(2048));
            Mechanism::RsaPkcsKeyPairGen
        }
        KeyAlgorithm::Rsa3072 => {
            public.extend(rsa(3072));
            Mechanism::RsaPkcsKeyPairGen
        }
    };
    session.generate_key_pair(&mechanism, &public, &private)?;
    Ok(())
}

fn find_slot(context: &Pkcs11, label: &str) -> Result<Option<Slot>, Error> {
    for slot in context.get_slots_with_initialized_token()? {
        if context.get_token_info(slot)?.label().trim_end() == label {
            return Ok(Some(slot));
        }
    }
    Ok(None)
}

fn show(session: &Session, object: ObjectHandle) -> Result<ShownObject, Error> {
    let asked = [
        AttributeType::Class,
        AttributeType::KeyType,
        AttributeType::Label,
        AttributeType::Id,
        AttributeType::Private,
        AttributeType::Sensitive,
        AttributeType::AlwaysSensitive,
        AttributeType::Extractable,
        AttributeType::NeverExtractable,
        AttributeType::Local,
    ];
    let mut shown = ShownObject::default();
    for attribute in session.get_attributes(object, &asked)? {
        match attribute {
            Attribute::Class(class) => shown.class = class.to_string(),
            Attribute::KeyType(kind) => shown.key_type = kind.to_string(),
            Attribute::Label(label) => shown.label = String::from_utf8_lossy(&label).into_owned(),
            Attribute::Id(id) => shown.id = hex(&id),
            Attribute::Private(yes) => shown.private = Some(yes),
            Attribute::Sensitive(yes) => shown.sensitive = Some(yes),
            Attribute::AlwaysSensitive(yes) => shown.always_sensitive = Some(yes),
            Attribute::Extractable(yes) => shown.extractable = Some(yes),
            Attribute::NeverExtractable(yes) => shown.never_extractable = Some(yes),
            Attribute::Local(yes) => shown.local = Some(yes),
            _ => {}
        }
    }
    Ok(shown)
}

/// Names become file names and parts of URIs.
fn check_name(name: &str) -> Result<(), Error> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
        return Err(Error::Name(name.to_owned()));
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
