//! What several modules' tests need: a key that stands as the test says.

use std::sync::{Arc, Mutex};

use rcgen::{KeyPair, PublicKeyData};
use sealwire_keys::{Custody, KeyFigures, KeyHealth, PrivateKey, PublicKey, Scheme, SignError};

/// A key that never signs.
#[derive(Debug)]
pub(crate) struct FakeKey {
    pub(crate) public: PublicKey,
    pub(crate) health: Mutex<KeyHealth>,
    pub(crate) successor: Mutex<bool>,
    pub(crate) figures: Mutex<KeyFigures>,
}

impl FakeKey {
    pub(crate) fn new() -> Arc<Self> {
        let pair = KeyPair::generate().unwrap();
        Self::of(PublicKey::from_spki_der(&pair.subject_public_key_info()).unwrap())
    }

    /// Another key with the same public half.
    pub(crate) fn of(public: PublicKey) -> Arc<Self> {
        Arc::new(Self {
            public,
            health: Mutex::new(KeyHealth::Ready),
            successor: Mutex::default(),
            figures: Mutex::default(),
        })
    }

    pub(crate) fn is(&self, health: KeyHealth) {
        *self.health.lock().unwrap() = health;
    }

    pub(crate) fn is_gone(&self) {
        self.is(KeyHealth::Down(SignError::KeyGone));
    }
}

impl PrivateKey for FakeKey {
    fn reference(&self) -> &str {
        "fake:"
    }

    fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn schemes(&self) -> &[Scheme] {
        &[]
    }

    fn sign(&self, _: Scheme, _: &[u8]) -> Result<Vec<u8>, SignError> {
        Err(SignError::KeyGone)
    }

    fn custody(&self) -> Result<Custody, SignError> {
        Err(SignError::KeyGone)
    }

    fn parallelism(&self) -> usize {
        1
    }

    fn signatures(&self) -> u64 {
        0
    }

    fn figures(&self) -> KeyFigures {
        *self.figures.lock().unwrap()
    }

    fn health(&self) -> KeyHealth {
        self.health.lock().unwrap().clone()
    }

    fn has_successor(&self) -> bool {
        *self.successor.lock().unwrap()
    }
}
