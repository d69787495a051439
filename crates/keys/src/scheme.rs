//! The signature schemes of TLS 1.3 that a key here can be asked for.

use std::fmt;

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self, VerificationAlgorithm};
use serde::{Serialize, Serializer};

/// A signature scheme (RFC 8446 section 4.2.3).
#[derive(Copy, Clone, Debug, Eq, Hash, PartialEq)]
pub enum Scheme {
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384.
    EcdsaP384Sha384,
    /// RSA-PSS with SHA-256, its salt as long as the hash.
    RsaPssSha256,
    /// RSA-PSS with SHA-384, its salt as long as the hash.
    RsaPssSha384,
    /// RSA-PSS with SHA-512, its salt as long as the hash.
    RsaPssSha512,
    /// Ed25519 (RFC 8032).
    Ed25519,
}

impl Scheme {
    /// The code point in TLS.
    pub fn code(self) -> u16 {
        match self {
            Self::EcdsaP256Sha256 => 0x0403,
            Self::EcdsaP384Sha384 => 0x0503,
            Self::RsaPssSha256 => 0x0804,
            Self::RsaPssSha384 => 0x0805,
            Self::RsaPssSha512 => 0x0806,
            Self::Ed25519 => 0x0807,
        }
    }

    /// The name in RFC 8446.
    pub fn name(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa_secp256r1_sha256",
            Self::EcdsaP384Sha384 => "ecdsa_secp384r1_sha384",
            Self::RsaPssSha256 => "rsa_pss_rsae_sha256",
            Self::RsaPssSha384 => "rsa_pss_rsae_sha384",
            Self::RsaPssSha512 => "rsa_pss_rsae_sha512",
            Self::Ed25519 => "ed25519",
        }
    }

    /// The digest that is signed; none where the scheme takes the message itself.
    pub(crate) fn digest(self, message: &[u8]) -> Option<Digest> {
        let algorithm = match self {
            Self::EcdsaP256Sha256 | Self::RsaPssSha256 => &digest::SHA256,
            Self::EcdsaP384Sha384 | Self::RsaPssSha384 => &digest::SHA384,
            Self::RsaPssSha512 => &digest::SHA512,
            Self::Ed25519 => return None,
        };
        Some(digest::digest(algorithm, message))
    }

    pub(crate) fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::EcdsaP256Sha256 => &signature::ECDSA_P256_SHA256_ASN1,
            Self::EcdsaP384Sha384 => &signature::ECDSA_P384_SHA384_ASN1,
            Self::RsaPssSha256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::RsaPssSha384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::RsaPssSha512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Ed25519 => &signature::ED25519,
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Scheme {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
