//! What a full and a resumed handshake cost, and what it costs to verify a peer again:
//! `cargo bench -p sealwire-link`. Two workloads in memory, and then over loopback with links.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    missing_docs,
    reason = "a benchmark fails loudly, and prints what it measured"
)]

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls::pki_types::ServerName;
use rustls::time_provider::DefaultTimeProvider;
use rustls::{ClientConnection, Connection, HandshakeKind, ServerConnection};
use sealwire_identity::{
    Credentials, Crl, Epoch, EpochConfig, Naming, Profile, Revocation, RevocationDepth, Role,
    TrustBundle,
};
use sealwire_keys::{KeyConfig, MemoryConfig};
use sealwire_link::{LinkLimits, Links, LinksConfig, Registry, Request, SigningPool};
use time::OffsetDateTime;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const ROUNDS: usize = 7;
const EACH: u32 = 200;
const AT_ONCE: usize = 64;
const LINKS: usize = 2000;

fn main() {
    let cas: [(&str, &'static SignatureAlgorithm); 2] = [
        ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
        ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
    ];
    for (name, algorithm) in cas {
        let full = epoch(algorithm, None);
        let resuming = epoch(algorithm, Some(Duration::from_secs(3600)));
        handshake(&resuming, HandshakeKind::Full);
        println!("CA with {name}, both sides together:");
        let cost = median(|| handshake(&full, HandshakeKind::Full));
        println!("  full handshake        {cost:>7.1?}");
        let cost = median(|| handshake(&resuming, HandshakeKind::Resumed));
        println!("  resumed handshake     {cost:>7.1?}");
        let chain = resuming.credentials().chain();
        let cost = median(|| drop(resuming.verify(chain, Role::Client).unwrap()));
        println!("  verifying a chain     {cost:>7.1?}");
        for entries in [0, 1000, 100_000] {
            let (epoch, bytes) = with_list(algorithm, entries);
            let chain = epoch.credentials().chain();
            let cost = median(|| drop(epoch.verify(chain, Role::Client).unwrap()));
            println!("    and a list of {entries:>6} ({bytes} bytes) {cost:>7.1?}");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    println!("links a second over loopback, {AT_ONCE} at once, 2 signing threads:");
    for (name, lifetime) in [("full", None), ("resumed", Some(Duration::from_secs(3600)))] {
        let epoch = epoch(&rcgen::PKCS_ECDSA_P256_SHA256, lifetime);
        let (rate, resumed) = runtime.block_on(links(&Arc::new(epoch)));
        println!(
            "  {name:<8} {rate:>6.0} ({resumed} of {} resumed)",
            LINKS / AT_ONCE * AT_ONCE
        );
    }
}

/// The median of several rounds, for one run.
fn median(mut run: impl FnMut()) -> Duration {
    let mut rounds: Vec<_> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            (0..EACH).for_each(|_| run());
            begun.elapsed() / EACH
        })
        .collect();
    rounds.sort();
    rounds[ROUNDS / 2]
}

fn handshake(epoch: &Epoch, kind: HandshakeKind) {
    let destination = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 443);
    let client = epoch.client_config(&Naming::Address, destination).unwrap();
    let name = ServerName::IpAddress(destination.ip().into());
    let mut client = Connection::from(ClientConnection::new(client, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(epoch.server_config()).unwrap());
    while client.wants_write() || server.wants_write() {
        pass(&mut client, &mut server);
        pass(&mut server, &mut client);
    }
    assert_eq!(server.handshake_kind(), Some(kind));
}

fn pass(from: &mut Connection, to: &mut Connection) {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() {
        to.read_tls(&mut rest).unwrap();
        to.process_new_packets().unwrap();
    }
    to.writer().flush().unwrap();
}

/// Links a second, and how many of them resumed.
async fn links(epoch: &Arc<Epoch>) -> (f64, usize) {
    let links = Arc::new(Links::new(LinksConfig {
        pool: Arc::new(SigningPool::start(2, 4096).unwrap()),
        registry: Registry::new(),
        limits: LinkLimits::default(),
    }));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let destination = listener.local_addr().unwrap();
    let (accepter, accepting) = (links.clone(), epoch.clone());
    let server = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (links, epoch) = (accepter.clone(), accepting.clone());
            tokio::spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(30);
                let link = links.accept(&epoch, socket, destination, deadline).await;
                link.unwrap().relay(ended().await).await;
            });
        }
    });
    let begun = Instant::now();
    let mut dialling = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (links, epoch) = (links.clone(), epoch.clone());
        dialling.spawn(async move {
            let mut resumed = 0;
            for _ in 0..LINKS / AT_ONCE {
                let request = Request {
                    destination,
                    naming: Naming::Address,
                    deadline: Instant::now() + Duration::from_secs(30),
                };
                let link = links.connect(&epoch, request).await.unwrap();
                resumed += usize::from(link.facts().resumed);
                link.relay(ended().await).await;
            }
            resumed
        });
    }
    let resumed = dialling.join_all().await.into_iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    server.abort();
    let made = u32::try_from(LINKS / AT_ONCE * AT_ONCE).unwrap();
    (f64::from(made) / seconds, resumed)
}

/// An application that has nothing to say.
async fn ended() -> TcpStream {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    near.unwrap().shutdown().await.unwrap();
    far.unwrap().0
}

fn epoch(algorithm: &'static SignatureAlgorithm, resumption: Option<Duration>) -> Epoch {
    let (config, _) = config(algorithm);
    Epoch::new(EpochConfig {
        resumption,
        ..config
    })
    .unwrap()
}

/// An epoch whose CA has revoked so many, and the size of its list.
fn with_list(algorithm: &'static SignatureAlgorithm, entries: u64) -> (Epoch, usize) {
    let (config, issuer) = config(algorithm);
    let now = OffsetDateTime::now_utc();
    let revoked = |serial: u64| RevokedCertParams {
        serial_number: SerialNumber::from_slice(&[&[0x40; 8], &serial.to_be_bytes()[..]].concat()),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    };
    let list = CertificateRevocationListParams {
        this_update: now,
        next_update: now + time::Duration::hours(1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: (0..entries).map(revoked).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).unwrap();
    let lists = Crl::read_all(list.der(), &config.bundle, config.profile).unwrap();
    let revocation = Revocation::new(lists, RevocationDepth::Chain, Duration::ZERO);
    let epoch = Epoch::new(EpochConfig {
        revocation: Some(Arc::new(revocation)),
        ..config
    });
    (epoch.unwrap(), list.der().len())
}

fn config(ca_algorithm: &'static SignatureAlgorithm) -> (EpochConfig, Issuer<'static, KeyPair>) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let key = sealwire_keys::open(&KeyConfig::Memory(MemoryConfig {
        path: file.path().to_owned(),
        development: true,
    }))
    .unwrap();
    let now = OffsetDateTime::now_utc();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate_for(ca_algorithm).unwrap();
    let root = ca.self_signed(&ca_key).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.not_before = now - time::Duration::hours(1);
    leaf.not_after = now + time::Duration::hours(1);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![
        SanType::URI(Ia5String::try_from("spiffe://bench/web").unwrap()),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ];
    let public = SubjectPublicKeyInfo::from_der(key.public_key().spki_der()).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = leaf.signed_by(&public, &issuer).unwrap();
    let config = EpochConfig {
        number: 1,
        credentials: Arc::new(Credentials::new(key, vec![leaf.der().clone()]).unwrap()),
        bundle: Arc::new(TrustBundle::from_pem(root.pem().as_bytes()).unwrap()),
        trust_domains: vec!["bench".parse().unwrap()],
        profile: Profile::by_name("default").unwrap(),
        revocation: None,
        resumption: None,
        time: Arc::new(DefaultTimeProvider),
    };
    (config, issuer)
}
