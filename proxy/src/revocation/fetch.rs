//! Revocation lists by URL, each fetched by a task of its own again and again. Whoever looks at what
//! came says whether it was good: what is refused is fetched anew, as after a failure. Bounded in size and
//! time; no redirect is followed; and only servers that are declared exceptions are asked, since
//! the kernel lets the proxy itself go nowhere else.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::{ETAG, HOST, HeaderValue, IF_NONE_MATCH, USER_AGENT};
use hyper::http::uri::Scheme;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use sealwire_keys::pem_problem;
use time::OffsetDateTime;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

use crate::config::Settings;
use crate::policy::Decision;

/// How long a fetch may take altogether.
const DEADLINE: Duration = Duration::from_secs(30);

/// The first pause after a failure; it doubles up to the usual one.
const RETRY: Duration = Duration::from_secs(1);

/// Fetches URLs in the background, and keeps what came last.
pub(super) struct Fetcher {
    runtime: Handle,
    terms: Option<Terms>,
    running: BTreeMap<String, Running>,
}

/// What to fetch, and how.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) urls: Vec<String>,
    /// PEM with the CAs of `https` servers, or why there is none.
    pub(super) ca: Result<Option<Vec<u8>>, String>,
    /// The usual pause.
    pub(super) refresh: Duration,
    /// Most bytes of an answer.
    pub(super) limit: usize,
    /// What is declared.
    pub(super) settings: Arc<Settings>,
}

/// A URL that is being fetched; it stops when dropped.
struct Running {
    task: AbortHandle,
    shared: Arc<Shared>,
}

/// What a URL's task shares with whoever looks at what came.
#[derive(Default)]
struct Shared {
    fetched: Mutex<Fetched>,
    /// Told when content has been judged.
    judged: Notify,
}

#[derive(Default)]
struct Fetched {
    content: Option<Arc<Vec<u8>>>,
    /// Why there is nothing newer.
    problem: Option<String>,
    /// The server's name for the content.
    etag: Option<HeaderValue>,
    /// Whether the content was found good, once somebody has looked at it.
    good: Option<bool>,
    /// In a row: fetches that brought nothing, or something that was refused.
    failures: u32,
}

impl Fetcher {
    pub(super) fn new(runtime: Handle) -> Self {
        Self {
            runtime,
            terms: None,
            running: BTreeMap::new(),
        }
    }

    /// Fetches under these terms from now on. What came under others stays until there is more.
    pub(super) fn fetch(&mut self, terms: Terms) {
        if self.terms.as_ref().is_some_and(|old| old.are(&terms)) {
            return;
        }
        let mut before = std::mem::take(&mut self.running);
        for url in &terms.urls {
            let shared = before.remove(url).map(|running| running.shared.clone());
            let shared = shared.unwrap_or_default();
            let task =
                self.runtime
                    .spawn(again_and_again(url.clone(), terms.clone(), shared.clone()));
            let task = task.abort_handle();
            self.running.insert(url.clone(), Running { task, shared });
        }
        self.terms = Some(terms);
    }

    /// Fetches nothing any more.
    pub(super) fn stop(&mut self) {
        self.running.clear();
        self.terms = None;
    }

    /// What came last.
    ///
    /// # Errors
    /// When nothing has come yet, and why.
    pub(super) fn content(&self, url: &str) -> Result<Arc<Vec<u8>>, String> {
        let running = self.running.get(url).ok_or("it is not fetched")?;
        let fetched = running.shared.lock();
        match (&fetched.content, &fetched.problem) {
            (Some(content), _) => Ok(content.clone()),
            (None, Some(problem)) => Err(problem.clone()),
            (None, None) => Err("it is being fetched".to_owned()),
        }
    }

    /// Why what came last is not newer.
    pub(super) fn problem(&self, url: &str) -> Option<String> {
        self.running.get(url)?.shared.lock().problem.clone()
    }

    /// Says whether content that came is good. Where it is not, its name is forgotten, so that the
    /// server gives all of it again, and it is fetched again as after a failure.
    pub(super) fn judge(&self, url: &str, content: &Arc<Vec<u8>>, good: bool) {
        if let Some(running) = self.running.get(url)
            && running.shared.lock().judge(content, good)
        {
            running.shared.judged.notify_one();
        }
    }
}

impl fmt::Debug for Fetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetcher")
            .field("urls", &self.running.keys())
            .finish_non_exhaustive()
    }
}

impl Terms {
    fn are(&self, other: &Self) -> bool {
        self.urls == other.urls
            && self.ca == other.ca
            && self.refresh == other.refresh
            && Arc::ptr_eq(&self.settings, &other.settings)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Fetched> {
        // Nothing under the lock can leave it half changed.
        self.fetched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the next fetch is due, as content is judged meanwhile.
    async fn wait(&self, refresh: Duration) {
        // Not all pods of a mesh at once.
        let jitter = 0.9 + 0.2 * fastrand::f64();
        let begun = Instant::now();
        loop {
            let judged = self.judged.notified();
            let pause = self.lock().pause(refresh).mul_f64(jitter);
            tokio::select! {
                () = sleep_until(begun + pause) => return,
                () = judged => {}
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn again_and_again(url: String, terms: Terms, shared: Arc<Shared>) {
    loop {
        let etag = shared.lock().etag.clone();
        let fetching = fetch(&url, &terms, etag);
        let result = tokio::time::timeout(DEADLINE, fetching).await;
        let result = result.unwrap_or_else(|_| Err(format!("no answer within {DEADLINE:?}")));
        tracing::debug!(
            url,
            problem = result.as_ref().err(),
            "fetched a revocation list"
        );
        shared.lock().take(result);
        shared.wait(terms.refresh).await;
    }
}

impl Fetched {
    /// Takes what came of a fetch.
    fn take(&mut self, result: Result<Answer, String>) {
        match result {
            Ok(Answer::New { content, etag }) => {
                self.problem = None;
                self.content = Some(Arc::new(content));
                self.etag = etag;
                self.good = None;
            }
            Ok(Answer::Unchanged) => {
                self.problem = None;
                if self.good == Some(true) {
                    self.failures = 0;
                }
            }
            Err(problem) => {
                self.problem = Some(problem);
                self.failures = self.failures.saturating_add(1);
            }
        }
    }

    /// Takes a verdict, and says whether it is news.
    fn judge(&mut self, content: &Arc<Vec<u8>>, good: bool) -> bool {
        let current = self
            .content
            .as_ref()
            .is_some_and(|ours| Arc::ptr_eq(ours, content));
        if !current || self.good == Some(good) {
            return false;
        }
        self.good = Some(good);
        if good {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
            self.etag = None;
        }
        true
    }

    /// How long to wait before the next fetch; after failures it begins short, and doubles.
    fn pause(&self, refresh: Duration) -> Duration {
        match self.failures.checked_sub(1) {
            None => refresh,
            Some(before) => RETRY
                .saturating_mul(2_u32.saturating_pow(before))
                .min(refresh),
        }
    }
}

enum Answer {
    New {
        content: Vec<u8>,
        etag: Option<HeaderValue>,
    },
    Unchanged,
}

async fn fetch(url: &str, terms: &Terms, etag: Option<HeaderValue>) -> Result<Answer, String> {
    let url: Uri = url.parse().map_err(|_| "not a URL")?;
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let secure = url.scheme() == Some(&Scheme::HTTPS);
    let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let socket = connect(host, port, &terms.settings).await?;
    if !secure {
        return ask(socket, &url, terms.limit, etag).await;
    }
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let tls = tls(terms)?.connect(name, socket).await;
    let tls = tls.map_err(|error| format!("TLS with {host}: {error}"))?;
    ask(tls, &url, terms.limit, etag).await
}

/// Connects to the first address that is declared and answers.
async fn connect(host: &str, port: u16, settings: &Settings) -> Result<TcpStream, String> {
    let addresses = tokio::net::lookup_host((host, port)).await;
    let addresses = addresses.map_err(|error| format!("cannot look up {host}: {error}"))?;
    let mut problem = format!("{host} has no address");
    for address in addresses {
        if !is_declared(address, settings) {
            problem = format!(
                "{address} is no declared exception: declare it under exceptions, kind passthrough, with reason, owner and expires"
            );
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(socket) => return Ok(socket),
            Err(error) => problem = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(problem)
}

fn is_declared(address: SocketAddr, settings: &Settings) -> bool {
    let decision = settings.outbound.decide(address, OffsetDateTime::now_utc());
    matches!(decision, Decision::Except(_))
}

fn tls(terms: &Terms) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    let ca = terms.ca.as_ref().map_err(Clone::clone)?;
    for root in CertificateDer::pem_slice_iter(ca.as_deref().unwrap_or_default()) {
        let root =
            root.map_err(|error| format!("identity.revocation.ca: {}", pem_problem(&error)))?;
        let added = roots.add(root);
        added.map_err(|error| format!("identity.revocation.ca: {error}"))?;
    }
    let provider = Arc::new(terms.settings.profile.provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

async fn ask<S>(
    stream: S,
    url: &Uri,
    limit: usize,
    etag: Option<HeaderValue>,
) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let broken = |error: hyper::Error| format!("HTTP: {error}");
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let asking = async {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let host = url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::get(path).header(HOST, host).header(
            USER_AGENT,
            concat!("sealwire-proxy/", env!("CARGO_PKG_VERSION")),
        );
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_MODIFIED => return Ok(Answer::Unchanged),
            status if status.is_redirection() => {
                return Err(format!(
                    "answered {status}, but redirects are not followed: name the address where the list is"
                ));
            }
            status => return Err(format!("answered {status}")),
        }
        let etag = response.headers().get(ETAG).cloned();
        let body = Limited::new(response.into_body(), limit).collect().await;
        let body = body.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => format!("larger than {limit} bytes"),
            None => format!("HTTP: {error}"),
        })?;
        let content = body.to_bytes().to_vec();
        Ok(Answer::New { content, etag })
    };
    // The connection moves the bytes, and is given up with the exchange. It may end before its
    // last bytes have been taken, and what went wrong with it is told there.
    let moving = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = asking => answer,
        never = moving => match never {},
    }
}
