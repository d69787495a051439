//! Resumption, and what becomes of links when the trust changes under them: two workloads of one
//! CA, each with links of its own, and a clock that the test moves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use sealwire_identity::{
    Credentials, Crl, Epoch, EpochConfig, Naming, Profile, Revocation, RevocationDepth, TrustBundle,
};
use sealwire_keys::{KeyConfig, MemoryConfig, PrivateKey};
use sealwire_link::{
    CloseReason, Ended, Link, LinkError, LinkLimits, Links, LinksConfig, Outcome, Registry,
    Request, SigningPool,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

const SOON: Duration = Duration::from_secs(20);

/// A clock that a test moves.
#[derive(Debug)]
struct Clock(Mutex<OffsetDateTime>);

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(OffsetDateTime::now_utc())))
    }

    fn forward(&self, by: time::Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.lock().unwrap().unix_timestamp().try_into().unwrap();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A certificate authority.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            pem,
        }
    }

    /// What the epoch of a new workload is made of, for an hour.
    fn workload(&self, name: &str, serial: u8, clock: &Arc<Clock>) -> EpochConfig {
        let key = key();
        let now = OffsetDateTime::now_utc();
        let mut leaf = CertificateParams::default();
        leaf.serial_number = Some(SerialNumber::from_slice(&[serial]));
        leaf.not_before = now - time::Duration::hours(1);
        leaf.not_after = now + time::Duration::hours(1);
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let uri = format!("spiffe://test/{name}");
        leaf.subject_alt_names = vec![
            SanType::URI(Ia5String::try_from(uri).unwrap()),
            SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        ];
        let public = SubjectPublicKeyInfo::from_der(key.public_key().spki_der()).unwrap();
        let leaf = leaf.signed_by(&public, &self.issuer).unwrap();
        EpochConfig {
            number: 1,
            credentials: Arc::new(Credentials::new(key, vec![leaf.der().clone()]).unwrap()),
            bundle: bundle(&[self]),
            trust_domains: vec!["test".parse().unwrap()],
            profile: Profile::by_name("default").unwrap(),
            revocation: None,
            resumption: Some(Duration::from_secs(2 * 3600)),
            time: clock.clone(),
        }
    }
}

impl Ca {
    /// A revocation list that is good for half an hour.
    fn revokes(&self, number: u64, serials: &[u8]) -> Option<Arc<Revocation>> {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u8| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&[*serial]),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::minutes(30),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).unwrap();
        let profile = Profile::by_name("default").unwrap();
        let lists = Crl::read_all(list.der(), &bundle(&[self]), profile).unwrap();
        let (depth, grace) = (RevocationDepth::Chain, Duration::ZERO);
        Some(Arc::new(Revocation::new(lists, depth, grace)))
    }
}

fn bundle(roots: &[&Ca]) -> Arc<TrustBundle> {
    let pem: String = roots.iter().map(|ca| ca.pem.as_str()).collect();
    Arc::new(TrustBundle::from_pem(pem.as_bytes()).unwrap())
}

fn key() -> Arc<dyn PrivateKey> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    sealwire_keys::open(&KeyConfig::Memory(MemoryConfig {
        path: file.path().to_owned(),
        development: true,
    }))
    .unwrap()
}

/// A workload with links of its own.
#[derive(Clone)]
struct Workload {
    config: EpochConfig,
    epoch: Arc<Epoch>,
    links: Arc<Links>,
    registry: Arc<Registry>,
}

impl Workload {
    fn new(config: EpochConfig) -> Self {
        let registry = Registry::new();
        let epoch = Arc::new(Epoch::new(config.clone()).unwrap());
        registry.judge_by(&epoch);
        Self {
            config,
            epoch,
            links: Arc::new(Links::new(LinksConfig {
                pool: Arc::new(SigningPool::start(2, 1024).unwrap()),
                registry: registry.clone(),
                limits: LinkLimits::default(),
            })),
            registry,
        }
    }

    /// The next epoch, with a change.
    fn next(&self, change: impl FnOnce(&mut EpochConfig)) -> Arc<Epoch> {
        let mut config = self.config.clone();
        config.number = self.epoch.number() + 1;
        change(&mut config);
        Arc::new(Epoch::new(config).unwrap())
    }

    fn signatures(&self) -> u64 {
        self.epoch.credentials().key().signatures()
    }
}

/// Where a server listens.
struct Listening {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listening {
    async fn new() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// What both sides make of one connection.
    async fn dial(
        &self,
        client: &Workload,
        server: &Workload,
    ) -> (Result<Link, LinkError>, Result<Link, LinkError>) {
        let request = Request {
            destination: self.address,
            naming: Naming::Address,
            deadline: Instant::now() + SOON,
        };
        let accepting = async {
            let (socket, _) = self.listener.accept().await.unwrap();
            let deadline = Instant::now() + SOON;
            server
                .links
                .accept(&server.epoch, socket, self.address, deadline)
                .await
        };
        tokio::join!(client.links.connect(&client.epoch, request), accepting)
    }

    /// A link between two applications that have exchanged a byte each.
    async fn link(&self, client: &Workload, server: &Workload) -> Relayed {
        let (dialled, accepted) = self.dial(client, server).await;
        Relayed::new(dialled.unwrap(), accepted.unwrap()).await
    }
}

/// A relayed link with the applications at its ends.
struct Relayed {
    resumed: bool,
    client: TcpStream,
    server: TcpStream,
    ending: JoinHandle<(Ended, Ended)>,
}

impl Relayed {
    async fn new(dialled: Link, accepted: Link) -> Self {
        let resumed = dialled.facts().resumed;
        assert_eq!(accepted.facts().resumed, resumed);
        let ((mut client, at_dialled), (mut server, at_accepted)) =
            tokio::join!(application(), application());
        let ending = tokio::spawn(async move {
            tokio::join!(dialled.relay(at_dialled), accepted.relay(at_accepted))
        });
        client.write_all(b"?").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        server.write_all(b"!").await.unwrap();
        // Tickets come before the answer, so from here on they are there.
        client.read_exact(&mut [0]).await.unwrap();
        Self {
            resumed,
            client,
            server,
            ending,
        }
    }

    /// Lets both applications end.
    async fn end(mut self) -> bool {
        self.client.shutdown().await.unwrap();
        self.server.shutdown().await.unwrap();
        let (dialled, accepted) = self.ending.await.unwrap();
        assert_eq!(dialled.outcome, Outcome::Complete);
        assert_eq!(accepted.outcome, Outcome::Complete);
        self.resumed
    }
}

/// A socket for the application and its other end for the relay.
async fn application() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

#[tokio::test]
async fn the_second_link_resumes_without_a_signature_and_says_so() {
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let client = Workload::new(ca.workload("client", 1, &clock));
    let server = Workload::new(ca.workload("server", 2, &clock));
    let at = Listening::new().await;
    assert!(!at.link(&client, &server).await.end().await);
    assert!(at.link(&client, &server).await.end().await);
    assert_eq!((client.signatures(), server.signatures()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_many_links_at_once_resume_once_there_have_been_as_many() {
    const MANY: usize = 64;
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let client = Workload::new(ca.workload("client", 1, &clock));
    let server = Workload::new(ca.workload("server", 2, &clock));
    let at = Arc::new(Listening::new().await);
    let mut resumed = [0; 3];
    for wave in &mut resumed {
        let mut links = JoinSet::new();
        for _ in 0..MANY {
            let (at, client, server) = (at.clone(), client.clone(), server.clone());
            links.spawn(async move { at.dial(&client, &server).await });
        }
        // All are made before one of them can bring a ticket.
        let made = links.join_all().await;
        let mut ends = JoinSet::new();
        for (dialled, accepted) in made {
            let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
            *wave += usize::from(dialled.facts().resumed);
            // Sockets are accepted in any order, so these may be ends of two connections.
            ends.spawn(drain(dialled));
            ends.spawn(drain(accepted));
        }
        ends.join_all().await;
    }
    assert_eq!(resumed, [0, MANY, MANY]);
}

/// Relays a link whose application has nothing to say, to its end.
async fn drain(link: Link) {
    let (mut near, far) = application().await;
    near.shutdown().await.unwrap();
    let mut nothing = Vec::new();
    let (_, read) = tokio::join!(link.relay(far), near.read_to_end(&mut nothing));
    assert_eq!(read.unwrap(), 0);
}

#[tokio::test]
async fn a_peer_whose_certificate_has_ended_meanwhile_is_refused_on_resumption_by_either_side() {
    for the_server_is_strict in [false, true] {
        let ca = Ca::new("root");
        let (right, wrong) = (Clock::new(), Clock::new());
        let [clients, servers] = if the_server_is_strict {
            [&wrong, &right]
        } else {
            [&right, &wrong]
        };
        let client = Workload::new(ca.workload("client", 1, clients));
        let server = Workload::new(ca.workload("server", 2, servers));
        let at = Listening::new().await;
        at.link(&client, &server).await.end().await;
        right.forward(time::Duration::minutes(61));
        let (dialled, accepted) = at.dial(&client, &server).await;
        let strict = if the_server_is_strict {
            accepted
        } else {
            dialled
        };
        let error = strict.unwrap_err();
        assert_eq!(error.reason(), "expired", "{error}");
        assert_eq!(
            (client.signatures(), server.signatures()),
            (1, 1),
            "it was a full handshake"
        );
    }
}

#[tokio::test]
async fn a_handshake_that_ends_under_an_older_epoch_is_judged_by_the_newer_as_well() {
    let clock = Clock::new();
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let mut config = ca.workload("server", 2, &clock);
    config.bundle = bundle(&[&ca, &other]);
    let server = Workload::new(config);
    let mut config = other.workload("client", 1, &clock);
    config.bundle = bundle(&[&ca, &other]);
    let client = Workload::new(config);
    let at = Listening::new().await;
    at.link(&client, &server).await.end().await;
    // The other root goes, after the server's handshake has begun under the epoch before.
    server
        .registry
        .judge_by(&server.next(|config| config.bundle = bundle(&[&ca])));
    for _ in 0..2 {
        let (_, accepted) = at.dial(&client, &server).await;
        assert_eq!(accepted.unwrap_err().reason(), "unknown_issuer");
    }
    assert!(server.registry.is_empty());
}

#[tokio::test]
async fn a_root_that_goes_takes_the_links_of_its_peers_along_and_no_others() {
    let clock = Clock::new();
    let (ca, other) = (Ca::new("root"), Ca::new("other"));
    let both = |mut config: EpochConfig| {
        config.bundle = bundle(&[&ca, &other]);
        Workload::new(config)
    };
    let server = both(ca.workload("server", 2, &clock));
    let clients = [
        both(ca.workload("stays", 3, &clock)),
        both(other.workload("goes", 4, &clock)),
    ];
    let at = Listening::new().await;
    let stays = at.link(&clients[0], &server).await;
    let goes = at.link(&clients[1], &server).await;
    assert_eq!(server.registry.len(), 2);
    let without = server.next(|config| config.bundle = bundle(&[&ca]));
    assert_eq!(server.registry.judge_by(&without), 1);
    let (_, accepted) = goes.ending.await.unwrap();
    let reason = CloseReason::Epoch;
    assert_eq!(accepted.outcome, Outcome::Closed { reason });
    stays.end().await;
}

#[tokio::test]
async fn a_revoked_peer_loses_all_its_links_and_gets_no_new_one_by_resumption_either() {
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let mut config = ca.workload("server", 2, &clock);
    config.revocation = ca.revokes(1, &[]);
    let server = Workload::new(config);
    let [good, bad] = [3, 4].map(|serial| Workload::new(ca.workload("client", serial, &clock)));
    let at = Listening::new().await;
    let stays = at.link(&good, &server).await;
    let mut go = Vec::new();
    for _ in 0..3 {
        go.push(at.link(&bad, &server).await);
    }
    let now = server.next(|config| config.revocation = ca.revokes(2, &[4]));
    assert_eq!(server.registry.judge_by(&now), 3);
    for mut link in go {
        let (_, accepted) = link.ending.await.unwrap();
        let reason = CloseReason::Revocation;
        assert_eq!(accepted.outcome, Outcome::Closed { reason });
        assert!(
            link.client.read(&mut [0]).await.is_err(),
            "an end, not a break"
        );
    }
    // Its tickets still open where a handshake begins under the epoch before.
    let (_, accepted) = at.dial(&bad, &server).await;
    assert_eq!(accepted.unwrap_err().reason(), "revoked");
    let after = Workload {
        epoch: now,
        ..server
    };
    let (_, accepted) = at.dial(&bad, &after).await;
    assert_eq!(accepted.unwrap_err().reason(), "revoked");
    stays.end().await;
}

#[tokio::test]
async fn a_list_past_its_time_refuses_new_links_and_lets_live_ones_go_on() {
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let mut config = ca.workload("server", 2, &clock);
    config.revocation = ca.revokes(1, &[]);
    let server = Workload::new(config);
    // Its clock stands, so that it sees nothing past its time.
    let client = Workload::new(ca.workload("client", 3, &Clock::new()));
    let at = Listening::new().await;
    let link = at.link(&client, &server).await;
    let other = at.link(&client, &server).await;
    clock.forward(time::Duration::minutes(31));
    for _ in 0..2 {
        let (_, accepted) = at.dial(&client, &server).await;
        assert_eq!(accepted.unwrap_err().reason(), "crl_stale");
    }
    assert_eq!(server.registry.judge_by(&server.epoch), 0);
    link.end().await;
    other.end().await;
}

#[tokio::test]
async fn links_go_on_when_only_our_own_certificate_changes() {
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let client = Workload::new(ca.workload("client", 1, &clock));
    let server = Workload::new(ca.workload("server", 2, &clock));
    let at = Listening::new().await;
    let link = at.link(&client, &server).await;
    let renewed = ca.workload("server", 5, &clock).credentials;
    let renewed = server.next(|config| config.credentials = renewed);
    assert_eq!(server.registry.judge_by(&renewed), 0);
    link.end().await;
}

#[tokio::test]
async fn a_link_is_listed_with_its_destination_and_closed_by_it() {
    let (ca, clock) = (Ca::new("root"), Clock::new());
    let client = Workload::new(ca.workload("client", 1, &clock));
    let server = Workload::new(ca.workload("server", 2, &clock));
    let at = Listening::new().await;
    let link = at.link(&client, &server).await;
    assert_eq!(server.registry.list(10)[0].destination, at.address);
    let close = |wanted: SocketAddr| {
        server.registry.close(CloseReason::Epoch, |link, peer| {
            link.destination == wanted && peer.spiffe_id.as_str() == "spiffe://test/client"
        })
    };
    let elsewhere = SocketAddr::new(at.address.ip(), 1);
    assert_eq!(
        (close(elsewhere), close(at.address), close(at.address)),
        (0, 1, 0)
    );
    assert_ne!(link.ending.await.unwrap().0.outcome, Outcome::Complete);
}
