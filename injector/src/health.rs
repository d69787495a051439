//! Health and metrics of the injector, over HTTP. Ready means: it can answer, since it has a
//! certificate that the API server can trust; and it is not about to end.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use metrics::{describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::sync::watch;

use crate::certificate::Serving;

/// Bounds of the histograms' buckets, in seconds.
const SECONDS: [f64; 10] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1.0, 5.0];

/// How often histograms are taken in.
const TENDING: Duration = Duration::from_secs(5);

/// What health depends on.
pub struct Health {
    serving: Arc<Serving>,
    metrics: PrometheusHandle,
    ended: watch::Receiver<bool>,
}

impl Health {
    /// Health of an injector that ends when told so.
    pub fn new(
        serving: Arc<Serving>,
        metrics: PrometheusHandle,
        ended: watch::Receiver<bool>,
    ) -> Self {
        Self {
            serving,
            metrics,
            ended,
        }
    }

    fn unready(&self) -> Option<&'static str> {
        if *self.ended.borrow() {
            return Some("ending\n");
        }
        (!self.serving.is_ready()).then_some("no serving certificate yet: see the log\n")
    }
}

/// Records metrics from now on. Once a process.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    describe_counter!(
        "sealwire_injector_reviews_total",
        "Reviews, by task and outcome"
    );
    describe_histogram!(
        "sealwire_injector_review_seconds",
        "From a request's head to its answer"
    );
    describe_counter!(
        "sealwire_injector_refused_total",
        "Faults of refused pods, by reason"
    );
    describe_counter!(
        "sealwire_log_lines_lost_total",
        "Lines of the log that were lost, since who reads it does not keep up"
    );
    describe_counter!(
        "sealwire_injector_idle_connections_closed_total",
        "Idle connections that made room for others"
    );
    describe_counter!(
        "sealwire_injector_handshakes_failed_total",
        "TLS handshakes that failed"
    );
    describe_gauge!(
        "sealwire_injector_certificate_not_after_seconds",
        "End of the serving certificate, seconds since 1970"
    );
    describe_counter!(
        "sealwire_injector_certificate_failures_total",
        "Times that the serving certificate could not be looked after"
    );
    describe_gauge!("sealwire_injector_leader", "1 for the replica that writes");
    describe_gauge!(
        "sealwire_injector_config_maps",
        "ConfigMaps that are as they are to be, and that could not be written"
    );
    describe_gauge!(
        "sealwire_injector_namespaces_with_problems",
        "Namespaces whose rules have something wrong in them"
    );
    describe_counter!(
        "sealwire_injector_configurations_total",
        "ConfigMaps written, by outcome"
    );
    describe_gauge!("sealwire_injector_ready", "1 when it can answer");
    let tended = handle.clone();
    tokio::spawn(async move {
        let mut due = tokio::time::interval(TENDING);
        loop {
            due.tick().await;
            tended.run_upkeep();
        }
    });
    Ok(handle)
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn router(health: Arc<Health>) -> Router {
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render))
        .with_state(health)
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    match health.unready() {
        None => "ready\n".into_response(),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

async fn render(State(health): State<Arc<Health>>) -> Response {
    let ready = if health.unready().is_none() { 1.0 } else { 0.0 };
    gauge!("sealwire_injector_ready").set(ready);
    let text = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (text, health.metrics.render()).into_response()
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health")
            .field("unready", &self.unready())
            .finish_non_exhaustive()
    }
}
