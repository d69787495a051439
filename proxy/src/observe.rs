//! From a record to what people and machines see: one log line, the metrics and evidence, all made
//! from the record alone.

use std::net::SocketAddr;
use std::sync::Arc;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use sealwire_link::{Direction, LinkFacts, LiveLink, Moved, Outcome, Record, Treatment};
use time::OffsetDateTime;

use crate::capture::canonical;
use crate::evidence::{Reporter, Told};
use crate::passing::Passage;

/// Bounds of the buckets of durations, in seconds: from a resumed handshake to a slow HSM's.
const SECONDS: [f64; 11] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0,
];

/// Installs the process's metrics and describes them.
///
/// # Errors
/// When a recorder is installed already.
pub fn install_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)?
        .install_recorder()?;
    describe_counter!(
        "sealwire_connections_opened_total",
        "Application connections, by how they ended"
    );
    describe_counter!(
        "sealwire_refused_total",
        "Connections that were refused, by reason"
    );
    describe_counter!(
        "sealwire_links_closed_total",
        "Connections that this proxy ended, by reason"
    );
    describe_counter!("sealwire_bytes_total", "Application bytes moved");
    describe_counter!(
        "sealwire_exceptions_total",
        "Connections that a declared exception let through"
    );
    describe_counter!(
        "sealwire_accept_errors_total",
        "Times that accepting a connection failed"
    );
    describe_counter!(
        "sealwire_reloads_total",
        "Changes of configuration or certificates, by outcome"
    );
    describe_counter!(
        "sealwire_signatures_total",
        "Signatures asked of the key, by outcome"
    );
    describe_histogram!(
        "sealwire_sign_seconds",
        "Time that a signature took, the wait for a session included"
    );
    describe_gauge!(
        "sealwire_key_health",
        "1 for the state that the key in force is in"
    );
    describe_gauge!(
        "sealwire_key_sessions",
        "Sessions with the token that are busy or idle, and the limit"
    );
    describe_gauge!(
        "sealwire_key_waiting",
        "Signatures waiting for a session with the token"
    );
    describe_counter!(
        "sealwire_key_sessions_lost_total",
        "Sessions with the token that were lost and replaced"
    );
    describe_counter!(
        "sealwire_key_recoveries_total",
        "Times that the token failed and signed again"
    );
    describe_counter!(
        "sealwire_key_module_reloads_total",
        "Times that the PKCS#11 module was initialised anew"
    );
    describe_gauge!(
        "sealwire_vault_up",
        "1 while there is a valid token and Vault or OpenBao answers"
    );
    describe_counter!(
        "sealwire_log_lines_lost_total",
        "Lines of the log that were lost, since who reads it does not keep up"
    );
    describe_counter!("sealwire_vault_logins_total", "Logins that succeeded");
    describe_counter!(
        "sealwire_vault_token_renewals_total",
        "Renewals of the token that succeeded"
    );
    describe_counter!(
        "sealwire_vault_retries_total",
        "Requests to Vault or OpenBao that were tried again"
    );
    describe_counter!(
        "sealwire_certificate_renewals_total",
        "Certificates that the authority issued"
    );
    describe_gauge!(
        "sealwire_certificate_renewal_failures",
        "Attempts to renew the certificate that failed since the last that succeeded"
    );
    describe_gauge!(
        "sealwire_certificate_next_renewal_seconds",
        "When the next attempt to renew is due, seconds since 1970"
    );
    describe_counter!(
        "sealwire_capture_proofs_total",
        "Proofs of capture, by outcome"
    );
    describe_histogram!(
        "sealwire_handshake_seconds",
        "Time from a connected socket to a sealed link"
    );
    describe_gauge!(
        "sealwire_connections_open",
        "Application connections open now"
    );
    describe_gauge!("sealwire_links_open", "Sealed links open now");
    describe_gauge!(
        "sealwire_handshake_steps_waiting",
        "Handshake steps waiting for a signing thread"
    );
    describe_gauge!(
        "sealwire_handshakes_waiting",
        "Handshakes waiting for a place among those that sign"
    );
    describe_gauge!("sealwire_ready", "1 when ready");
    describe_gauge!("sealwire_need_met", "1 for each need that is met");
    describe_gauge!("sealwire_trust_epoch", "Number of the trust epoch in force");
    describe_gauge!(
        "sealwire_certificate_not_after_seconds",
        "End of the own certificate, seconds since 1970"
    );
    describe_gauge!(
        "sealwire_crl_next_update_seconds",
        "When the first of the revocation lists in force is due to be replaced, seconds since 1970"
    );
    describe_gauge!(
        "sealwire_development",
        "1 when development is allowed by the configuration"
    );
    describe_evidence();
    Ok(handle)
}

fn describe_evidence() {
    describe_gauge!(
        "sealwire_evidence_written",
        "1 while the log of evidence takes records"
    );
    describe_gauge!(
        "sealwire_evidence_covered_until_seconds",
        "End of the last window that is written, seconds since 1970"
    );
    describe_gauge!(
        "sealwire_evidence_unsigned_since_seconds",
        "Since when records wait for a signature that is due, seconds since 1970; 0 when none is"
    );
    describe_gauge!(
        "sealwire_evidence_unsigned_records",
        "Records that no checkpoint covers yet"
    );
    describe_gauge!(
        "sealwire_evidence_log_records",
        "Records in the log, those that were dropped by age or size among them"
    );
    describe_gauge!(
        "sealwire_evidence_log_bytes",
        "Bytes that the log's full bundles take"
    );
    describe_counter!(
        "sealwire_evidence_records_lost_total",
        "Records that were lost; a gap in the log says so"
    );
    describe_counter!(
        "sealwire_evidence_checkpoints_total",
        "Checkpoints that the key has signed"
    );
    describe_counter!(
        "sealwire_evidence_signatures_total",
        "Signatures asked of the key for evidence"
    );
    describe_gauge!(
        "sealwire_census_unaccounted_sockets",
        "Sockets in the pod that nobody accounts for, at the last census"
    );
    describe_histogram!("sealwire_census_seconds", "Time that a census took");
}

/// Whoever is told of connections, beside the log and the metrics.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    /// Writes evidence, where any is written.
    pub evidence: Option<Arc<Reporter>>,
}

/// A connection that has begun, and of which a record is due.
#[derive(Debug)]
pub struct Begun<'a> {
    observer: &'a Observer,
    direction: Direction,
    source: SocketAddr,
    destination: SocketAddr,
    opened: OffsetDateTime,
    /// The link that it goes over, once evidence is told of it.
    told: Option<Told>,
}

/// How a connection went.
#[derive(Debug)]
pub struct Ending {
    /// What the policy made of it.
    pub treatment: Treatment,
    /// The link that carried it.
    pub link: Option<LinkFacts>,
    /// What the application's own TLS negotiated.
    pub observed_tls: Option<String>,
    /// Application bytes each way.
    pub moved: Moved,
    /// How it ended.
    pub outcome: Outcome,
}

impl Ending {
    /// It never came about.
    pub fn refused(reason: &'static str, detail: impl ToString) -> Self {
        Self {
            treatment: Treatment::Refuse,
            link: None,
            observed_tls: None,
            moved: Moved::default(),
            outcome: Outcome::Refused {
                reason,
                detail: detail.to_string(),
            },
        }
    }
}

impl Observer {
    /// A connection begins now.
    pub fn begin(
        &self,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Begun<'_> {
        Begun {
            observer: self,
            direction,
            source: canonical(source),
            destination: canonical(destination),
            opened: OffsetDateTime::now_utc(),
            told: None,
        }
    }
}

impl Begun<'_> {
    /// It goes on over this link.
    pub fn sealed(&mut self, link: &Arc<LiveLink>) {
        let evidence = self.observer.evidence.as_ref();
        self.told = evidence.map(|evidence| evidence.opened(link));
    }

    /// An exception lets it through from now on.
    pub fn passes(&mut self, passage: &Arc<Passage>) {
        let evidence = self.observer.evidence.as_ref();
        self.told = evidence.map(|_| Told::Passage(passage.clone()));
    }

    /// It has ended: writes the record.
    pub fn end(self, ending: Ending) {
        let record = Record {
            direction: self.direction,
            source: self.source,
            destination: self.destination,
            treatment: ending.treatment,
            link: ending.link,
            observed_tls: ending.observed_tls,
            moved: ending.moved,
            opened: self.opened,
            closed: OffsetDateTime::now_utc(),
            outcome: ending.outcome,
        };
        count(&record);
        log(&record);
        if let Some(evidence) = &self.observer.evidence {
            evidence.ended(&record, self.told.as_ref());
        }
    }
}

fn count(record: &Record) {
    let direction = record.direction.name();
    counter!("sealwire_connections_opened_total", "direction" => direction, "outcome" => record.outcome.name())
        .increment(1);
    counter!("sealwire_bytes_total", "direction" => direction, "leg" => "sent")
        .increment(record.moved.sent);
    counter!("sealwire_bytes_total", "direction" => direction, "leg" => "received")
        .increment(record.moved.received);
    if let Outcome::Refused { reason, .. } = record.outcome {
        counter!("sealwire_refused_total", "direction" => direction, "reason" => reason)
            .increment(1);
    }
    if let Outcome::Closed { reason } = record.outcome {
        counter!("sealwire_links_closed_total", "direction" => direction, "reason" => reason.name())
            .increment(1);
    }
    if let Treatment::Passthrough(rule) | Treatment::RequireTls(rule) = &record.treatment {
        counter!("sealwire_exceptions_total", "rule" => rule.clone()).increment(1);
    }
    if let Some(link) = &record.link {
        let kind = if link.resumed { "resumed" } else { "full" };
        histogram!("sealwire_handshake_seconds", "direction" => direction, "kind" => kind)
            .record(link.handshake_seconds);
    }
}

fn log(record: &Record) {
    let link = record.link.as_ref();
    let (reason, detail) = match &record.outcome {
        Outcome::Complete => (None, None),
        Outcome::Reset { reason, detail } | Outcome::Refused { reason, detail } => {
            (Some(*reason), Some(detail.as_str()))
        }
        Outcome::Closed { reason } => (Some(reason.name()), None),
    };
    let (treatment, rule) = match &record.treatment {
        Treatment::Seal => ("seal", None),
        Treatment::Passthrough(rule) => ("passthrough", Some(rule.as_str())),
        Treatment::RequireTls(rule) => ("require-tls", Some(rule.as_str())),
        Treatment::Refuse => ("refuse", None),
    };
    // A refusal is what an operator looks for; the rest is one line a connection.
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                target: "sealwire::access",
                direction = record.direction.name(),
                source = %record.source,
                destination = %record.destination,
                treatment,
                rule,
                outcome = record.outcome.name(),
                reason,
                detail,
                link = link.map(|link| link.id),
                epoch = link.map(|link| link.epoch),
                identity = link.map(|link| link.identity.as_str()),
                serial = link.map(|link| link.serial.as_str()),
                key = link.map(|link| link.key.as_str()),
                peer = link.map(|link| link.peer.as_str()),
                peer_serial = link.map(|link| link.peer_serial.as_str()),
                version = link.map(|link| link.version),
                suite = link.map(|link| link.suite.as_str()),
                group = link.map(|link| link.group.as_str()),
                resumed = link.map(|link| link.resumed),
                observed_tls = record.observed_tls.as_deref(),
                sent = record.moved.sent,
                received = record.moved.received,
                seconds = (record.closed - record.opened).as_seconds_f64(),
                "connection"
            )
        };
    }
    match record.outcome {
        Outcome::Refused { .. } => line!(warn),
        _ => line!(info),
    }
}
