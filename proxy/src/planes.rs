//! The HTTP planes: health and metrics for the node, admin for whoever is inside the pod. None of
//! them shows a secret. What they change is the log level, and when key and certificate are replaced.

mod key_counters;
mod serve;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use metrics::{counter, gauge};
use metrics_exporter_prometheus::PrometheusHandle;
use sealwire_identity::Revocation;
use sealwire_keys::{KeyHealth, PrivateKey};
use sealwire_link::{Links, Registry};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;

pub use self::key_counters::KeyCounters;
pub(crate) use self::serve::CONNECTIONS;
pub use self::serve::{Reached, serve};
use crate::confine::Report;
use crate::logging::LogLevel;
use crate::state::{Condition, Online, State};

/// Most links that the admin plane lists.
const MAX_LISTED: usize = 10_000;

/// How often histograms are taken in.
const TENDING: Duration = Duration::from_secs(5);

/// What the planes show.
#[derive(Debug)]
pub struct Planes {
    /// What is in force.
    pub state: Arc<State>,
    /// The live links.
    pub registry: Arc<Registry>,
    /// The maker of links, once there is one.
    pub links: OnceLock<Arc<Links>>,
    /// How the process has locked itself in.
    pub confinement: Report,
    /// The metrics.
    pub metrics: PrometheusHandle,
    /// Where to change the log level.
    pub log_level: LogLevel,
    /// Whether development is allowed.
    pub development: bool,
    /// The places of open connections, some of them taken.
    pub places: Arc<Semaphore>,
    /// How many places there are.
    pub connections: usize,
    /// What was counted of one key after another.
    pub key_counters: KeyCounters,
}

/// Takes in what the histograms have gathered, for ever: else it would grow until somebody asks
/// for the metrics, and nobody may.
pub async fn tend(metrics: PrometheusHandle) {
    let mut due = tokio::time::interval(TENDING);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        metrics.run_upkeep();
    }
}

/// `/readyz`, `/livez`, and `/healthz` with the details.
pub fn health(planes: Arc<Planes>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/healthz", get(details))
        .with_state(planes)
}

/// `/metrics`, in Prometheus' text format.
pub fn metrics(planes: Arc<Planes>) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .with_state(planes)
}

/// What is in force, for people inside the pod.
pub fn admin(planes: Arc<Planes>) -> Router {
    Router::new()
        .route("/config", get(config))
        .route("/certificates", get(certificates))
        .route("/custody", get(custody))
        .route("/links", get(links))
        .route(
            "/log-level",
            get(|| async { "PUT a level here, such as debug\n" }).put(set_log_level),
        )
        .route(
            "/rotate",
            get(|| async { "POST here to rotate the key\n" }).post(rotate),
        )
        .route(
            "/renew",
            get(|| async { "POST here to renew the certificate\n" }).post(renew),
        )
        .with_state(planes)
}

async fn ready(Shared(planes): Shared<Arc<Planes>>) -> Response {
    let health = planes.state.health();
    if health.ready {
        return "ready\n".into_response();
    }
    let why: Vec<_> = health
        .needs
        .iter()
        .filter_map(|(need, condition)| match condition {
            Condition::Met => None,
            Condition::Unmet(why) => Some(format!("{}: {why}\n", need.name())),
        })
        .chain(health.draining.then(|| "draining\n".to_owned()))
        .collect();
    (StatusCode::SERVICE_UNAVAILABLE, why.concat()).into_response()
}

async fn details(Shared(planes): Shared<Arc<Planes>>) -> Response {
    let health = planes.state.health();
    let status = if health.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let body = json!({
        "health": health,
        "development": planes.development,
        "confinement": planes.confinement,
        "epoch": planes.state.in_force().map(|in_force| in_force.epoch.number()),
        "links": planes.registry.len(),
    });
    (status, Json(body)).into_response()
}

async fn render(Shared(planes): Shared<Arc<Planes>>) -> Response {
    planes.refresh();
    let text = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (text, planes.metrics.render()).into_response()
}

async fn config(Shared(planes): Shared<Arc<Planes>>) -> Response {
    match planes.state.in_force() {
        Some(in_force) => Json(&in_force.settings.config).into_response(),
        None => nothing_in_force(),
    }
}

async fn certificates(Shared(planes): Shared<Arc<Planes>>) -> Response {
    match planes.state.in_force() {
        Some(in_force) => Json(json!({
            "epoch": in_force.epoch.number(),
            "own": in_force.epoch.credentials().facts(),
            "profile": in_force.epoch.profile().name,
            "revocationLists": in_force
                .epoch
                .revocation()
                .map(|revocation| revocation.facts().collect::<Vec<_>>()),
        }))
        .into_response(),
        None => nothing_in_force(),
    }
}

async fn custody(Shared(planes): Shared<Arc<Planes>>) -> Response {
    let Some(in_force) = planes.state.in_force() else {
        return nothing_in_force();
    };
    let key = in_force.epoch.credentials().key().clone();
    // The token is asked, which may take its time.
    match tokio::task::spawn_blocking(move || (key.custody(), key.figures())).await {
        Ok((Ok(custody), figures)) => Json(json!({
            "custody": custody,
            "signatures": figures.signatures,
            "figures": figures,
        }))
        .into_response(),
        Ok((Err(error), _)) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn links(Shared(planes): Shared<Arc<Planes>>) -> Response {
    let links = planes.registry.list(MAX_LISTED);
    Json(links.iter().map(Arc::as_ref).collect::<Vec<_>>()).into_response()
}

async fn set_log_level(Shared(planes): Shared<Arc<Planes>>, level: String) -> Response {
    match planes.log_level.set(level.trim()) {
        Ok(()) => {
            tracing::info!(level = level.trim(), "log level changed");
            "changed\n".into_response()
        }
        Err(problem) => (StatusCode::BAD_REQUEST, format!("{problem}\n")).into_response(),
    }
}

async fn rotate(Shared(planes): Shared<Arc<Planes>>) -> Response {
    let Some(in_force) = planes.state.in_force() else {
        return nothing_in_force();
    };
    let key = in_force.epoch.credentials().key().clone();
    match tokio::task::spawn_blocking(move || key.rotate()).await {
        Ok(Ok(())) => {
            tracing::info!("another key was asked for");
            "asked for: another key is in use as soon as it has a certificate\n".into_response()
        }
        Ok(Err(error)) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn renew(Shared(planes): Shared<Arc<Planes>>) -> Response {
    if planes.state.health().online.renewal.is_none() {
        let said = "certificates come from files: replace those\n";
        return (StatusCode::CONFLICT, said).into_response();
    }
    planes.state.ask_to_renew();
    "asked for: /healthz says how it goes\n".into_response()
}

fn nothing_in_force() -> Response {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "nothing is in force yet, see /healthz on the health port\n",
    )
        .into_response()
}

impl Planes {
    /// Brings the gauges up to now.
    fn refresh(&self) {
        let health = self.state.health();
        gauge!("sealwire_ready").set(f64::from(u8::from(health.ready)));
        for (need, condition) in &health.needs {
            let met = matches!(condition, Condition::Met);
            gauge!("sealwire_need_met", "need" => need.name()).set(f64::from(u8::from(met)));
        }
        show_online(&health.online);
        gauge!("sealwire_development").set(f64::from(u8::from(self.development)));
        gauge!("sealwire_links_open").set(as_f64(self.registry.len()));
        let open = self
            .connections
            .saturating_sub(self.places.available_permits());
        gauge!("sealwire_connections_open").set(as_f64(open));
        if let Some(links) = self.links.get() {
            gauge!("sealwire_handshake_steps_waiting").set(as_f64(links.steps_waiting()));
            gauge!("sealwire_handshakes_waiting").set(as_f64(links.waiting()));
        }
        if let Some(in_force) = self.state.in_force() {
            let credentials = in_force.epoch.credentials();
            let ends = credentials.facts().not_after.unix_timestamp();
            gauge!("sealwire_certificate_not_after_seconds")
                .set(as_f64(usize::try_from(ends).unwrap_or_default()));
            gauge!("sealwire_trust_epoch").set(as_f64(
                usize::try_from(in_force.epoch.number()).unwrap_or(usize::MAX),
            ));
            show_key(credentials.key().as_ref());
            self.key_counters.show(credentials.key());
            let lists = in_force.epoch.revocation().map(Revocation::facts);
            if let Some(due) = lists
                .into_iter()
                .flatten()
                .map(|list| list.next_update)
                .min()
            {
                gauge!("sealwire_crl_next_update_seconds").set(as_f64(
                    usize::try_from(due.unix_timestamp()).unwrap_or_default(),
                ));
            }
        }
    }
}

/// How it stands with what is asked over the network.
fn show_online(online: &Online) {
    if let Some(vault) = &online.vault {
        let up = vault.logged_in && vault.problem.is_none();
        gauge!("sealwire_vault_up").set(f64::from(u8::from(up)));
        counter!("sealwire_vault_logins_total").absolute(vault.logins);
        counter!("sealwire_vault_token_renewals_total").absolute(vault.renewals);
        counter!("sealwire_vault_retries_total").absolute(vault.retries);
    }
    if let Some(renewal) = &online.renewal {
        counter!("sealwire_certificate_renewals_total").absolute(renewal.renewals);
        gauge!("sealwire_certificate_renewal_failures").set(f64::from(renewal.failures));
        if let Some(next) = renewal.next_attempt {
            let next = usize::try_from(next.unix_timestamp()).unwrap_or_default();
            gauge!("sealwire_certificate_next_renewal_seconds").set(as_f64(next));
        }
    }
}

/// How it stands with the key in force.
fn show_key(key: &dyn PrivateKey) {
    let state = key.health().name();
    for name in KeyHealth::NAMES {
        gauge!("sealwire_key_health", "state" => name).set(f64::from(u8::from(name == state)));
    }
    let figures = key.figures();
    let idle = figures.sessions_open.saturating_sub(figures.sessions_busy);
    for (state, sessions) in [
        ("busy", figures.sessions_busy),
        ("idle", idle),
        ("limit", figures.sessions_limit),
    ] {
        gauge!("sealwire_key_sessions", "state" => state).set(as_f64(sessions));
    }
    gauge!("sealwire_key_waiting").set(as_f64(figures.waiting));
}

/// Exact up to 2^53, beyond anything counted here.
#[allow(
    clippy::cast_precision_loss,
    reason = "gauges are floating point, and these numbers are small"
)]
fn as_f64(number: usize) -> f64 {
    number as f64
}
