//! Keys in a PKCS#11 token (v2.40), through the vendor's own library.
//!
//! How the parts divide the work, and what each guards against (see `docs/hsm.md`):
//! [`module`] loads a library once a process; [`token`] finds the token and logs in, never
//! spending a PIN try twice; [`sessions`] lends sessions to one thread at a time; [`object`] finds
//! the key; [`mechanism`] speaks the token's dialect of each signature scheme.

mod mechanism;
mod module;
mod object;
mod sessions;
mod token;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cryptoki::object::{Attribute, AttributeType};

use self::sessions::Sessions;
use self::token::TokenSlot;
use crate::public_key::PublicKey;
use crate::{Custody, OpenError, Pkcs11Config, PrivateKey, Scheme, SignError};

/// A private key in a token.
#[derive(Debug)]
pub(crate) struct Pkcs11Key {
    reference: String,
    token: Arc<TokenSlot>,
    sessions: Sessions,
    public: PublicKey,
    schemes: Vec<Scheme>,
    signatures: AtomicU64,
}

impl Pkcs11Key {
    pub(crate) fn open(config: &Pkcs11Config) -> Result<Self, OpenError> {
        let module = module::load(&config.module)?;
        let token = Arc::new(TokenSlot::find(&module, &config.uri)?);
        let first = token.open_session()?;
        let located = object::locate(&first, &config.uri, token.label())?;
        let public = located.public.clone();
        let mut key = Self {
            reference: config.uri.to_string(),
            schemes: mechanism::offered(&token, &config.uri, public.algorithm())?,
            sessions: Sessions::new(config, token.clone(), first, located),
            token,
            public,
            signatures: AtomicU64::new(0),
        };
        key.prove()?;
        Ok(key)
    }

    /// Signs and verifies once with every scheme, and keeps those that the token can do.
    fn prove(&mut self) -> Result<(), OpenError> {
        const MESSAGE: &[u8] = b"sealwire: does this key sign?";
        let mut proven = Vec::new();
        let mut failure = None;
        for scheme in &self.schemes {
            match self.sign(*scheme, MESSAGE) {
                Ok(signature) if self.public.verifies(*scheme, MESSAGE, &signature) => {
                    proven.push(*scheme)
                }
                Ok(_) => {
                    return Err(OpenError::SelfTest {
                        uri: self.reference.clone(),
                        scheme: scheme.name(),
                    });
                }
                Err(error) => failure = Some(error),
            }
        }
        match (proven.is_empty(), failure) {
            (true, Some(source)) => Err(OpenError::Token {
                uri: self.reference.clone(),
                source,
            }),
            _ => {
                self.schemes = proven;
                Ok(())
            }
        }
    }
}

impl PrivateKey for Pkcs11Key {
    fn reference(&self) -> &str {
        &self.reference
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn schemes(&self) -> &[Scheme] {
        &self.schemes
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !self.schemes.contains(&scheme) {
            return Err(SignError::Scheme {
                scheme: scheme.name(),
            });
        }
        let signature = self
            .sessions
            .with(|session, key| mechanism::sign(session, key, scheme, message))?;
        self.signatures.fetch_add(1, Ordering::Relaxed);
        mechanism::wire_form(scheme, signature)
    }

    fn custody(&self) -> Result<Custody, SignError> {
        let asked = [
            AttributeType::Sensitive,
            AttributeType::AlwaysSensitive,
            AttributeType::Extractable,
            AttributeType::NeverExtractable,
            AttributeType::Local,
        ];
        let said = self
            .sessions
            .with(|session, key| session.get_attributes(key, &asked))?;
        let claim = |pick: fn(&Attribute) -> Option<bool>| said.iter().find_map(pick);
        Ok(Custody {
            provider: "pkcs11",
            reference: self.reference.clone(),
            public_key_sha256: self.public.fingerprint().to_owned(),
            algorithm: self.public.algorithm().to_string(),
            schemes: self.schemes.clone(),
            token: Some(self.token.info().clone()),
            sensitive: claim(|said| {
                if let Attribute::Sensitive(yes) = said {
                    Some(*yes)
                } else {
                    None
                }
            }),
            always_sensitive: claim(|said| {
                if let Attribute::AlwaysSensitive(yes) = said {
                    Some(*yes)
                } else {
                    None
                }
            }),
            extractable: claim(|said| {
                if let Attribute::Extractable(yes) = said {
                    Some(*yes)
                } else {
                    None
                }
            }),
            never_extractable: claim(|said| {
                if let Attribute::NeverExtractable(yes) = said {
                    Some(*yes)
                } else {
                    None
                }
            }),
            local: claim(|said| {
                if let Attribute::Local(yes) = said {
                    Some(*yes)
                } else {
                    None
                }
            }),
        })
    }

    fn parallelism(&self) -> usize {
        self.sessions.limit()
    }

    fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }
}
