//! How long reviews take: 200 a second over TLS, sent when they are due whether or not earlier ones
//! are answered, then as many as can be. `cargo bench -p sealwire-injector`.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a tool for people, which fails loudly"
)]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use sealwire_injector::certificate::Serving;
use sealwire_injector::certificate::generations::{Generations, Making};
use sealwire_injector::config::InjectorConfig;
use sealwire_injector::inject::Injector;
use sealwire_injector::names::paths;
use sealwire_injector::webhook::Webhook;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

/// Reviews a second, as they are due.
const RATE: u32 = 200;
/// Reviews sent as they are due.
const REVIEWS: u32 = 4000;
/// Connections, of which each carries one review at a time.
const CONNECTIONS: u32 = 16;

fn main() {
    // `cargo test --benches` runs this as well, to see that it builds.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(measure());
}

async fn measure() {
    let before = resident();
    let server = Server::start().await;
    for (name, spec) in [
        ("a small pod", small()),
        ("a pod of 20 containers with probes", large()),
    ] {
        let body = Bytes::from(review(&spec).to_string());
        let spent = processor();
        let mut due = load(&server, &body, Some(RATE)).await;
        let each = (processor() - spent) / f64::from(REVIEWS) * 1000.0;
        let begun = Instant::now();
        load(&server, &body, None).await;
        let most = f64::from(REVIEWS) / begun.elapsed().as_secs_f64();
        due.sort();
        let at = |percent: usize| due[(due.len() - 1) * percent / 100].as_secs_f64() * 1000.0;
        println!(
            "{name} ({} bytes): {RATE} reviews a second: p50 {:.2} ms, p99 {:.2} ms, longest {:.2} ms; at most {most:.0} a second; {each:.2} ms of a processor each, the client's part included",
            body.len(),
            at(50),
            at(99),
            at(100),
        );
    }
    println!("memory: {} KiB before, {} KiB after", before, resident());
}

/// How long each review took, from when it was due.
async fn load(server: &Server, body: &Bytes, rate: Option<u32>) -> Vec<Duration> {
    let begun = Instant::now();
    let mut workers = JoinSet::new();
    for worker in 0..CONNECTIONS {
        let mut client = server.client().await;
        let body = body.clone();
        workers.spawn(async move {
            let mut took = Vec::new();
            for number in (worker..REVIEWS).step_by(usize::try_from(CONNECTIONS).unwrap()) {
                let due = match rate {
                    Some(rate) => begun + Duration::from_secs(1) * number / rate,
                    None => Instant::now(),
                };
                tokio::time::sleep_until(due.into()).await;
                let path = [paths::MUTATE_NAMESPACE, paths::VALIDATE_NAMESPACE]
                    [usize::from(number % 2 == 1)];
                let request = Request::post(path)
                    .header("host", "injector")
                    .body(Full::new(body.clone()))
                    .unwrap();
                let answer = client.send_request(request).await.unwrap();
                assert!(answer.status().is_success());
                answer.into_body().collect().await.unwrap();
                took.push(due.elapsed());
            }
            took
        });
    }
    workers.join_all().await.concat()
}

/// A webhook on loopback.
struct Server {
    address: SocketAddr,
    tls: TlsConnector,
}

impl Server {
    async fn start() -> Self {
        let text = include_str!("../src/config/example.yaml");
        let config = InjectorConfig::parse(text).unwrap().checked().unwrap();
        let making = Making {
            names: vec!["127.0.0.1".to_owned()],
            lifetime: Duration::from_secs(3600),
            settle: Duration::from_secs(1),
        };
        let now = OffsetDateTime::now_utc();
        let generations = Generations::default()
            .tended(&making, now)
            .unwrap()
            .unwrap();
        let (chain, key) = generations
            .serving(making.settle, now)
            .unwrap()
            .parsed()
            .unwrap();
        let serving = Arc::new(Serving::default());
        serving.put(chain, key).unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let webhook = Arc::new(Webhook::new(Injector::new(config, true), None));
        tokio::spawn(webhook.serve(listener, Arc::new(serving.tls().unwrap())));
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(generations.bundle().as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Self {
            address,
            tls: TlsConnector::from(Arc::new(tls)),
        }
    }

    async fn client(&self) -> SendRequest<Full<Bytes>> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }
}

fn small() -> Value {
    json!({ "containers": [{ "name": "web", "image": "registry.example/web:1" }] })
}

fn large() -> Value {
    let container = |i: usize| {
        let probe =
            json!({ "httpGet": { "path": "/ready", "port": 8000 + i }, "periodSeconds": 10 });
        let env: Vec<Value> = (0..30)
            .map(|i| json!({ "name": format!("VARIABLE_{i}"), "value": "a value of some length" }))
            .collect();
        json!({
            "name": format!("c{i}"), "image": "registry.example/web:1", "env": env,
            "livenessProbe": probe, "readinessProbe": probe,
        })
    };
    json!({ "containers": (0..20).map(container).collect::<Vec<_>>() })
}

fn review(spec: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "0c9a8d74",
            "kind": { "group": "", "version": "v1", "kind": "Pod" },
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "namespace": "shop",
            "operation": "CREATE",
            "userInfo": { "username": "developer" },
            "object": { "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "web" }, "spec": spec },
        },
    })
}

/// Seconds of processors that this process has used: it says more than times do where others are
/// at work as well.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

/// Resident memory of this process, client and server together.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
