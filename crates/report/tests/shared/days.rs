//! Logs of pods that never ran, written through the real writer by a clock of their own: a day
//! passes as fast as the disk takes it. For the tests of this crate and for the example `days`.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use sealwire_evidence::record::{
    Boot, Bytes, Census, Certificate, CertificateEvent, Custody, CustodyOccasion,
    DeclaredException, Direction, Event, Flow, Gap, InterfaceCounters, KeyFacts, LinkGroup, Pod,
    Policy, Protocol, SocketClass, SocketCount, Start, Stop, StopCause, Timestamp, Window,
};
use sealwire_evidence::{Clock, LogConfig, LogWriter, RetentionLimits, origin_of};
use sealwire_identity::Credentials;
use sealwire_keys::{
    Custody as Said, KeyConfig, MemoryConfig, PrivateKey, PublicKey, Scheme, SignError, Token,
};
use time::{Duration, OffsetDateTime};

/// A mesh with a certificate authority, whose logs are under one directory.
pub(crate) struct Mesh {
    root: PathBuf,
    ca: Issuer<'static, KeyPair>,
    /// How long windows are meant to be.
    pub(crate) window: Duration,
}

/// A pod that keeps a log.
pub(crate) struct Logging {
    pub(crate) pod: Pod,
    pub(crate) identity: String,
    credentials: Credentials,
    writer: LogWriter,
    clock: Arc<Moving>,
    boot: Boot,
    /// End of the last window.
    until: OffsetDateTime,
    exceptions: Vec<DeclaredException>,
    directory: PathBuf,
    window: Duration,
}

/// A clock that is moved.
#[derive(Debug)]
pub(crate) struct Moving(Mutex<OffsetDateTime>);

impl Clock for Moving {
    fn now(&self) -> OffsetDateTime {
        *self.0.lock().unwrap()
    }
}

impl Mesh {
    pub(crate) fn new(root: &Path) -> Self {
        fs::create_dir_all(root).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = named("Mesh CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = time::macros::datetime!(2026-01-01 00:00 UTC);
        params.not_after = time::macros::datetime!(2036-01-01 00:00 UTC);
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(root.join("bundle.pem"), pem).unwrap();
        Self {
            root: root.to_owned(),
            ca: Issuer::new(params, key),
            window: Duration::MINUTE,
        }
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// A pod of a service account starts: its log has a start, a certificate and custody of a key
    /// in a token, and is signed.
    pub(crate) fn pod(&self, account: &str, name: &str, at: OffsetDateTime) -> Logging {
        self.pod_with(account, name, at, Vec::new(), true)
    }

    pub(crate) fn pod_with(
        &self,
        account: &str,
        name: &str,
        at: OffsetDateTime,
        exceptions: Vec<DeclaredException>,
        token: bool,
    ) -> Logging {
        let (namespace, account) = account.split_once('/').unwrap();
        let identity = format!("spiffe://mesh.example/ns/{namespace}/sa/{account}");
        let pod = Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: format!("{:032x}", fastrand::u128(..)),
            node: "node-1".to_owned(),
        };
        let credentials = self.credentials(&identity, at, token);
        let directory = self.logs().join(namespace).join(name);
        let clock = Arc::new(Moving(Mutex::new(at)));
        let boot = Boot::new(fastrand::u128(..).to_be_bytes());
        let window = self.window;
        let writer = open(
            &directory,
            &pod,
            boot,
            &clock,
            &credentials,
            &exceptions,
            window,
        );
        let mut logging = Logging {
            pod,
            identity,
            credentials,
            writer,
            clock,
            boot,
            until: at,
            exceptions,
            directory,
            window,
        };
        logging.introduce(CertificateEvent::Issued, CustodyOccasion::Start);
        logging
    }

    fn credentials(&self, identity: &str, at: OffsetDateTime, token: bool) -> Credentials {
        let pair = KeyPair::generate().unwrap();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key.pem");
        fs::write(&path, pair.serialize_pem()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let memory = sealwire_keys::open(&KeyConfig::Memory(MemoryConfig {
            path,
            development: true,
        }))
        .unwrap();
        let key: Arc<dyn PrivateKey> = if token {
            let account = identity.rsplit('/').next().unwrap();
            let reference = format!("pkcs11:token={account};object={account}");
            Arc::new(InToken { memory, reference })
        } else {
            memory
        };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![SanType::URI(identity.try_into().unwrap())];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.not_before = at - Duration::MINUTE;
        params.not_after = at + Duration::days(60);
        let leaf = params.signed_by(&pair, &self.ca).unwrap();
        Credentials::new(key, vec![leaf.der().clone()]).unwrap()
    }
}

fn open(
    directory: &Path,
    pod: &Pod,
    boot: Boot,
    clock: &Arc<Moving>,
    credentials: &Credentials,
    exceptions: &[DeclaredException],
    window: Duration,
) -> LogWriter {
    let config = LogConfig {
        directory: directory.to_owned(),
        origin: origin_of("mesh.example", pod),
        pod: pod.clone(),
        boot,
        clock: clock.clone(),
        retention: RetentionLimits::default(),
        pending: 64 << 20,
        durable: false,
    };
    let facts = credentials.facts();
    let start = Start {
        version: "0.1.0".to_owned(),
        build_sha256: Some("ab".repeat(32)),
        capture_sha256: Some("cd".repeat(32)),
        policy: Policy {
            config_sha256: "ef".repeat(32),
            profile: "default".to_owned(),
            exceptions: exceptions.to_vec(),
            exceptions_more: 0,
        },
        key: Some(KeyFacts {
            reference: credentials.key().reference().to_owned(),
            public_key_sha256: facts.public_key_sha256.clone(),
            serial: Some(facts.serial.clone()),
        }),
        window_seconds: window.whole_seconds().unsigned_abs(),
        previous: None,
    };
    fs::create_dir_all(directory).unwrap();
    LogWriter::open(config, start).unwrap()
}

impl Logging {
    pub(crate) fn serial(&self) -> &str {
        &self.credentials.facts().serial
    }

    /// A window passes, with what a test puts into it.
    pub(crate) fn window(&mut self, length: Duration, fill: impl FnOnce(&mut Window)) {
        let (from, to) = (self.until, self.until + length);
        *self.clock.0.lock().unwrap() = to;
        self.until = to;
        let mut window = empty(from, to);
        fill(&mut window);
        add_up(&mut window);
        self.append(Event::Window(Box::new(window)));
        self.checkpoint();
    }

    /// So many windows pass, with nothing in them.
    pub(crate) fn idle(&mut self, windows: u32) {
        for _ in 0..windows {
            self.window(self.window, |_| {});
        }
    }

    /// End of the last window.
    pub(crate) fn until(&self) -> OffsetDateTime {
        self.until
    }

    /// The key shows that it is at hand.
    pub(crate) fn custody(&mut self) {
        self.prove(CustodyOccasion::Periodic);
    }

    pub(crate) fn append(&mut self, event: Event) {
        self.writer.append(event).unwrap();
    }

    /// So many windows pass that nothing signs.
    pub(crate) fn unsigned(&mut self, windows: u32) {
        for _ in 0..windows {
            let (from, to) = (self.until, self.until + self.window);
            self.pass(self.window);
            self.append(Event::Window(Box::new(empty(from, to))));
        }
    }

    /// It says that it ends, and nothing signs that.
    pub(crate) fn stop_unsigned(mut self) {
        self.append(Event::Stop(Stop {
            cause: StopCause::Drained,
            detail: "asked to end".to_owned(),
            open: 0,
        }));
    }

    /// Another policy comes into force half a second after the last window.
    pub(crate) fn declare(&mut self, exceptions: Vec<DeclaredException>) {
        self.declare_with(exceptions, 0);
    }

    /// The same, with so many exceptions that a record does not list.
    pub(crate) fn declare_more(&mut self, more: u64) {
        self.declare_with(Vec::new(), more);
    }

    fn declare_with(&mut self, exceptions: Vec<DeclaredException>, exceptions_more: u64) {
        self.exceptions.clone_from(&exceptions);
        *self.clock.0.lock().unwrap() = self.until + Duration::milliseconds(500);
        self.append(Event::Policy(Box::new(Policy {
            config_sha256: "ee".repeat(32),
            profile: "default".to_owned(),
            exceptions,
            exceptions_more,
        })));
    }

    /// It presents the certificate of another, for a key that it says nothing of.
    pub(crate) fn present(&mut self, other: &Self) {
        let certificate = Certificate::of(&other.credentials, CertificateEvent::Renewed);
        self.append(Event::Certificate(Box::new(certificate)));
    }

    /// Goes on in another directory, in which there is a copy of its log.
    pub(crate) fn elsewhere(&self, directory: &Path) -> Self {
        let (key, chain) = (
            self.credentials.key().clone(),
            self.credentials.chain().to_vec(),
        );
        let credentials = Credentials::new(key, chain).unwrap();
        let clock = Arc::new(Moving(Mutex::new(self.until)));
        let boot = Boot::new(fastrand::u128(..).to_be_bytes());
        let writer = open(
            directory,
            &self.pod,
            boot,
            &clock,
            &credentials,
            &self.exceptions,
            self.window,
        );
        let mut again = Self {
            pod: self.pod.clone(),
            identity: self.identity.clone(),
            credentials,
            writer,
            clock,
            boot,
            until: self.until,
            exceptions: self.exceptions.clone(),
            directory: directory.to_owned(),
            window: self.window,
        };
        again.introduce(CertificateEvent::Issued, CustodyOccasion::Start);
        again
    }

    /// The clock goes on by so much.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.until += time;
        *self.clock.0.lock().unwrap() = self.until;
    }

    pub(crate) fn checkpoint(&mut self) {
        self.writer
            .checkpoint(self.credentials.key().as_ref())
            .unwrap();
    }

    pub(crate) fn gap(&mut self, gap: Gap) {
        self.append(Event::Gap(gap));
    }

    /// The sidecar dies, and another run begins after a while.
    pub(crate) fn crash(self, dead: Duration) -> Self {
        let Self {
            pod,
            identity,
            credentials,
            writer,
            clock,
            until,
            exceptions,
            directory,
            window,
            ..
        } = self;
        drop(writer);
        let until = until + dead;
        *clock.0.lock().unwrap() = until;
        let boot = Boot::new(fastrand::u128(..).to_be_bytes());
        let writer = open(
            &directory,
            &pod,
            boot,
            &clock,
            &credentials,
            &exceptions,
            window,
        );
        let mut again = Self {
            pod,
            identity,
            credentials,
            writer,
            clock,
            boot,
            until,
            exceptions,
            directory,
            window,
        };
        again.introduce(CertificateEvent::Issued, CustodyOccasion::Start);
        again
    }

    /// A new key and certificate follow.
    pub(crate) fn rotate(&mut self, mesh: &Mesh) {
        self.rotate_to(mesh, true);
    }

    /// The same, into a token or into memory.
    pub(crate) fn rotate_to(&mut self, mesh: &Mesh, token: bool) {
        self.credentials = mesh.credentials(&self.identity, self.until, token);
        self.introduce(CertificateEvent::Renewed, CustodyOccasion::Rotation);
    }

    pub(crate) fn stop(mut self) {
        self.append(Event::Stop(Stop {
            cause: StopCause::Drained,
            detail: "asked to end".to_owned(),
            open: 0,
        }));
        self.checkpoint();
    }

    fn introduce(&mut self, event: CertificateEvent, occasion: CustodyOccasion) {
        self.writer.identity(Some(self.identity.clone()));
        self.prove(occasion);
        let certificate = Certificate::of(&self.credentials, event);
        self.append(Event::Certificate(Box::new(certificate)));
        self.checkpoint();
    }

    fn prove(&mut self, occasion: CustodyOccasion) {
        let key = self.credentials.key().as_ref();
        let custody = Custody::ask(key, occasion, self.boot, self.until.into()).unwrap();
        self.append(Event::Custody(Box::new(custody)));
    }
}

/// Connections that one side opened to another, as the side that opened them records it.
pub(crate) fn opened(
    own: &Logging,
    peer: &str,
    to: &str,
    window: &Window,
    connections: u64,
    bytes: u64,
) -> LinkGroup {
    group(
        own,
        Direction::Outbound,
        peer,
        to,
        window,
        connections,
        bytes,
    )
}

/// The same as the other side does.
pub(crate) fn accepted(
    own: &Logging,
    peer: &str,
    to: &str,
    window: &Window,
    connections: u64,
    bytes: u64,
) -> LinkGroup {
    group(
        own,
        Direction::Inbound,
        peer,
        to,
        window,
        connections,
        bytes,
    )
}

fn group(
    own: &Logging,
    direction: Direction,
    peer: &str,
    to: &str,
    window: &Window,
    connections: u64,
    bytes: u64,
) -> LinkGroup {
    let half = bytes / 2;
    LinkGroup {
        flow: Flow {
            direction,
            peer: Some(peer.to_owned()),
            peer_serial: Some("0a".repeat(16)),
            serial: own.serial().to_owned(),
            destination: Some(to.parse::<SocketAddr>().unwrap()),
            version: "TLSv1_3".to_owned(),
            suite: "TLS_AES_128_GCM_SHA256".to_owned(),
            group: "X25519MLKEM768".to_owned(),
            resumed: false,
        },
        opened: connections,
        closed: connections,
        open: 0,
        bytes: Bytes {
            sent: bytes - half,
            received: half,
        },
        first: window.from,
        last: window.to,
        failures: std::collections::BTreeMap::new(),
    }
}

/// A window in which nothing happened.
fn empty(from: OffsetDateTime, to: OffsetDateTime) -> Window {
    Window {
        from: from.into(),
        to: to.into(),
        part: 1,
        parts: 1,
        links: Vec::new(),
        exceptions: Vec::new(),
        refusals: Vec::new(),
        census: Some(census(to)),
        aggregated: None,
    }
}

/// Has the census say what links and exceptions moved, and the kernel count that with heads.
fn add_up(window: &mut Window) {
    let sum = |all: &mut dyn Iterator<Item = Bytes>| {
        all.fold(Bytes::default(), |sum, more| Bytes {
            sent: sum.sent + more.sent,
            received: sum.received + more.received,
        })
    };
    let sealed = sum(&mut window.links.iter().map(|group| group.bytes));
    let excepted = sum(&mut window.exceptions.iter().map(|used| used.bytes));
    let Some(census) = &mut window.census else {
        return;
    };
    (census.sealed, census.excepted) = (sealed, excepted);
    if let Some(interface) = census.interfaces.first_mut() {
        let (sent, received) = (
            sealed.sent + excepted.sent,
            sealed.received + excepted.received,
        );
        interface.bytes.sent += sent + sent / 20;
        interface.bytes.received += received + received / 20;
        interface.packets_sent += sent / 1400;
        interface.packets_received += received / 1400;
    }
}

pub(crate) fn census(at: OffsetDateTime) -> Census {
    Census {
        taken: at.into(),
        took_micros: 800,
        namespace: Some(4_026_532_008),
        sockets: vec![
            SocketCount {
                protocol: Protocol::Tcp,
                class: SocketClass::Listening,
                count: 6,
            },
            SocketCount {
                protocol: Protocol::Tcp,
                class: SocketClass::SealedLink,
                count: 4,
            },
        ],
        unaccounted: Vec::new(),
        unaccounted_more: 0,
        interfaces: vec![InterfaceCounters {
            name: "eth0".to_owned(),
            bytes: Bytes {
                sent: 120_000,
                received: 130_000,
            },
            packets_sent: 300,
            packets_received: 310,
            absolute: false,
        }],
        protocols: Vec::new(),
        sealed: Bytes::default(),
        excepted: Bytes::default(),
        unavailable: Vec::new(),
    }
}

pub(crate) fn exception(rule: &str, what: &str, expires: OffsetDateTime) -> DeclaredException {
    DeclaredException {
        rule: rule.to_owned(),
        what: what.to_owned(),
        destination: "203.0.113.7/32".to_owned(),
        ports: vec![5432],
        reason: "The database moves into the mesh next year".to_owned(),
        owner: "data-team".to_owned(),
        expires: Timestamp::new(expires),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A key in memory whose home says what a device would say.
#[derive(Debug)]
struct InToken {
    memory: Arc<dyn PrivateKey>,
    reference: String,
}

impl PrivateKey for InToken {
    fn reference(&self) -> &str {
        &self.reference
    }

    fn public_key(&self) -> &PublicKey {
        self.memory.public_key()
    }

    fn schemes(&self) -> &[Scheme] {
        self.memory.schemes()
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        self.memory.sign(scheme, message)
    }

    fn custody(&self) -> Result<Said, SignError> {
        let said = self.memory.custody()?;
        Ok(Said {
            provider: "pkcs11",
            reference: self.reference.clone(),
            token: Some(Token {
                label: "workloads".to_owned(),
                manufacturer: "Example Devices".to_owned(),
                model: "Module 7".to_owned(),
                serial: "4711".to_owned(),
                hardware: "2.0".to_owned(),
                firmware: "7.3".to_owned(),
            }),
            sensitive: Some(true),
            always_sensitive: Some(true),
            extractable: Some(false),
            never_extractable: Some(true),
            local: Some(true),
            ..said
        })
    }

    fn parallelism(&self) -> usize {
        1
    }

    fn signatures(&self) -> u64 {
        self.memory.signatures()
    }
}
