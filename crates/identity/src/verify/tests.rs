//! Every reason to refuse a peer, in real handshakes, in both roles.

use rcgen::{
    BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{AlertDescription, SignatureAlgorithm};
use time::macros::datetime;

use super::*;
use crate::testing::{
    Ca, DIALLED, Kind, Leaf, NOW, Outcome, Stranger, V4, V6, WEB, epoch, handshake, unix,
};

const DEFAULT: &str = "default";

/// What one of us makes of a peer that presents `chain`, when it dials us and when we dial it.
fn judged_in_both_roles(
    ca: &Ca,
    chain: &[CertificateDer<'static>],
    key: &KeyPair,
) -> [PeerError; 2] {
    let stranger = Stranger::new(chain.to_vec(), key);
    let us = epoch(ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let naming = Naming::TrustDomain;
    [
        refused_by_server(handshake(stranger.client(), us.server_config(), V4)),
        refused_by_client(handshake(
            us.client_config(&naming, DIALLED).unwrap(),
            stranger.server(),
            V4,
        )),
    ]
}

fn refused_by_server(outcome: Outcome) -> PeerError {
    assert!(
        outcome.delivered.1.is_empty(),
        "an application byte of a refused peer was delivered"
    );
    let error = outcome.server.expect_err("the peer was accepted");
    let alert = outcome.client.expect_err("the peer was not told");
    assert!(matches!(alert, rustls::Error::AlertReceived(_)), "{alert}");
    PeerError::find(&error)
        .unwrap_or_else(|| panic!("another error: {error}"))
        .clone()
}

fn refused_by_client(outcome: Outcome) -> PeerError {
    assert!(
        outcome.delivered.1.is_empty(),
        "an application byte went to a refused peer"
    );
    assert!(
        outcome.delivered.0.is_empty(),
        "an application byte of a refused peer was delivered"
    );
    let error = outcome.client.expect_err("the peer was accepted");
    let alert = outcome.server.expect_err("the peer was not told");
    assert!(matches!(alert, rustls::Error::AlertReceived(_)), "{alert}");
    PeerError::find(&error)
        .unwrap_or_else(|| panic!("another error: {error}"))
        .clone()
}

/// The same for a certificate of our CA that `wrong` makes wrong.
fn leaf_judged(wrong: impl FnOnce(&mut Leaf)) -> [PeerError; 2] {
    let ca = Ca::new("root");
    let key = Kind::P256.generate();
    let mut leaf = Leaf::of("spiffe://m.example/ns/shop/sa/peer");
    wrong(&mut leaf);
    judged_in_both_roles(&ca, &[ca.issue(leaf, &key)], &key)
}

fn assert_sealed(outcome: &Outcome) {
    assert_eq!((&outcome.client, &outcome.server), (&Ok(()), &Ok(())));
    assert_eq!(outcome.delivered.1, b"from the client");
    assert_eq!(outcome.delivered.0, b"from the server");
}

#[test]
fn two_workloads_of_one_mesh_seal_with_every_kind_of_key() {
    let ca = Ca::new("root");
    for kind in [Kind::P256, Kind::P384, Kind::Ed25519, Kind::Rsa2048] {
        let us = epoch(&ca, Leaf::of(WEB), kind, DEFAULT);
        let outcome = handshake(
            us.client_config(&Naming::Address, DIALLED).unwrap(),
            us.server_config(),
            V4,
        );
        assert_sealed(&outcome);
        assert_eq!(us.credentials().key().signatures(), 2, "{kind:?}");
    }
}

#[test]
fn a_peer_without_a_certificate_is_refused() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let peer = Stranger::new(Vec::new(), &Kind::P256.generate());
    let error = refused_by_server(handshake(peer.client(), us.server_config(), V4));
    assert_eq!(error, PeerError::NoCertificate);
    let outcome = handshake(
        us.client_config(&Naming::TrustDomain, DIALLED).unwrap(),
        peer.server(),
        V4,
    );
    assert_eq!(
        PeerError::find(&outcome.client.unwrap_err()),
        Some(&PeerError::NoCertificate)
    );
    assert!(outcome.delivered.0.is_empty() && outcome.delivered.1.is_empty());
}

#[test]
fn a_peer_with_a_certificate_that_cannot_be_read_is_refused() {
    let ca = Ca::new("root");
    let key = Kind::P256.generate();
    for garbage in [vec![], vec![0x30, 0x80], vec![7; 300]] {
        for error in judged_in_both_roles(&ca, &[garbage.into()], &key) {
            assert!(matches!(error, PeerError::Malformed(_)), "{error:?}");
        }
    }
}

#[test]
fn a_peer_of_another_ca_is_refused_with_the_issuer_named() {
    let (ours, other) = (Ca::new("root"), Ca::new("another root"));
    let key = Kind::P256.generate();
    let leaf = other.issue(Leaf::of(WEB), &key);
    for error in judged_in_both_roles(&ours, &[leaf], &key) {
        assert_eq!(error.reason(), "unknown_issuer");
        assert!(error.to_string().contains("another root"), "{error}");
    }
}

#[test]
fn a_ca_of_the_same_name_with_another_key_is_unknown() {
    let (ours, other) = (Ca::new("root"), Ca::new("root"));
    let key = Kind::P256.generate();
    for error in judged_in_both_roles(&ours, &[other.issue(Leaf::of(WEB), &key)], &key) {
        assert_eq!(error.reason(), "unknown_issuer");
    }
}

#[test]
fn an_expired_peer_is_refused_with_both_times() {
    for error in leaf_judged(|leaf| leaf.not_after = datetime!(2026-11-24 11:59 UTC)) {
        assert_eq!(
            error,
            PeerError::Expired {
                not_after: datetime!(2026-11-24 11:59 UTC),
                now: NOW
            }
        );
    }
}

#[test]
fn a_peer_not_yet_valid_is_refused_with_both_times() {
    for error in leaf_judged(|leaf| leaf.not_before = datetime!(2026-11-24 12:01 UTC)) {
        assert_eq!(
            error,
            PeerError::NotYetValid {
                not_before: datetime!(2026-11-24 12:01 UTC),
                now: NOW
            }
        );
    }
}

#[test]
fn an_expired_peer_of_an_unknown_ca_is_told_apart_from_one_of_ours() {
    let (ours, other) = (Ca::new("root"), Ca::new("another root"));
    let key = Kind::P256.generate();
    let mut leaf = Leaf::of(WEB);
    leaf.not_after = datetime!(2026-11-24 11:59 UTC);
    for error in judged_in_both_roles(&ours, &[other.issue(leaf, &key)], &key) {
        assert_eq!(
            error.reason(),
            "unknown_issuer",
            "renewing it would not help"
        );
    }
}

#[test]
fn a_peer_without_or_with_two_spiffe_ids_is_refused() {
    for error in leaf_judged(|leaf| leaf.uris.clear()) {
        assert_eq!(error, PeerError::UriNames { found: 0 });
    }
    for error in leaf_judged(|leaf| leaf.uris.push("spiffe://m.example/ns/shop/sa/admin")) {
        assert_eq!(error, PeerError::UriNames { found: 2 });
    }
    // A second URI that is no SPIFFE ID counts as well (X.509-SVID section 2).
    for error in leaf_judged(|leaf| leaf.uris.push("https://m.example/")) {
        assert_eq!(error, PeerError::UriNames { found: 2 });
    }
}

#[test]
fn a_name_that_cannot_be_read_is_not_taken_for_no_name() {
    // Two URI names, the second not UTF-8; and an address of five bytes.
    let mut second_uri = vec![0x86, 0x1a];
    second_uri.extend(b"spiffe://m.example/ns/b/w\xff");
    let address = [0x87, 5, 198, 18, 0, 7, 0];
    for hidden in [second_uri.as_slice(), &address] {
        let first = [&[0x86, u8::try_from(WEB.len()).unwrap()], WEB.as_bytes()].concat();
        let names = [first.as_slice(), hidden].concat();
        let names = [
            &[0x30, u8::try_from(names.len()).unwrap()],
            names.as_slice(),
        ]
        .concat();
        let errors = leaf_judged(|leaf| {
            leaf.uris.clear();
            leaf.addresses.clear();
            leaf.extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
        });
        for error in errors {
            assert!(matches!(error, PeerError::Malformed(_)), "{error:?}");
        }
    }
}

#[test]
fn a_peer_whose_uri_is_no_spiffe_id_of_a_workload_is_refused() {
    for uri in [
        "https://m.example/web",
        "spiffe://M.example/web",
        "spiffe://m.example",
        "spiffe://m.example/a/../b",
    ] {
        for error in leaf_judged(|leaf| leaf.uris = vec![uri]) {
            assert_eq!(error.reason(), "not_spiffe_id");
            assert!(error.to_string().contains(uri), "{error}");
        }
    }
}

#[test]
fn a_peer_of_another_trust_domain_is_refused_with_both_named() {
    for error in leaf_judged(|leaf| leaf.uris = vec!["spiffe://other.example/ns/a/sa/b"]) {
        assert_eq!(error.reason(), "trust_domain");
        let text = error.to_string();
        assert!(
            text.contains("spiffe://other.example/ns/a/sa/b") && text.contains("m.example"),
            "{text}"
        );
    }
}

#[test]
fn a_root_that_names_its_trust_domain_vouches_for_that_one_alone() {
    let ours = Ca::with(
        "root",
        &["spiffe://m.example"],
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let other = Ca::with(
        "other root",
        &["spiffe://other.example"],
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let bundle = TrustBundle::from_pem(
        [ours.pem.as_bytes(), other.pem.as_bytes()]
            .concat()
            .as_slice(),
    )
    .unwrap();
    let accepted = ["m.example", "other.example"].map(|domain| domain.parse().unwrap());
    let verifier = Verifier::new(
        Arc::new(bundle),
        accepted.to_vec(),
        Profile::by_name(DEFAULT).unwrap(),
    );
    let key = Kind::P256.generate();
    let verify =
        |ca: &Ca| verifier.verify(&ca.issue(Leaf::of(WEB), &key), &[], Role::Client, unix(NOW));
    assert!(verify(&ours).is_ok());
    let error = verify(&other).unwrap_err();
    assert!(
        error.to_string().contains("trust domain"),
        "{error}: its CA is in the bundle already"
    );
}

#[test]
fn another_trust_domain_is_named_even_where_the_root_is_bound_to_ours() {
    let ca = Ca::with(
        "root",
        &["spiffe://m.example"],
        &rcgen::PKCS_ECDSA_P256_SHA256,
    );
    let key = Kind::P256.generate();
    let leaf = ca.issue(Leaf::of("spiffe://other.example/ns/a/sa/b"), &key);
    for error in judged_in_both_roles(&ca, &[leaf], &key) {
        assert_eq!(error.reason(), "trust_domain", "{error}");
    }
}

#[test]
fn a_certificate_for_another_use_is_refused() {
    let ca: fn(&mut Leaf) = |leaf| leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let wrongs: [fn(&mut Leaf); 6] = [
        |leaf| leaf.usages.clear(),
        |leaf| leaf.usages = vec![KeyUsagePurpose::KeyEncipherment],
        |leaf| leaf.usages.push(KeyUsagePurpose::KeyCertSign),
        |leaf| leaf.usages.push(KeyUsagePurpose::CrlSign),
        |leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::CodeSigning],
        ca,
    ];
    for wrong in wrongs {
        for error in leaf_judged(wrong) {
            assert_eq!(error.reason(), "key_usage", "{error}");
        }
    }
}

#[test]
fn a_certificate_for_one_role_does_not_serve_in_the_other() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let key = Kind::P256.generate();
    let mut leaf = Leaf::of(WEB);
    leaf.extended = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let peer = Stranger::new(vec![ca.issue(leaf, &key)], &key);
    assert_sealed(&handshake(
        us.client_config(&Naming::Address, DIALLED).unwrap(),
        peer.server(),
        V4,
    ));
    let error = refused_by_server(handshake(peer.client(), us.server_config(), V4));
    assert!(error.to_string().contains("lacks clientAuth"), "{error}");
}

#[test]
fn a_chain_may_have_cas_between_and_a_missing_one_is_an_unknown_issuer() {
    let root = Ca::new("root");
    let between = root.below("between");
    let key = Kind::P256.generate();
    let leaf = between.issue(Leaf::of(WEB), &key);
    let us = epoch(&root, Leaf::of(WEB), Kind::P256, DEFAULT);
    let whole = Stranger::new(vec![leaf.clone(), between.der.clone()], &key);
    assert_sealed(&handshake(whole.client(), us.server_config(), V4));
    for error in judged_in_both_roles(&root, &[leaf], &key) {
        assert_eq!(error.reason(), "unknown_issuer");
    }
}

#[test]
fn the_address_that_was_dialled_has_to_be_in_the_certificate() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let dial = |address: &str| {
        handshake(
            us.client_config(&Naming::Address, DIALLED).unwrap(),
            us.server_config(),
            address,
        )
    };
    for address in [V4, V6, "::ffff:198.18.0.7"] {
        assert_sealed(&dial(address));
    }
    for address in ["198.18.0.8", "fd00:5ea1::8", "::ffff:198.18.0.8"] {
        let error = refused_by_client(dial(address));
        assert_eq!(error.reason(), "address");
        for part in [WEB, V4, V6, address.trim_start_matches("::ffff:")] {
            assert!(error.to_string().contains(part), "{error} lacks {part}");
        }
    }
}

#[test]
fn a_v4_mapped_address_in_a_certificate_is_the_v4_address() {
    let ca = Ca::new("root");
    let mut leaf = Leaf::of(WEB);
    leaf.addresses = vec!["::ffff:198.18.0.7".parse().unwrap()];
    let us = epoch(&ca, leaf, Kind::P256, DEFAULT);
    let client = us.client_config(&Naming::Address, DIALLED).unwrap();
    assert_sealed(&handshake(client, us.server_config(), V4));
}

#[test]
fn a_certificate_without_addresses_answers_for_none() {
    let ca = Ca::new("root");
    let mut leaf = Leaf::of(WEB);
    leaf.addresses.clear();
    let us = epoch(&ca, leaf, Kind::P256, DEFAULT);
    let error = refused_by_client(handshake(
        us.client_config(&Naming::Address, DIALLED).unwrap(),
        us.server_config(),
        V4,
    ));
    assert_eq!(error.reason(), "address");
}

#[test]
fn who_answers_has_to_be_who_is_expected() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let expecting = |patterns: &[&str]| {
        let naming = Naming::Identity(
            patterns
                .iter()
                .map(|pattern| pattern.parse().unwrap())
                .collect(),
        );
        handshake(
            us.client_config(&naming, DIALLED).unwrap(),
            us.server_config(),
            "203.0.113.9",
        )
    };
    assert_sealed(&expecting(&[
        "spiffe://m.example/ns/none/**",
        "spiffe://m.example/ns/*/sa/web",
    ]));
    let error = refused_by_client(expecting(&["spiffe://m.example/ns/shop/sa/db"]));
    assert_eq!(error.reason(), "identity");
    assert!(
        error.to_string().contains(WEB) && error.to_string().contains("sa/db"),
        "{error}"
    );
    assert_eq!(refused_by_client(expecting(&[])).reason(), "identity");
}

#[test]
fn naming_by_trust_domain_takes_any_workload_of_the_mesh() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let client = us.client_config(&Naming::TrustDomain, DIALLED).unwrap();
    assert_sealed(&handshake(client, us.server_config(), "203.0.113.9"));
}

/// A key that signs with its own scheme, whatever the other side offered.
#[derive(Debug)]
struct Stubborn(Arc<dyn SigningKey>, SignatureScheme);

impl SigningKey for Stubborn {
    fn choose_scheme(&self, _: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        self.0.choose_scheme(&[self.1])
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        self.0.algorithm()
    }
}

#[test]
fn a_peer_that_signs_with_a_scheme_outside_the_profile_is_refused() {
    let ca = Ca::new("root");
    let outside = Err(PeerMisbehaved::SignedHandshakeWithUnadvertisedSigScheme.into());
    let cases = [
        (Kind::Ed25519, SignatureScheme::ED25519),
        (Kind::P256, SignatureScheme::ECDSA_NISTP256_SHA256),
        (Kind::Rsa3072, SignatureScheme::RSA_PSS_SHA384),
    ];
    for (kind, scheme) in cases {
        let pair = kind.generate();
        let leaf = ca.issue(Leaf::of(WEB), &pair);
        let key =
            aws_lc_rs::sign::any_supported_type(&pair.serialize_der().try_into().unwrap()).unwrap();
        let peer = Stranger(Arc::new(CertifiedKey::new(
            vec![leaf],
            Arc::new(Stubborn(key, scheme)),
        )));
        // The same peer is taken where the profile has its scheme.
        for (profile, expected) in [(DEFAULT, &Ok(())), ("cnsa-2.0", &outside)] {
            if profile != DEFAULT && matches!(kind, Kind::Rsa3072) {
                // Its RSA key is refused before it signs.
                continue;
            }
            let us = epoch(&ca, Leaf::of(WEB), Kind::P384, profile);
            assert_eq!(
                &handshake(peer.client(), us.server_config(), V4).server,
                expected,
                "{scheme:?}, {profile}"
            );
            let client = us.client_config(&Naming::Address, DIALLED).unwrap();
            assert_eq!(
                &handshake(client, peer.server(), V4).client,
                expected,
                "{scheme:?}, {profile}"
            );
        }
    }
}

#[test]
fn an_rsa_key_too_short_for_the_profile_is_refused() {
    let ca = Ca::new("root");
    let us = epoch(&ca, Leaf::of(WEB), Kind::P384, "bsi-tr-02102-2");
    let judge = |kind: Kind| {
        let key = kind.generate();
        let peer = Stranger::new(vec![ca.issue(Leaf::of(WEB), &key)], &key);
        handshake(peer.client(), us.server_config(), V4)
    };
    assert_sealed(&judge(Kind::Rsa3072));
    let error = refused_by_server(judge(Kind::Rsa2048));
    assert!(
        error.to_string().contains("RSA 2048") && error.to_string().contains("bsi"),
        "{error}"
    );
}

#[test]
fn a_chain_signed_by_an_algorithm_outside_the_profile_is_refused() {
    let weak = Ca::with("root", &[], &rcgen::PKCS_ECDSA_P256_SHA256);
    let key = Kind::P384.generate();
    let leaf = weak.issue(Leaf::of(WEB), &key);
    let judge = |profile: &str| {
        let profile = Profile::by_name(profile).unwrap();
        let verifier = Verifier::new(weak.bundle(), vec!["m.example".parse().unwrap()], profile);
        verifier.verify(&leaf, &[], Role::Client, unix(NOW))
    };
    assert!(judge(DEFAULT).is_ok());
    assert!(judge("bsi-tr-02102-2").is_ok());
    let error = judge("cnsa-2.0").unwrap_err();
    assert!(error.to_string().contains("profile"), "{error}");
}

#[test]
fn the_time_is_the_one_the_epoch_was_given() {
    let (ca, key) = (Ca::new("root"), Kind::P256.generate());
    let verifier = Verifier::new(
        ca.bundle(),
        vec!["m.example".parse().unwrap()],
        Profile::by_name(DEFAULT).unwrap(),
    );
    let leaf = ca.issue(Leaf::of(WEB), &key);
    let at = |now| {
        verifier
            .verify(&leaf, &[], Role::Client, unix(now))
            .map(|_| ())
            .map_err(|error| error.reason())
    };
    assert_eq!(at(datetime!(2026-11-24 10:59:59 UTC)), Err("not_yet_valid"));
    assert_eq!(at(datetime!(2026-11-24 11:00 UTC)), Ok(()));
    assert_eq!(at(datetime!(2026-11-24 13:00 UTC)), Ok(()));
    assert_eq!(at(datetime!(2026-11-24 13:00:01 UTC)), Err("expired"));
}

#[test]
fn an_unauthenticated_peer_cannot_fill_the_log() {
    let (ours, other) = (
        Ca::new("root"),
        Ca::new(&format!("evil\n{}", "x".repeat(20_000))),
    );
    let key = Kind::P256.generate();
    for error in judged_in_both_roles(&ours, &[other.issue(Leaf::of(WEB), &key)], &key) {
        let text = error.to_string();
        assert!(text.len() < 1000, "{} bytes", text.len());
        assert!(!text.contains('\n'));
    }
}

#[test]
fn the_refused_peer_gets_an_alert_that_says_certificate() {
    let (ours, other) = (Ca::new("root"), Ca::new("another root"));
    let us = epoch(&ours, Leaf::of(WEB), Kind::P256, DEFAULT);
    let key = Kind::P256.generate();
    let peer = Stranger::new(vec![other.issue(Leaf::of(WEB), &key)], &key);
    let outcome = handshake(peer.client(), us.server_config(), V4);
    assert_eq!(
        outcome.client,
        Err(rustls::Error::AlertReceived(
            AlertDescription::CertificateUnknown
        ))
    );
}

#[test]
fn no_bytes_in_place_of_a_certificate_make_the_verifier_panic() {
    let ca = Ca::new("root");
    let key = Kind::P256.generate();
    let leaf = ca.issue(Leaf::of(WEB), &key);
    let profile = Profile::by_name(DEFAULT).unwrap();
    let verifier = Verifier::new(ca.bundle(), vec!["m.example".parse().unwrap()], profile);
    let judge = |bytes: &[u8]| {
        verifier
            .verify(&CertificateDer::from(bytes), &[], Role::Client, unix(NOW))
            .is_ok()
    };
    assert!(judge(&leaf));
    for position in 0..leaf.len() {
        assert!(!judge(&leaf[..position]), "cut at {position}");
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = leaf.to_vec();
            bytes[position] ^= change;
            assert!(!judge(&bytes), "changed at {position} by {change:#x}");
        }
    }
    assert!(!judge(&[&leaf[..], b"\0"].concat()), "a trailing byte");
}
