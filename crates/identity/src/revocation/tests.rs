//! What is refused for having been revoked, what for not being known to be good, and which lists
//! are taken.

use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::TrustBundle;
use crate::epoch::{Epoch, EpochConfig};
use crate::profile::Profile;
use crate::testing::{
    At, Ca, DIALLED, Kind, Leaf, List, Moving, NOW, Stranger, V4, WEB, config, handshake,
};
use crate::verify::{Naming, Role};

const HOUR: Duration = Duration::from_secs(3600);

fn profile() -> &'static Profile {
    Profile::by_name("default").unwrap()
}

fn read(ca: &Ca, content: &[u8]) -> Result<Vec<Arc<Crl>>, CrlError> {
    Crl::read_all(content, &ca.bundle(), profile())
}

/// The lists of several CAs, each under a bundle of its own.
fn lists(of: &[(&Ca, List<'_>)]) -> Vec<Arc<Crl>> {
    of.iter()
        .flat_map(|(ca, list)| read(ca, ca.crl(list).der()).unwrap())
        .collect()
}

fn revocation(of: &[(&Ca, List<'_>)]) -> Arc<Revocation> {
    let (depth, grace) = (RevocationDepth::Chain, Duration::ZERO);
    Arc::new(Revocation::new(lists(of), depth, grace))
}

/// What our epoch is made of, with these lists.
fn with(ca: &Ca, revocation: Arc<Revocation>) -> EpochConfig {
    EpochConfig {
        revocation: Some(revocation),
        ..config(ca, Leaf::of(WEB), Kind::P256, "default")
    }
}

fn epoch(ca: &Ca, revocation: Arc<Revocation>) -> Epoch {
    Epoch::new(with(ca, revocation)).unwrap()
}

fn peer(ca: &Ca) -> CertificateDer<'static> {
    ca.issue(Leaf::of(WEB), &Kind::P256.generate())
}

/// The reason for which a chain is refused, the same in both roles.
fn reason(epoch: &Epoch, chain: &[CertificateDer<'static>]) -> Option<&'static str> {
    let reasons = [Role::Client, Role::Server].map(|role| {
        let refused = epoch.verify(chain, role).err();
        refused.map(|error| error.reason())
    });
    assert_eq!(reasons[0], reasons[1]);
    reasons[0]
}

#[test]
fn a_revoked_peer_is_refused_in_handshakes_of_both_roles_and_another_is_not() {
    let ca = Ca::new("root");
    let key = Kind::P256.generate();
    let chain = vec![ca.issue(Leaf::of(WEB), &key)];
    let stranger = Stranger::new(chain.clone(), &key);
    let list = |revoked| List {
        revoked,
        ..List::default()
    };
    for (revoked, refused) in [
        (chain.as_slice(), true),
        (&[peer(&ca)], false),
        (&[], false),
    ] {
        let us = epoch(&ca, revocation(&[(&ca, list(revoked))]));
        let client = us.client_config(&Naming::Address, DIALLED).unwrap();
        let judged = [
            handshake(stranger.client(), us.server_config(), V4).server,
            handshake(client, stranger.server(), V4).client,
        ];
        for result in judged {
            let error = result.as_ref().err().and_then(PeerError::find);
            assert_eq!(error.map(PeerError::reason), refused.then_some("revoked"));
        }
    }
}

#[test]
fn the_refusal_names_the_serial_number_the_issuer_and_the_time() {
    let ca = Ca::new("root");
    let chain = [peer(&ca)];
    let us = epoch(
        &ca,
        revocation(&[(
            &ca,
            List {
                revoked: &chain,
                ..List::default()
            },
        )]),
    );
    let error = us.verify(&chain, Role::Client).unwrap_err();
    let expected = PeerError::Revoked {
        serial: crate::CertificateFacts::of(&chain[0]).unwrap().serial,
        issuer: "CN=root".to_owned(),
        at: datetime!(2026-11-24 10:00 UTC),
    };
    assert_eq!(error, expected);
}

#[test]
fn a_peer_whose_issuer_has_no_list_is_refused_with_the_issuer_named() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let pem = [ca.pem.as_str(), other.pem.as_str()].concat();
    let mut config = with(&ca, revocation(&[(&ca, List::default())]));
    config.bundle = Arc::new(TrustBundle::from_pem(pem.as_bytes()).unwrap());
    let us = Epoch::new(config).unwrap();
    assert_eq!(reason(&us, &[peer(&ca)]), None);
    let error = us.verify(&[peer(&other)], Role::Server).unwrap_err();
    assert_eq!(error.reason(), "revocation_unknown");
    assert!(error.to_string().contains("other"), "{error}");
}

#[test]
fn without_any_list_nobody_is_accepted_and_strangers_are_still_called_strangers() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let none = Revocation::new(Vec::new(), RevocationDepth::Chain, HOUR);
    let verifier = crate::Verifier::new(ca.bundle(), vec!["m.example".parse().unwrap()], profile())
        .with_revocation(Some(Arc::new(none)));
    let now = crate::testing::unix(NOW);
    let refused = |leaf| {
        let result = verifier.verify(&leaf, &[], Role::Client, now);
        result.unwrap_err().reason()
    };
    assert_eq!(refused(peer(&ca)), "revocation_unknown");
    assert_eq!(refused(peer(&other)), "unknown_issuer");
}

#[test]
fn a_list_past_its_time_and_grace_refuses_its_issuers_peers_and_not_before() {
    let ca = Ca::new("root");
    let clock = Moving::at(NOW);
    let list = List {
        next_update: datetime!(2026-11-24 12:30 UTC),
        ..List::default()
    };
    let lists = lists(&[(&ca, list)]);
    for (grace, last, first) in [
        (
            Duration::ZERO,
            datetime!(2026-11-24 12:29:59 UTC),
            datetime!(2026-11-24 12:30 UTC),
        ),
        (
            Duration::from_secs(600),
            datetime!(2026-11-24 12:39:59 UTC),
            datetime!(2026-11-24 12:40 UTC),
        ),
    ] {
        clock.set(NOW);
        let revocation = Revocation::new(lists.clone(), RevocationDepth::Chain, grace);
        let us = Epoch::new(EpochConfig {
            time: clock.clone(),
            ..with(&ca, Arc::new(revocation))
        })
        .unwrap();
        clock.set(last);
        assert_eq!(reason(&us, &[peer(&ca)]), None);
        assert_eq!(us.problem(), None);
        clock.set(first);
        assert_eq!(reason(&us, &[peer(&ca)]), Some("crl_stale"));
        let problem = us.problem().unwrap();
        assert!(problem.to_string().contains("root"), "{problem}");
    }
}

#[test]
fn what_a_list_past_its_time_says_against_a_certificate_still_counts() {
    let ca = Ca::new("root");
    let clock = Moving::at(NOW);
    let revoked = [peer(&ca)];
    let list = List {
        next_update: datetime!(2026-11-24 12:30 UTC),
        revoked: &revoked,
        ..List::default()
    };
    let us = Epoch::new(EpochConfig {
        time: clock.clone(),
        ..with(&ca, revocation(&[(&ca, list)]))
    })
    .unwrap();
    clock.set(datetime!(2026-11-24 12:31 UTC));
    assert_eq!(reason(&us, &revoked), Some("revoked"));
    assert_eq!(reason(&us, &[peer(&ca)]), Some("crl_stale"));
}

#[test]
fn a_chain_is_covered_down_from_the_root_or_at_its_leaf_alone() {
    let root = Ca::new("root");
    let (below, revoked) = (root.below("below"), root.below("revoked"));
    let of_root = || List {
        revoked: std::slice::from_ref(&revoked.der),
        ..List::default()
    };
    let issued = |ca: &Ca| [peer(ca), ca.der.clone()];
    let us = |of: &[(&Ca, List<'_>)], depth| {
        let mut config = with(&root, revocation(&[(&root, of_root())]));
        let lists = of.iter().flat_map(|(ca, list)| {
            Crl::read_all(ca.crl(list).der(), &root.bundle(), profile()).unwrap()
        });
        let revocation = Revocation::new(lists.collect(), depth, Duration::ZERO);
        config.revocation = Some(Arc::new(revocation));
        Epoch::new(config).unwrap()
    };
    let all = [
        (&root, of_root()),
        (&below, List::default()),
        (&revoked, List::default()),
    ];
    let whole = us(&all, RevocationDepth::Chain);
    assert_eq!(reason(&whole, &issued(&below)), None);
    assert_eq!(reason(&whole, &issued(&revoked)), Some("revoked"));
    let leaf = us(&all, RevocationDepth::Leaf);
    assert_eq!(reason(&leaf, &issued(&revoked)), None);
    let root_alone = us(&all[..1], RevocationDepth::Chain);
    assert_eq!(
        reason(&root_alone, &issued(&below)),
        Some("revocation_unknown")
    );
}

#[test]
fn a_list_that_another_key_of_the_issuers_name_has_signed_says_nothing() {
    // The bundle knows the root: seen when it is read.
    let (ca, impostor) = (Ca::new("root"), Ca::new("root"));
    let error = read(&ca, impostor.crl(&List::default()).der()).unwrap_err();
    assert!(matches!(error, CrlError::Signature { .. }), "{error}");
    assert!(error.to_string().contains("CN=root"), "{error}");
    // It cannot know a CA below: seen when a chain shows its key.
    let (below, impostor) = (ca.below("below"), ca.below("below"));
    let all = [ca.crl(&List::default()), impostor.crl(&List::default())];
    let all = all.iter().flat_map(|list| read(&ca, list.der()).unwrap());
    let revocation = Revocation::new(all.collect(), RevocationDepth::Chain, HOUR);
    let us = epoch(&ca, Arc::new(revocation));
    let chain = [peer(&below), below.der.clone()];
    assert_eq!(reason(&us, &chain), Some("revocation_unknown"));
}

#[test]
fn a_ca_that_goes_from_one_key_to_the_next_has_a_list_for_each() {
    let (old, new) = (Ca::new("root"), Ca::new("root"));
    let pem = [old.pem.as_str(), new.pem.as_str()].concat();
    let revoked = [peer(&old), peer(&new)];
    let of = |ca, i: usize| {
        let revoked = &revoked[i..=i];
        (
            ca,
            List {
                revoked,
                ..List::default()
            },
        )
    };
    for lists in [[of(&old, 0), of(&new, 1)], [of(&new, 1), of(&old, 0)]] {
        let mut config = with(&old, revocation(&lists));
        config.bundle = Arc::new(TrustBundle::from_pem(pem.as_bytes()).unwrap());
        let us = Epoch::new(config).unwrap();
        for (ca, revoked) in [&old, &new].into_iter().zip(revoked.clone()) {
            assert_eq!(reason(&us, &[peer(ca)]), None);
            assert_eq!(reason(&us, &[revoked]), Some("revoked"));
        }
    }
}

#[test]
fn our_own_certificate_revoked_is_not_put_in_force() {
    let ca = Ca::new("root");
    let mut config = config(&ca, Leaf::of(WEB), Kind::P256, "default");
    let list = List {
        revoked: config.credentials.chain(),
        ..List::default()
    };
    config.revocation = Some(revocation(&[(&ca, list)]));
    let text = Epoch::new(config).unwrap_err().to_string();
    assert!(
        text.contains("own certificate") && text.contains("revoked"),
        "{text}"
    );
}

#[test]
fn the_newest_of_several_lists_counts_and_an_older_one_is_told() {
    let ca = Ca::new("root");
    let revoked = [peer(&ca)];
    let older = List {
        number: 255,
        revoked: &revoked,
        ..List::default()
    };
    let newer = List {
        number: 256,
        ..List::default()
    };
    let [older, newer] = [older, newer].map(|list| lists(&[(&ca, list)]));
    for both in [
        [older.clone(), newer.clone()],
        [newer.clone(), older.clone()],
    ] {
        let revocation = Revocation::new(both.concat(), RevocationDepth::Chain, HOUR);
        assert_eq!(revocation.facts().count(), 1);
        assert_eq!(reason(&epoch(&ca, Arc::new(revocation)), &revoked), None);
    }
    assert!(newer[0].check_order(&older).is_ok() && newer[0].check_order(&newer).is_ok());
    let text = older[0].check_order(&newer).unwrap_err().to_string();
    assert!(
        text.contains("number ff") && text.contains("number 100"),
        "{text}"
    );
    let of_another = lists(&[(&Ca::new("other"), List::default())]);
    assert!(of_another[0].check_order(&newer).is_ok());
}

#[test]
fn lists_come_in_pem_and_in_der_and_say_what_they_are() {
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let revoked = [peer(&ca)];
    let list = ca.crl(&List {
        number: 0x1a2b,
        revoked: &revoked,
        ..List::default()
    });
    let both = format!(
        "of root:\n{}and\n{}",
        list.pem().unwrap(),
        other.crl(&List::default()).pem().unwrap()
    );
    assert_eq!(read(&ca, both.as_bytes()).unwrap().len(), 2);
    let read = read(&ca, list.der()).unwrap();
    let facts = serde_json::to_value(read[0].facts()).unwrap();
    let expected = serde_json::json!({
        "issuer": "CN=root",
        "number": "1a2b",
        "this_update": "2026-11-24T11:00:00Z",
        "next_update": "2026-11-25T11:00:00Z",
        "entries": 1,
    });
    assert_eq!(facts, expected);
}

#[test]
fn what_is_no_pem_is_refused_without_a_word_of_it() {
    let text = "a key, perhaps ".repeat(1000);
    for content in [
        format!("-----BEGIN X509 CRL-----{text}"),
        format!("-----BEGIN {text}-----\n"),
        format!("-----BEGIN X509 CRL-----\n{text}\n-----END X509 CRL-----\n"),
    ] {
        let refused = read(&Ca::new("mesh"), content.as_bytes());
        let said = refused.unwrap_err().to_string();
        assert!(said.starts_with("not PEM") && said.len() < 300, "{said}");
        assert!(!said.contains("perhaps"), "{said}");
    }
}

#[test]
fn what_is_no_list_is_refused_with_the_way_out() {
    let ca = Ca::new("root");
    let list = ca.crl(&List::default());
    let many = list.pem().unwrap().repeat(101);
    let cut = &list.der()[..list.der().len() - 1];
    for (content, part) in [
        (&b""[..], "no CRL"),
        (b"hello", "no CRL"),
        (ca.pem.as_bytes(), "no CRL"),
        (many.as_bytes(), "more than 100"),
        (cut, "CRL 1: "),
    ] {
        let text = read(&ca, content).unwrap_err().to_string();
        assert!(text.contains(part), "{text} lacks {part}");
    }
}

#[test]
fn a_changed_list_is_refused_wherever_it_was_changed() {
    let ca = Ca::new("root");
    let list = ca.crl(&List {
        revoked: &[peer(&ca)],
        ..List::default()
    });
    let issuer = read(&ca, list.der()).unwrap()[0].scope.issuer.clone();
    for position in 0..list.der().len() {
        for change in [0x01, 0x80, 0xff] {
            let mut bytes = list.der().to_vec();
            bytes[position] ^= change;
            // A list of another name may stand there: it speaks for nobody that we know.
            let speaks = |lists: Vec<Arc<Crl>>| lists[0].scope.issuer == issuer;
            assert!(
                !read(&ca, &bytes).is_ok_and(speaks),
                "changed at {position} by {change:#x}"
            );
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let ca = Ca::new("root");
        let _ = read(&ca, &bytes);
        let _ = read(&ca, &[&[0x30, 0x82, 0x01, 0x00], bytes.as_slice()].concat());
    }
}

#[test]
fn a_session_whose_peer_was_revoked_meanwhile_does_not_get_by() {
    let ca = Ca::new("root");
    let resuming = |config: EpochConfig| EpochConfig {
        resumption: Some(HOUR),
        ..config
    };
    let config = resuming(with(&ca, revocation(&[(&ca, List::default())])));
    let peer = Epoch::new(resuming(crate::testing::config(
        &ca,
        Leaf::of(WEB),
        Kind::P256,
        "default",
    )))
    .unwrap();
    let us = Epoch::new(config.clone()).unwrap();
    let dial = |us: &Epoch| {
        let client = peer.client_config(&Naming::Address, DIALLED).unwrap();
        handshake(client, us.server_config(), V4)
    };
    assert!(!dial(&us).resumed && dial(&us).resumed);
    let list = List {
        number: 2,
        revoked: peer.credentials().chain(),
        ..List::default()
    };
    let now = Epoch::new(EpochConfig {
        number: 2,
        time: Arc::new(At(NOW)),
        revocation: Some(revocation(&[(&ca, list)])),
        ..config
    })
    .unwrap();
    // The new epoch does not open the ticket, and the full handshake is refused.
    let outcome = dial(&now);
    let error = outcome.server.unwrap_err();
    assert_eq!(PeerError::find(&error).unwrap().reason(), "revoked");
    // Had the handshake begun under the epoch before, it is judged by the new one.
    let outcome = dial(&us);
    assert!(outcome.server.is_ok());
    let judged = now.verify(&outcome.client_chain, Role::Client);
    assert_eq!(judged.unwrap_err().reason(), "revoked");
}
