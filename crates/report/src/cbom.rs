//! `cbom.json`: a CycloneDX 1.6 bill of materials of the cryptography that was in use: protocol,
//! suites and their algorithms, certificates, and keys with what secures them.

use std::collections::{BTreeMap, BTreeSet};

use sealwire_evidence::record::KeyToken;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::account::{CertificateAccount, KeyAccount};
use crate::made::Made;

mod algorithms;

use algorithms::{algorithm, of_group, of_key, of_suite, suite_code};

/// The document.
pub(crate) fn cbom(made: &Made) -> Value {
    let account = &made.account;
    let mut algorithms: BTreeSet<String> = BTreeSet::new();
    let mut protocols: BTreeMap<&str, (BTreeSet<&str>, BTreeSet<&str>)> = BTreeMap::new();
    for flow in &account.flows {
        let (suites, groups) = protocols.entry(&flow.key.version).or_default();
        suites.insert(&flow.key.suite);
        groups.insert(&flow.key.group);
        algorithms.extend(of_suite(&flow.key.suite));
        algorithms.extend(of_group(&flow.key.group));
    }
    algorithms.extend(account.keys.iter().map(|key| of_key(&key.algorithm)));

    let mut components: Vec<Value> = protocols
        .iter()
        .map(|(version, (suites, groups))| protocol(version, suites, groups))
        .collect();
    components.extend(algorithms.iter().map(|name| algorithm(name)));
    components.extend(
        account
            .keys
            .iter()
            .flat_map(|key| [private_key(key), public_key(key)]),
    );
    let known: BTreeSet<&str> = account
        .keys
        .iter()
        .map(|key| key.public_key_sha256.as_ref())
        .collect();
    components.extend(
        account
            .certificates
            .iter()
            .map(|of| certificate(of, &known)),
    );
    json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", made.uuid("cbom")),
        "version": 1,
        "metadata": {
            "timestamp": written(account.as_of),
            "lifecycles": [{ "phase": "operations" }],
            "tools": { "components": [{ "type": "application", "name": "sealwire", "version": made.version }] },
            "component": {
                "type": "platform",
                "bom-ref": "pods",
                "name": "Pods sealed by Sealwire",
                "description": format!("Cryptography in use, {}", made.period_in_words()),
            },
        },
        "components": components,
        "properties": [
            {
                "name": "sealwire:custody",
                "value": "What secures a key, and its attributes, are its home's own claims, not proof.",
            },
        ],
    })
}

fn protocol(version: &str, suites: &BTreeSet<&str>, groups: &BTreeSet<&str>) -> Value {
    let number = version.replace("TLSv1_", "1.");
    let suites: Vec<Value> = suites
        .iter()
        .map(|suite| {
            let refs: Vec<String> = of_suite(suite)
                .iter()
                .map(|name| reference("algorithm", name))
                .collect();
            let mut document = json!({ "name": suite, "algorithms": refs });
            if let Some([first, second]) = suite_code(suite) {
                document["identifiers"] = json!([first, second]);
            }
            document
        })
        .collect();
    let exchange: BTreeSet<String> = groups
        .iter()
        .flat_map(|group| of_group(group))
        .map(|name| reference("algorithm", &name))
        .collect();
    json!({
        "type": "cryptographic-asset",
        "bom-ref": reference("protocol", version),
        "name": format!("TLS {number}"),
        "cryptoProperties": {
            "assetType": "protocol",
            "protocolProperties": {
                "type": "tls",
                "version": number,
                "cipherSuites": suites,
                "cryptoRefArray": exchange,
            },
        },
    })
}

fn private_key(key: &KeyAccount) -> Value {
    let claims = &key.claims;
    let mut properties = vec![
        ("sealwire:provider", key.provider.clone()),
        ("sealwire:claim:cannot-leave", said(key.cannot_leave())),
    ];
    if let Some(token) = &key.token {
        properties.extend([
            ("sealwire:token:manufacturer", token.manufacturer.clone()),
            ("sealwire:token:model", token.model.clone()),
            ("sealwire:token:label", token.label.clone()),
            ("sealwire:token:serial", token.serial.clone()),
            ("sealwire:token:hardware", token.hardware.clone()),
            ("sealwire:token:firmware", token.firmware.clone()),
            ("sealwire:claim:sensitive", said(claims.sensitive)),
            (
                "sealwire:claim:always-sensitive",
                said(claims.always_sensitive),
            ),
            ("sealwire:claim:extractable", said(claims.extractable)),
            (
                "sealwire:claim:never-extractable",
                said(claims.never_extractable),
            ),
            ("sealwire:claim:local", said(claims.local)),
        ]);
    }
    if let Some(transit) = &key.transit {
        properties.extend([
            ("sealwire:transit:version", transit.version.to_string()),
            ("sealwire:claim:exportable", said(Some(transit.exportable))),
            (
                "sealwire:claim:plaintext-backup",
                said(Some(transit.allow_plaintext_backup)),
            ),
        ]);
    }
    properties.extend(
        key.identities
            .iter()
            .map(|identity| ("sealwire:identity", identity.to_string())),
    );
    let properties: Vec<Value> = properties
        .into_iter()
        .map(|(name, value)| json!({ "name": name, "value": value }))
        .collect();
    json!({
        "type": "cryptographic-asset",
        "bom-ref": reference("private-key", &key.public_key_sha256),
        "name": key.reference,
        "cryptoProperties": {
            "assetType": "related-crypto-material",
            "relatedCryptoMaterialProperties": {
                "type": "private-key",
                "id": key.public_key_sha256.as_ref(),
                "state": "active",
                "algorithmRef": reference("algorithm", &of_key(&key.algorithm)),
                "securedBy": { "mechanism": secured_by(key) },
            },
        },
        "properties": properties,
    })
}

fn public_key(key: &KeyAccount) -> Value {
    json!({
        "type": "cryptographic-asset",
        "bom-ref": reference("public-key", &key.public_key_sha256),
        "name": format!("Public half of {}", key.reference),
        "cryptoProperties": {
            "assetType": "related-crypto-material",
            "relatedCryptoMaterialProperties": {
                "type": "public-key",
                "id": key.public_key_sha256.as_ref(),
                "algorithmRef": reference("algorithm", &of_key(&key.algorithm)),
            },
        },
    })
}

/// Tokens that are programs, by what they say of themselves.
const PROGRAMS: [&str; 4] = ["softhsm", "kryoptic", "simulat", "mozilla"];

/// In the schema's words. A token that names itself a software one is none of hardware.
fn secured_by(key: &KeyAccount) -> &'static str {
    let program = |token: &KeyToken| {
        let said = format!("{} {}", token.manufacturer, token.model).to_lowercase();
        PROGRAMS.iter().any(|name| said.contains(name))
    };
    match (&key.token, &key.transit) {
        _ if key.provider == "memory" => "None",
        (Some(token), _) if program(token) => "Software",
        (Some(_), _) => "HSM",
        (None, Some(transit)) if transit.external => "HSM",
        (None, Some(_)) => "Software",
        (None, None) => "None",
    }
}

fn certificate(certificate: &CertificateAccount, keys: &BTreeSet<&str>) -> Value {
    let mut properties = json!({
        "subjectName": certificate.spiffe_id.as_ref(),
        "issuerName": certificate.issuer,
        "notValidBefore": written(certificate.not_before),
        "notValidAfter": written(certificate.not_after),
        "certificateFormat": "X.509",
    });
    // A reference has to lead somewhere.
    if keys.contains(certificate.public_key_sha256.as_ref()) {
        properties["subjectPublicKeyRef"] =
            json!(reference("public-key", &certificate.public_key_sha256));
    }
    json!({
        "type": "cryptographic-asset",
        "bom-ref": reference("certificate", &format!("{}/{}", certificate.issuer, certificate.serial)),
        "name": certificate.spiffe_id.as_ref(),
        "cryptoProperties": { "assetType": "certificate", "certificateProperties": properties },
        "properties": [{ "name": "sealwire:serial", "value": certificate.serial.as_ref() }],
    })
}

fn reference(kind: &str, name: &str) -> String {
    format!("{kind}:{name}")
}

fn said(claim: Option<bool>) -> String {
    match claim {
        Some(true) => "true",
        Some(false) => "false",
        None => "not said",
    }
    .to_owned()
}

fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_default()
}
