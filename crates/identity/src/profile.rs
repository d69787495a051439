//! TLS profiles: which groups, suites and signature schemes are offered, and by whose word. A
//! test pins what rustls makes of each, so that an upgrade cannot change them unseen.

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SignatureScheme, SupportedCipherSuite};

/// What is offered in a handshake, best first. TLS 1.3 only, in every profile.
#[derive(Debug)]
pub struct Profile {
    /// Name in the configuration.
    pub name: &'static str,
    /// Where the choice comes from.
    pub source: &'static str,
    groups: &'static [&'static dyn SupportedKxGroup],
    suites: &'static [SupportedCipherSuite],
    pub(crate) signature_schemes: &'static [SignatureScheme],
}

/// There is no such profile.
#[derive(Clone, Debug, thiserror::Error)]
#[error("there is no TLS profile {0:?}")]
pub struct UnknownProfile(pub String);

static PROFILES: [Profile; 3] = [
    Profile {
        name: "default",
        source: "RFC 8446 and FIPS 203: the hybrid of X25519 and ML-KEM-768 first, so that what is recorded today \
                 stays sealed",
        groups: &[kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
        suites: &[
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        signature_schemes: &[
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::ED25519,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
        ],
    },
    Profile {
        name: "bsi-tr-02102-2",
        source: "BSI TR-02102-2, section on TLS 1.3: AES-GCM, NIST curves, ECDSA and RSA-PSS; the hybrid of P-256 and \
                 ML-KEM-768 first, ML-KEM after BSI TR-02102-1. No X25519, Ed25519 or ChaCha20, which it does not list",
        groups: &[kx_group::SECP256R1MLKEM768, kx_group::SECP384R1, kx_group::SECP256R1],
        suites: &[
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_AES_128_GCM_SHA256,
        ],
        signature_schemes: &[
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ECDSA_NISTP384_SHA384,
            SignatureScheme::RSA_PSS_SHA256,
            SignatureScheme::RSA_PSS_SHA384,
            SignatureScheme::RSA_PSS_SHA512,
        ],
    },
    Profile {
        name: "cnsa-2.0",
        source: "NSA CNSA 2.0: ML-KEM-1024 and AES-256. It wants ML-DSA-87 signatures, which neither rustls nor the \
                 tokens offer yet: ECDSA on P-384 of CNSA 1.0 stands in for them",
        groups: &[kx_group::MLKEM1024],
        suites: &[cipher_suite::TLS13_AES_256_GCM_SHA384],
        signature_schemes: &[SignatureScheme::ECDSA_NISTP384_SHA384],
    },
];

impl Profile {
    /// Finds a profile.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn by_name(name: &str) -> Result<&'static Self, UnknownProfile> {
        PROFILES
            .iter()
            .find(|profile| profile.name == name)
            .ok_or_else(|| UnknownProfile(name.to_owned()))
    }

    /// The signature schemes, by the names of RFC 8446.
    pub fn signature_schemes(&self) -> &'static [SignatureScheme] {
        self.signature_schemes
    }

    /// The cryptography for rustls, narrowed to this profile.
    pub fn provider(&self) -> CryptoProvider {
        CryptoProvider {
            cipher_suites: self.suites.to_vec(),
            kx_groups: self.groups.to_vec(),
            ..aws_lc_rs::default_provider()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a provider offers, by the names that go over the wire.
    fn offered(profile: &Profile) -> (Vec<String>, Vec<String>) {
        let provider = profile.provider();
        let groups = provider.kx_groups.iter().map(|group| format!("{:?}", group.name())).collect();
        let suites = provider.cipher_suites.iter().map(|suite| format!("{:?}", suite.suite())).collect();
        (groups, suites)
    }

    #[test]
    fn each_profile_offers_exactly_what_its_table_says() {
        let pinned = [
            (
                "default",
                vec!["X25519MLKEM768", "X25519", "secp256r1"],
                vec!["TLS13_AES_128_GCM_SHA256", "TLS13_AES_256_GCM_SHA384", "TLS13_CHACHA20_POLY1305_SHA256"],
            ),
            (
                "bsi-tr-02102-2",
                vec!["secp256r1MLKEM768", "secp384r1", "secp256r1"],
                vec!["TLS13_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256"],
            ),
            ("cnsa-2.0", vec!["MLKEM1024"], vec!["TLS13_AES_256_GCM_SHA384"]),
        ];
        for (name, groups, suites) in pinned {
            let (offered_groups, offered_suites) = offered(Profile::by_name(name).unwrap());
            assert_eq!(offered_groups, groups, "{name}");
            assert_eq!(offered_suites, suites, "{name}");
        }
    }

    #[test]
    fn an_unknown_profile_is_refused_by_name() {
        assert!(Profile::by_name("tls1.2").unwrap_err().to_string().contains("tls1.2"));
    }
}
