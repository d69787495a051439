//! From a configuration to a running proxy, and to its end. The order matters: sockets first,
//! then the proxy locks itself in, and only then are threads started and the vendor's module
//! loaded.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use metrics::counter;
use sealwire_evidence::record::{Stop, StopCause};
use sealwire_keys::KeyConfig;
use sealwire_link::background::yield_to_others;
use sealwire_link::{CloseReason, Direction, Links, LinksConfig, Registry, SigningPool};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::capture::accepted::Accepted;
use crate::capture::prove::ProofDesk;
use crate::config::{self, Config, CrlSource, KeyIn, KeySection, Settings};
use crate::confine::{Confinement, Report, confine};
use crate::descriptors::raise_limit;
use crate::evidence::{self, Evidence};
use crate::inbound::Inbound;
use crate::keeper::{Keeper, KeeperConfig};
use crate::listen::{Arrivals, Listeners, SPARES, register};
use crate::logging::{self, LogLevel};
use crate::observe::{Observer, install_metrics};
use crate::outbound::Outbound;
use crate::passing::Passing;
use crate::planes::{self, KeyCounters, Planes};
use crate::pod::PodFacts;
use crate::probes::{Lives, Probes};
use crate::state::{Condition, Need, State};

/// How the proxy ended; its exit code.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Exit {
    /// Drained.
    Drained,
    /// The configuration is wrong, or a port is taken.
    Configuration,
    /// Key or certificate were not usable in time.
    Identity,
    /// Capture was not proven in time.
    Capture,
}

impl Exit {
    /// The process's exit code.
    pub fn code(self) -> i32 {
        match self {
            Self::Drained => 0,
            Self::Configuration => 1,
            Self::Identity => 2,
            Self::Capture => 3,
        }
    }
}

/// Runs the proxy until it is told to end.
///
/// # Errors
/// Before anything runs: a bad configuration, a taken port.
pub fn run(path: &Path, pod: &PodFacts) -> anyhow::Result<Exit> {
    let text = config::read(path)?;
    let settings = Arc::new(Config::parse(&text)?.for_pod(pod)?.settings()?);
    let evidence = settings
        .evidence
        .clone()
        .map(|evidence| evidence::Prepared::new(evidence, pod.node.as_deref()))
        .transpose()?;
    let log = logging::start(&settings.config.log)
        .map_err(|problem| anyhow::anyhow!("log.level: {problem}"))?;
    if let Err(problem) = raise_limit(settings.config.limits.connections) {
        tracing::warn!(problem, "fewer connections are possible than configured");
    }
    let probes =
        (settings.config.probes.as_deref()).map_or_else(|| Ok(Probes::default()), Probes::load)?;
    let listeners = Listeners::open(&settings.config.ports)?;
    let confinement = confine(&what_to_confine(&settings, path));
    for (measure, state) in confinement.gaps() {
        tracing::warn!(measure, ?state, "the proxy is not wholly locked in");
    }
    let _written_to_its_end = log.write_by_thread()?;
    let workers = settings.config.limits.workers;
    // What is sealed goes before what is to be.
    let relays = runtime("sealwire-relay", workers, || ())?;
    let making = runtime("sealwire-make", workers, yield_to_others)?;
    let proxy = Proxy {
        path: path.to_owned(),
        pod: pod.clone(),
        text,
        settings,
        log_level: log.level,
        confinement,
        relays: relays.handle().clone(),
        state: State::new(),
        registry: Registry::new(),
        accepted: Arc::default(),
        passing: Arc::default(),
        desk: Arc::default(),
    };
    let evidence = evidence
        .map(|evidence| proxy.begin_evidence(evidence))
        .transpose()?;
    let observer = Observer {
        evidence: evidence.as_ref().map(Evidence::reporter),
    };
    let ended = making.block_on(proxy.serve(listeners, observer, probes));
    if let Some(evidence) = evidence {
        let open = proxy.registry.len();
        evidence.finish(stop_of(&ended, open), EVIDENCE_PATIENCE);
    }
    abandon([relays, making]);
    sealwire_keys::finish(Duration::from_secs(1));
    ended.map(|ended| ended.exit)
}

/// How long the last window of evidence may take to be signed and written.
const EVIDENCE_PATIENCE: Duration = Duration::from_secs(3);

/// How serving ended.
struct Served {
    exit: Exit,
    /// Whether connections were closed because the drain time was over.
    cut: bool,
}

impl From<Exit> for Served {
    fn from(exit: Exit) -> Self {
        Self { exit, cut: false }
    }
}

fn stop_of(ended: &anyhow::Result<Served>, open: usize) -> Stop {
    let (cause, detail) = match ended {
        Ok(Served {
            exit: Exit::Drained,
            cut: false,
        }) => (StopCause::Drained, String::new()),
        Ok(Served {
            exit: Exit::Drained,
            cut: true,
        }) => (
            StopCause::DrainTimeout,
            "the drain time was over: what was still open has been closed".to_owned(),
        ),
        Ok(Served { exit, .. }) => (StopCause::Failed, format!("exit code {}", exit.code())),
        Err(error) => (StopCause::Failed, format!("{error:#}")),
    };
    Stop {
        cause,
        detail,
        open: u64::try_from(open).unwrap_or(u64::MAX),
    }
}

/// Whatever still runs there ends with the process. Dropped, a runtime would wait for its blocking
/// calls, and one that a frozen device never answers would keep the process for ever.
fn abandon(runtimes: [Runtime; 2]) {
    for runtime in runtimes {
        runtime.shutdown_background();
    }
}

fn runtime(name: &str, threads: usize, first: fn()) -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .thread_name(name)
        .on_thread_start(first)
        .enable_all()
        .build()
}

fn what_to_confine(settings: &Settings, path: &Path) -> Confinement {
    let config = &settings.config;
    let mut read = config.confinement.read.clone();
    let mut write = config.confinement.write.clone();
    // Directories, not files: a ConfigMap's files are links that change under the same directory.
    read.extend(path.parent().map(Path::to_owned));
    let files = config.files().into_iter();
    read.extend(files.filter_map(|file| file.parent().map(Path::to_owned)));
    if let Some(revocation) = &settings.revocation {
        let files = revocation.sources.iter().filter_map(|source| match source {
            CrlSource::File(path) => Some(path),
            CrlSource::Url(_) => None,
        });
        let directories = files.chain(&revocation.ca).filter_map(|path| path.parent());
        read.extend(directories.map(Path::to_owned));
    }
    match (&config.key, &settings.key) {
        (KeySection::Pkcs11(section), KeyIn::Here(KeyConfig::Pkcs11(key))) => {
            read.push(section.module.clone());
            write.extend(section.state.clone());
            read.extend(
                key.uri
                    .pin_source()
                    .and_then(Path::parent)
                    .map(Path::to_owned),
            );
        }
        (KeySection::Memory(section), _) => read.extend(section.file.parent().map(Path::to_owned)),
        _ => {}
    }
    write.extend(
        settings
            .evidence
            .iter()
            .map(|evidence| evidence.directory.clone()),
    );
    Confinement {
        landlock: config.confinement.landlock,
        seccomp: config.confinement.seccomp,
        read,
        write,
    }
}

struct Proxy {
    path: PathBuf,
    pod: PodFacts,
    /// What the settings were made from.
    text: String,
    settings: Arc<Settings>,
    log_level: LogLevel,
    confinement: Report,
    /// Where bytes are moved.
    relays: Handle,
    state: Arc<State>,
    registry: Arc<Registry>,
    accepted: Arc<Accepted>,
    passing: Arc<Passing>,
    desk: Arc<ProofDesk>,
}

impl Proxy {
    fn begin_evidence(&self, prepared: evidence::Prepared) -> io::Result<Evidence> {
        prepared.start(evidence::Parts {
            settings: self.settings.clone(),
            state: self.state.clone(),
            registry: self.registry.clone(),
            accepted: self.accepted.clone(),
            passing: self.passing.clone(),
            desk: self.desk.clone(),
        })
    }

    async fn serve(
        &self,
        listeners: Listeners,
        observer: Observer,
        probes: Probes,
    ) -> anyhow::Result<Served> {
        let limits = self.settings.config.limits;
        let (state, registry, desk) = (&self.state, &self.registry, &self.desk);
        let places = Arc::new(Semaphore::new(limits.connections));
        let spares = Arc::new(Semaphore::new(SPARES));
        let planes = Arc::new(Planes {
            state: state.clone(),
            registry: registry.clone(),
            links: OnceLock::new(),
            confinement: self.confinement.clone(),
            metrics: install_metrics()?,
            log_level: self.log_level.clone(),
            development: self.settings.config.development,
            places: places.clone(),
            connections: limits.connections,
            key_counters: KeyCounters::default(),
        });
        let lives = probes.lives();
        let health = planes::health(planes.clone()).merge(probes.router());
        planes::serve(register(listeners.health)?, &health);
        planes::serve(
            register(listeners.metrics)?,
            &planes::metrics(planes.clone()),
        );
        planes::serve(register(listeners.admin)?, &planes::admin(planes.clone()));
        tokio::spawn(planes::tend(planes.metrics.clone()));
        let mut signals = Signals::install()?;
        let _keeper = Keeper::start(KeeperConfig {
            path: self.path.clone(),
            pod: self.pod.clone(),
            text: self.text.clone(),
            settings: self.settings.clone(),
            state: state.clone(),
            registry: registry.clone(),
            log_level: self.log_level.clone(),
            runtime: Handle::current(),
        })?;

        let first = tokio::select! {
            first = state.first_in_force() => first,
            () = tokio::time::sleep(Duration::from_secs(limits.start_seconds)) => {
                tracing::error!(health = ?state.health().needs, "key or certificate not usable in time");
                return Ok(Exit::Identity.into());
            }
            () = signals.end() => return Ok(Exit::Drained.into()),
        };
        let pool = Arc::new(SigningPool::start(
            first.epoch.credentials().key().parallelism(),
            // Admission bounds those that sign; the others are bounded as connections are.
            limits.connections,
        )?);
        // Kept, it would keep the first key and certificate in use for as long as the process lives.
        drop(first);
        let links = Links::new(LinksConfig {
            pool,
            registry: registry.clone(),
            limits: self.settings.links,
        });
        let links = Arc::new(links.relaying_on(self.relays.clone()));
        // Nobody else sets it.
        let _ = planes.links.set(links.clone());
        let outbound = Arc::new(Outbound {
            state: state.clone(),
            links: links.clone(),
            desk: desk.clone(),
            accepted: self.accepted.clone(),
            passing: self.passing.clone(),
            observer: observer.clone(),
        });
        for listener in register(listeners.outbound)? {
            let outbound = outbound.clone();
            let serve = move |app, source, place| {
                let outbound = outbound.clone();
                tokio::spawn(async move {
                    outbound.serve(app, source).await;
                    drop(place);
                });
            };
            let arrivals = Arrivals {
                listener,
                direction: Direction::Outbound,
                places: places.clone(),
                spares: spares.clone(),
                observer: observer.clone(),
            };
            tokio::spawn(arrivals.accept(serve));
        }
        let inbound = Arc::new(Inbound {
            state: state.clone(),
            links,
            observer: observer.clone(),
        });
        for listener in register(listeners.inbound)? {
            let inbound = inbound.clone();
            let serve = move |peer, source, place| {
                let inbound = inbound.clone();
                tokio::spawn(async move {
                    inbound.serve(peer, source).await;
                    drop(place);
                });
            };
            let arrivals = Arrivals {
                listener,
                direction: Direction::Inbound,
                places: places.clone(),
                spares: spares.clone(),
                observer: observer.clone(),
            };
            tokio::spawn(arrivals.accept(serve));
        }

        tokio::select! {
            () = self.prove(state, desk) => return Ok(Exit::Capture.into()),
            () = signals.end() => {}
            () = lives.ended() => tracing::info!("the application's containers have ended"),
        }
        let cut = self.drain(state, registry, &places, &lives).await;
        Ok(Served {
            exit: Exit::Drained,
            cut,
        })
    }

    /// Proves capture again and again. Returns only when it could not be proven in time at all.
    async fn prove(&self, state: &State, desk: &ProofDesk) {
        let capture = &self.settings.config.capture;
        let deadline = Instant::now() + Duration::from_secs(capture.prove_within_seconds);
        let mut proven_before = false;
        loop {
            // One failure may be a full table or a lost packet; two in a row are not.
            let proof = match desk.prove().await {
                Err(_) if proven_before => desk.prove().await,
                first => first,
            };
            let pause = match proof {
                Ok(proof) => {
                    tracing::debug!(ipv6 = proof.ipv6, "capture proven");
                    counter!("sealwire_capture_proofs_total", "outcome" => "ok").increment(1);
                    proven_before = true;
                    state.set(Need::Capture, Condition::Met);
                    Duration::from_secs(capture.prove_every_seconds.max(1))
                }
                Err(error) => {
                    counter!("sealwire_capture_proofs_total", "outcome" => "failed").increment(1);
                    state.set(Need::Capture, Condition::Unmet(error.to_string()));
                    if !proven_before && Instant::now() >= deadline {
                        tracing::error!(%error, "capture not proven in time");
                        return;
                    }
                    Duration::from_millis(500)
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Goes on serving until the pod's connections have ended by themselves: readiness is false,
    /// and whoever still comes is served, since endpoints are withdrawn later than this begins, and
    /// an application that is told to end together with this may still have something to say. True
    /// when the time was over first.
    async fn drain(
        &self,
        state: &State,
        registry: &Registry,
        places: &Semaphore,
        lives: &Lives,
    ) -> bool {
        let section = self.settings.config.drain;
        let all = self.settings.config.limits.connections;
        let deadline = Instant::now() + Duration::from_secs(section.seconds);
        let quiet = Duration::from_secs(section.quiet_seconds);
        state.drain();
        tracing::info!(seconds = section.seconds, "draining");
        let mut quiet_since = None;
        while Instant::now() < deadline {
            let in_use = places.available_permits() < all;
            if in_use || lives.is_any_alive(Instant::now().into_std()) {
                quiet_since = None;
            } else if quiet_since.get_or_insert_with(Instant::now).elapsed() >= quiet {
                tracing::info!("drained: no connection is open");
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let told = registry.close(CloseReason::Drain, |_, _| true);
        state.close();
        tracing::warn!(
            links = told,
            "drain time is over: what was still open has been closed"
        );
        // Long enough for the resets and the records.
        let all = u32::try_from(all).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(Duration::from_secs(1), places.acquire_many(all)).await;
        true
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_call_that_never_ends_does_not_keep_the_process() {
        let runtimes = ["first", "second"].map(|name| runtime(name, 1, || ()).unwrap());
        let (answer, device) = mpsc::channel::<()>();
        let (tell, told) = mpsc::channel();
        runtimes[1].spawn_blocking(move || {
            tell.send("asked").unwrap();
            // As a device that is frozen; a deadline, so that a failure is one.
            let _ = device.recv_timeout(Duration::from_secs(30));
            let _ = tell.send("answered");
        });
        assert_eq!(told.recv(), Ok("asked"));
        abandon(runtimes);
        assert_eq!(told.try_recv(), Err(mpsc::TryRecvError::Empty));
        drop(answer);
    }
}
