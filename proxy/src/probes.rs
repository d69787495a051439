//! Probes of the pod's containers. Of a sealed pod the node reaches the health port and nothing
//! else, so the injector points the kubelet's HTTP, TCP and gRPC probes there, at
//! `/probe/<container>/<occasion>`, and writes down what each of them was. This does that very
//! check on the pod's own address and says how it went. Used by [`run`](crate::run) alone.
//!
//! What is not declared is not done: neither path, query, headers nor body of what arrives go
//! anywhere, and of the application's answer the status alone comes back. What is declared is read
//! once, at the start: the probes of a pod never change.

mod declared;
mod grpc;
mod http;
mod lives;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{Extension, Path as Segments, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use metrics::counter;
use serde::Deserialize;

use self::declared::Declared;
use self::grpc::GrpcCheck;
use self::http::HttpCheck;
pub(crate) use self::lives::Lives;
use crate::inbound::hand_over;
use crate::planes::Reached;

/// The largest declaration that is read, in bytes: all annotations of a pod together may have as
/// much.
const MAX_BYTES: u64 = 256 * 1024;

/// Most time that a check may take: the health port gives up on whoever takes a minute.
const LONGEST: Duration = Duration::from_secs(50);

/// What a kubelet takes when a probe does not say it.
const USUAL: Duration = Duration::from_secs(1);

/// What is wrong with a declaration of probes.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// It could not be read.
    #[error(
        "cannot read the pod's probes from {path}: {source}: mount them there, or leave `probes` out"
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is not what the injector writes.
    #[error(
        "the pod's probes are not as the injector writes them: {problem}: create the pod anew, unless its annotation was written by hand"
    )]
    Malformed {
        /// What is wrong, with its place.
        problem: String,
    },
}

/// The declared probes of a pod's containers.
#[derive(Debug, Default)]
pub struct Probes {
    checks: BTreeMap<String, BTreeMap<Occasion, Probe>>,
    lives: Arc<Lives>,
}

/// On which occasion the kubelet asks: the name of the probe, or of the lifecycle hook.
#[derive(Copy, Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "camelCase")]
pub enum Occasion {
    /// `startupProbe`.
    Startup,
    /// `readinessProbe`.
    Readiness,
    /// `livenessProbe`.
    Liveness,
    /// `lifecycle.postStart`.
    PostStart,
    /// `lifecycle.preStop`.
    PreStop,
    /// A probe of the injector's own, which always passes: that it is asked shows that the container
    /// runs.
    Alive,
}

/// One check.
#[derive(Debug)]
struct Probe {
    check: Check,
    within: Duration,
}

#[derive(Debug)]
enum Check {
    /// Nothing is asked, and the container has ended after so much silence.
    Alive(Duration),
    Http(HttpCheck),
    Tcp(u16),
    Grpc(GrpcCheck),
}

/// How a check went, where the application was asked.
enum Verdict {
    /// With this status, by the application's own word or ours.
    Status(StatusCode),
    /// Not well, and why.
    Failed(String),
}

impl Probes {
    /// Reads a declaration. Blocks: for the start alone.
    ///
    /// # Errors
    /// See [`ProbesError`].
    pub fn load(path: &Path) -> Result<Self, ProbesError> {
        let failed = |source| ProbesError::Read {
            path: path.to_owned(),
            source,
        };
        let mut text = String::new();
        File::open(path)
            .map_err(failed)?
            .take(MAX_BYTES + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        Self::parse(&text)
    }

    /// Parses a declaration. An empty one, as a pod without the annotation has it, declares
    /// nothing.
    ///
    /// # Errors
    /// [`ProbesError::Malformed`].
    pub fn parse(text: &str) -> Result<Self, ProbesError> {
        let malformed = |problem| ProbesError::Malformed { problem };
        if u64::try_from(text.len()).map_or(true, |length| length > MAX_BYTES) {
            return Err(malformed(format!("more than {MAX_BYTES} bytes")));
        }
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let written: BTreeMap<String, BTreeMap<Occasion, Declared>> =
            serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
        let mut probes = Self::default();
        let mut watched = Vec::new();
        for (container, declared) in written {
            let mut checks = BTreeMap::new();
            for (occasion, declared) in declared {
                let probe = declared.check(occasion).map_err(|problem| {
                    malformed(format!("{container}/{}: {problem}", occasion.name()))
                })?;
                if let Check::Alive(silence) = probe.check {
                    watched.push((container.clone(), silence));
                }
                checks.insert(occasion, probe);
            }
            probes.checks.insert(container, checks);
        }
        probes.lives = Arc::new(Lives::watch(watched));
        Ok(probes)
    }

    /// `/probe/<container>/<occasion>` for the health plane.
    pub fn router(self) -> Router {
        Router::new()
            .route("/probe/{container}/{occasion}", get(answer))
            .with_state(Arc::new(self))
    }

    /// Whether the pod's containers run, as their probes show it.
    pub(crate) fn lives(&self) -> Arc<Lives> {
        self.lives.clone()
    }

    fn find(&self, container: &str, occasion: &str) -> Option<&Probe> {
        let mut declared = self.checks.get(container)?.iter();
        let (_, probe) = declared.find(|(declared, _)| declared.name() == occasion)?;
        Some(probe)
    }
}

impl Occasion {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Startup,
        Self::Readiness,
        Self::Liveness,
        Self::PostStart,
        Self::PreStop,
        Self::Alive,
    ];

    /// Its name in paths and declarations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "startup",
            Self::Readiness => "readiness",
            Self::Liveness => "liveness",
            Self::PostStart => "postStart",
            Self::PreStop => "preStop",
            Self::Alive => "alive",
        }
    }
}

async fn answer(
    State(probes): State<Arc<Probes>>,
    Extension(Reached(reached)): Extension<Reached>,
    Segments((container, occasion)): Segments<(String, String)>,
) -> Response {
    let Some(probe) = probes.find(&container, &occasion) else {
        count("none", "undeclared");
        let said = "no such probe was declared when this pod was created\n";
        return (StatusCode::NOT_FOUND, said).into_response();
    };
    // A connection from the node has come to the pod's own address, which is where a kubelet would
    // ask. What an application binds to loopback stays private.
    let pod = reached.ip().to_canonical();
    if pod.is_loopback() {
        let said = "probes come from the node, to the pod's own address\n";
        return (StatusCode::FORBIDDEN, said).into_response();
    }
    probes.lives.sign(&container, Instant::now());
    match tokio::time::timeout(probe.within, probe.check.run(pod)).await {
        Ok(Verdict::Status(status)) => {
            let passed = status.is_success() || status.is_redirection();
            count(probe.check.kind(), if passed { "passed" } else { "failed" });
            (status, format!("{container}/{occasion}: {status}\n")).into_response()
        }
        Ok(Verdict::Failed(why)) => {
            count(probe.check.kind(), "failed");
            let said = format!("{container}/{occasion}: {why}\n");
            (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
        }
        Err(_) => {
            count(probe.check.kind(), "timeout");
            let said = format!("{container}/{occasion}: not within {:?}\n", probe.within);
            (StatusCode::GATEWAY_TIMEOUT, said).into_response()
        }
    }
}

impl Check {
    async fn run(&self, pod: IpAddr) -> Verdict {
        let done = match self {
            Self::Alive(_) => Ok(StatusCode::OK),
            Self::Http(check) => check.run(pod).await,
            Self::Grpc(check) => check.run(pod).await.map(|()| StatusCode::OK),
            Self::Tcp(port) => match hand_over(SocketAddr::new(pod, *port)).await {
                Ok(_) => Ok(StatusCode::OK),
                Err(error) => Err(not_there(*port, &error)),
            },
        };
        done.map_or_else(Verdict::Failed, Verdict::Status)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Alive(_) => "alive",
            Self::Http(_) => "http",
            Self::Tcp(_) => "tcp",
            Self::Grpc(_) => "grpc",
        }
    }
}

fn count(kind: &'static str, outcome: &'static str) {
    counter!("sealwire_probes_total", "kind" => kind, "outcome" => outcome).increment(1);
}

fn not_there(port: u16, error: &io::Error) -> String {
    format!("no connection to the application's port {port}: {error}")
}
