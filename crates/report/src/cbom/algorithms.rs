//! What the names of suites, groups and keys stand for, in CycloneDX's words. Strengths in bits are
//! those of NIST SP 800-57 part 1; quantum levels are NIST's categories, 0 for what a quantum
//! computer breaks. A name that is not known here is listed as it is, its strength unknown.

use serde_json::{Value, json};

/// Algorithms of a TLS 1.3 suite, by their names here.
pub(super) fn of_suite(suite: &str) -> Vec<String> {
    let names: &[&str] = match suite {
        "TLS_AES_128_GCM_SHA256" => &["AES-128-GCM", "SHA-256"],
        "TLS_AES_256_GCM_SHA384" => &["AES-256-GCM", "SHA-384"],
        "TLS_CHACHA20_POLY1305_SHA256" => &["ChaCha20-Poly1305", "SHA-256"],
        other => return vec![other.to_owned()],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Algorithms of a key exchange: both halves of a hybrid.
pub(super) fn of_group(group: &str) -> Vec<String> {
    let names: &[&str] = match group {
        "X25519MLKEM768" => &["X25519", "ML-KEM-768"],
        "secp256r1MLKEM768" => &["ECDH-P-256", "ML-KEM-768"],
        "secp384r1MLKEM1024" => &["ECDH-P-384", "ML-KEM-1024"],
        "MLKEM1024" => &["ML-KEM-1024"],
        "MLKEM768" => &["ML-KEM-768"],
        "X25519" => &["X25519"],
        "secp256r1" => &["ECDH-P-256"],
        "secp384r1" => &["ECDH-P-384"],
        other => return vec![other.to_owned()],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The algorithm of a key, by what its custody record calls it.
pub(super) fn of_key(algorithm: &str) -> String {
    match algorithm {
        "ECDSA P-256" => "ECDSA-P-256".to_owned(),
        "ECDSA P-384" => "ECDSA-P-384".to_owned(),
        other => match other.strip_prefix("RSA ") {
            Some(bits) => format!("RSA-PSS-{bits}"),
            None => other.to_owned(),
        },
    }
}

/// The two bytes by which TLS names a suite.
pub(super) fn suite_code(suite: &str) -> Option<[&'static str; 2]> {
    Some(match suite {
        "TLS_AES_128_GCM_SHA256" => ["0x13", "0x01"],
        "TLS_AES_256_GCM_SHA384" => ["0x13", "0x02"],
        "TLS_CHACHA20_POLY1305_SHA256" => ["0x13", "0x03"],
        _ => return None,
    })
}

/// A component for an algorithm.
pub(super) fn algorithm(name: &str) -> Value {
    let properties = match name {
        "AES-128-GCM" => cipher("128", "gcm", 128, 1),
        "AES-256-GCM" => cipher("256", "gcm", 256, 5),
        "ChaCha20-Poly1305" => json!({
            "primitive": "ae", "cryptoFunctions": ["encrypt", "decrypt"],
            "classicalSecurityLevel": 256, "nistQuantumSecurityLevel": 5,
        }),
        "SHA-256" => hash(128, 2),
        "SHA-384" => hash(192, 4),
        "X25519" => exchange("curve25519", 128),
        "ECDH-P-256" => exchange("secp256r1", 128),
        "ECDH-P-384" => exchange("secp384r1", 192),
        "ML-KEM-768" => kem("768", 192, 3),
        "ML-KEM-1024" => kem("1024", 256, 5),
        "ECDSA-P-256" => signature(Some("secp256r1"), "256", 128),
        "ECDSA-P-384" => signature(Some("secp384r1"), "384", 192),
        "Ed25519" => signature(Some("ed25519"), "255", 128),
        "RSA-PSS-2048" => signature(None, "2048", 112),
        "RSA-PSS-3072" => signature(None, "3072", 128),
        "RSA-PSS-4096" => signature(None, "4096", 152),
        _ => json!({ "primitive": "unknown" }),
    };
    json!({
        "type": "cryptographic-asset",
        "bom-ref": super::reference("algorithm", name),
        "name": name,
        "cryptoProperties": { "assetType": "algorithm", "algorithmProperties": properties },
    })
}

fn cipher(bits: &str, mode: &str, classical: u32, quantum: u32) -> Value {
    json!({
        "primitive": "ae", "parameterSetIdentifier": bits, "mode": mode, "cryptoFunctions": ["encrypt", "decrypt"],
        "classicalSecurityLevel": classical, "nistQuantumSecurityLevel": quantum,
    })
}

fn hash(classical: u32, quantum: u32) -> Value {
    json!({
        "primitive": "hash", "cryptoFunctions": ["digest"],
        "classicalSecurityLevel": classical, "nistQuantumSecurityLevel": quantum,
    })
}

fn exchange(curve: &str, classical: u32) -> Value {
    json!({
        "primitive": "key-agree", "curve": curve, "cryptoFunctions": ["keygen", "keyderive"],
        "classicalSecurityLevel": classical, "nistQuantumSecurityLevel": 0,
    })
}

fn kem(parameters: &str, classical: u32, quantum: u32) -> Value {
    json!({
        "primitive": "kem", "parameterSetIdentifier": parameters,
        "cryptoFunctions": ["keygen", "encapsulate", "decapsulate"],
        "classicalSecurityLevel": classical, "nistQuantumSecurityLevel": quantum,
    })
}

fn signature(curve: Option<&str>, parameters: &str, classical: u32) -> Value {
    let mut properties = json!({
        "primitive": "signature", "parameterSetIdentifier": parameters, "cryptoFunctions": ["sign", "verify"],
        "classicalSecurityLevel": classical, "nistQuantumSecurityLevel": 0,
    });
    if let Some(curve) = curve {
        properties["curve"] = json!(curve);
    }
    properties
}
