//! The signature over the assessment results: a DSSE envelope around an in-toto Statement about the
//! digest of the canonical JSON (RFC 8785), in the form that `trestle verify` takes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sealwire_keys::PrivateKey;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::ReportError;

const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// Signs a document. Blocks for as long as the key takes.
pub(crate) fn envelope(
    name: &str,
    document: &Value,
    key: &dyn PrivateKey,
) -> Result<Value, ReportError> {
    let canonical = serde_json_canonicalizer::to_vec(document).map_err(ReportError::Json)?;
    let digest: String = Sha256::digest(&canonical)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{ "name": name, "digest": { "sha256": digest } }],
        "predicateType": "https://oscal-compass.github.io/compliance-trestle/predicates/oscal-signing/v1",
        "predicate": {
            "canonicalization": "RFC8785",
            "digestAlgorithm": "sha256",
            "digestSource": "canonical-json",
            "tool": "sealwire",
        },
    });
    let payload = serde_json_canonicalizer::to_vec(&statement).map_err(ReportError::Json)?;
    let Some(scheme) = key.schemes().first().copied() else {
        return Err(ReportError::NoScheme(key.reference().to_owned()));
    };
    let signature = key
        .sign(scheme, &encoded(&payload))
        .map_err(ReportError::Sign)?;
    Ok(json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": BASE64.encode(&payload),
        "signatures": [{
            "keyid": key.public_key().fingerprint(),
            "sig": BASE64.encode(signature),
        }],
    }))
}

/// The key's public half, for whoever verifies.
pub(crate) fn public_pem(key: &dyn PrivateKey) -> String {
    const WIDTH: usize = 64;
    let encoded = BASE64.encode(key.public_key().spki_der());
    let mut pem = "-----BEGIN PUBLIC KEY-----\n".to_owned();
    for (place, letter) in encoded.chars().enumerate() {
        if place > 0 && place % WIDTH == 0 {
            pem.push('\n');
        }
        pem.push(letter);
    }
    pem.push_str("\n-----END PUBLIC KEY-----\n");
    pem
}

/// What is signed: type and payload, each with its length before it (PAE of DSSE v1).
fn encoded(payload: &[u8]) -> Vec<u8> {
    let mut encoded = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        payload.len()
    )
    .into_bytes();
    encoded.extend_from_slice(payload);
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_the_pre_authentication_encoding_of_dsse() {
        assert_eq!(
            encoded(b"{}"),
            b"DSSEv1 28 application/vnd.in-toto+json 2 {}".to_vec()
        );
    }
}
