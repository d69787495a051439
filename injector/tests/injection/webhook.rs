//! The webhook over TLS, as an API server would call it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
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
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use super::bytes::review;
use super::{VAULT, config};

#[tokio::test]
async fn a_pod_is_sealed_over_tls() {
    let server = Server::start(config(VAULT)).await;
    let (status, answer) = server
        .post(
            paths::MUTATE_NAMESPACE,
            &review("CREATE", "pods", &json!({})),
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let response = &answer["response"];
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(
        (&response["uid"], &response["allowed"]),
        (&json!("0c9a8d74"), &json!(true))
    );
    assert_eq!(response["patchType"], "JSONPatch");
}

#[tokio::test]
async fn three_mebibytes_and_what_is_no_review_are_answered_with_an_error() {
    let server = Server::start(config(VAULT)).await;
    let padding = json!({ "padding": "x".repeat(3 * 1024 * 1024) });
    let (status, said) = server
        .post(paths::MUTATE_NAMESPACE, &review("CREATE", "pods", &padding))
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(
        said.as_str().unwrap().contains("webhook.maxBytes"),
        "{said}"
    );
    let (status, _) = server
        .post(paths::MUTATE_NAMESPACE, &json!({ "not": "a review" }))
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let nested = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let (status, _) = server
        .send(paths::MUTATE_NAMESPACE, nested.into_bytes())
        .await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    let (status, _) = server.post("/mutate/other", &json!({})).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up_and_keeps_nobody_out() {
    let mut config = config(VAULT);
    config.webhook.deadline_seconds = 1;
    config.webhook.total_bytes = config.webhook.max_bytes;
    let server = Server::start(config).await;
    let mut stream = server.connect().await;
    let head = format!(
        "POST {} HTTP/1.1\r\nhost: a\r\ncontent-length: 3145728\r\n\r\n",
        paths::MUTATE_NAMESPACE
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // Waits for what the first has taken, within its own deadline or after.
    for _ in 0..3 {
        let (status, _) = server
            .post(
                paths::MUTATE_NAMESPACE,
                &review("CREATE", "pods", &json!({})),
            )
            .await;
        if status == StatusCode::OK {
            return;
        }
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    panic!("a request that never came keeps others out");
}

#[tokio::test]
async fn connections_that_only_sit_there_keep_nobody_out() {
    let mut config = config(VAULT);
    config.webhook.connections = 6;
    let server = Server::start(config).await;
    let create = || review("CREATE", "pods", &json!({}));
    let mut used = server.client().await;
    let mut sitting = Vec::new();
    let come_and_go = async {
        for _ in 0..12 {
            // Half of them do not even begin TLS.
            let silent = TcpStream::connect(server.address).await.unwrap();
            sitting.push((silent, server.connect().await));
            let body = create().to_string().into_bytes();
            let (status, _) = exchange(&mut used, paths::MUTATE_POD, body).await;
            assert_eq!(status, StatusCode::OK);
            let (status, _) = server.post(paths::MUTATE_POD, &create()).await;
            assert_eq!(status, StatusCode::OK);
        }
    };
    // Sooner than idle connections end by themselves.
    tokio::time::timeout(Duration::from_secs(60), come_and_go)
        .await
        .expect("nobody is kept out");
}

#[tokio::test]
async fn another_certificate_is_put_in_force_without_a_request_refused() {
    let server = Server::start(config(VAULT)).await;
    let mut open = server.client().await;
    for _ in 0..5 {
        server.renew();
        let (status, _) = exchange(
            &mut open,
            paths::MUTATE_POD,
            review("CREATE", "pods", &json!({}))
                .to_string()
                .into_bytes(),
        )
        .await;
        assert_eq!(status, StatusCode::OK);
        let (status, _) = server
            .post(paths::MUTATE_POD, &review("CREATE", "pods", &json!({})))
            .await;
        assert_eq!(status, StatusCode::OK);
    }
}

/// A webhook on loopback, and the CAs that it may be trusted by.
struct Server {
    address: SocketAddr,
    serving: Arc<Serving>,
    bundle: std::sync::Mutex<String>,
}

impl Server {
    async fn start(config: InjectorConfig) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            serving: Arc::new(Serving::default()),
            bundle: std::sync::Mutex::default(),
        };
        server.renew();
        let tls = Arc::new(server.serving.tls().unwrap());
        let webhook = Arc::new(Webhook::new(Injector::new(config, true), None));
        tokio::spawn(webhook.serve(listener, tls));
        server
    }

    fn renew(&self) {
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
        self.bundle.lock().unwrap().push_str(&generations.bundle());
        self.serving.put(chain, key).unwrap();
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(self.bundle.lock().unwrap().as_bytes()) {
            roots.add(ca.unwrap()).unwrap();
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::from(self.address.ip());
        TlsConnector::from(Arc::new(tls))
            .connect(name, stream)
            .await
            .unwrap()
    }

    async fn client(&self) -> SendRequest<Full<Bytes>> {
        let (sender, connection) = handshake(TokioIo::new(self.connect().await)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.send(path, body.to_string().into_bytes()).await
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> (StatusCode, Value) {
        exchange(&mut self.client().await, path, body).await
    }
}

/// The answer; as a string when it is no JSON.
async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    path: &str,
    body: Vec<u8>,
) -> (StatusCode, Value) {
    let request = Request::post(path)
        .header("host", "injector")
        .body(Full::new(Bytes::from(body)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body).into_owned();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}
