//! Lists from files and from servers, good and bad, and which of them stay in force.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::Config;

/// A CA, and a directory for what it issues.
struct World {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    bundle: TrustBundle,
    directory: TempDir,
}

impl World {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            bundle: TrustBundle::from_pem(pem.as_bytes()).unwrap(),
            pem,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// A list of `entries` certificates, for an hour.
    fn list(&self, number: u64, entries: u64) -> String {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: u64| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::hours(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: (1..=entries).map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    fn file(&self, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.path().join("crl.pem");
        fs::write(&path, content).unwrap();
        path
    }

    /// The complete example, with this section, and the loopback address declared for `port`.
    fn settings(&self, section: &str, port: u16) -> Arc<Settings> {
        let example = include_str!("../config/example.yaml");
        let text = example.replacen(
            "identity:\n",
            &format!("identity:\n  revocation: {{ {section} }}\n"),
            1,
        );
        let exception = format!(
            "exceptions:\n  - {{ name: lists, kind: passthrough, destination: 127.0.0.1/32, ports: [{port}], \
             reason: revocation, owner: test, expires: 2099-01-01T00:00:00Z }}\n"
        );
        let text = text.replacen("exceptions:\n", &exception, 1);
        Arc::new(Config::parse(&text).unwrap().settings().unwrap())
    }

    fn of_file(&self, path: &Path) -> Arc<Settings> {
        self.settings(&format!("crls: [{{ file: {} }}]", path.display()), 1)
    }

    fn of_url(&self, url: &str, port: u16) -> Arc<Settings> {
        self.of_url_every(url, port, 1)
    }

    fn of_url_every(&self, url: &str, port: u16, seconds: u32) -> Arc<Settings> {
        let ca = self.directory.path().join("ca.pem");
        fs::write(&ca, &self.pem).unwrap();
        let ca = ca.display();
        let section = format!("crls: [{{ url: \"{url}\" }}], ca: {ca}, refreshSeconds: {seconds}");
        self.settings(&section, port)
    }
}

/// CRL number and entries of what is in force.
fn in_force(given: Option<Arc<Revocation>>) -> (String, usize) {
    let given = given.unwrap();
    let facts = given.facts().next().unwrap();
    (facts.number.clone().unwrap(), facts.entries)
}

fn lists() -> RevocationLists {
    RevocationLists::new(tokio::runtime::Handle::current())
}

/// Looks until what is found is as wished.
async fn eventually<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes_and_gives_the_same_value_until_then() {
    let (world, mut lists) = (World::new(), lists());
    let settings = world.of_file(&world.file(world.list(1, 0)));
    let first = lists.look(&settings, &world.bundle).unwrap();
    let second = lists.look(&settings, &world.bundle).unwrap();
    assert!(Arc::ptr_eq(first.as_ref().unwrap(), &second.unwrap()));
    assert_eq!(in_force(first), ("1".to_owned(), 0));
    world.file(world.list(2, 3));
    let third = lists.look(&settings, &world.bundle).unwrap();
    assert_eq!(in_force(third), ("2".to_owned(), 3));
    assert_eq!(lists.to_mend(), None);
}

#[tokio::test]
async fn without_the_section_nothing_is_asked() {
    let (world, mut lists) = (World::new(), lists());
    let text = include_str!("../config/example.yaml");
    let settings = Arc::new(Config::parse(text).unwrap().settings().unwrap());
    assert!(lists.look(&settings, &world.bundle).unwrap().is_none());
}

#[tokio::test]
async fn a_list_that_was_never_there_is_named_with_the_way_out() {
    let (world, mut lists) = (World::new(), lists());
    let settings = world.of_file(Path::new("/nowhere/crl.pem"));
    let problem = lists.look(&settings, &world.bundle).unwrap_err();
    for part in ["identity.revocation.crls", "/nowhere/crl.pem", "mount"] {
        assert!(problem.contains(part), "{problem} lacks {part}");
    }
}

#[tokio::test]
async fn a_bad_a_foreign_an_older_and_a_missing_list_leave_the_last_good_one_in_force() {
    let (world, mut lists) = (World::new(), lists());
    let path = world.file(world.list(16, 1));
    let settings = world.of_file(&path);
    lists.look(&settings, &world.bundle).unwrap();
    let good = world.list(16, 1);
    for (bad, part) in [
        ("nonsense", "no CRL in it"),
        (&good[..good.len() / 2], "not PEM"),
        (&World::new().list(17, 0), "not signed by that CA"),
        (&world.list(15, 0), "number 10 is in force"),
    ] {
        world.file(bad);
        let given = lists.look(&settings, &world.bundle).unwrap();
        assert_eq!(in_force(given), ("10".to_owned(), 1));
        let note = lists.to_mend().unwrap();
        assert!(note.contains(part) && note.contains("last good"), "{note}");
    }
    fs::remove_file(path).unwrap();
    let given = lists.look(&settings, &world.bundle).unwrap();
    assert_eq!(in_force(given), ("10".to_owned(), 1));
    assert!(lists.to_mend().unwrap().contains("cannot read"));
    world.file(world.list(17, 2));
    let given = lists.look(&settings, &world.bundle).unwrap();
    assert_eq!(in_force(given), ("11".to_owned(), 2));
    assert_eq!(lists.to_mend(), None);
}

#[tokio::test]
async fn more_than_the_limit_is_refused_and_not_cut() {
    let (world, mut lists) = (World::new(), lists());
    let mut content = world.list(1, 0);
    content.extend(std::iter::repeat_n('#', MAX_BYTES));
    let settings = world.of_file(&world.file(content));
    let problem = lists.look(&settings, &world.bundle).unwrap_err();
    assert!(problem.contains("larger than 10485760"), "{problem}");
}

/// A server that gives the same answer to everybody, and writes down what it was asked.
struct Server {
    port: u16,
    answer: Arc<Mutex<String>>,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(answer: String, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (answer, asked) = (Arc::new(Mutex::new(answer)), Arc::new(Mutex::default()));
        let (answering, asking) = (answer.clone(), asked.clone());
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let answer = answering.lock().unwrap().clone();
                match &tls {
                    None => serve(socket, answer, &asking).await,
                    Some(tls) => {
                        if let Ok(socket) = tls.accept(socket).await {
                            serve(socket, answer, &asking).await;
                        }
                    }
                }
            }
        });
        Self {
            port,
            answer,
            asked,
            task,
        }
    }

    fn answers(&self, answer: String) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/root.crl?a=b", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    answer: String,
    asked: &Mutex<Vec<String>>,
) {
    let mut socket = BufReader::new(socket);
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") && socket.read_line(&mut request).await.unwrap() > 0 {}
    asked.lock().unwrap().push(request);
    // Whoever has seen enough goes away.
    let _ = socket.write_all(answer.as_bytes()).await;
    let _ = socket.shutdown().await;
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nETag: \"{}\"\r\n\r\n{body}", body.len())
}

/// The problem of a URL whose server gives such an answer.
async fn problem(answer: &str) -> String {
    let (world, mut lists) = (World::new(), lists());
    let server = Server::start(answer.to_owned(), None).await;
    let settings = world.of_url(&server.url(), server.port);
    eventually(|| {
        let problem = lists.look(&settings, &world.bundle).unwrap_err();
        (!problem.contains("being fetched")).then_some(problem)
    })
    .await
}

#[tokio::test]
async fn a_url_is_fetched_again_and_again_and_what_came_stays_when_the_server_goes() {
    let (world, mut lists) = (World::new(), lists());
    let server = Server::start(ok(&world.list(1, 0)), None).await;
    let settings = world.of_url(&server.url(), server.port);
    let mut number = |wanted: &'static str| {
        let found = lists.look(&settings, &world.bundle).ok()?;
        (in_force(found).0 == wanted).then_some(())
    };
    eventually(|| number("1")).await;
    server.answers(ok(&world.list(2, 5)));
    eventually(|| number("2")).await;
    let asked = server.asked.lock().unwrap().clone();
    assert!(
        asked[0].starts_with("GET /root.crl?a=b HTTP/1.1\r\n"),
        "{}",
        asked[0]
    );
    let conditional = asked[1].to_lowercase();
    assert!(conditional.contains("if-none-match: \""), "{conditional}");
    server.answers("HTTP/1.1 304 Not Modified\r\n\r\n".to_owned());
    let so_far = asked.len();
    eventually(|| (server.asked.lock().unwrap().len() > so_far + 1).then_some(())).await;
    assert!(number("2").is_some());
    drop(server);
    let note = eventually(|| {
        assert_eq!(
            in_force(lists.look(&settings, &world.bundle).unwrap()).0,
            "2"
        );
        lists.to_mend()
    })
    .await;
    assert!(
        note.contains("cannot connect") && note.contains("last good"),
        "{note}"
    );
}

#[tokio::test]
async fn a_refused_answer_is_asked_for_again_in_full_and_soon() {
    let (world, mut lists) = (World::new(), lists());
    let foreign = World::new().list(1, 0);
    let server = Server::start(ok(&foreign), None).await;
    let settings = world.of_url_every(&server.url(), server.port, 3600);
    let note = eventually(|| {
        let problem = lists.look(&settings, &world.bundle).unwrap_err();
        (server.asked.lock().unwrap().len() > 1).then_some(problem)
    })
    .await;
    assert!(note.contains("not signed by that CA"), "{note}");
    server.answers(ok(&world.list(2, 5)));
    let found = eventually(|| lists.look(&settings, &world.bundle).ok()).await;
    assert_eq!(in_force(found), ("2".to_owned(), 5));
    for request in server.asked.lock().unwrap().iter() {
        let request = request.to_lowercase();
        assert!(!request.contains("if-none-match"), "{request}");
    }
}

#[tokio::test]
async fn a_refused_list_is_judged_anew_under_another_bundle() {
    let (world, mut lists) = (World::new(), lists());
    let settings = world.of_file(&world.file(world.list(1, 3)));
    let other = World::new();
    for _ in 0..2 {
        let problem = lists.look(&settings, &other.bundle).unwrap_err();
        assert!(problem.contains("not signed by that CA"), "{problem}");
    }
    let found = lists.look(&settings, &world.bundle).unwrap();
    assert_eq!(in_force(found), ("1".to_owned(), 3));
}

#[test]
fn content_that_was_refused_is_not_checked_again() {
    let (mut source, mut checks) = (Source::default(), 0);
    for (content, so_far) in [("bad", 1), ("bad", 1), ("worse", 2), ("bad", 3)] {
        let content = Arc::new(content.as_bytes().to_vec());
        source.look(Ok(content), MAX_BYTES, |_| {
            checks += 1;
            Err(CrlError::Empty)
        });
        assert_eq!(checks, so_far);
        assert!(source.problem.is_some());
    }
}

#[tokio::test]
async fn a_redirect_an_error_and_too_much_are_refused() {
    let redirect = problem("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n").await;
    assert!(
        redirect.contains("redirects are not followed"),
        "{redirect}"
    );
    let missing = problem("HTTP/1.1 404 Not Found\r\n\r\n").await;
    assert!(missing.contains("404"), "{missing}");
    let large = problem(&ok(&"#".repeat(MAX_BYTES + 1))).await;
    assert!(large.contains("larger than 10485760"), "{large}");
    let garbage = problem("SSH-2.0-OpenSSH\r\n").await;
    assert!(garbage.contains("HTTP"), "{garbage}");
}

#[tokio::test]
async fn a_server_that_is_not_declared_is_never_asked() {
    let (world, mut lists) = (World::new(), lists());
    let server = Server::start(ok(&world.list(1, 0)), None).await;
    let settings = world.of_url(&server.url(), 1);
    let problem = eventually(|| {
        let problem = lists.look(&settings, &world.bundle).unwrap_err();
        problem.contains("declare").then_some(problem)
    })
    .await;
    let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), server.port);
    assert!(problem.contains(&address.to_string()), "{problem}");
    assert!(server.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_https_server_has_to_chain_to_the_ca_that_is_named() {
    let (world, other) = (World::new(), World::new());
    for (ca, right) in [(&world, true), (&other, false)] {
        let mut lists = lists();
        let tls = TlsAcceptor::from(Arc::new(server_config(ca)));
        let server = Server::start(ok(&world.list(1, 0)), Some(tls)).await;
        let url = server.url().replace("http:", "https:");
        let settings = world.of_url(&url, server.port);
        let found = eventually(|| match lists.look(&settings, &world.bundle) {
            Err(problem) if problem.contains("being fetched") => None,
            found => Some(found),
        })
        .await;
        match found {
            Ok(found) => assert!(right && in_force(found).0 == "1"),
            Err(problem) => assert!(!right && problem.contains("TLS with"), "{problem}"),
        }
    }
}

fn server_config(ca: &World) -> ServerConfig {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &ca.issuer).unwrap();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}
