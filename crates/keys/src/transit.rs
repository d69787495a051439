//! Keys in a transit mount of Vault or OpenBao (`vault-transit:mount/key`).
//!
//! [`reference`] names a key, [`key`] reads what the server says about it, [`signer`] asks for
//! signatures, several at once where several wait; [`trim`] puts an end to old versions. A key here is one version of the server's key:
//! its certificate is for that version, which is asked for in every request and asserted in every
//! answer. A newer version is noticed ([`PrivateKey::has_successor`]) and is another key.

mod key;
mod reference;
mod signer;
mod trim;

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

pub use self::reference::{TransitReference, TransitReferenceError};
use self::signer::Signer;
pub(crate) use self::trim::InUse;
use self::trim::Use;
use crate::public_key::PublicKey;
use crate::vault::{Method, Request, Vault};
use crate::{
    Custody, KeyFigures, KeyHealth, OpenError, PrivateKey, Scheme, SignError, TransitConfig,
};

/// What a key signs to prove itself.
const PROOF: &[u8] = b"sealwire: does this key sign?";

/// One version of a key in a transit mount.
#[derive(Debug)]
pub(crate) struct TransitKey {
    /// With the version, since another version is another key.
    reference: String,
    config: TransitConfig,
    version: u64,
    public: PublicKey,
    schemes: Vec<Scheme>,
    signer: Arc<Signer>,
    /// Held while a version is made, of which one is enough.
    rotating: Mutex<()>,
    _in_use: Use,
}

impl TransitKey {
    /// Reads what the server says of the key, and proves that it signs.
    pub(crate) fn open(config: &TransitConfig) -> Result<Self, OpenError> {
        let reference = config.reference.to_string();
        let vault = |source| OpenError::Vault {
            reference: reference.clone(),
            source,
        };
        let described = key::read(&config.vault, &config.reference, config.wait).map_err(vault)?;
        let unfit = |problem| OpenError::Transit {
            reference: reference.clone(),
            problem,
        };
        let version = config.version.unwrap_or(described.latest_version);
        described
            .check(version, config.allow_exportable)
            .map_err(unfit)?;
        match &config.public_keys {
            Some(path) if described.is_external() => {
                let known = key::public_keys(path).map_err(unfit)?;
                Self::open_by(config, version, known).unwrap_or_else(|| {
                    Err(unfit(format!(
                        "no public key in {} belongs to version {version}: add that one",
                        path.display()
                    )))
                })
            }
            _ => {
                let public = described.public_key(version).map_err(unfit)?;
                Self::prove(config, version, public)
            }
        }
    }

    /// The public half of a key in an HSM is the one by which its signatures are good.
    fn open_by(
        config: &TransitConfig,
        version: u64,
        known: Vec<PublicKey>,
    ) -> Option<Result<Self, OpenError>> {
        let mut tried = known
            .into_iter()
            .map(|public| Self::prove(config, version, public));
        let is_another = |tried: &Result<Self, OpenError>| match tried {
            Err(OpenError::SelfTest { .. }) => true,
            // Of another kind than the key: the server cannot even be asked so.
            Err(OpenError::Token { source, .. }) => matches!(source, SignError::Refused(_)),
            _ => false,
        };
        tried.find(|tried| !is_another(tried))
    }

    /// Has it sign, and takes it with the schemes that it can do.
    fn prove(config: &TransitConfig, version: u64, public: PublicKey) -> Result<Self, OpenError> {
        let mut key = Self {
            reference: format!("{}?version={version}", config.reference),
            config: config.clone(),
            version,
            schemes: public.algorithm().schemes().to_vec(),
            signer: Signer::start(config, version, &public),
            public,
            rotating: Mutex::default(),
            _in_use: Use::begin(config.vault.inner(), &config.reference, version),
        };
        key.try_schemes()?;
        Ok(key)
    }

    /// Signs and verifies once with every scheme, and keeps those that the server can do.
    fn try_schemes(&mut self) -> Result<(), OpenError> {
        let mut proven = Vec::new();
        let mut failure = None;
        for scheme in self.schemes.clone() {
            match self.signer.sign(scheme, PROOF) {
                Ok(signature) if self.public.verifies(scheme, PROOF, &signature) => {
                    proven.push(scheme);
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
        self.schemes = proven;
        match failure {
            Some(source) if self.schemes.is_empty() => Err(OpenError::Token {
                uri: self.reference.clone(),
                source,
            }),
            _ => Ok(()),
        }
    }

    fn vault(&self) -> &Vault {
        &self.config.vault
    }
}

impl PrivateKey for TransitKey {
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
        let signature = self.signer.sign(scheme, message)?;
        // Another key of the same name has versions of the same numbers.
        if !self.public.verifies(scheme, message, &signature) {
            self.signer.fails(SignError::KeyChanged);
            return Err(SignError::KeyChanged);
        }
        Ok(signature)
    }

    fn custody(&self) -> Result<Custody, SignError> {
        let described = key::read(self.vault(), &self.config.reference, self.config.wait)?;
        // What the HSM behind the server would let out, the server does not say.
        let told = !described.is_external();
        let can_leave = described.exportable || described.allow_plaintext_backup;
        let stays = told.then_some(!can_leave);
        Ok(Custody {
            provider: "vault-transit",
            reference: self.reference.clone(),
            public_key_sha256: self.public.fingerprint().to_owned(),
            algorithm: self.public.algorithm().to_string(),
            schemes: self.schemes.clone(),
            token: None,
            sensitive: stays,
            // Neither property can be taken back once it has been granted.
            always_sensitive: stays,
            extractable: told.then_some(can_leave),
            never_extractable: stays,
            local: told.then_some(!described.imported_key),
            transit: Some(described.custody(self.version)),
        })
    }

    fn parallelism(&self) -> usize {
        // Batches are made of what waits, so as many may wait as requests can carry, within reason.
        self.config
            .requests
            .get()
            .saturating_mul(self.config.batch.get())
            .min(64)
    }

    fn signatures(&self) -> u64 {
        self.signer.signatures.load(Ordering::Relaxed)
    }

    fn figures(&self) -> KeyFigures {
        self.signer.figures()
    }

    fn health(&self) -> KeyHealth {
        self.signer.health()
    }

    fn certified(&self, life: Duration) {
        let seconds = life.as_secs().max(1);
        self.signer
            .certificate_lives
            .fetch_max(seconds, Ordering::Relaxed);
    }

    /// Has a version made, unless there is a newer one already: of whoever asks at once, here and
    /// in replicas, all mean the same.
    fn rotate(&self) -> Result<(), SignError> {
        if self.config.version.is_some() {
            return Err(SignError::Refused(
                "its version is pinned: leave key.vaultTransit.version out".to_owned(),
            ));
        }
        let reference = &self.config.reference;
        let request = Request {
            method: Method::Post,
            path: format!("{}/keys/{}/rotate", reference.mount(), reference.key()),
            body: None,
            what: format!("to rotate {reference}"),
        };
        let _alone = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let (vault, signer, version) = (
            self.vault().inner().clone(),
            self.signer.clone(),
            self.version,
        );
        let question = key::question(reference);
        let within = self.config.wait;
        let deadline = Instant::now() + within;
        let rotating = async move {
            let is_done = |answer: Value| {
                let newest = key::described(answer, question.what.clone())?.latest_version;
                signer.newest.store(newest, Ordering::Relaxed);
                Ok(newest > version)
            };
            vault.do_once(&request, &question, is_done, deadline).await
        };
        Ok(self.vault().wait_for(within, rotating)?)
    }

    fn has_successor(&self) -> bool {
        let newest = self.signer.newest.load(Ordering::Relaxed);
        newest > self.version && self.config.version.is_none()
    }
}

impl Drop for TransitKey {
    fn drop(&mut self) {
        self.signer.end();
    }
}
