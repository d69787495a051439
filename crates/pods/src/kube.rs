//! A real Kubernetes API for tests: etcd and kube-apiserver on loopback, with TLS, RBAC and an
//! issuer of service account tokens, administered through kubectl. `scripts/kubernetes` builds the
//! programs. There are no nodes and no controllers: accounts, tokens and their review are real, but
//! nothing runs a pod.

mod credentials;

use std::fmt;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use self::credentials::Credentials;
use crate::command::pause;
use crate::world::{WorldError, run_error};

/// How long the API may take to be ready, on a busy machine.
const READY: Duration = Duration::from_secs(60);

/// What the API calls itself in the tokens that it issues.
const ISSUER: &str = "https://kubernetes.default.svc";

/// A release of Kubernetes whose programs `scripts/kubernetes` builds.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Release {
    /// 1.34.
    V1_34,
    /// 1.37.
    V1_37,
}

/// A Kubernetes API. It ends when dropped.
pub struct KubeApi {
    release: Release,
    programs: PathBuf,
    address: SocketAddr,
    credentials: Credentials,
    // In the order in which they end.
    apiserver: Server,
    etcd: Server,
    directory: TempDir,
}

/// A process with its output in a file. It is killed and reaped when dropped.
#[derive(Debug)]
struct Server {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Release {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::V1_34, Self::V1_37];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::V1_34 => "1.34",
            Self::V1_37 => "1.37",
        }
    }
}

/// Where Helm is.
///
/// # Errors
/// When it is not built.
pub fn helm() -> Result<PathBuf, WorldError> {
    Ok(built("helm")?.join("helm"))
}

impl KubeApi {
    /// Starts it on a free port of loopback, and waits until it is ready. Blocks.
    ///
    /// # Errors
    /// When the programs are not built, or do not start.
    pub fn start(release: Release) -> Result<Self, WorldError> {
        let failed = |source| run_error("kubernetes", source);
        let programs = built(release.name())?;
        // Nobody else may pass through it: etcd's socket is in there.
        let directory = tempfile::tempdir().map_err(failed)?;
        let credentials = Credentials::make()?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(failed)?;
        credentials
            .write(directory.path(), &format!("https://{address}"))
            .map_err(failed)?;
        let start = |name, flags: &[&str]| Server::start(name, &programs, directory.path(), flags);
        let etcd = start("etcd", &ETCD)?;
        let (port, issuer) = (
            format!("--secure-port={}", address.port()),
            format!("--service-account-issuer={ISSUER}"),
        );
        let apiserver = start(
            "kube-apiserver",
            &[&APISERVER[..], &[&port, &issuer]].concat(),
        )?;
        let mut api = Self {
            release,
            programs,
            address,
            credentials,
            apiserver,
            etcd,
            directory,
        };
        api.wait_until_ready()?;
        Ok(api)
    }

    /// Its release.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its address, as clients name it.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The root that its certificate ends in, in PEM.
    pub fn ca(&self) -> &str {
        &self.credentials.ca
    }

    /// Who issues the tokens of service accounts, as the tokens say it.
    pub fn issuer(&self) -> &'static str {
        ISSUER
    }

    /// The key that tokens are verified with, in PEM.
    pub fn issuer_public_key(&self) -> &str {
        &self.credentials.issuer_public
    }

    /// A token with these claims, signed by the API's own key: for what it would not issue.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, claims: &Value) -> Result<String, WorldError> {
        self.credentials.sign(claims)
    }

    /// Makes a namespace.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn namespace(&self, name: &str) -> Result<(), WorldError> {
        self.kubectl(&["create", "namespace", name]).map(drop)
    }

    /// Makes a service account, and gives its UID.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn service_account(&self, namespace: &str, name: &str) -> Result<String, WorldError> {
        self.kubectl(&[
            "create",
            "serviceaccount",
            name,
            "--namespace",
            namespace,
            "--output",
            "jsonpath={.metadata.uid}",
        ])
    }

    /// A token of a service account, as a projected volume would have it: by the TokenRequest API,
    /// for an audience. Without one it is for the API itself.
    ///
    /// # Errors
    /// When the API refuses.
    pub fn token(
        &self,
        namespace: &str,
        account: &str,
        audience: Option<&str>,
    ) -> Result<String, WorldError> {
        let mut asked = vec!["create", "token", account, "--namespace", namespace];
        asked.extend(audience.into_iter().flat_map(|name| ["--audience", name]));
        Ok(self.kubectl(&asked)?.trim().to_owned())
    }

    /// The configuration with which clients are an administrator.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// The configuration with which a client is a service account, for an hour.
    ///
    /// # Errors
    /// When there is no such account.
    pub fn kubeconfig_of(&self, namespace: &str, account: &str) -> Result<PathBuf, WorldError> {
        let token = self.token(namespace, account, None)?;
        let directory = self.directory.path();
        let text = Credentials::kubeconfig_with(&self.address(), &token);
        let path = directory.join(format!("{namespace}.{account}.kubeconfig"));
        fs::write(&path, text)
            .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o600)))
            .map_err(|source| run_error("kubeconfig", source))?;
        Ok(path)
    }

    /// Runs kubectl as an administrator, and gives what it says.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, WorldError> {
        self.kubectl_with(arguments, "")
    }

    /// The same, with something on its standard input.
    ///
    /// # Errors
    /// When it does not succeed.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String, WorldError> {
        let output = self.kubectl_ended(arguments, input)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(WorldError::Step {
            step: format!("kubectl {}", arguments.join(" ")),
            message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        })
    }

    /// The same, however it ends: of many objects it may have done some.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn kubectl_ended(&self, arguments: &[&str], input: &str) -> Result<Output, WorldError> {
        let failed = |source| run_error("kubectl", source);
        let mut kubectl = Command::new(self.programs.join("kubectl"))
            .args(arguments)
            .args(["--kubeconfig", "kubeconfig", "--request-timeout", "20s"])
            // What kubectl remembers about a server stays with that server.
            .args(["--cache-dir", "cache"])
            .current_dir(self.directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        if let Some(mut stdin) = kubectl.stdin.take() {
            // It reads all of it before it says anything; if it does not, it says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        kubectl.wait_with_output().map_err(failed)
    }

    fn wait_until_ready(&mut self) -> Result<(), WorldError> {
        let deadline = Instant::now() + READY;
        loop {
            // kubectl takes a tenth of a second to say that nobody listens.
            let said = if TcpStream::connect(self.address).is_ok() {
                match self.kubectl(&["get", "--raw", "/readyz"]) {
                    Ok(_) => return Ok(()),
                    Err(error) => error.to_string(),
                }
            } else {
                "nobody listens".to_owned()
            };
            for server in [&mut self.etcd, &mut self.apiserver] {
                if let Ok(Some(status)) = server.child.try_wait() {
                    return Err(server.trouble(&format!("ended with {status}")));
                }
            }
            if Instant::now() >= deadline {
                let what = format!("not ready after {READY:?}: {said}");
                return Err(self.apiserver.trouble(&what));
            }
            pause();
        }
    }
}

impl fmt::Debug for KubeApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KubeApi")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Starts one of the programs in a directory.
    fn start(
        name: &'static str,
        programs: &Path,
        directory: &Path,
        flags: &[&str],
    ) -> Result<Self, WorldError> {
        let failed = |source| run_error(name, source);
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).map_err(failed)?;
        // Ends with the thread that started it, however that ends.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(programs.join(name))
            .args(flags)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().map_err(failed)?)
            .stderr(output)
            .spawn()
            .map_err(failed)?;
        Ok(Self { name, child, log })
    }

    /// An error with the end of its log.
    fn trouble(&self, what: &str) -> WorldError {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        let last = lines.len().saturating_sub(20);
        WorldError::Step {
            step: self.name.to_owned(),
            message: format!("{what}\n{}", lines[last..].join("\n")),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// It runs in the API's directory, which has its data and, instead of ports, its sockets.
const ETCD: [&str; 7] = [
    "--data-dir=etcd",
    "--listen-client-urls=unix://client:0",
    "--advertise-client-urls=unix://client:0",
    "--listen-peer-urls=unix://peer:0",
    "--initial-advertise-peer-urls=unix://peer:0",
    "--initial-cluster=default=unix://peer:0",
    // What it has ends with the test.
    "--unsafe-no-fsync",
];

const APISERVER: [&str; 14] = [
    "--etcd-servers=unix://client:0",
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    // An address of loopback cannot be the endpoint of a Service, and nobody asks for one.
    "--endpoint-reconciler-type=none",
    "--service-cluster-ip-range=198.19.0.0/24",
    "--authorization-mode=RBAC",
    // As clusters have it: what may be privileged is for others to say.
    "--allow-privileged=true",
    "--client-ca-file=ca.pem",
    "--tls-cert-file=server.pem",
    "--tls-private-key-file=server.key",
    "--cert-dir=.",
    "--service-account-key-file=issuer.pub",
    "--service-account-signing-key-file=issuer.key",
    "--profiling=false",
];

/// Where the programs of a release are, or Helm.
fn built(what: &str) -> Result<PathBuf, WorldError> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/kubernetes");
    let found = Command::new(script)
        .args(["--find", what])
        .stdin(Stdio::null())
        .output()
        .map_err(|source| run_error("scripts/kubernetes", source))?;
    if found.status.success() {
        let directory = String::from_utf8_lossy(&found.stdout);
        return Ok(PathBuf::from(directory.trim()));
    }
    Err(WorldError::Step {
        step: format!("scripts/kubernetes --find {what}"),
        message: String::from_utf8_lossy(&found.stderr).trim().to_owned(),
    })
}
