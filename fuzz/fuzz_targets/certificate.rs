//! What a peer may show as its certificates: they are read to an end, and nobody is believed whom the
//! bundle does not vouch for.

#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::{CertificateDer, UnixTime};
use sealwire_identity::{CertificateFacts, Profile, Role, TrustBundle, Verifier};

/// A CA whose key nobody has.
const CA: &str = include_str!("ca.pem");

static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| {
    let bundle = TrustBundle::from_pem(CA.as_bytes()).expect("it is one");
    let domain = "mesh.example".parse().expect("it is one");
    let profile = Profile::by_name("default").expect("there is one");
    Verifier::new(Arc::new(bundle), vec![domain], profile)
});

fuzz_target!(|der: &[u8]| {
    let certificate = CertificateDer::from(der);
    let _ = CertificateFacts::of(&certificate);
    // It may name itself as its issuer.
    for others in [&[][..], &[certificate.clone()]] {
        for role in [Role::Client, Role::Server] {
            let verified = VERIFIER.verify(&certificate, others, role, UnixTime::now());
            assert!(verified.is_err());
        }
    }
});
