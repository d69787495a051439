//! A key in this process's memory, for development: nothing keeps it from being copied.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512,
    RsaKeyPair,
};
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject;

use crate::public_key::{Algorithm, PublicKey};
use crate::secret::SecretFile;
use crate::{Custody, MemoryConfig, OpenError, PrivateKey, Scheme, SignError};

/// A key read from a PKCS#8 file.
#[derive(Debug)]
pub(crate) struct MemoryKey {
    reference: String,
    public: PublicKey,
    pair: Pair,
    random: SystemRandom,
    signatures: AtomicU64,
}

#[derive(Debug)]
enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
    Ed25519(Ed25519KeyPair),
}

impl MemoryKey {
    pub(crate) fn open(config: &MemoryConfig) -> Result<Self, OpenError> {
        if !config.development {
            return Err(OpenError::DevelopmentOnly);
        }
        let file = SecretFile::read(&config.path)?;
        let bad = |problem: String| OpenError::KeyFile {
            path: config.path.clone(),
            problem,
        };
        let pkcs8 = PrivatePkcs8KeyDer::from_pem_slice(file.expose())
            .map_err(|_| bad("holds no PKCS#8 private key in PEM form".to_owned()))?;
        let (pair, public) = Pair::from_pkcs8(pkcs8.secret_pkcs8_der()).map_err(bad)?;
        Ok(Self {
            reference: format!("memory:{}", config.path.display()),
            public,
            pair,
            random: SystemRandom::new(),
            signatures: AtomicU64::new(0),
        })
    }
}

impl PrivateKey for MemoryKey {
    fn reference(&self) -> &str {
        &self.reference
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn schemes(&self) -> &[Scheme] {
        self.public.algorithm().schemes()
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !self.schemes().contains(&scheme) {
            return Err(SignError::Scheme {
                scheme: scheme.name(),
            });
        }
        let failed = |_| SignError::Device("the cryptographic library failed".to_owned());
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => pair
                .sign(&self.random, message)
                .map_err(failed)?
                .as_ref()
                .to_vec(),
            Pair::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let padding = match scheme {
                    Scheme::RsaPssSha512 => &RSA_PSS_SHA512,
                    Scheme::RsaPssSha384 => &RSA_PSS_SHA384,
                    _ => &RSA_PSS_SHA256,
                };
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &self.random, message, &mut signature)
                    .map_err(failed)?;
                signature
            }
        };
        self.signatures.fetch_add(1, Ordering::Relaxed);
        Ok(signature)
    }

    fn custody(&self) -> Result<Custody, SignError> {
        Ok(Custody {
            provider: "memory",
            reference: self.reference.clone(),
            public_key_sha256: self.public.fingerprint().to_owned(),
            algorithm: self.public.algorithm().to_string(),
            schemes: self.schemes().to_vec(),
            token: None,
            transit: None,
            sensitive: Some(false),
            always_sensitive: Some(false),
            extractable: Some(true),
            never_extractable: Some(false),
            local: Some(false),
        })
    }

    fn parallelism(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }

    fn development(&self) -> bool {
        true
    }
}

impl Pair {
    fn from_pkcs8(der: &[u8]) -> Result<(Self, PublicKey), String> {
        let curves: [&'static EcdsaSigningAlgorithm; 2] = [
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &ECDSA_P384_SHA384_ASN1_SIGNING,
        ];
        let (pair, spki) = if let Some(pair) = curves
            .iter()
            .find_map(|curve| EcdsaKeyPair::from_pkcs8(curve, der).ok())
        {
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Self::Ecdsa(pair), spki)
        } else if let Ok(pair) = Ed25519KeyPair::from_pkcs8(der) {
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Self::Ed25519(pair), spki)
        } else if let Ok(pair) = RsaKeyPair::from_pkcs8(der) {
            let spki = pair.public_key().as_der().map(|der| der.as_ref().to_vec());
            (Self::Rsa(Box::new(pair)), spki)
        } else {
            return Err("holds no P-256, P-384, RSA or Ed25519 key".to_owned());
        };
        let spki = spki.map_err(|_| "its public key cannot be encoded".to_owned())?;
        let public = PublicKey::from_spki_der(&spki).map_err(|error| error.to_string())?;
        debug_assert!(!matches!(public.algorithm(), Algorithm::Rsa { bits } if bits < 2048));
        Ok((pair, public))
    }
}
