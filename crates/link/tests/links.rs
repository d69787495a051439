//! Links between two ends in one process: where signatures run, what limits do, and that a frozen
//! key costs new handshakes only.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::string::Ia5String;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::time_provider::DefaultTimeProvider;
use sealwire_identity::{Credentials, Epoch, EpochConfig, Naming, Profile, TrustBundle};
use sealwire_keys::{Custody, KeyConfig, MemoryConfig, PrivateKey, PublicKey, Scheme, SignError};
use sealwire_link::pool::THREAD_NAME;
use sealwire_link::{
    CloseReason, Ended, Link, LinkError, LinkLimits, Links, LinksConfig, Moved, Outcome, Registry,
    Request, SigningPool,
};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A key that writes down on which threads it was asked, and can be frozen.
#[derive(Debug)]
struct Watched {
    inner: Arc<dyn PrivateKey>,
    elsewhere: AtomicUsize,
    frozen: Mutex<bool>,
    thawed: Condvar,
}

impl Watched {
    fn freeze(&self, frozen: bool) {
        *self.frozen.lock().unwrap() = frozen;
        self.thawed.notify_all();
    }
}

impl PrivateKey for Watched {
    fn reference(&self) -> &str {
        "test:watched"
    }

    fn public_key(&self) -> &PublicKey {
        self.inner.public_key()
    }

    fn schemes(&self) -> &[Scheme] {
        self.inner.schemes()
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !thread::current()
            .name()
            .is_some_and(|name| name.starts_with(THREAD_NAME))
        {
            self.elsewhere.fetch_add(1, Ordering::Relaxed);
        }
        let frozen = self.frozen.lock().unwrap();
        drop(self.thawed.wait_while(frozen, |frozen| *frozen).unwrap());
        self.inner.sign(scheme, message)
    }

    fn custody(&self) -> Result<Custody, SignError> {
        self.inner.custody()
    }

    fn parallelism(&self) -> usize {
        2
    }

    fn signatures(&self) -> u64 {
        self.inner.signatures()
    }
}

/// Two ends with a CA of their own.
struct Ends {
    key: Arc<Watched>,
    epoch: Arc<Epoch>,
    links: Arc<Links>,
    registry: Arc<Registry>,
    listener: TcpListener,
}

impl Ends {
    async fn with(limits: LinkLimits) -> Self {
        let key = watched_key();
        let epoch = Arc::new(epoch(&key));
        let registry = Registry::new();
        let links = Arc::new(Links::new(LinksConfig {
            pool: Arc::new(SigningPool::start(2, 64).unwrap()),
            registry: registry.clone(),
            limits,
        }));
        Self {
            key,
            epoch,
            links,
            registry,
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    fn request(&self, within: Duration) -> Request {
        Request {
            destination: self.address(),
            naming: Naming::Address,
            deadline: Instant::now() + within,
        }
    }

    /// A link, both of its ends.
    async fn pair(&self) -> (Link, Link) {
        let request = self.request(Duration::from_secs(5));
        let accepting = async {
            let (socket, _) = self.listener.accept().await.unwrap();
            let deadline = Instant::now() + Duration::from_secs(5);
            self.links
                .accept(&self.epoch, socket, self.address(), deadline)
                .await
        };
        let (dialled, accepted) = tokio::join!(self.links.connect(&self.epoch, request), accepting);
        (dialled.unwrap(), accepted.unwrap())
    }
}

/// A socket for the application and its other end for the relay.
async fn application() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    (near.unwrap(), far.unwrap().0)
}

/// A relayed link between two applications.
async fn relayed(
    ends: &Ends,
) -> (
    TcpStream,
    TcpStream,
    tokio::task::JoinHandle<(Ended, Ended)>,
) {
    let (dialled, accepted) = ends.pair().await;
    let ((client, at_dialled), (server, at_accepted)) = tokio::join!(application(), application());
    let relaying = tokio::spawn(async move {
        tokio::join!(dialled.relay(at_dialled), accepted.relay(at_accepted))
    });
    (client, server, relaying)
}

#[tokio::test]
async fn every_signature_runs_on_a_signing_thread_and_none_on_a_worker() {
    let ends = Ends::with(LinkLimits::default()).await;
    for _ in 0..10 {
        ends.pair().await;
    }
    assert_eq!(ends.key.signatures(), 20);
    assert_eq!(ends.key.elsewhere.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_frozen_key_costs_new_handshakes_only_and_nothing_once_it_thaws() {
    let ends = Ends::with(LinkLimits::default()).await;
    let (mut client, mut server, _relaying) = relayed(&ends).await;
    ends.key.freeze(true);
    let refused = ends
        .links
        .connect(&ends.epoch, ends.request(Duration::from_millis(300)));
    let accepting = async {
        let (socket, _) = ends.listener.accept().await.unwrap();
        let deadline = Instant::now() + Duration::from_millis(300);
        ends.links
            .accept(&ends.epoch, socket, ends.address(), deadline)
            .await
    };
    let exchanging = async {
        let mut buffer = [0; 5];
        for _ in 0..100 {
            client.write_all(b"hello").await.unwrap();
            server.read_exact(&mut buffer).await.unwrap();
        }
    };
    let (refused, accepted, ()) = tokio::join!(refused, accepting, exchanging);
    assert!(
        matches!(accepted, Err(LinkError::Deadline { .. })),
        "{accepted:?}"
    );
    assert!(
        matches!(
            refused,
            Err(LinkError::Deadline { .. } | LinkError::Interrupted(_))
        ),
        "{refused:?}"
    );
    ends.key.freeze(false);
    ends.pair().await;
}

#[tokio::test]
async fn handshakes_beyond_the_limit_wait_and_beyond_the_waiting_room_are_refused_at_once() {
    let limits = LinkLimits {
        handshakes: 1,
        waiting: 1,
        ..LinkLimits::default()
    };
    let ends = Ends::with(limits).await;
    // Nobody answers: each dials, and then waits for the other side.
    let dial = || {
        let (links, epoch, request) = (
            ends.links.clone(),
            ends.epoch.clone(),
            ends.request(Duration::from_secs(2)),
        );
        tokio::spawn(async move { links.connect(&epoch, request).await })
    };
    let outcomes = [dial(), dial(), dial(), dial()];
    let mut overloaded = 0;
    for outcome in outcomes {
        match outcome.await.unwrap().unwrap_err() {
            LinkError::Overloaded { limit: 1, .. } => overloaded += 1,
            LinkError::Deadline { .. } => {}
            other => panic!("{other}"),
        }
    }
    assert_eq!(overloaded, 2);
}

#[tokio::test]
async fn what_is_not_tls_is_called_plaintext() {
    let ends = Ends::with(LinkLimits::default()).await;
    let mut client = TcpStream::connect(ends.address()).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let (socket, _) = ends.listener.accept().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let refused = ends
        .links
        .accept(&ends.epoch, socket, ends.address(), deadline)
        .await;
    assert!(matches!(refused, Err(LinkError::Plaintext)), "{refused:?}");
}

/// A stranger's connection that has sent these bytes and a ClientHello, and says nothing more.
async fn silent_after_hello(ends: &Ends, before: &[u8]) -> (TcpStream, TcpStream) {
    let client = ends
        .epoch
        .client_config(&Naming::Address, ends.address())
        .unwrap();
    let name = ends.address().ip().into();
    let mut connection = rustls::ClientConnection::new(client, name).unwrap();
    let mut hello = before.to_vec();
    connection.write_tls(&mut hello).unwrap();
    let mut stranger = TcpStream::connect(ends.address()).await.unwrap();
    stranger.write_all(&hello).await.unwrap();
    let (accepted, _) = ends.listener.accept().await.unwrap();
    (stranger, accepted)
}

#[tokio::test]
async fn an_alert_before_a_hello_does_not_bring_a_signature_where_none_may_wait() {
    let ends = Ends::with(LinkLimits::default()).await;
    let warning = [21, 3, 3, 0, 2, 1, 90];
    let (_stranger, accepted) = silent_after_hello(&ends, &warning).await;
    let deadline = Instant::now() + Duration::from_millis(500);
    let refused = ends
        .links
        .accept(&ends.epoch, accepted, ends.address(), deadline)
        .await;
    assert!(refused.is_err());
    assert_eq!(ends.key.signatures(), 1);
    assert_eq!(ends.key.elsewhere.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_peer_that_is_silent_after_its_hello_keeps_no_place_from_others() {
    let limits = LinkLimits {
        handshakes: 1,
        ..LinkLimits::default()
    };
    let ends = Ends::with(limits).await;
    let (_stranger, accepted) = silent_after_hello(&ends, &[]).await;
    let deadline = Instant::now() + Duration::from_secs(20);
    let waiting = ends
        .links
        .accept(&ends.epoch, accepted, ends.address(), deadline);
    tokio::select! {
        _ = waiting => panic!("nobody answered it"),
        _ = ends.pair() => {}
    }
}

#[tokio::test]
async fn bytes_and_ends_pass_each_way_alone_and_are_counted() {
    let ends = Ends::with(LinkLimits::default()).await;
    let (mut client, mut server, relaying) = relayed(&ends).await;
    let long = vec![7; 3_000_000];
    let sending = async {
        client.write_all(&long).await.unwrap();
        client.shutdown().await.unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).await.unwrap();
        back
    };
    let answering = async {
        let mut all = Vec::new();
        server.read_to_end(&mut all).await.unwrap();
        server.write_all(b"answered after your end").await.unwrap();
        server.shutdown().await.unwrap();
        all
    };
    let (back, all) = tokio::join!(sending, answering);
    assert!(all == long && back == b"answered after your end");
    let (dialled, accepted) = relaying.await.unwrap();
    let expected = Moved {
        sent: 3_000_000,
        received: 23,
    };
    assert_eq!(
        (&dialled.outcome, dialled.moved),
        (&Outcome::Complete, expected)
    );
    assert_eq!(accepted.moved.sent, 23);
    assert!(ends.registry.is_empty());
}

#[tokio::test]
async fn a_link_closed_with_a_reason_ends_in_a_reset_for_both_applications() {
    let ends = Ends::with(LinkLimits::default()).await;
    let (mut client, mut server, relaying) = relayed(&ends).await;
    assert_eq!(ends.registry.len(), 2);
    assert_eq!(ends.registry.close(CloseReason::Revocation, |_, _| true), 2);
    let (dialled, accepted) = relaying.await.unwrap();
    for ended in [dialled, accepted] {
        let reason = CloseReason::Revocation;
        assert_eq!(ended.outcome, Outcome::Closed { reason });
    }
    assert!(client.read(&mut [0]).await.is_err());
    assert!(server.read(&mut [0]).await.is_err());
    ends.registry.emptied().await;
}

#[tokio::test]
async fn half_closed_and_silent_for_too_long_is_closed() {
    let limits = LinkLimits {
        half_closed_idle: Duration::from_millis(100),
        ..LinkLimits::default()
    };
    let ends = Ends::with(limits).await;
    let (mut client, _server, relaying) = relayed(&ends).await;
    client.shutdown().await.unwrap();
    let (dialled, _) = relaying.await.unwrap();
    assert!(
        matches!(
            dialled.outcome,
            Outcome::Closed { .. } | Outcome::Reset { .. }
        ),
        "{dialled:?}"
    );
}

fn watched_key() -> Arc<Watched> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let inner = sealwire_keys::open(&KeyConfig::Memory(MemoryConfig {
        path: file.path().to_owned(),
        development: true,
    }));
    Arc::new(Watched {
        inner: inner.unwrap(),
        elsewhere: AtomicUsize::new(0),
        frozen: Mutex::new(false),
        thawed: Condvar::new(),
    })
}

fn epoch(key: &Arc<Watched>) -> Epoch {
    let uri = |text: &str| SanType::URI(Ia5String::try_from(text).unwrap());
    let now = OffsetDateTime::now_utc();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_key = KeyPair::generate().unwrap();
    let root = ca.self_signed(&ca_key).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.not_before = now - time::Duration::hours(1);
    leaf.not_after = now + time::Duration::hours(1);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![
        uri("spiffe://test/web"),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ];
    let public = rcgen::SubjectPublicKeyInfo::from_der(key.public_key().spki_der()).unwrap();
    let certificate = leaf.signed_by(&public, &Issuer::new(ca, ca_key)).unwrap();
    Epoch::new(EpochConfig {
        number: 1,
        credentials: Arc::new(
            Credentials::new(key.clone(), vec![certificate.der().clone()]).unwrap(),
        ),
        bundle: Arc::new(TrustBundle::from_pem(root.pem().as_bytes()).unwrap()),
        trust_domains: vec!["test".parse().unwrap()],
        profile: Profile::by_name("default").unwrap(),
        revocation: None,
        resumption: None,
        time: Arc::new(DefaultTimeProvider),
    })
    .unwrap()
}
