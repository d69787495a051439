//! Keys in a PKCS#11 token (v2.40), through the vendor's own library.
//!
//! How the parts divide the work, and what each guards against (see `docs/hsm.md`):
//! [`module`] loads a library once a process, and initialises it anew when nothing else helps,
//! behind the [`gate`] that keeps everybody out meanwhile; [`token`] finds the token and logs in,
//! never spending a PIN try twice, for which [`refused`] remembers; [`sessions`] lends sessions to
//! one thread at a time; [`tender`] keeps one alive and begins a failing token anew; [`object`]
//! finds the key, or [`generate`] makes one; [`mechanism`] speaks the token's dialect of each
//! signature scheme; [`trouble`] says what a return value asks for.

mod gate;
mod generate;
mod mechanism;
mod module;
mod object;
mod refused;
mod sessions;
mod tender;
mod token;
mod trouble;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::object::{Attribute, AttributeType, ObjectHandle};
use cryptoki::session::Session;

use self::gate::Pass;
use self::generate::Holder;
use self::module::Module;
use self::sessions::Sessions;
use self::tender::Tender;
use self::token::TokenSlot;
use crate::public_key::PublicKey;
use crate::{
    Custody, Generate, KeyFigures, KeyHealth, OpenError, Pkcs11Config, PrivateKey, Scheme,
    SignError,
};

/// What a key signs to prove itself.
const PROOF: &[u8] = b"sealwire: does this key sign?";

/// How long opening waits while another key has the module initialised anew.
const OPENING: Duration = Duration::from_secs(5);

/// Ends the use of every module.
pub(crate) fn finish(patience: Duration) {
    module::finish(patience);
    tender::finish(patience);
}

/// A private key in a token.
#[derive(Debug)]
pub(crate) struct Pkcs11Key {
    reference: String,
    sessions: Arc<Sessions>,
    public: PublicKey,
    schemes: Vec<Scheme>,
    signatures: AtomicU64,
    /// Since when it is there, when it was made here.
    made: Option<(Instant, Generate)>,
    /// Whether another was asked for.
    rotate: AtomicBool,
}

impl Pkcs11Key {
    /// Finds the key and proves that it signs; where the module or the token is unusable, once
    /// more after the module was initialised anew.
    pub(crate) fn open(config: &Pkcs11Config) -> Result<Self, OpenError> {
        let module = module::load(&config.module)?;
        let (key, holder) = match Self::find(config, &module) {
            Err(error) if is_unusable(&error) && module.reload() => Self::find(config, &module),
            other => other,
        }?;
        let tender = Tender {
            sessions: key.sessions.clone(),
            public: key.public.clone(),
            scheme: key.schemes[0],
            holder,
        };
        tender.start().map_err(|error| OpenError::Module {
            path: config.module.clone(),
            problem: format!("no thread can be started to look after its sessions: {error}"),
        })?;
        Ok(key)
    }

    /// Finds the key, or makes it; then with the session that it lives in.
    fn find(
        config: &Pkcs11Config,
        module: &Arc<Module>,
    ) -> Result<(Self, Option<Holder>), OpenError> {
        let uri = config.uri.to_string();
        let Some(pass) = module.enter(Instant::now() + OPENING) else {
            return Err(OpenError::Token {
                uri,
                source: SignError::Unusable("the module is being initialised anew".to_owned()),
            });
        };
        let token = Arc::new(TokenSlot::find(module, config, &pass)?);
        let Some(generate) = config.generate else {
            return Ok((Self::locate(config, module, token, &pass)?, None));
        };
        let session = token.open_session(&pass)?;
        let made = generate::pair(&token, &session, config, generate.curve)
            .and_then(|config| Self::locate(&config, module, token, &pass));
        match made {
            Ok(key) => {
                let module = pass.generation();
                Ok((key, Some(Holder { session, module })))
            }
            Err(error) => {
                // What failed is said already.
                let _ = session.close();
                Err(error)
            }
        }
    }

    fn locate(
        config: &Pkcs11Config,
        module: &Arc<Module>,
        token: Arc<TokenSlot>,
        pass: &Pass<'_>,
    ) -> Result<Self, OpenError> {
        let uri = config.uri.to_string();
        let session = token.open_session(pass)?;
        let certified = config.certified.as_deref();
        let found = object::locate(&session, &config.uri, certified, token.label());
        let found = found.and_then(|located| {
            let schemes = mechanism::offered(&token, &config.uri, located.public.algorithm())?;
            let proven = prove(&session, &located, schemes, &uri)?;
            Ok((located, proven))
        });
        let (located, schemes) = match found {
            Ok(found) => found,
            Err(error) => {
                // What failed is said already.
                let _ = session.close();
                return Err(error);
            }
        };
        let first = (session, located.handle);
        let reference = if located.one_of_several {
            config.uri.with_id(&located.id).to_string()
        } else {
            uri
        };
        Ok(Self {
            reference,
            sessions: Arc::new(Sessions::new(
                config,
                module.clone(),
                token,
                located.id,
                first,
                pass,
            )),
            signatures: AtomicU64::new(u64::try_from(schemes.len()).unwrap_or_default()),
            public: located.public,
            schemes,
            made: config.generate.map(|generate| (Instant::now(), generate)),
            rotate: AtomicBool::new(false),
        })
    }
}

/// Signs and verifies once with every scheme, and gives those that the token can do.
fn prove(
    session: &Session,
    located: &object::Located,
    schemes: Vec<Scheme>,
    uri: &str,
) -> Result<Vec<Scheme>, OpenError> {
    let mut proven = Vec::new();
    let mut failure = None;
    for scheme in schemes {
        let signed = mechanism::sign(session, located.handle, scheme, PROOF)
            .map_err(|error| trouble::sign_error(&error))
            .and_then(|raw| mechanism::wire_form(scheme, raw));
        match signed {
            Ok(signature) if located.public.verifies(scheme, PROOF, &signature) => {
                proven.push(scheme);
            }
            Ok(_) => {
                return Err(OpenError::SelfTest {
                    uri: uri.to_owned(),
                    scheme: scheme.name(),
                });
            }
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(source) if proven.is_empty() => Err(OpenError::Token {
            uri: uri.to_owned(),
            source,
        }),
        _ => Ok(proven),
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
        let sign =
            |session: &Session, key: ObjectHandle| mechanism::sign(session, key, scheme, message);
        let is_ours = |raw: &Vec<u8>| {
            let signature = mechanism::wire_form(scheme, raw.clone()).ok()?;
            Some(self.public.verifies(scheme, message, &signature))
        };
        let signature = self.sessions.with_proof(sign, is_ours)?;
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
            token: Some(self.sessions.token().info().clone()),
            transit: None,
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

    fn figures(&self) -> KeyFigures {
        KeyFigures {
            signatures: self.signatures(),
            ..self.sessions.figures()
        }
    }

    fn health(&self) -> KeyHealth {
        self.sessions.health()
    }

    fn has_successor(&self) -> bool {
        let old = self.made.is_some_and(|(since, generate)| {
            generate.max_age.is_some_and(|age| since.elapsed() >= age)
        });
        old || self.rotate.load(Ordering::Relaxed)
    }

    fn rotate(&self) -> Result<(), SignError> {
        if self.made.is_none() {
            return Err(SignError::Refused(
                "it was made by somebody else: have them make another beside it, with its label and an id of its own, and put \
                 the certificate for that into identity.certificate: the sidecar moves to it by itself. Where identity.vaultPki \
                 issues, let keys be made here instead: leave out id= and key.pkcs11.generate: none"
                    .to_owned(),
            ));
        }
        self.rotate.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for Pkcs11Key {
    fn drop(&mut self) {
        // Whoever drops the key may not wait for a device: the tender closes the sessions.
        self.sessions.end();
    }
}

/// Whether initialising the module anew may help.
fn is_unusable(error: &OpenError) -> bool {
    matches!(
        error,
        OpenError::TokenMissing { .. }
            | OpenError::Token {
                source: SignError::Unusable(_),
                ..
            }
    )
}
