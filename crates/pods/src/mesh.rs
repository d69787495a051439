//! A mesh in a world: a token store with a CA, and pods with a sidecar each, set up as an operator
//! would: `hsm-sim` for keys and certificates, `sealwire-proxy capture` as the init container,
//! `sealwire-proxy run` as the sidecar without any capability.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::command::{Capabilities, Finished, PodCommand, Process, pause};
use crate::world::{Pod, Privilege, World, WorldError, run_error};

/// The UID of every sidecar.
pub const PROXY_UID: u32 = 1337;

/// The trust domain of every mesh.
pub const TRUST_DOMAIN: &str = "mesh.example";

/// How long a program may take that has nothing to wait for.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// The programs that a mesh is made with.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `sealwire-proxy`.
    pub proxy: PathBuf,
    /// `hsm-sim`.
    pub hsm_sim: PathBuf,
    /// `sealwire`.
    pub cli: PathBuf,
    /// The PKCS#11 module that behaves like a device, `libhsm_sim.so`, where it is built.
    pub device: Option<PathBuf>,
}

/// A mesh.
#[derive(Debug)]
pub struct Mesh {
    world: World,
    programs: Programs,
    pub(crate) log: &'static str,
}

/// How a pod is sealed.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// Path of the workload's SPIFFE ID.
    pub path: String,
    /// Further arguments for `hsm-sim issue`.
    pub issue: Vec<String>,
    /// Addresses in the certificate; the pod's own when none.
    pub addresses: Option<Vec<String>>,
    /// `hsm-sim key --algorithm`.
    pub algorithm: String,
    /// The kind of device that the key is behind (`hsm-sim ctl profile`); the token itself when
    /// none.
    pub device: Option<String>,
    /// Further lines of the section `identity`.
    pub identity: String,
    /// Further lines of the section `key.pkcs11`.
    pub key: String,
    /// The sections `mesh`, `inbound`, `exceptions` and what else differs, as YAML.
    pub sections: String,
}

/// A sidecar at work in a pod.
#[derive(Debug)]
pub struct Sidecar {
    pod: Pod,
    /// Its process.
    pub process: Process,
    /// Its configuration.
    pub config: PathBuf,
    node: NodeCurl,
}

/// Asks HTTP questions from the node.
#[derive(Debug)]
struct NodeCurl(std::sync::Arc<crate::world::Inner>);

impl Programs {
    /// The programs in the same directory as another, such as this process's own.
    ///
    /// # Errors
    /// When one is not there.
    pub fn beside(program: &Path) -> Result<Self, WorldError> {
        let directory = program
            .ancestors()
            .skip(1)
            .take(2)
            .find(|directory| directory.join("sealwire-proxy").exists())
            .ok_or_else(|| WorldError::Step {
                step: "looking for sealwire-proxy and hsm-sim".to_owned(),
                message: format!(
                    "not beside {}: `cargo build --workspace`",
                    program.display()
                ),
            })?;
        Ok(Self {
            proxy: directory.join("sealwire-proxy"),
            hsm_sim: directory.join("hsm-sim"),
            cli: directory.join("sealwire"),
            device: Some(directory.join("libhsm_sim.so")).filter(|module| module.exists()),
        })
    }
}

impl Default for Sealing {
    fn default() -> Self {
        Self {
            path: String::new(),
            issue: Vec::new(),
            addresses: None,
            algorithm: "p256".to_owned(),
            device: None,
            identity: String::new(),
            key: String::new(),
            sections: OPEN_MESH.to_owned(),
        }
    }
}

/// Everything of the mesh may connect, and the world's pods are the mesh.
pub const OPEN_MESH: &str = r#"
mesh: { ranges: [198.18.0.0/16, "fd00:5ea1::/64"] }
inbound: { allow: [{ from: ["spiffe://mesh.example/**"] }] }
"#;

impl Mesh {
    /// Makes a world with a token store and a CA in it.
    ///
    /// # Errors
    /// See [`WorldError`].
    pub fn new(privilege: Privilege, programs: &Programs) -> Result<Self, WorldError> {
        let world = World::new(privilege)?;
        // Copied, since a sidecar's user may not be able to reach where they were built. By another
        // process: a child that another test starts meanwhile would have the file open for writing
        // for a moment, and no program can be started that somebody has open so.
        let copy = |from: &Path, name: &str| {
            let to = world.directory().join(name);
            let mut install = Command::new("install");
            let copied = install.args(["-m", "0755"]).arg(from).arg(&to).status();
            match copied {
                Ok(status) if status.success() => Ok(to),
                Ok(status) => Err(WorldError::Step {
                    step: format!("installing {name}"),
                    message: status.to_string(),
                }),
                Err(source) => Err(run_error(name, source)),
            }
        };
        let programs = Programs {
            proxy: copy(&programs.proxy, "sealwire-proxy")?,
            hsm_sim: copy(&programs.hsm_sim, "hsm-sim")?,
            cli: programs.cli.clone(),
            device: (programs.device.as_ref())
                .map(|module| copy(module, "libhsm_sim.so"))
                .transpose()?,
        };
        let mesh = Self {
            world,
            programs,
            log: "info",
        };
        let owner = PROXY_UID.to_string();
        let made = mesh
            .world
            .command("install")
            .args(["-d", "-m", "0700", "-o", &owner, "-g", &owner])
            .args([mesh.hsm_directory()])
            .run(SOON)?;
        succeeded("install", made)?;
        mesh.hsm(&["init", "--trust-domain", TRUST_DOMAIN])?;
        Ok(mesh)
    }

    /// Lets every sidecar that is made from now on log at this level.
    pub fn log_at(&mut self, level: &'static str) {
        self.log = level;
    }

    /// The world.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The token store's directory.
    pub fn hsm_directory(&self) -> PathBuf {
        self.world.directory().join("hsm")
    }

    /// Where a copy of every secret is that sidecars are given in files, beside the PINs.
    pub fn secrets_directory(&self) -> PathBuf {
        self.world.directory().join("secrets")
    }

    /// The programs in it.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Runs `hsm-sim` on the token store and gives its answer.
    ///
    /// # Errors
    /// When it fails.
    pub fn hsm(&self, arguments: &[&str]) -> Result<Value, WorldError> {
        let directory = self.hsm_directory();
        let finished = self
            .world
            .command(&self.programs.hsm_sim)
            .user(PROXY_UID)
            .args(["--json", "--dir"])
            .args([&directory])
            .args(arguments.iter().copied())
            .run(SOON)?;
        Ok(serde_json::from_str(&succeeded("hsm-sim", finished)?.stdout).unwrap_or(Value::Null))
    }

    /// Adds a pod and seals it, and waits until its sidecar is ready.
    ///
    /// # Errors
    /// When a step fails, or the sidecar is not ready in time.
    pub fn sealed_pod(&self, name: &str, sealing: &Sealing) -> Result<(Pod, Sidecar), WorldError> {
        let pod = self.world.pod(name)?;
        let mut sidecar = self.seal(&pod, sealing)?;
        sidecar.wait_until_ready()?;
        Ok((pod, sidecar))
    }

    /// Makes key, certificate and configuration, applies capture and starts the sidecar, which
    /// may not be ready yet.
    ///
    /// # Errors
    /// When a step fails.
    pub fn seal(&self, pod: &Pod, sealing: &Sealing) -> Result<Sidecar, WorldError> {
        let config = self.prepare(pod, sealing)?;
        self.capture(pod, &config)?;
        self.start(pod, &config)
    }

    /// Makes a pod's key and certificate and writes its configuration.
    ///
    /// # Errors
    /// When a step fails.
    pub fn prepare(&self, pod: &Pod, sealing: &Sealing) -> Result<PathBuf, WorldError> {
        let name = pod.name();
        let token = [
            "key",
            "--token",
            name,
            "--label",
            name,
            "--algorithm",
            &sealing.algorithm,
        ];
        self.hsm(&token)?;
        let directory = self.world.directory().join(name);
        let made = fs::create_dir(&directory)
            .and_then(|()| fs::set_permissions(&directory, Permissions::from_mode(0o777)));
        made.map_err(|source| run_error("mkdir", source))?;
        self.issue(pod, sealing)?;
        if let Some(profile) = &sealing.device {
            self.device(pod, &["new", "--log", "all", "--profile", profile])?;
        }
        let bundle = [
            self.hsm_directory().join("ca.pem"),
            directory.join("bundle.pem"),
        ];
        let install = self
            .world
            .command("install")
            .user(PROXY_UID)
            .args(["-m", "0644"])
            .args(bundle);
        succeeded("install", install.run(SOON)?)?;
        let config = directory.join("proxy.yaml");
        self.write(&config, &self.config(pod, sealing))?;
        Ok(config)
    }

    /// Runs `hsm-sim ctl` on the device of a pod, and gives its answer.
    ///
    /// # Errors
    /// When it fails.
    pub fn device(&self, pod: &Pod, arguments: &[&str]) -> Result<Value, WorldError> {
        let device = self.device_directory(pod).display().to_string();
        let mut ctl = vec!["ctl", "--device", &device];
        ctl.extend(arguments);
        self.hsm(&ctl)
    }

    /// Where the device of a pod is, if it has one.
    pub fn device_directory(&self, pod: &Pod) -> PathBuf {
        self.world.directory().join(pod.name()).join("device")
    }

    /// Issues a pod's certificate, or issues it anew.
    ///
    /// # Errors
    /// When `hsm-sim` fails.
    pub fn issue(&self, pod: &Pod, sealing: &Sealing) -> Result<Value, WorldError> {
        let name = pod.name();
        let id = if sealing.path.is_empty() {
            format!("spiffe://{TRUST_DOMAIN}/ns/demo/sa/{name}")
        } else {
            format!("spiffe://{TRUST_DOMAIN}{}", sealing.path)
        };
        let out = self.world.directory().join(name).join("tls.pem");
        let out = out.display().to_string();
        let addresses = sealing
            .addresses
            .clone()
            .unwrap_or_else(|| vec![pod.v4().to_string(), pod.v6().to_string()]);
        let mut arguments = vec![
            "issue",
            "--token",
            name,
            "--label",
            name,
            "--spiffe-id",
            &id,
            "--out",
            &out,
        ];
        for address in &addresses {
            arguments.extend(["--ip", address]);
        }
        arguments.extend(sealing.issue.iter().map(String::as_str));
        self.hsm(&arguments)
    }

    /// The configuration of a pod's sidecar.
    pub fn config(&self, pod: &Pod, sealing: &Sealing) -> String {
        let name = pod.name();
        let directory = self.world.directory().join(name);
        let directory = directory.display();
        let hsm = self.hsm_directory();
        let hsm = hsm.display();
        let device = self.device_directory(pod);
        let device = device.display();
        let (module, simulated) = match (&sealing.device, &self.programs.device) {
            (Some(_), Some(built)) => (built.display().to_string(), format!(", {device}")),
            _ => (module().to_owned(), String::new()),
        };
        let Sealing { identity, key, .. } = sealing;
        format!(
            "identity:
  trustDomains: [{TRUST_DOMAIN}]
  certificate: {directory}/tls.pem
  bundle: {directory}/bundle.pem
{identity}key:
  pkcs11:
    module: {module}
    uri: \"pkcs11:token={name};object={name}?pin-source=file:{hsm}/pins/{name}\"
{key}capture: {{ uid: {PROXY_UID}, node: [198.18.255.1/32, \"fd00:5ea1::ffff:1/128\"] }}
confinement: {{ read: [{hsm}{simulated}], write: [{hsm}/tokens{simulated}] }}
log: {{ format: json, level: {} }}
{}",
            self.log, sealing.sections
        )
    }

    /// Applies the capture rules, with NET_ADMIN alone.
    ///
    /// # Errors
    /// When they cannot be applied.
    pub fn capture(&self, pod: &Pod, config: &Path) -> Result<(), WorldError> {
        let finished = pod
            .command(&self.programs.proxy)
            .capabilities(Capabilities::Only(&["net_admin"]))
            .args(["capture", "--config"])
            .args([config])
            .run(SOON)?;
        succeeded("sealwire-proxy capture", finished).map(|_| ())
    }

    /// Starts a sidecar, as its own user and without any capability.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, pod: &Pod, config: &Path) -> Result<Sidecar, WorldError> {
        self.start_with(pod, config, self.sidecar_command(pod, config))
    }

    /// Starts a sidecar by a command of [`Mesh::sidecar_command`] that was changed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(
        &self,
        pod: &Pod,
        config: &Path,
        command: PodCommand,
    ) -> Result<Sidecar, WorldError> {
        Ok(Sidecar {
            process: command.spawn()?,
            pod: pod.clone(),
            config: config.to_owned(),
            node: NodeCurl(pod.world()),
        })
    }

    /// The command that starts a sidecar.
    pub fn sidecar_command(&self, pod: &Pod, config: &Path) -> PodCommand {
        pod.command(&self.programs.proxy)
            .user(PROXY_UID)
            .env("SOFTHSM2_CONF", self.hsm_directory().join("softhsm2.conf"))
            .env("HSM_SIM", self.device_directory(pod))
            .args(["run", "--config"])
            .args([config])
    }

    /// Replaces a file in one step, readable by every user of the world.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path, content: &str) -> Result<(), WorldError> {
        let fresh = path.with_extension("fresh");
        let written = fs::write(&fresh, content)
            .and_then(|()| fs::set_permissions(&fresh, Permissions::from_mode(0o644)))
            .and_then(|()| fs::rename(&fresh, path));
        written.map_err(|source| run_error("write", source))
    }
}

impl Sidecar {
    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it is not in time, with its last log lines.
    pub fn wait_until_ready(&mut self) -> Result<(), WorldError> {
        let deadline = std::time::Instant::now() + SOON;
        while std::time::Instant::now() < deadline && self.process.is_running() {
            if self.is_ready() {
                return Ok(());
            }
            pause();
        }
        Err(WorldError::Step {
            step: format!("sidecar of {}", self.pod.name()),
            message: format!(
                "not ready: {}{}",
                self.process.stdout(),
                self.process.stderr()
            ),
        })
    }

    /// Whether it says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.health("/readyz")
            .is_some_and(|(status, _)| status == 200)
    }

    /// Asks the health port from the node: status and body.
    pub fn health(&self, path: &str) -> Option<(u16, String)> {
        self.node
            .get(&format!("http://{}:15021{path}", self.pod.v4()))
    }

    /// The metrics, from the node.
    pub fn metrics(&self) -> String {
        let answer = self
            .node
            .get(&format!("http://{}:15020/metrics", self.pod.v4()));
        answer.map(|(_, body)| body).unwrap_or_default()
    }

    /// Asks the admin port from inside the pod.
    pub fn admin(&self, path: &str) -> Value {
        let asked = self
            .pod
            .app("curl")
            .args(["-s", "-m", "5", &format!("http://127.0.0.1:15000{path}")])
            .run(SOON);
        asked
            .ok()
            .and_then(|answer| serde_json::from_str(&answer.stdout).ok())
            .unwrap_or(Value::Null)
    }

    /// Its log so far, line by line.
    pub fn log(&self) -> Vec<Value> {
        let text = self.process.stdout();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// The records of connections that it has logged so far.
    pub fn records(&self) -> Vec<Value> {
        let log = self.log().into_iter();
        log.filter(|line| line["target"] == "sealwire::access")
            .collect()
    }
}

impl NodeCurl {
    fn get(&self, url: &str) -> Option<(u16, String)> {
        let answer = PodCommand::new(self.0.clone(), None, "curl".into())
            .args(["-s", "-m", "2", "-w", "\n%{http_code}", url])
            .run(SOON)
            .ok()?;
        let (body, status) = answer.stdout.rsplit_once('\n')?;
        Some((status.parse().ok()?, body.to_owned()))
    }
}

/// Where SoftHSM is usually installed.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
];

/// SoftHSM, where it is.
pub(crate) fn module() -> &'static str {
    let mut modules = MODULES.into_iter();
    modules
        .find(|path| Path::new(path).exists())
        .unwrap_or(MODULES[0])
}

pub(crate) fn succeeded(step: &str, finished: Finished) -> Result<Finished, WorldError> {
    if finished.success() {
        return Ok(finished);
    }
    Err(WorldError::Step {
        step: step.to_owned(),
        message: format!("{}{}", finished.stdout, finished.stderr)
            .trim()
            .to_owned(),
    })
}
