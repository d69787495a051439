//! A small world for tests: a certificate authority, keys, certificates, a clock that a test moves,
//! and logs written with them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, RsaKeySize, SanType,
};
use rustls_pki_types::CertificateDer;
use sealwire_identity::{Credentials, TrustBundle};
use sealwire_keys::{KeyConfig, MemoryConfig, PrivateKey};
use time::OffsetDateTime;
use time::macros::datetime;

use crate::log::{Clock, LogConfig, LogWriter, RetentionLimits};
use crate::record::{
    Boot, Bytes, Certificate, CertificateEvent, Custody, CustodyOccasion, Direction, Event, Flow,
    LinkGroup, Pod, Policy, Record, SchemaName, Start, Stop, StopCause, Timestamp, Window,
};
use crate::verify::Trust;

/// When everything here begins.
pub(crate) const NOW: OffsetDateTime = datetime!(2026-11-25 12:00 UTC);

pub(crate) const WORKLOAD: &str = "spiffe://m.example/ns/shop/sa/web";

pub(crate) const ORIGIN: &str = "m.example/ns/shop/pod/web-0/6f1a";

/// A kind of key.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::P256, Self::P384, Self::Ed25519, Self::Rsa];

    fn pair(self) -> KeyPair {
        match self {
            Self::P256 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap(),
            Self::P384 => KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap(),
            Self::Ed25519 => KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap(),
            Self::Rsa => {
                KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap()
            }
        }
    }
}

/// A key of a kind, each time another.
pub(crate) fn key(kind: Kind) -> Arc<dyn PrivateKey> {
    let directory = tempfile::tempdir().unwrap();
    write_key(directory.path(), &kind.pair());
    open_key(directory.path())
}

/// A clock that a test moves.
#[derive(Debug)]
pub(crate) struct Moving(Mutex<OffsetDateTime>);

impl Moving {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(NOW)))
    }

    pub(crate) fn forward(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }

    pub(crate) fn back(&self, by: Duration) {
        *self.0.lock().unwrap() -= by;
    }
}

impl Clock for Moving {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }
}

/// A certificate authority.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, "test CA");
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = NOW - Duration::from_secs(86_400 * 400);
        params.not_after = NOW + Duration::from_secs(86_400 * 4000);
        let issuer = CertifiedIssuer::self_signed(params, Kind::P256.pair()).unwrap();
        Self { issuer }
    }

    pub(crate) fn trust(&self) -> Trust {
        let bundle = TrustBundle::from_pem(self.issuer.pem().as_bytes()).unwrap();
        Trust {
            bundle: Arc::new(bundle),
        }
    }

    /// A key with a certificate that begins an hour ago and lives that long from now.
    pub(crate) fn issue(&self, kind: Kind, lives: Duration) -> Arc<Credentials> {
        let directory = tempfile::tempdir().unwrap();
        self.issue_into(directory.path(), kind, lives);
        credentials_in(directory.path())
    }

    /// The same for another workload of the mesh.
    pub(crate) fn issue_to(&self, spiffe_id: &str, lives: Duration) -> Arc<Credentials> {
        let directory = tempfile::tempdir().unwrap();
        self.issue_as(spiffe_id, directory.path(), Kind::P256, lives);
        credentials_in(directory.path())
    }

    /// A key and its certificate in files.
    pub(crate) fn issue_into(&self, directory: &Path, kind: Kind, lives: Duration) {
        self.issue_as(WORKLOAD, directory, kind, lives);
    }

    fn issue_as(&self, spiffe_id: &str, directory: &Path, kind: Kind, lives: Duration) {
        let pair = kind.pair();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(spiffe_id.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        params.not_before = NOW - Duration::from_secs(3600);
        params.not_after = NOW + lives;
        let certificate = params.signed_by(&pair, &self.issuer).unwrap();
        fs::write(directory.join("cert.der"), certificate.der()).unwrap();
        write_key(directory, &pair);
    }
}

/// Key and certificate from files.
pub(crate) fn credentials_in(directory: &Path) -> Arc<Credentials> {
    let chain = vec![CertificateDer::from(
        fs::read(directory.join("cert.der")).unwrap(),
    )];
    Arc::new(Credentials::new(open_key(directory), chain).unwrap())
}

fn write_key(directory: &Path, pair: &KeyPair) {
    let path = directory.join("key.pem");
    fs::write(&path, pair.serialize_pem()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn open_key(directory: &Path) -> Arc<dyn PrivateKey> {
    let config = MemoryConfig {
        path: directory.join("key.pem"),
        development: true,
    };
    sealwire_keys::open(&KeyConfig::Memory(config)).unwrap()
}

pub(crate) fn pod() -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
        uid: "6f1a".to_owned(),
        node: "node-1".to_owned(),
    }
}

pub(crate) fn boot(n: u8) -> Boot {
    Boot::new([n; 16])
}

pub(crate) fn start() -> Start {
    Start {
        version: "0.1.0".to_owned(),
        build_sha256: None,
        capture_sha256: None,
        policy: Policy {
            config_sha256: "00".repeat(32),
            profile: "default".to_owned(),
            exceptions: Vec::new(),
            exceptions_more: 0,
        },
        key: None,
        window_seconds: 60,
        previous: None,
    }
}

pub(crate) fn stop() -> Stop {
    Stop {
        cause: StopCause::Drained,
        detail: "asked to".to_owned(),
        open: 0,
    }
}

pub(crate) fn config(directory: &Path, clock: &Arc<Moving>, run: u8) -> LogConfig {
    LogConfig {
        directory: directory.to_owned(),
        origin: ORIGIN.to_owned(),
        pod: pod(),
        boot: boot(run),
        clock: clock.clone(),
        retention: RetentionLimits::default(),
        pending: 1 << 20,
        durable: false,
    }
}

pub(crate) fn flow(serial: &str, port: u16) -> Flow {
    Flow {
        direction: Direction::Outbound,
        peer: Some("spiffe://m.example/ns/shop/sa/db".to_owned()),
        peer_serial: Some("0b".to_owned()),
        serial: serial.to_owned(),
        destination: Some(([198, 18, 0, 7], port).into()),
        version: "TLSv1_3".to_owned(),
        suite: "TLS_AES_128_GCM_SHA256".to_owned(),
        group: "X25519MLKEM768".to_owned(),
        resumed: false,
    }
}

pub(crate) fn window(from: Timestamp, to: Timestamp, links: Vec<LinkGroup>) -> Event {
    Event::Window(Box::new(Window {
        from,
        to,
        part: 1,
        parts: 1,
        links,
        exceptions: Vec::new(),
        refusals: Vec::new(),
        census: None,
        aggregated: None,
    }))
}

pub(crate) fn link(serial: &str, now: Timestamp, bytes: u64) -> LinkGroup {
    LinkGroup {
        flow: flow(serial, 5432),
        opened: 1,
        closed: 1,
        open: 0,
        bytes: Bytes {
            sent: bytes,
            received: bytes * 2,
        },
        first: now,
        last: now,
        failures: [("reset".to_owned(), 1)].into(),
    }
}

pub(crate) fn a_window() -> Event {
    let now = Timestamp::new(NOW);
    window(now, now, vec![link("0a", now, 1)])
}

pub(crate) fn record_of(event: Event) -> Record {
    Record {
        schema: SchemaName,
        time: Timestamp::new(NOW),
        pod: pod(),
        identity: Some(WORKLOAD.to_owned()),
        boot: boot(1),
        seq: 7,
        checkpoint: None,
        event,
    }
}

/// A log that is being written by hand, as a sidecar would.
pub(crate) struct Run {
    pub(crate) log: LogWriter,
    pub(crate) clock: Arc<Moving>,
    pub(crate) credentials: Arc<Credentials>,
    boot: Boot,
    from: Timestamp,
}

impl Run {
    pub(crate) fn begin(
        config: LogConfig,
        clock: &Arc<Moving>,
        credentials: Arc<Credentials>,
    ) -> Self {
        let boot = config.boot;
        let log = LogWriter::open(config, start()).unwrap();
        let mut run = Self {
            log,
            clock: clock.clone(),
            credentials: credentials.clone(),
            boot,
            from: Timestamp::new(clock.now()),
        };
        run.rotate(credentials);
        run
    }

    pub(crate) fn rotate(&mut self, credentials: Arc<Credentials>) {
        let now = Timestamp::new(self.clock.now());
        let identity = credentials.facts().spiffe_id.to_string();
        self.log.identity(Some(identity));
        let certificate = Certificate::of(&credentials, CertificateEvent::Issued);
        self.log
            .append(Event::Certificate(Box::new(certificate)))
            .unwrap();
        let key = credentials.key().as_ref();
        let custody = Custody::ask(key, CustodyOccasion::Start, self.boot, now).unwrap();
        self.log.append(Event::Custody(Box::new(custody))).unwrap();
        self.credentials = credentials;
    }

    /// A minute passes, and its window is written.
    pub(crate) fn window(&mut self) {
        self.clock.forward(Duration::from_secs(60));
        let to = Timestamp::new(self.clock.now());
        let link = link(
            &self.credentials.facts().serial,
            to,
            to.get().minute().into(),
        );
        self.log.append(window(self.from, to, vec![link])).unwrap();
        self.from = to;
    }

    pub(crate) fn sign(&mut self) {
        self.log
            .checkpoint(self.credentials.key().as_ref())
            .unwrap();
    }

    /// Something is written that does not speak of the certificate, and signed.
    pub(crate) fn sign_without_link(&mut self) {
        let now = Timestamp::new(self.clock.now());
        self.log.append(window(now, now, Vec::new())).unwrap();
        self.sign();
    }

    pub(crate) fn windows(&mut self, count: usize) {
        for _ in 0..count {
            self.window();
            self.sign();
        }
    }

    pub(crate) fn stop(mut self) {
        self.log.append(Event::Stop(stop())).unwrap();
        self.sign();
    }
}
