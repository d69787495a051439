//! What resumes, what does not, and what it costs, in real handshakes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use time::macros::datetime;

use super::sessions::{MOST, PER_DESTINATION};
use crate::epoch::{Epoch, EpochConfig};
use crate::profile::Profile;
use crate::testing::{
    Ca, DIALLED, Kind, Leaf, Moving, NOW, Outcome, V4, WEB, config, handshake, open,
};
use crate::verify::{Naming, Role};
use crate::{Credentials, PeerError, TrustBundle};

const HOUR: Duration = Duration::from_secs(3600);

/// What an epoch is made of whose sessions may be resumed.
fn resuming(ca: &Ca) -> EpochConfig {
    EpochConfig {
        resumption: Some(HOUR),
        ..config(ca, Leaf::of(WEB), Kind::P256, "default")
    }
}

fn made(config: &EpochConfig) -> Epoch {
    Epoch::new(config.clone()).unwrap()
}

fn dial(client: &Epoch, server: &Epoch) -> Outcome {
    dial_at(client, server, &Naming::Address, DIALLED)
}

fn dial_at(client: &Epoch, server: &Epoch, naming: &Naming, destination: SocketAddr) -> Outcome {
    let client = client.client_config(naming, destination).unwrap();
    let outcome = handshake(client, server.server_config(), V4);
    assert_eq!((&outcome.client, &outcome.server), (&Ok(()), &Ok(())));
    assert_eq!(outcome.delivered.1, b"from the client");
    outcome
}

#[test]
fn a_full_handshake_costs_two_signatures_and_a_resumed_one_none() {
    let us = made(&resuming(&Ca::new("root")));
    assert!(!dial(&us, &us).resumed);
    assert_eq!(us.credentials().key().signatures(), 2);
    for _ in 0..10 {
        assert!(dial(&us, &us).resumed);
    }
    assert_eq!(us.credentials().key().signatures(), 2);
}

#[test]
fn nothing_resumes_where_it_is_switched_off_on_either_side() {
    let with = resuming(&Ca::new("root"));
    let without = EpochConfig {
        resumption: None,
        ..with.clone()
    };
    let (with, without) = (made(&with), made(&without));
    for (client, server) in [(&with, &without), (&without, &with), (&without, &without)] {
        assert!(!dial(client, server).resumed && !dial(client, server).resumed);
    }
}

#[test]
fn both_sides_of_a_resumed_handshake_know_the_chain_they_saw_in_the_full_one() {
    let us = made(&resuming(&Ca::new("root")));
    let full = dial(&us, &us);
    let resumed = dial(&us, &us);
    assert!(resumed.resumed);
    assert_eq!(resumed.client_chain, full.client_chain);
    assert_eq!(resumed.server_chain, full.server_chain);
    assert_eq!(resumed.client_chain, us.credentials().chain());
}

#[test]
fn a_session_is_offered_to_the_same_address_and_port_under_the_same_naming_alone() {
    let us = made(&resuming(&Ca::new("root")));
    let other_port = SocketAddr::new(DIALLED.ip(), 444);
    let other_address = SocketAddr::new("198.18.0.8".parse().unwrap(), DIALLED.port());
    dial_at(&us, &us, &Naming::TrustDomain, DIALLED);
    for (naming, destination) in [
        (&Naming::TrustDomain, other_port),
        (&Naming::TrustDomain, other_address),
        (&Naming::Address, DIALLED),
    ] {
        let outcome = dial_at(&us, &us, naming, destination);
        assert!(!outcome.resumed, "{naming:?} {destination}");
    }
    assert!(dial_at(&us, &us, &Naming::TrustDomain, DIALLED).resumed);
}

#[test]
fn no_session_of_an_older_epoch_resumes_whatever_has_changed() {
    let (ca, other) = (Ca::new("root"), Ca::new("another root"));
    let before = resuming(&ca);
    let pair = Kind::P256.generate();
    let own = Credentials::new(open(&pair), vec![ca.issue(Leaf::of(WEB), &pair)]).unwrap();
    let both = [ca.pem.as_str(), other.pem.as_str()].concat();
    let changes = [
        (
            "nothing but the number",
            EpochConfig {
                number: 2,
                ..before.clone()
            },
        ),
        (
            "own certificate",
            EpochConfig {
                credentials: Arc::new(own),
                ..before.clone()
            },
        ),
        (
            "bundle",
            EpochConfig {
                bundle: Arc::new(TrustBundle::from_pem(both.as_bytes()).unwrap()),
                ..before.clone()
            },
        ),
        (
            "trust domains",
            EpochConfig {
                trust_domains: ["m.example", "other.example"]
                    .map(|domain| domain.parse().unwrap())
                    .to_vec(),
                ..before.clone()
            },
        ),
        (
            "profile",
            EpochConfig {
                profile: Profile::by_name("bsi-tr-02102-2").unwrap(),
                ..before.clone()
            },
        ),
    ];
    for (what, after) in changes {
        let (peer, old) = (made(&before), made(&before));
        dial(&old, &peer);
        dial(&peer, &old);
        let new = made(&after);
        assert!(!dial(&peer, &new).resumed, "{what}: an old ticket opened");
        assert!(
            !dial(&new, &peer).resumed,
            "{what}: an old session was offered"
        );
    }
}

#[test]
fn a_session_resumes_after_its_peers_certificate_has_ended_and_is_refused_by_verification() {
    let ca = Ca::new("root");
    let clock = Moving::at(NOW);
    let mut leaf = Leaf::of(WEB);
    leaf.not_after = datetime!(2026-11-24 12:10 UTC);
    let peer = made(&EpochConfig {
        resumption: Some(HOUR),
        ..config(&ca, leaf, Kind::P256, "default")
    });
    let us = made(&EpochConfig {
        time: clock.clone(),
        ..resuming(&ca)
    });
    dial(&us, &peer);
    clock.set(datetime!(2026-11-24 12:11 UTC));
    let outcome = dial(&us, &peer);
    assert!(
        outcome.resumed,
        "rustls verifies a resumed session now: drop ours"
    );
    let error = us.verify(&outcome.server_chain, Role::Server).unwrap_err();
    assert_eq!(error.reason(), "expired");
}

#[test]
fn a_chain_is_verified_in_the_role_that_its_peer_has_and_an_empty_one_is_none() {
    let us = made(&resuming(&Ca::new("root")));
    let chain = us.credentials().chain();
    for role in [Role::Client, Role::Server] {
        assert_eq!(us.verify(chain, role).unwrap().spiffe_id.as_str(), WEB);
        assert_eq!(us.verify(&[], role).unwrap_err(), PeerError::NoCertificate);
    }
}

#[test]
fn a_session_ends_with_its_lifetime_on_either_side() {
    let mut before = resuming(&Ca::new("root"));
    before.resumption = Some(Duration::from_secs(600));
    for (client_ages, server_ages) in [(true, false), (false, true)] {
        let clocks = [Moving::at(NOW), Moving::at(NOW)];
        let [client, server] = [0, 1].map(|i| {
            made(&EpochConfig {
                time: clocks[i].clone(),
                ..before.clone()
            })
        });
        dial(&client, &server);
        let later = datetime!(2026-11-24 12:10 UTC);
        if client_ages {
            clocks[0].set(later);
        }
        if server_ages {
            clocks[1].set(later);
        }
        assert!(!dial(&client, &server).resumed);
    }
}

#[test]
fn a_session_is_used_once() {
    let us = made(&resuming(&Ca::new("root")));
    let mut server = ServerConfig::clone(&us.server_config());
    (server.send_tls13_tickets, server.max_tls13_tickets) = (1, 0);
    let client = || us.client_config(&Naming::Address, DIALLED).unwrap();
    handshake(client(), Arc::new(server.clone()), V4);
    server.send_tls13_tickets = 0;
    let server = Arc::new(server);
    assert!(handshake(client(), server.clone(), V4).resumed);
    assert!(!handshake(client(), server, V4).resumed);
}

#[test]
fn an_epoch_that_is_retired_keeps_no_session_and_takes_none() {
    let us = made(&resuming(&Ca::new("root")));
    dial(&us, &us);
    us.retire();
    assert_eq!(us.sessions().unwrap().size(), 0);
    assert!(!dial(&us, &us).resumed && !dial(&us, &us).resumed);
    assert_eq!(us.sessions().unwrap().size(), 0);
}

#[test]
fn however_many_tickets_peers_give_a_bounded_number_is_kept() {
    let us = made(&resuming(&Ca::new("root")));
    let mut server = ServerConfig::clone(&us.server_config());
    (server.send_tls13_tickets, server.max_tls13_tickets) = (PER_DESTINATION / 4, 0);
    let server = Arc::new(server);
    let to = |port: usize| SocketAddr::new(DIALLED.ip(), u16::try_from(port).unwrap());
    let destinations = MOST / PER_DESTINATION + 4;
    for port in 1..=destinations {
        for _ in 0..6 {
            let client = us.client_config(&Naming::Address, to(port)).unwrap();
            assert_eq!(handshake(client, server.clone(), V4).client, Ok(()));
            let kept = us.sessions().unwrap().size();
            assert!(
                kept <= MOST && kept <= port * (PER_DESTINATION + 1),
                "{kept}"
            );
        }
    }
    // The one not used for longest has made way for the newest.
    assert!(!dial_at(&us, &us, &Naming::Address, to(1)).resumed);
    assert!(dial_at(&us, &us, &Naming::Address, to(destinations)).resumed);
}
