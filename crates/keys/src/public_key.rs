//! Public keys: their algorithm, their digest, and the check of a signature.

use aws_lc_rs::digest;
use aws_lc_rs::signature::UnparsedPublicKey;
use der::asn1::{AnyRef, BitString, ObjectIdentifier, UintRef};
use der::{Decode, Encode};
use spki::{AlgorithmIdentifier, SubjectPublicKeyInfo};
use std::fmt;

use crate::scheme::Scheme;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

type Spki<'a> = SubjectPublicKeyInfo<AnyRef<'a>, BitString>;

/// Kind of a key.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Algorithm {
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
    /// RSA.
    Rsa {
        /// Length of the modulus.
        bits: usize,
    },
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The TLS 1.3 schemes that suit such a key, best first.
    pub fn schemes(self) -> &'static [Scheme] {
        match self {
            Self::EcdsaP256 => &[Scheme::EcdsaP256Sha256],
            Self::EcdsaP384 => &[Scheme::EcdsaP384Sha384],
            Self::Rsa { .. } => &[
                Scheme::RsaPssSha256,
                Scheme::RsaPssSha384,
                Scheme::RsaPssSha512,
            ],
            Self::Ed25519 => &[Scheme::Ed25519],
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EcdsaP256 => f.write_str("ECDSA P-256"),
            Self::EcdsaP384 => f.write_str("ECDSA P-384"),
            Self::Rsa { bits } => write!(f, "RSA {bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// A public key as SubjectPublicKeyInfo (RFC 5280 section 4.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey {
    spki: Vec<u8>,
    algorithm: Algorithm,
    /// The key's own bits: point, RSAPublicKey or Ed25519 key.
    bits: Vec<u8>,
    fingerprint: String,
}

/// What is wrong with a public key.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PublicKeyError {
    /// Not the DER that it should be.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Of a kind that TLS 1.3 or this proxy does not use.
    #[error("unsupported key: {0}: use P-256, P-384, RSA of 2048 to 8192 bits or Ed25519")]
    Unsupported(String),
    /// Nothing to read it from.
    #[error("not found")]
    Missing,
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// When it is malformed or of a kind that is not supported.
    pub fn from_spki_der(der: &[u8]) -> Result<Self, PublicKeyError> {
        let spki = Spki::from_der(der).map_err(malformed)?;
        let bits = spki.subject_public_key.raw_bytes().to_vec();
        let oid = spki.algorithm.oid;
        let curve = spki
            .algorithm
            .parameters
            .and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
        let algorithm = match (oid, curve) {
            (EC_PUBLIC_KEY, Some(P256)) => Algorithm::EcdsaP256,
            (EC_PUBLIC_KEY, Some(P384)) => Algorithm::EcdsaP384,
            (RSA, _) => Algorithm::Rsa {
                bits: rsa_bits(&bits)?,
            },
            (ED25519, _) => Algorithm::Ed25519,
            (oid, Some(curve)) => {
                return Err(PublicKeyError::Unsupported(format!("{oid} with {curve}")));
            }
            (oid, None) => return Err(PublicKeyError::Unsupported(oid.to_string())),
        };
        let fingerprint = digest::digest(&digest::SHA256, der)
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(Self {
            spki: der.to_vec(),
            algorithm,
            bits,
            fingerprint,
        })
    }

    /// Builds one from an elliptic curve's parameters and uncompressed point (RFC 5480), as a
    /// token has them.
    pub(crate) fn from_ec(params: &[u8], point: &[u8]) -> Result<Self, PublicKeyError> {
        Self::assemble(
            EC_PUBLIC_KEY,
            Some(AnyRef::from_der(params).map_err(malformed)?),
            point,
        )
    }

    /// Builds one from an Ed25519 public key (RFC 8410).
    pub(crate) fn from_ed25519(key: &[u8]) -> Result<Self, PublicKeyError> {
        Self::assemble(ED25519, None, key)
    }

    /// Builds one from an RSA modulus and exponent, big endian (RFC 8017).
    pub(crate) fn from_rsa(modulus: &[u8], exponent: &[u8]) -> Result<Self, PublicKeyError> {
        let key = sequence_of_two(modulus, exponent).map_err(malformed)?;
        Self::assemble(RSA, Some(AnyRef::NULL), &key)
    }

    /// The kind of key.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The SubjectPublicKeyInfo in DER.
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// The key's own bits: an uncompressed point, an RSAPublicKey or 32 bytes of Ed25519.
    pub fn bits(&self) -> &[u8] {
        &self.bits
    }

    /// SHA-256 of the SubjectPublicKeyInfo, in hexadecimal.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether `signature` is this key's over `message`.
    pub fn verifies(&self, scheme: Scheme, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(scheme.verification(), &self.bits)
            .verify(message, signature)
            .is_ok()
    }

    fn assemble(
        oid: ObjectIdentifier,
        parameters: Option<AnyRef<'_>>,
        bits: &[u8],
    ) -> Result<Self, PublicKeyError> {
        let spki = Spki {
            algorithm: AlgorithmIdentifier { oid, parameters },
            subject_public_key: BitString::from_bytes(bits).map_err(malformed)?,
        };
        Self::from_spki_der(&spki.to_der().map_err(malformed)?)
    }
}

/// Turns the raw `r || s` of PKCS#11 (v2.40 section 2.3.1) into the DER that TLS wants
/// (RFC 3279 section 2.2.3).
pub(crate) fn ecdsa_der(raw: &[u8]) -> Result<Vec<u8>, der::Error> {
    let (r, s) = raw.split_at(raw.len() / 2);
    sequence_of_two(r, s)
}

/// A sequence of two unsigned integers; leading zeros are dropped and added as DER wants them.
fn sequence_of_two(first: &[u8], second: &[u8]) -> Result<Vec<u8>, der::Error> {
    let mut sequence = der::asn1::SequenceOf::<UintRef<'_>, 2>::new();
    sequence.add(UintRef::new(first)?)?;
    sequence.add(UintRef::new(second)?)?;
    sequence.to_der()
}

fn rsa_bits(key: &[u8]) -> Result<usize, PublicKeyError> {
    let parts = der::asn1::SequenceOf::<UintRef<'_>, 2>::from_der(key).map_err(malformed)?;
    let modulus = parts.get(0).map(UintRef::as_bytes).unwrap_or_default();
    let leading = modulus.first().map_or(0, |byte| byte.leading_zeros());
    let bits = modulus.len() * 8 - usize::try_from(leading).unwrap_or_default();
    if (2048..=8192).contains(&bits) {
        Ok(bits)
    } else {
        Err(PublicKeyError::Unsupported(format!("RSA with {bits} bits")))
    }
}

fn malformed(error: impl fmt::Display) -> PublicKeyError {
    PublicKeyError::Malformed(error.to_string())
}

#[cfg(test)]
mod aws_lc;

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn raw_signatures_become_der_that_verifies_even_with_leading_zeros() {
        let rng = SystemRandom::new();
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let params = P256.to_der().unwrap();
        let public = PublicKey::from_ec(&params, pair.public_key().as_ref()).unwrap();
        let mut short = 0;
        // A leading zero in r or s comes once in 128 signatures; a thousand have several.
        for number in 0..1000_u32 {
            let message = number.to_be_bytes();
            let raw = pair.sign(&rng, &message).unwrap();
            let raw = raw.as_ref();
            short += usize::from(raw[0] == 0 || raw[32] == 0);
            let der = ecdsa_der(raw).unwrap();
            assert!(
                public.verifies(Scheme::EcdsaP256Sha256, &message, &der),
                "{raw:02x?}"
            );
        }
        assert!(short > 0, "no signature with a leading zero among them");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_no_public_key_and_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(PublicKey::from_spki_der(&bytes).is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000_000))]

        #[test]
        fn a_million_pairs_of_r_and_s_survive_the_way_through_der_as_aws_lc_reads_it(
            mut raw in any::<[u8; 64]>(),
            zeros_of_r in 0..32_usize,
            zeros_of_s in 0..32_usize,
            leading in any::<bool>(),
        ) {
            if leading {
                raw[..zeros_of_r].fill(0);
                raw[32..32 + zeros_of_s].fill(0);
            }
            let der = ecdsa_der(&raw).unwrap();
            prop_assert_eq!(aws_lc::r_and_s(&der), Some(raw));
        }
    }

    #[test]
    fn an_rsa_key_too_short_is_refused() {
        let error = PublicKey::from_rsa(&[0xff; 128], &[1, 0, 1]).unwrap_err();
        assert!(error.to_string().contains("1024 bits"), "{error}");
    }
}
