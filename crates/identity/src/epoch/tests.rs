//! What is put in force, and until when.

use rcgen::ExtendedKeyUsagePurpose;
use time::macros::datetime;

use super::*;
use crate::find_sign_error;
use crate::testing::{
    Ca, DIALLED, Failing, Kind, Leaf, Moving, NOW, V4, WEB, config, epoch, handshake, try_epoch,
};

const DEFAULT: &str = "default";

fn refused(wrong: impl FnOnce(&mut Leaf)) -> String {
    let mut leaf = Leaf::of(WEB);
    wrong(&mut leaf);
    try_epoch(&Ca::new("root"), leaf, Kind::P256, DEFAULT)
        .unwrap_err()
        .to_string()
}

#[test]
fn an_own_certificate_that_peers_would_refuse_is_not_put_in_force() {
    let expired = refused(|leaf| leaf.not_after = datetime!(2026-11-24 11:30 UTC));
    assert!(
        expired.contains("own certificate") && expired.contains("expired"),
        "{expired}"
    );
    let one_role = refused(|leaf| leaf.extended = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert!(one_role.contains("clientAuth"), "{one_role}");
    let elsewhere = refused(|leaf| leaf.uris = vec!["spiffe://other.example/a"]);
    assert!(
        elsewhere.contains("other.example") && elsewhere.contains("m.example"),
        "{elsewhere}"
    );
}

#[test]
fn the_first_trust_domain_has_to_be_our_own() {
    let mut config = config(&Ca::new("root"), Leaf::of(WEB), Kind::P256, DEFAULT);
    config
        .trust_domains
        .insert(0, "other.example".parse().unwrap());
    let text = Epoch::new(config).unwrap_err().to_string();
    assert!(
        text.contains(WEB) && text.contains("other.example"),
        "{text}"
    );
}

#[test]
fn a_naming_has_one_configuration_and_they_are_bounded() {
    let us = epoch(&Ca::new("root"), Leaf::of(WEB), Kind::P256, DEFAULT);
    let naming = |number: usize| {
        Naming::Identity(vec![
            format!("spiffe://m.example/w{number}").parse().unwrap(),
        ])
    };
    let first = us.client_config(&naming(0), DIALLED).unwrap();
    assert!(Arc::ptr_eq(
        &first,
        &us.client_config(&naming(0), DIALLED).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        &first,
        &us.client_config(&Naming::Address, DIALLED).unwrap()
    ));
    for number in 0..=MAX_CLIENT_CONFIGS {
        us.client_config(&naming(number), DIALLED).unwrap();
    }
    assert!(us.clients.lock().unwrap().by_naming.len() <= MAX_CLIENT_CONFIGS);
}

#[test]
fn an_epoch_is_valid_until_its_certificate_ends_and_so_are_its_handshakes() {
    let clock = Moving::at(NOW);
    let config = EpochConfig {
        time: clock.clone(),
        ..config(&Ca::new("root"), Leaf::of(WEB), Kind::P256, DEFAULT)
    };
    let us = Epoch::new(config).unwrap();
    let seals = || {
        handshake(
            us.client_config(&Naming::Address, DIALLED).unwrap(),
            us.server_config(),
            V4,
        )
        .server
        .is_ok()
    };
    assert!(us.problem().is_none() && seals());
    clock.set(datetime!(2026-11-24 12:58:59 UTC));
    assert_eq!(us.is_ending(), None);
    clock.set(datetime!(2026-11-24 12:59:00 UTC));
    assert_eq!(us.is_ending(), Some(datetime!(2026-11-24 13:00:00 UTC)));
    assert!(us.problem().is_none() && seals(), "it is still good");
    clock.set(datetime!(2026-11-24 13:00:01 UTC));
    assert_eq!(us.problem().unwrap().reason(), "expired");
    assert!(!seals());
}

#[test]
fn a_key_that_fails_is_found_in_the_error_of_either_role() {
    let ca = Ca::new("root");
    let whole = config(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let failing = Failing::new(whole.credentials.key().clone());
    let credentials = Credentials::new(failing, whole.credentials.chain().to_vec()).unwrap();
    let broken = Epoch::new(EpochConfig {
        credentials: Arc::new(credentials),
        ..whole
    })
    .unwrap();
    let whole = epoch(&ca, Leaf::of(WEB), Kind::P256, DEFAULT);
    let naming = Naming::Address;
    let as_client = handshake(
        broken.client_config(&naming, DIALLED).unwrap(),
        whole.server_config(),
        V4,
    )
    .client;
    let as_server = handshake(
        whole.client_config(&naming, DIALLED).unwrap(),
        broken.server_config(),
        V4,
    )
    .server;
    for error in [as_client.unwrap_err(), as_server.unwrap_err()] {
        assert!(
            find_sign_error(&error)
                .unwrap()
                .to_string()
                .contains("CKR_DEVICE_REMOVED"),
            "{error}"
        );
        assert_eq!(PeerError::find(&error), None);
    }
}
