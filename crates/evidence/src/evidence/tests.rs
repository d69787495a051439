use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sealwire_identity::Credentials;
use sealwire_keys::{Custody as Said, PrivateKey, PublicKey, Scheme, SignError};

use super::*;
use crate::log::{Log, SystemClock};
use crate::record::{CertificateEvent, CustodyOccasion, Event, GapCause, Record, Refusal};
use crate::testing::{Authority, Kind, Moving, config, flow, start, stop};
use crate::verify::{Expect, verify};

mod pressure;

const DEADLINE: Duration = Duration::from_secs(20);

/// A key whose device can be taken out.
#[derive(Debug)]
struct Switched {
    key: Arc<dyn PrivateKey>,
    there: AtomicBool,
}

impl Switched {
    fn of(credentials: &Credentials) -> (Arc<Self>, Arc<Credentials>) {
        let key = Arc::new(Self {
            key: credentials.key().clone(),
            there: AtomicBool::new(true),
        });
        let chain = credentials.chain().to_vec();
        let switched = Credentials::new(key.clone(), chain).unwrap();
        (key, Arc::new(switched))
    }

    fn plug(&self, there: bool) {
        self.there.store(there, Ordering::SeqCst);
    }
}

impl PrivateKey for Switched {
    fn reference(&self) -> &str {
        self.key.reference()
    }

    fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    fn schemes(&self) -> &[Scheme] {
        self.key.schemes()
    }

    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !self.there.load(Ordering::SeqCst) {
            return Err(SignError::Device("CKR_DEVICE_REMOVED".to_owned()));
        }
        self.key.sign(scheme, message)
    }

    fn custody(&self) -> Result<Said, SignError> {
        self.key.custody()
    }

    fn parallelism(&self) -> usize {
        1
    }

    fn signatures(&self) -> u64 {
        self.key.signatures()
    }
}

/// Evidence with short windows, and the machine's own clock, by which the certificates are made
/// long enough.
struct World {
    directory: tempfile::TempDir,
    authority: Authority,
}

impl World {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn open(&self, queue: usize) -> Evidence {
        self.open_with(queue, |_| {})
    }

    fn open_with(&self, queue: usize, change: impl FnOnce(&mut LogConfig)) -> Evidence {
        let mut log = config(self.path(), &Moving::new(), 1);
        log.clock = Arc::new(SystemClock);
        change(&mut log);
        let config = EvidenceConfig {
            log,
            window: Duration::from_millis(40),
            groups: 100,
            queue,
            custody_every: Duration::from_millis(300),
        };
        Evidence::open(config, start(), None).unwrap()
    }

    fn credentials(&self) -> Arc<Credentials> {
        self.authority
            .issue(Kind::P256, Duration::from_secs(86_400 * 3650))
    }

    fn records(&self) -> Vec<Record> {
        let log = Log::open(self.path()).unwrap();
        let records = log.records().unwrap();
        records.map(|entry| entry.unwrap().record).collect()
    }

    fn is_good(&self) {
        let logs = [self.path().to_owned()];
        let verdict = verify(&logs, &self.authority.trust(), &Expect::default(), &|_| {});
        let wrong: Vec<String> = verdict.logs[0].wrong().map(ToString::to_string).collect();
        assert!(verdict.is_good(), "{wrong:#?}");
    }
}

/// Waits until the figures are as they should be.
fn until(evidence: &Evidence, what: &str, is: impl Fn(&Figures) -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is(&evidence.figures()) {
        assert!(
            Instant::now() < deadline,
            "{what}: {:?}",
            evidence.figures()
        );
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn refusal(port: u16) -> Refusal {
    Refusal {
        direction: crate::record::Direction::Outbound,
        protocol: crate::record::Protocol::Tcp,
        reason: "no_route".to_owned(),
        source: None,
        destination: Some(([198, 18, 0, 9], port).into()),
        peer: None,
        process: None,
        detail: "x".repeat(2000),
    }
}

#[test]
fn windows_are_written_and_signed_and_what_was_recorded_is_in_them() {
    let world = World::new();
    let evidence = world.open(100);
    let recorder = evidence.recorder();
    let credentials = world.credentials();
    recorder.credentials(&credentials, CertificateEvent::Issued);
    let flow = flow(&credentials.facts().serial, 5432);
    recorder.opened(&flow);
    let bytes = Bytes {
        sent: 10,
        received: 20,
    };
    recorder.closed(&flow, bytes, None);
    recorder.refused(refusal(1));
    until(&evidence, "three checkpoints", |figures| {
        figures.checkpoints > 3
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let records = world.records();
    let windows = records.iter().filter_map(|record| match &record.event {
        Event::Window(window) => Some(window),
        _ => None,
    });
    let sent: u64 = windows
        .flat_map(|window| &window.links)
        .map(|group| group.bytes.sent)
        .sum();
    assert_eq!(sent, 10);
    let spelled_out = records.iter().find_map(|record| match &record.event {
        Event::Refusal(refusal) => Some(refusal),
        _ => None,
    });
    assert_eq!(spelled_out.unwrap().detail.len(), 512);
    assert!(matches!(records.last().unwrap().event, Event::Stop(_)));
    let log = Log::open(world.path()).unwrap();
    let signed = log.checkpoint().unwrap().size;
    assert_eq!(
        signed,
        u64::try_from(records.len()).unwrap(),
        "the stop is signed"
    );
}

#[test]
fn while_the_key_is_out_records_are_written_and_once_it_is_back_they_are_signed_and_a_gap_says_so()
{
    let world = World::new();
    let evidence = world.open(100);
    let (key, credentials) = Switched::of(&world.credentials());
    evidence
        .recorder()
        .credentials(&credentials, CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 1);
    key.plug(false);
    until(&evidence, "it is noticed", |figures| {
        figures.unsigned_since.is_some() && figures.key.is_some()
    });
    let before = evidence.figures().log;
    until(&evidence, "windows go on", |figures| {
        figures.log.records > before.records + 3 && figures.log.pending > before.pending + 2
    });
    key.plug(true);
    until(&evidence, "signed again", |figures| {
        figures.unsigned_since.is_none() && figures.log.pending < 4
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let gaps = world
        .records()
        .into_iter()
        .filter_map(|record| match record.event {
            Event::Gap(gap) => Some((gap.cause, gap.lost)),
            _ => None,
        });
    assert_eq!(gaps.collect::<Vec<_>>(), [(GapCause::Unsigned, Some(0))]);
}

#[test]
fn a_key_that_is_out_at_the_end_holds_the_end_up_no_longer_than_that() {
    let world = World::new();
    let evidence = world.open(100);
    let (key, credentials) = Switched::of(&world.credentials());
    evidence
        .recorder()
        .credentials(&credentials, CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    key.plug(false);
    until(&evidence, "it is noticed", |figures| {
        figures.unsigned_since.is_some()
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    let records = world.records();
    assert!(matches!(records.last().unwrap().event, Event::Stop(_)));
    world.is_good();
}

#[test]
fn custody_is_recorded_before_the_first_signature_at_each_change_and_from_time_to_time() {
    let world = World::new();
    let evidence = world.open(100);
    let recorder = evidence.recorder();
    recorder.credentials(&world.credentials(), CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    recorder.credentials(&world.credentials(), CertificateEvent::Renewed);
    let before = evidence.figures().checkpoints;
    until(&evidence, "more", |figures| {
        figures.checkpoints > before + 20
    });
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let records = world.records().into_iter();
    let custody: Vec<CustodyOccasion> = records
        .filter_map(|record| match record.event {
            Event::Custody(custody) => Some(custody.occasion),
            _ => None,
        })
        .collect();
    assert_eq!(custody[0], CustodyOccasion::Start);
    assert!(custody.contains(&CustodyOccasion::Rotation));
    assert!(custody.contains(&CustodyOccasion::Periodic));
}

#[test]
fn what_finds_no_room_is_counted_and_a_gap_says_how_much() {
    let world = World::new();
    let evidence = world.open(4);
    let recorder = evidence.recorder();
    recorder.credentials(&world.credentials(), CertificateEvent::Issued);
    for _ in 0..10_000 {
        recorder.gap(crate::record::Gap {
            cause: GapCause::Other,
            from: Timestamp::EPOCH,
            to: Timestamp::EPOCH,
            lost: None,
            detail: String::new(),
        });
    }
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 1);
    evidence.stop(stop(), DEADLINE).unwrap();
    world.is_good();
    let (told, lost) = told_and_lost(&world, GapCause::Overload);
    assert!(lost > 0);
    assert_eq!(told + lost, 10_000);
}

#[test]
fn evidence_that_is_dropped_without_a_word_ends_as_after_a_crash() {
    let world = World::new();
    let evidence = world.open(100);
    evidence
        .recorder()
        .credentials(&world.credentials(), CertificateEvent::Issued);
    until(&evidence, "a checkpoint", |figures| figures.checkpoints > 0);
    drop(evidence);
    let deadline = Instant::now() + DEADLINE;
    let run = loop {
        let next = config(world.path(), &Moving::new(), 2);
        match LogWriter::open(next, start()) {
            Ok(run) => break run,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    };
    drop(run);
    let records = world.records().into_iter();
    let gaps = records.filter_map(|record| match record.event {
        Event::Gap(gap) => Some(gap.cause),
        _ => None,
    });
    assert!(gaps.collect::<Vec<_>>().contains(&GapCause::Crash));
}

/// Gaps of another cause that a log tells, and records that are lost by this cause.
fn told_and_lost(world: &World, cause: GapCause) -> (u64, u64) {
    let (mut told, mut lost) = (0, 0);
    for record in world.records() {
        match record.event {
            Event::Gap(gap) if gap.cause == GapCause::Other => told += 1,
            Event::Gap(gap) if gap.cause == cause => lost += gap.lost.unwrap(),
            _ => {}
        }
    }
    (told, lost)
}
