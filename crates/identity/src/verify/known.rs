//! Signatures of CAs that were found good, so that the same certificates are not paid for with
//! the same arithmetic in every handshake.
//!
//! Whether a signature fits bytes and a key is a fact that no time changes. It is all that is
//! remembered: the path, validity, usages, names and revocation are judged anew each time.

use std::collections::HashSet;
use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use rustls_pki_types::{AlgorithmIdentifier, InvalidSignature, SignatureVerificationAlgorithm};
use sha2::{Digest, Sha256};

/// How many signatures a generation holds, two of which are kept: 64 KiB.
const MOST: usize = 1024;

/// Facts of the kind "this signature fits", in bounds: what was not asked about for longest is
/// forgotten. Only what fits gets in, so that a stranger cannot fill it.
#[derive(Default)]
pub(super) struct KnownSignatures {
    facts: Mutex<Generations>,
}

#[derive(Default)]
struct Generations {
    young: HashSet<Fact>,
    old: HashSet<Fact>,
}

/// SHA-256 of algorithm, key, message and signature.
type Fact = [u8; 32];

/// An algorithm that asks what is known before it calculates.
pub(super) struct Remembering<'a> {
    algorithm: &'static dyn SignatureVerificationAlgorithm,
    known: &'a KnownSignatures,
}

impl KnownSignatures {
    /// The same algorithms, each of which remembers here.
    pub(super) fn around(
        &self,
        algorithms: &[&'static dyn SignatureVerificationAlgorithm],
    ) -> Vec<Remembering<'_>> {
        let around = |algorithm: &&'static dyn SignatureVerificationAlgorithm| Remembering {
            algorithm: *algorithm,
            known: self,
        };
        algorithms.iter().map(around).collect()
    }

    /// Whether it is known; if so, it is young again.
    fn knows(&self, fact: &Fact) -> bool {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.young.contains(fact) || facts.old.contains(fact) && facts.learn(*fact)
    }

    fn learn(&self, fact: Fact) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.learn(fact);
    }
}

impl Generations {
    fn learn(&mut self, fact: Fact) -> bool {
        if self.young.len() >= MOST {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(fact)
    }
}

impl SignatureVerificationAlgorithm for Remembering<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let fact = self.fact(public_key, message, signature);
        if self.known.knows(&fact) {
            return Ok(());
        }
        self.algorithm
            .verify_signature(public_key, message, signature)?;
        self.known.learn(fact);
        Ok(())
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.public_key_alg_id()
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        self.algorithm.signature_alg_id()
    }

    fn fips(&self) -> bool {
        self.algorithm.fips()
    }
}

impl Remembering<'_> {
    /// Each part with its length, so that no two questions are the same bytes.
    fn fact(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> Fact {
        let mut hash = Sha256::new();
        for part in [
            self.algorithm.public_key_alg_id().as_ref(),
            self.algorithm.signature_alg_id().as_ref(),
            public_key,
            message,
            signature,
        ] {
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

impl fmt::Debug for KnownSignatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownSignatures").finish_non_exhaustive()
    }
}

impl fmt::Debug for Remembering<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.algorithm.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Says that a signature fits when it is the message, and counts how often it was asked.
    #[derive(Debug)]
    struct Echo(AtomicUsize, [u8; 1]);

    impl SignatureVerificationAlgorithm for Echo {
        fn verify_signature(
            &self,
            _key: &[u8],
            message: &[u8],
            signature: &[u8],
        ) -> Result<(), InvalidSignature> {
            self.0.fetch_add(1, Ordering::SeqCst);
            if message == signature {
                Ok(())
            } else {
                Err(InvalidSignature)
            }
        }

        fn public_key_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(b"key")
        }

        fn signature_alg_id(&self) -> AlgorithmIdentifier {
            AlgorithmIdentifier::from_slice(match self.1 {
                [0] => b"one",
                _ => b"two",
            })
        }
    }

    impl Echo {
        fn new(id: u8) -> &'static Self {
            Box::leak(Box::new(Self(AtomicUsize::new(0), [id])))
        }

        fn asked(&self) -> usize {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_signature_that_fits_is_calculated_once() {
        let (known, echo) = (KnownSignatures::default(), Echo::new(0));
        for _ in 0..3 {
            let algorithms = known.around(&[echo]);
            algorithms[0].verify_signature(b"k", b"m", b"m").unwrap();
        }
        assert_eq!(echo.asked(), 1);
    }

    #[test]
    fn a_signature_that_does_not_fit_is_never_known() {
        let (known, echo) = (KnownSignatures::default(), Echo::new(0));
        for asked in 1..4 {
            let algorithms = known.around(&[echo]);
            assert!(algorithms[0].verify_signature(b"k", b"m", b"s").is_err());
            assert_eq!(echo.asked(), asked);
        }
    }

    #[test]
    fn another_key_message_or_algorithm_is_another_question() {
        let known = KnownSignatures::default();
        let (one, two) = (Echo::new(0), Echo::new(1));
        let algorithms = known.around(&[one, two]);
        algorithms[0].verify_signature(b"k", b"m", b"m").unwrap();
        algorithms[0].verify_signature(b"km", b"", b"").unwrap();
        algorithms[0].verify_signature(b"", b"km", b"km").unwrap();
        assert!(algorithms[0].verify_signature(b"k", b"mm", b"").is_err());
        assert_eq!(one.asked(), 4);
        algorithms[1].verify_signature(b"k", b"m", b"m").unwrap();
        assert_eq!(two.asked(), 1);
    }

    #[test]
    fn it_holds_two_generations_and_keeps_what_is_asked_for() {
        let (known, echo) = (KnownSignatures::default(), Echo::new(0));
        let algorithms = known.around(&[echo]);
        let ask = |number: usize| {
            let message = number.to_be_bytes();
            algorithms[0]
                .verify_signature(b"k", &message, &message)
                .unwrap();
        };
        for number in 0..10 * MOST {
            ask(number);
            ask(0);
            let facts = known.facts.lock().unwrap();
            assert!(facts.young.len() <= MOST && facts.old.len() <= MOST);
        }
        assert_eq!(echo.asked(), 10 * MOST);
        // The second is long forgotten.
        ask(1);
        assert_eq!(echo.asked(), 10 * MOST + 1);
    }
}
