//! How to ask a token for each signature scheme. The digest is made here and signed raw: that is
//! what nearly every token can do, while mechanisms that hash are missing in many.

use cryptoki::error::Error;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::token::TokenSlot;
use super::trouble::answer;
use crate::public_key::{Algorithm, ecdsa_der};
use crate::{OpenError, Pkcs11Uri, Scheme, SignError};

/// The schemes for such a key, where the token lists the mechanism as one that signs.
pub(super) fn offered(
    token: &TokenSlot,
    uri: &Pkcs11Uri,
    algorithm: Algorithm,
) -> Result<Vec<Scheme>, OpenError> {
    let needed = match algorithm {
        Algorithm::EcdsaP256 | Algorithm::EcdsaP384 => MechanismType::ECDSA,
        Algorithm::Rsa { .. } => MechanismType::RSA_PKCS_PSS,
        Algorithm::Ed25519 => MechanismType::EDDSA,
    };
    let problem = match token.context().get_mechanism_info(token.slot(), needed) {
        Ok(info) if info.sign() => return Ok(algorithm.schemes().to_vec()),
        Ok(_) => format!("{needed} is listed, but not for signing"),
        Err(error) => format!("{needed}: {}", answer(&error)),
    };
    Err(OpenError::Mechanism {
        token: token.label().to_owned(),
        uri: uri.to_string(),
        problem,
    })
}

/// Makes the signature as the token gives it.
pub(super) fn sign(
    session: &Session,
    key: ObjectHandle,
    scheme: Scheme,
    message: &[u8],
) -> Result<Vec<u8>, Error> {
    let digest = scheme.digest(message);
    let input = digest.as_ref().map_or(message, AsRef::as_ref);
    session.sign(&mechanism(scheme), key, input)
}

/// Turns a token's signature into what TLS sends.
pub(super) fn wire_form(scheme: Scheme, signature: Vec<u8>) -> Result<Vec<u8>, SignError> {
    let malformed =
        |what: &dyn std::fmt::Display| SignError::Device(format!("a malformed signature: {what}"));
    let expected = match scheme {
        Scheme::EcdsaP256Sha256 | Scheme::Ed25519 => 64,
        Scheme::EcdsaP384Sha384 => 96,
        _ => signature.len(),
    };
    if signature.len() != expected || signature.is_empty() {
        return Err(malformed(&format_args!(
            "{} bytes instead of {expected}",
            signature.len()
        )));
    }
    match scheme {
        Scheme::EcdsaP256Sha256 | Scheme::EcdsaP384Sha384 => {
            ecdsa_der(&signature).map_err(|error| malformed(&error))
        }
        _ => Ok(signature),
    }
}

fn mechanism(scheme: Scheme) -> Mechanism<'static> {
    let pss = |hash_alg, mgf, s_len: std::ffi::c_ulong| {
        Mechanism::RsaPkcsPss(PkcsPssParams {
            hash_alg,
            mgf,
            s_len: s_len.into(),
        })
    };
    match scheme {
        Scheme::EcdsaP256Sha256 | Scheme::EcdsaP384Sha384 => Mechanism::Ecdsa,
        Scheme::RsaPssSha256 => pss(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256, 32),
        Scheme::RsaPssSha384 => pss(MechanismType::SHA384, PkcsMgfType::MGF1_SHA384, 48),
        Scheme::RsaPssSha512 => pss(MechanismType::SHA512, PkcsMgfType::MGF1_SHA512, 64),
        Scheme::Ed25519 => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
    }
}
