//! The webhooks over HTTPS. Everything that a caller can make grow has a bound: connections, bytes
//! of a request, bytes of all requests, time. What goes wrong inside is an answer, never silence:
//! the API server refuses the pod then (`failurePolicy: Fail`).

mod seats;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::{counter, histogram};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::claims::ClaimFollower;
use crate::config::WebhookSection;
use crate::inject::Injector;
use crate::refusal::{Fault, Reason, Refusal};
use crate::review::{Outcome, Review, Task};
use seats::{Seat, Seats};

/// How long a caller may take between two requests, the next one's head included: as long as API
/// servers keep a connection for the next.
const IDLE: Duration = Duration::from_secs(90);

/// How long a caller may take for the handshake.
const PATIENCE: Duration = Duration::from_secs(5);

/// A unit in which bytes of all requests are counted.
const UNIT: usize = 1024;

/// What answers reviews.
#[derive(Debug)]
pub struct Webhook {
    injector: Injector,
    claims: Option<ClaimFollower>,
    limits: WebhookSection,
    /// Units of bytes that are free.
    budget: Semaphore,
}

impl Webhook {
    /// Answers by this injector. Without a follower, claims are not followed.
    pub fn new(injector: Injector, claims: Option<ClaimFollower>) -> Self {
        let limits = injector.config().webhook.clone();
        Self {
            budget: Semaphore::new((limits.total_bytes / UNIT).max(1)),
            injector,
            claims,
            limits,
        }
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, tls: Arc<ServerConfig>) {
        let acceptor = TlsAcceptor::from(tls);
        let seats = Seats::new(self.limits.connections);
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Such as no descriptors left: what is open goes on, and ends.
                    tracing::warn!(%error, "no connection could be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let seat = seats.take().await;
            let (webhook, acceptor) = (self.clone(), acceptor.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = webhook.connection(stream, peer, &acceptor, &seat) => {}
                    () = seat.has_to_be_left() => {
                        tracing::debug!(%peer, "an idle connection has made room for another");
                    }
                }
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        acceptor: &TlsAcceptor,
        seat: &Arc<Seat>,
    ) {
        let stream = match timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                counter!("sealwire_injector_handshakes_failed_total").increment(1);
                return tracing::info!(%peer, %error, "no TLS: is the CA in the webhooks' configuration ours?");
            }
            Err(_) => return tracing::info!(%peer, "the TLS handshake took too long"),
        };
        let service = service_fn(|request| {
            let webhook = self.clone();
            let working = seat.work();
            async move {
                let answer = webhook.answer(request).await;
                drop(working);
                Ok::<_, Infallible>(answer)
            }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service)
            .await;
        if let Err(error) = served {
            tracing::debug!(%peer, %error, "a connection ended early");
        }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(task) = Task::of(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND, "no webhook has this path\n");
        };
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview\n");
        }
        let begun = Instant::now();
        let deadline = Duration::from_secs(self.limits.deadline_seconds);
        let (outcome, response) =
            match timeout(deadline, self.review(task, request.into_body())).await {
                Ok(Ok(answer)) => answer,
                Ok(Err(fault)) => (fault.outcome, plain(fault.status, &fault.message)),
                Err(_) => (
                    "late",
                    plain(
                        StatusCode::SERVICE_UNAVAILABLE,
                        "not read and answered in time\n",
                    ),
                ),
            };
        let spent = begun.elapsed().as_secs_f64();
        histogram!("sealwire_injector_review_seconds", "task" => task.label()).record(spent);
        counter!("sealwire_injector_reviews_total", "task" => task.label(), "outcome" => outcome)
            .increment(1);
        response
    }

    async fn review<B>(
        &self,
        task: Task,
        body: B,
    ) -> Result<(&'static str, Response<Full<Bytes>>), Unanswered>
    where
        B: Body,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // A body of unknown length may become as large as any.
        let most = u64::try_from(self.limits.max_bytes).unwrap_or(u64::MAX);
        let expected = body.size_hint().upper().unwrap_or(most);
        if expected > most {
            return Err(Unanswered::too_large(self.limits.max_bytes));
        }
        let units = usize::try_from(expected).unwrap_or(usize::MAX) / UNIT + 1;
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let _taken = self.budget.acquire_many(units).await;
        let bytes = Limited::new(body, self.limits.max_bytes)
            .collect()
            .await
            .map_err(
                |error| match error.downcast_ref::<http_body_util::LengthLimitError>() {
                    Some(_) => Unanswered::too_large(self.limits.max_bytes),
                    None => Unanswered::malformed(&error.to_string()),
                },
            )?
            .to_bytes();
        let review = guarded(|| Review::read(task, &bytes))?
            .map_err(|error| Unanswered::malformed(&error.to_string()))?;
        drop(bytes);
        let claims = self.follow_claims(&review).await;
        let answer = guarded(|| review.answer(&self.injector, claims))?
            .map_err(|error| Unanswered::fault(&error.to_string()))?;
        let outcome = record(task, &review, &answer.outcome);
        let body = guarded(|| serde_json::to_vec(&answer.response.into_review()))?
            .map_err(|error| Unanswered::fault(&error.to_string()))?;
        let mut response = Response::new(Full::new(Bytes::from(body)));
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok((outcome, response))
    }

    async fn follow_claims(&self, review: &Review) -> Result<(), Refusal> {
        let Some(follower) = &self.claims else {
            return Ok(());
        };
        let claims = review.claims();
        if claims.is_empty() {
            return Ok(());
        }
        // The answer is to be there in time even when the API server is not.
        let patience = Duration::from_secs(self.limits.deadline_seconds) / 2;
        match timeout(patience, follower.follow(review.namespace(), &claims)).await {
            Ok(followed) => followed,
            Err(_) => Err(Fault::new(
                Reason::Claim,
                "spec.volumes",
                "where the claims lead could not be found out in time",
                "try again",
            )
            .into()),
        }
    }
}

/// Why a request has no review for an answer.
struct Unanswered {
    outcome: &'static str,
    status: StatusCode,
    message: String,
}

impl Unanswered {
    fn too_large(most: usize) -> Self {
        Self {
            outcome: "too-large",
            status: StatusCode::PAYLOAD_TOO_LARGE,
            message: format!("the review is larger than {most} bytes (webhook.maxBytes)\n"),
        }
    }

    fn malformed(problem: &str) -> Self {
        Self {
            outcome: "malformed",
            status: StatusCode::BAD_REQUEST,
            message: format!("{problem}\n"),
        }
    }

    fn fault(problem: &str) -> Self {
        tracing::error!(problem, "a fault of the injector, please report it");
        Self {
            outcome: "fault",
            status: StatusCode::INTERNAL_SERVER_ERROR,
            message: "a fault of the injector: see its log\n".to_owned(),
        }
    }
}

/// Lets nothing that a request brings end more than that request.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, Unanswered> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Unanswered::fault("panicked"))
}

/// Logs and counts how a review went, and gives the label of it.
fn record(task: Task, review: &Review, outcome: &Outcome) -> &'static str {
    let (namespace, pod, uid) = (review.namespace(), review.name(), review.uid());
    match outcome {
        Outcome::Pod(status) => {
            let status = status.label();
            tracing::info!(task = task.label(), namespace, pod, uid, status, "reviewed");
            status
        }
        Outcome::Untouched => "untouched",
        Outcome::Refused(refusal) => {
            for fault in &refusal.faults {
                let reason = fault.reason.label();
                counter!("sealwire_injector_refused_total", "reason" => reason).increment(1);
            }
            tracing::warn!(task = task.label(), namespace, pod, uid, %refusal, "refused");
            "refused"
        }
    }
}

fn plain(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(message.to_owned())));
    *response.status_mut() = status;
    response
}
