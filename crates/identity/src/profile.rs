//! TLS profiles: which groups, suites and signature schemes are offered, and by whose word. A
//! test pins what rustls makes of each, so that an upgrade cannot change them unseen.

use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms};
use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::{SignatureScheme, SupportedCipherSuite};
use webpki::aws_lc_rs as algorithm;

/// What is offered in a handshake, best first. TLS 1.3 only, in every profile.
#[derive(Debug)]
pub struct Profile {
    /// Name in the configuration.
    pub name: &'static str,
    /// Where the choice comes from.
    pub source: &'static str,
    groups: &'static [&'static dyn SupportedKxGroup],
    suites: &'static [SupportedCipherSuite],
    /// What proves a key in a handshake, and what our own key may sign with.
    signature_schemes: &'static [SignatureScheme],
    /// What CAs may have signed certificates with.
    chain: &'static [&'static dyn SignatureVerificationAlgorithm],
    /// The shortest RSA key of a workload.
    rsa_bits: usize,
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
        groups: &[
            kx_group::X25519MLKEM768,
            kx_group::X25519,
            kx_group::SECP256R1,
        ],
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
        chain: &[
            algorithm::ECDSA_P256_SHA256,
            algorithm::ECDSA_P256_SHA384,
            algorithm::ECDSA_P384_SHA256,
            algorithm::ECDSA_P384_SHA384,
            algorithm::ECDSA_P384_SHA512,
            algorithm::ECDSA_P521_SHA256,
            algorithm::ECDSA_P521_SHA384,
            algorithm::ECDSA_P521_SHA512,
            algorithm::ED25519,
            algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
            algorithm::RSA_PKCS1_2048_8192_SHA256,
            algorithm::RSA_PKCS1_2048_8192_SHA384,
            algorithm::RSA_PKCS1_2048_8192_SHA512,
            algorithm::ML_DSA_65,
            algorithm::ML_DSA_87,
        ],
        rsa_bits: 2048,
    },
    Profile {
        name: "bsi-tr-02102-2",
        source: "BSI TR-02102-2 version 2026-01, section on TLS 1.3: AES-GCM, NIST curves, ECDSA and RSA-PSS; the hybrid \
                 of P-256 and ML-KEM-768 (RFC 10024) first, both halves after BSI TR-02102-1. No X25519, Ed25519 or \
                 ChaCha20, which it does not list; no RSA under 3000 bits; no PKCS#1 v1.5, in chains neither. The size \
                 of a CA's RSA key is not checked",
        groups: &[
            kx_group::SECP256R1MLKEM768,
            kx_group::SECP384R1,
            kx_group::SECP256R1,
        ],
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
        chain: &[
            algorithm::ECDSA_P256_SHA256,
            algorithm::ECDSA_P256_SHA384,
            algorithm::ECDSA_P384_SHA256,
            algorithm::ECDSA_P384_SHA384,
            algorithm::ECDSA_P384_SHA512,
            algorithm::ECDSA_P521_SHA256,
            algorithm::ECDSA_P521_SHA384,
            algorithm::ECDSA_P521_SHA512,
            algorithm::RSA_PSS_2048_8192_SHA256_LEGACY_KEY,
            algorithm::RSA_PSS_2048_8192_SHA384_LEGACY_KEY,
            algorithm::RSA_PSS_2048_8192_SHA512_LEGACY_KEY,
        ],
        rsa_bits: 3000,
    },
    Profile {
        name: "cnsa-2.0",
        source: "NSA CNSA 2.0 (draft-becker-cnsa2-tls-profile-03): ML-KEM-1024 and AES-256. It wants ML-DSA-87 \
                 signatures: accepted from CAs, but no key provider here makes them, so workloads prove themselves with \
                 ECDSA on P-384 of CNSA 1.0, and this is CNSA 2.0 for confidentiality alone",
        groups: &[kx_group::MLKEM1024],
        suites: &[cipher_suite::TLS13_AES_256_GCM_SHA384],
        signature_schemes: &[SignatureScheme::ECDSA_NISTP384_SHA384],
        chain: &[algorithm::ML_DSA_87, algorithm::ECDSA_P384_SHA384],
        // No RSA at all.
        rsa_bits: usize::MAX,
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

    /// The shortest RSA key of a workload, in bits.
    pub(crate) fn rsa_bits(&self) -> usize {
        self.rsa_bits
    }

    /// The cryptography for rustls, narrowed to this profile but for the signatures in handshakes:
    /// those the verifiers hold to [`Profile::signature_schemes`], since rustls offers schemes but
    /// does not check that the peer kept to the offer.
    pub fn provider(&self) -> CryptoProvider {
        let provider = aws_lc_rs::default_provider();
        CryptoProvider {
            cipher_suites: self.suites.to_vec(),
            kx_groups: self.groups.to_vec(),
            signature_verification_algorithms: WebPkiSupportedAlgorithms {
                all: self.chain,
                mapping: provider.signature_verification_algorithms.mapping,
            },
            ..provider
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use rustls::client::ResolvesClientCert;
    use rustls::server::{ClientHello, ResolvesServerCert};
    use rustls::sign::CertifiedKey;
    use rustls::version::TLS13;
    use rustls::{ClientConfig, ServerConfig};

    use super::*;
    use crate::testing::{
        Anybody, At, Ca, DIALLED, Kind, Leaf, NOW, Stranger, V4, WEB, epoch, everything, handshake,
        try_epoch,
    };
    use crate::verify::Naming;

    struct Pinned {
        name: &'static str,
        groups: &'static [&'static str],
        suites: &'static [&'static str],
        schemes: &'static [&'static str],
        /// How many algorithms chains may be signed with.
        chain: usize,
    }

    const PINNED: [Pinned; 3] = [
        Pinned {
            name: "default",
            groups: &["X25519MLKEM768", "X25519", "secp256r1"],
            suites: &[
                "TLS13_AES_128_GCM_SHA256",
                "TLS13_AES_256_GCM_SHA384",
                "TLS13_CHACHA20_POLY1305_SHA256",
            ],
            schemes: &[
                "ECDSA_NISTP256_SHA256",
                "ECDSA_NISTP384_SHA384",
                "ED25519",
                "RSA_PSS_SHA256",
                "RSA_PSS_SHA384",
                "RSA_PSS_SHA512",
            ],
            chain: 17,
        },
        Pinned {
            name: "bsi-tr-02102-2",
            groups: &["secp256r1MLKEM768", "secp384r1", "secp256r1"],
            suites: &["TLS13_AES_256_GCM_SHA384", "TLS13_AES_128_GCM_SHA256"],
            schemes: &[
                "ECDSA_NISTP256_SHA256",
                "ECDSA_NISTP384_SHA384",
                "RSA_PSS_SHA256",
                "RSA_PSS_SHA384",
                "RSA_PSS_SHA512",
            ],
            chain: 11,
        },
        Pinned {
            name: "cnsa-2.0",
            groups: &["MLKEM1024"],
            suites: &["TLS13_AES_256_GCM_SHA384"],
            schemes: &["ECDSA_NISTP384_SHA384"],
            chain: 2,
        },
    ];

    /// Writes down what the other side offers.
    #[derive(Debug, Default)]
    struct Listener {
        groups: Mutex<Vec<String>>,
        suites: Mutex<Vec<String>>,
        schemes: Mutex<Vec<String>>,
        names: Mutex<Vec<String>>,
    }

    fn names<T: std::fmt::Debug>(values: &[T]) -> Vec<String> {
        values.iter().map(|value| format!("{value:?}")).collect()
    }

    impl ResolvesServerCert for Listener {
        fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            *self.groups.lock().unwrap() = names(hello.named_groups().unwrap());
            *self.suites.lock().unwrap() = names(hello.cipher_suites());
            *self.schemes.lock().unwrap() = names(hello.signature_schemes());
            *self.names.lock().unwrap() = names(hello.server_name().as_slice());
            assert!(hello.alpn().is_none());
            None
        }
    }

    impl ResolvesClientCert for Listener {
        fn resolve(
            &self,
            hints: &[&[u8]],
            schemes: &[SignatureScheme],
        ) -> Option<Arc<CertifiedKey>> {
            *self.schemes.lock().unwrap() = names(schemes);
            *self.names.lock().unwrap() = names(hints);
            None
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_client_offers_exactly_what_its_profile_says() {
        let ca = Ca::new("root");
        for pinned in PINNED {
            let us = epoch(&ca, Leaf::of(WEB), Kind::P384, pinned.name);
            let listener = Arc::new(Listener::default());
            let server = ServerConfig::builder_with_details(everything(), Arc::new(At(NOW)))
                .with_protocol_versions(rustls::ALL_VERSIONS)
                .unwrap()
                .with_client_cert_verifier(Arc::new(Anybody))
                .with_cert_resolver(listener.clone());
            let client = us.client_config(&Naming::TrustDomain, DIALLED).unwrap();
            assert!(
                !client.enable_sni && !client.enable_early_data && !client.key_log.will_log("any")
            );
            assert!(handshake(client, Arc::new(server), V4).server.is_err());
            assert_eq!(
                *listener.groups.lock().unwrap(),
                pinned.groups,
                "{}",
                pinned.name
            );
            let mut suites = listener.suites.lock().unwrap().clone();
            suites.retain(|suite| suite != "TLS_EMPTY_RENEGOTIATION_INFO_SCSV");
            assert_eq!(suites, pinned.suites, "{}", pinned.name);
            assert_eq!(
                *listener.schemes.lock().unwrap(),
                pinned.schemes,
                "{}",
                pinned.name
            );
            assert!(
                listener.names.lock().unwrap().is_empty(),
                "a server name was sent"
            );
        }
    }

    #[test]
    fn a_server_takes_exactly_what_its_profile_says() {
        let ca = Ca::new("root");
        for pinned in PINNED {
            let us = epoch(&ca, Leaf::of(WEB), Kind::P384, pinned.name);
            let listener = Arc::new(Listener::default());
            let server = us.server_config();
            assert!(!server.key_log.will_log("any") && server.max_early_data_size == 0);
            let _ = handshake(client(everything(), listener.clone()), server.clone(), V4);
            assert_eq!(
                *listener.schemes.lock().unwrap(),
                pinned.schemes,
                "{}",
                pinned.name
            );
            assert!(
                listener.names.lock().unwrap().is_empty(),
                "our CAs were told"
            );

            // One group, one suite at a time: what is not in the table finds no partner.
            for group in aws_lc_rs::ALL_KX_GROUPS {
                let mut only = (*everything()).clone();
                only.kx_groups = vec![*group];
                let sealed = speaks(&ca, only, server.clone());
                let name = format!("{:?}", group.name());
                assert_eq!(
                    sealed,
                    pinned.groups.contains(&name.as_str()),
                    "{} {name}",
                    pinned.name
                );
            }
            // TLS 1.2 is built in for another library's sake, and no configuration here speaks it.
            let suites = aws_lc_rs::ALL_CIPHER_SUITES.iter();
            for suite in suites.filter(|suite| suite.tls13().is_some()) {
                let mut only = (*everything()).clone();
                only.cipher_suites = vec![*suite];
                let sealed = speaks(&ca, only, server.clone());
                let name = format!("{:?}", suite.suite());
                assert_eq!(
                    sealed,
                    pinned.suites.contains(&name.as_str()),
                    "{} {name}",
                    pinned.name
                );
            }
        }
    }

    fn client(
        provider: Arc<CryptoProvider>,
        own: Arc<dyn ResolvesClientCert>,
    ) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_details(provider, Arc::new(At(NOW)))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        Arc::new(builder.with_client_cert_resolver(own))
    }

    /// Whether a workload of the mesh that can do `provider` alone seals with `server`.
    fn speaks(ca: &Ca, provider: CryptoProvider, server: Arc<ServerConfig>) -> bool {
        let key = Kind::P384.generate();
        let peer = Stranger::new(vec![ca.issue(Leaf::of(WEB), &key)], &key);
        let own = Arc::new(rustls::sign::SingleCertAndKey::from(peer.0.clone()));
        handshake(client(Arc::new(provider), own), server, V4)
            .server
            .is_ok()
    }

    #[test]
    fn chains_are_verified_with_the_algorithms_of_the_table_alone() {
        for pinned in PINNED {
            let algorithms = Profile::by_name(pinned.name)
                .unwrap()
                .provider()
                .signature_verification_algorithms;
            assert_eq!(algorithms.all.len(), pinned.chain, "{}", pinned.name);
        }
    }

    #[test]
    fn every_two_profiles_but_cnsa_have_something_in_common() {
        let ca = Ca::new("root");
        let us = |profile: &str| epoch(&ca, Leaf::of(WEB), Kind::P384, profile);
        let seal = |client: &str, server: &str| {
            let client = us(client).client_config(&Naming::Address, DIALLED).unwrap();
            handshake(client, us(server).server_config(), V4)
                .server
                .is_ok()
        };
        assert!(seal("default", "bsi-tr-02102-2") && seal("bsi-tr-02102-2", "default"));
        assert!(seal("cnsa-2.0", "cnsa-2.0"));
        assert!(!seal("default", "cnsa-2.0") && !seal("cnsa-2.0", "bsi-tr-02102-2"));
    }

    #[test]
    fn a_key_that_the_profile_does_not_allow_is_refused_at_the_start() {
        let ca = Ca::new("root");
        let refused = |kind, profile| {
            try_epoch(&ca, Leaf::of(WEB), kind, profile)
                .expect_err(profile)
                .to_string()
        };
        for (kind, profile) in [
            (Kind::Ed25519, "bsi-tr-02102-2"),
            (Kind::Rsa2048, "bsi-tr-02102-2"),
            (Kind::P256, "cnsa-2.0"),
            (Kind::Rsa3072, "cnsa-2.0"),
        ] {
            let text = refused(kind, profile);
            assert!(text.contains(profile), "{kind:?}: {text}");
        }
        assert!(try_epoch(&ca, Leaf::of(WEB), Kind::Rsa3072, "bsi-tr-02102-2").is_ok());
    }

    #[test]
    fn a_ca_with_ml_dsa_87_is_accepted_under_cnsa() {
        let ca = Ca::with("root", &[], &rcgen::PKCS_ML_DSA_87);
        let us = epoch(&ca, Leaf::of(WEB), Kind::P384, "cnsa-2.0");
        let client = us.client_config(&Naming::Address, DIALLED).unwrap();
        assert_eq!(handshake(client, us.server_config(), V4).server, Ok(()));
    }

    #[test]
    fn an_unknown_profile_is_refused_by_name() {
        assert!(
            Profile::by_name("tls1.2")
                .unwrap_err()
                .to_string()
                .contains("tls1.2")
        );
    }
}
