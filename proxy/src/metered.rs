//! A key whose signatures are counted and timed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::{counter, histogram};
use sealwire_keys::{Custody, KeyFigures, KeyHealth, PrivateKey, PublicKey, Scheme, SignError};

/// A key, metered.
#[derive(Debug)]
pub(crate) struct Metered {
    key: Arc<dyn PrivateKey>,
    provider: String,
}

impl Metered {
    pub(crate) fn new(key: Arc<dyn PrivateKey>) -> Self {
        let provider = key.reference().split(':').next().unwrap_or_default();
        Self {
            provider: provider.to_owned(),
            key,
        }
    }
}

impl PrivateKey for Metered {
    fn reference(&self) -> &str {
        self.key.reference()
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn schemes(&self) -> &[Scheme] {
        self.key.schemes()
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let begun = Instant::now();
        let signed = self.key.sign(scheme, message);
        histogram!("sealwire_sign_seconds").record(begun.elapsed());
        let outcome = signed.as_ref().map_or_else(SignError::reason, |_| "ok");
        counter!("sealwire_signatures_total", "provider" => self.provider.clone(), "outcome" => outcome)
            .increment(1);
        signed
    }

    fn custody(&self) -> Result<Custody, SignError> {
        self.key.custody()
    }

    fn parallelism(&self) -> usize {
        self.key.parallelism()
    }

    fn signatures(&self) -> u64 {
        self.key.signatures()
    }

    fn figures(&self) -> KeyFigures {
        self.key.figures()
    }

    fn health(&self) -> KeyHealth {
        self.key.health()
    }

    fn certified(&self, life: Duration) {
        self.key.certified(life);
    }

    fn rotate(&self) -> Result<(), SignError> {
        self.key.rotate()
    }

    fn has_successor(&self) -> bool {
        self.key.has_successor()
    }

    fn development(&self) -> bool {
        self.key.development()
    }
}
