//! What the server of a revocation list may answer: it is read, or refused with a reason.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sealwire_identity::{Crl, Profile, TrustBundle};

/// A CA whose key nobody has.
const CA: &str = include_str!("ca.pem");

static BUNDLE: LazyLock<TrustBundle> =
    LazyLock::new(|| TrustBundle::from_pem(CA.as_bytes()).expect("it is one"));

fuzz_target!(|content: &[u8]| {
    let profile = Profile::by_name("default").expect("there is one");
    match Crl::read_all(content, &BUNDLE, profile) {
        Ok(lists) => assert!(!lists.is_empty()),
        Err(error) => assert!(error.to_string().len() < 2000),
    }
});
