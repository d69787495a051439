//! Evidence of what this proxy seals, and of what else there is: what the crate `sealwire-evidence`
//! writes, with what only the proxy knows. Started and ended by `run`.
//!
//! It never holds up what it speaks of: connections are told in memory, and threads of their own
//! wait for the disk and the key. When the log cannot be opened, or the disk takes nothing, that is
//! said at once in health and metrics, and in the log by a gap as soon as it can be written again.
//! Where the configuration has `required`, nothing new flows meanwhile.

mod changes;
mod pod_census;
mod policy;
mod reporter;

use std::fs::{DirBuilder, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use metrics::{counter, gauge};
use rustix::rand::{GetRandomFlags, getrandom};
use sealwire_evidence::record::{Boot, Gap, GapCause, Pod, Start, Stop, Timestamp};
use sealwire_evidence::{
    Evidence as Log, EvidenceConfig, Figures, LogConfig, RetentionLimits, SystemClock, origin_of,
};
use sealwire_link::Registry;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

pub use self::reporter::{Reporter, Told};

use self::changes::Changes;
use self::pod_census::PodCensus;
use self::policy::policy;
use crate::capture::accepted::Accepted;
use crate::capture::prove::ProofDesk;
use crate::census::Taker;
use crate::config::{ConfigError, EvidenceSettings, Settings};
use crate::passing::Passing;
use crate::state::{Condition, Need, State};

/// How often the disk is looked after, and the log is tried to be opened.
const INTERVAL: Duration = Duration::from_secs(1);

/// A log that is opened later than this after the start was not to be had before.
const LATE: Duration = Duration::from_secs(2);

/// Groups of connections that a window tells apart. At some 300 bytes each, a window of them all is
/// a megabyte.
const GROUPS: usize = 4096;

/// Single records that may wait for the writer.
const QUEUE: usize = 1024;

/// Bytes that may wait for a signature: a key that is away for a day, on a busy pod.
const PENDING: u64 = 64 * 1024 * 1024;

/// What has to be done before the process locks itself in.
#[derive(Debug)]
pub struct Prepared {
    settings: EvidenceSettings,
    pod: Pod,
    /// This program, to be hashed later.
    program: io::Result<File>,
}

/// What evidence is about.
#[derive(Debug)]
pub struct Parts {
    /// The configuration at the start.
    pub settings: Arc<Settings>,
    /// What is in force.
    pub state: Arc<State>,
    /// The live links.
    pub registry: Arc<Registry>,
    /// What is held of what was captured.
    pub accepted: Arc<Accepted>,
    /// What exceptions let through.
    pub passing: Arc<Passing>,
    /// Where capture is proven.
    pub desk: Arc<ProofDesk>,
}

/// Evidence in the making.
#[derive(Debug)]
pub struct Evidence {
    reporter: Arc<Reporter>,
    stop: Sender<Ending>,
}

/// How the run ends, until when that may be written, and whom to tell that it is.
type Ending = (Stop, Instant, Sender<()>);

impl Prepared {
    /// Finds out which pod this is, and makes the log's directory. Blocks.
    ///
    /// # Errors
    /// When a file of the downward API is missing. That the directory cannot be made shows later,
    /// and may pass.
    pub fn new(settings: EvidenceSettings, node: Option<&str>) -> Result<Self, ConfigError> {
        // Where it is there already, its owner has decided who may read it.
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&settings.directory);
        if let Err(error) = made {
            let directory = settings.directory.display();
            tracing::error!(%error, %directory, "the directory for evidence cannot be made");
        }
        Ok(Self {
            pod: settings.pod(node)?,
            settings,
            program: File::open("/proc/self/exe"),
        })
    }

    /// Begins to write evidence.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub fn start(self, parts: Parts) -> io::Result<Evidence> {
        let config = self.log_config(&parts.settings);
        if self.settings.required {
            let unmet = Condition::Unmet("the log is not open yet".to_owned());
            parts.state.set(Need::Evidence, unmet);
        }
        let reporter = Arc::new(Reporter::default());
        let changes = Arc::new(Changes::new(&parts.settings));
        let told = changes.clone();
        parts.state.listen(move |in_force| told.in_force(in_force));
        let (stop, stopped) = mpsc::channel();
        let work = Work {
            config,
            begun: OffsetDateTime::now_utc().into(),
            prepared: self,
            parts,
            reporter: reporter.clone(),
            taker: Taker::begin(),
            changes,
        };
        thread::Builder::new()
            .name("sealwire-evidence".to_owned())
            .spawn(move || work.run(&stopped))?;
        Ok(Evidence { reporter, stop })
    }

    fn log_config(&self, settings: &Settings) -> EvidenceConfig {
        let domain = settings.config.identity.trust_domains.first();
        EvidenceConfig {
            log: LogConfig {
                directory: self.settings.directory.clone(),
                origin: origin_of(domain.map_or("", String::as_str), &self.pod),
                pod: self.pod.clone(),
                // Drawn for each attempt to open the log.
                boot: Boot::new([0; 16]),
                clock: Arc::new(SystemClock),
                retention: RetentionLimits {
                    age: Some(self.settings.keep),
                    bytes: Some(self.settings.bytes),
                },
                pending: PENDING,
                durable: true,
            },
            window: self.settings.window,
            groups: GROUPS,
            queue: QUEUE,
            custody_every: self.settings.custody,
        }
    }
}

impl Evidence {
    /// Who is to be told of connections.
    pub fn reporter(&self) -> Arc<Reporter> {
        self.reporter.clone()
    }

    /// Ends the last window and says how the run ended. Waits at most `patience`.
    pub fn finish(self, stop: Stop, patience: Duration) {
        let until = Instant::now() + patience;
        let (tell, told) = mpsc::channel();
        if self.stop.send((stop, until, tell)).is_ok() && told.recv_timeout(patience).is_err() {
            tracing::warn!("the last records of evidence could not be written in time");
        }
    }
}

/// The thread that opens the log, looks after it, and ends it.
struct Work {
    config: EvidenceConfig,
    begun: Timestamp,
    prepared: Prepared,
    parts: Parts,
    reporter: Arc<Reporter>,
    taker: Taker,
    changes: Arc<Changes>,
}

impl Work {
    fn run(mut self, stopped: &Receiver<Ending>) {
        let mut log = None;
        let mut build = None;
        loop {
            log = match log {
                None => self.open(&mut build),
                open => open,
            };
            if let Some(log) = &log {
                self.look(&log.figures());
                self.changes.look(&self.parts.state);
            }
            match stopped.recv_timeout(INTERVAL) {
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Ok((stop, until, tell)) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if let Some(Err(error)) = log.map(|log| log.stop(stop, left)) {
                        tracing::error!(%error, "the last records of evidence are not written");
                    }
                    // Whoever waits may have lost patience.
                    let _ = tell.send(());
                    return;
                }
            }
        }
    }

    /// Opens the log, and says that it could not be until now.
    fn open(&mut self, build: &mut Option<String>) -> Option<Log> {
        if build.is_none() {
            *build = self.prepared.program_sha256();
        }
        let settings = &self.parts.settings;
        let start = Start {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            build_sha256: build.clone(),
            capture_sha256: Some(settings.capture.digest()),
            policy: policy(settings),
            key: None,
            window_seconds: self.config.window.as_secs(),
            previous: None,
        };
        let census = PodCensus::new(&self.parts, self.reporter.clone(), self.taker.clone());
        match boot() {
            // What an attempt before has left there is the record of another run.
            Ok(boot) => self.config.log.boot = boot,
            Err(error) => {
                self.say(Some(&error.to_string()), None);
                return None;
            }
        }
        match Log::open(self.config.clone(), start, Some(Box::new(census))) {
            Ok(log) => {
                let recorder = log.recorder();
                let missed = self.reporter.begin(recorder.clone());
                let now: Timestamp = OffsetDateTime::now_utc().into();
                if missed > 0 || Timestamp::since(now, self.begun) > LATE {
                    recorder.gap(Gap {
                        cause: GapCause::Storage,
                        from: self.begun,
                        to: now,
                        lost: Some(missed),
                        detail: "the log could not be opened until now".to_owned(),
                    });
                }
                self.changes.begin(recorder);
                Some(log)
            }
            Err(error) => {
                self.say(Some(&error.to_string()), None);
                None
            }
        }
    }

    fn look(&self, figures: &Figures) {
        self.say(figures.storage.as_deref(), figures.key.as_deref());
        show(figures);
    }

    /// Says what the disk and the key have said, if they do not do what they should.
    fn say(&self, storage: Option<&str>, key: Option<&str>) {
        let state = &self.parts.state;
        gauge!("sealwire_evidence_written").set(f64::from(u8::from(storage.is_none())));
        if self.prepared.settings.required {
            state.set(
                Need::Evidence,
                storage.map_or(Condition::Met, |problem| {
                    Condition::Unmet(problem.to_owned())
                }),
            );
        }
        let note = match (storage, key) {
            (Some(problem), _) => Some(format!("evidence is not written: {problem}")),
            (None, Some(problem)) => Some(format!(
                "evidence is written, and not signed: {problem}: it will be, once the key signs"
            )),
            (None, None) => None,
        };
        state.note("evidence", note);
    }
}

impl Prepared {
    /// Digest of this program.
    fn program_sha256(&mut self) -> Option<String> {
        let mut hash = Sha256::new();
        let mut read = || {
            let program = self.program.as_mut().ok()?;
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match program.read(&mut buffer) {
                    Ok(0) => return Some(()),
                    Ok(length) => hash.update(&buffer[..length]),
                    Err(error) => {
                        tracing::warn!(%error, "the digest of this program cannot be recorded");
                        return None;
                    }
                }
            }
        };
        read()?;
        Some(
            hash.finalize()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        )
    }
}

/// A number for a run.
fn boot() -> io::Result<Boot> {
    let mut bits = [0; 16];
    // So few bytes come all at once.
    getrandom(&mut bits, GetRandomFlags::empty())?;
    Ok(Boot::new(bits))
}

fn show(figures: &Figures) {
    let set = |name: &'static str, value: u64| {
        gauge!(name).set(f64::from(u32::try_from(value).unwrap_or(u32::MAX)));
    };
    let seconds = |moment: Option<Timestamp>| {
        moment.map_or(0, |moment| {
            u64::try_from(moment.get().unix_timestamp()).unwrap_or_default()
        })
    };
    set("sealwire_evidence_log_records", figures.log.records);
    set("sealwire_evidence_log_bytes", figures.log.bytes);
    set("sealwire_evidence_unsigned_records", figures.log.pending);
    set(
        "sealwire_evidence_covered_until_seconds",
        seconds(figures.covered_until),
    );
    set(
        "sealwire_evidence_unsigned_since_seconds",
        seconds(figures.unsigned_since),
    );
    counter!("sealwire_evidence_records_lost_total").absolute(figures.lost);
    counter!("sealwire_evidence_checkpoints_total").absolute(figures.checkpoints);
    counter!("sealwire_evidence_signatures_total").absolute(figures.signatures);
}
