//! `sealwire vault`: what a mesh needs in HashiCorp Vault or OpenBao, printed for review or applied.

mod plan;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use sealwire_keys::{Method, Request, Vault, VaultAuth, VaultConfig};
use serde_json::Value;

use self::plan::{Login, Mesh, Step};
use crate::screen::say;

/// How long one step may take.
const WAIT: Duration = Duration::from_secs(30);

/// `sealwire vault …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Prints the mounts, roles and policies that a mesh needs, as commands to run; applies them
    /// with --apply.
    ///
    /// Every workload may sign with its own key, and have a certificate issued for its own name,
    /// and nothing else: both are bound to what the login says of it. What is there already stays,
    /// but for roles and policies, which are brought up to date.
    Setup(Box<Setup>),
}

/// Options of `sealwire vault setup`.
#[derive(Args)]
pub(crate) struct Setup {
    /// SPIFFE trust domain of the mesh.
    #[arg(long)]
    trust_domain: String,
    /// How workloads log in.
    #[arg(long, value_enum)]
    auth: Login,
    /// Where that method is mounted; its name when not given.
    #[arg(long)]
    auth_path: Option<String>,
    /// Where the transit engine is mounted.
    #[arg(long, default_value = "transit")]
    transit: String,
    /// Where the PKI engine is mounted.
    #[arg(long, default_value = "pki")]
    pki: String,
    /// Life of a certificate.
    #[arg(long, default_value = "24h")]
    ttl: String,
    /// Workloads to make a key for: a name with AppRole and certificates, NAMESPACE.SERVICEACCOUNT with tokens of
    /// Kubernetes.
    #[arg(long = "workload")]
    workloads: Vec<String>,
    /// Kind of the keys.
    #[arg(long, default_value = "ecdsa-p256")]
    key_type: String,
    /// Age at which the server makes a new version of a key by itself, such as 720h.
    #[arg(long)]
    rotate_every: Option<String>,
    /// Lets workloads rotate their own keys.
    #[arg(long)]
    let_rotate: bool,
    /// Lets workloads put an end to old versions of their own keys (key.vaultTransit.trim).
    #[arg(long)]
    let_trim: bool,
    /// Audience that a Kubernetes token has to be for.
    #[arg(long, default_value = "sealwire-vault")]
    audience: String,
    /// PEM file with the CA of the workloads' client certificates, whose common names are the
    /// workloads'; for --auth cert.
    #[arg(long)]
    client_ca: Option<PathBuf>,
    /// Applies it, as whoever the token belongs to.
    #[arg(long, requires_all = ["address", "ca", "token_file"])]
    apply: bool,
    /// The server, as `https://` with name and port.
    #[arg(long)]
    address: Option<String>,
    /// PEM file with the server's CA.
    #[arg(long)]
    ca: Option<PathBuf>,
    /// File with a token that may do it (see deploy/vault/operator.hcl), mode 0600.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// Namespace that everything is in.
    #[arg(long)]
    namespace: Option<String>,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Self::Setup(setup) = self;
        let mesh = setup.mesh()?;
        match setup.session()? {
            None => {
                say(&mesh.as_commands());
                Ok(())
            }
            Some(vault) => apply(&mesh, &vault),
        }
    }
}

impl Setup {
    fn mesh(&self) -> anyhow::Result<Mesh> {
        let mesh = Mesh {
            trust_domain: self.trust_domain.clone(),
            login: self.auth,
            auth_path: self
                .auth_path
                .clone()
                .unwrap_or_else(|| self.auth.kind().to_owned()),
            transit: self.transit.clone(),
            pki: self.pki.clone(),
            ttl: self.ttl.clone(),
            workloads: self.workloads.clone(),
            key_type: self.key_type.clone(),
            rotate_every: self.rotate_every.clone(),
            let_rotate: self.let_rotate,
            let_trim: self.let_trim,
            audience: self.audience.clone(),
            client_ca: (self.client_ca.as_ref())
                .map(|path| {
                    fs::read_to_string(path)
                        .with_context(|| format!("cannot read {}", path.display()))
                })
                .transpose()?,
        };
        mesh.check().map_err(anyhow::Error::msg)?;
        Ok(mesh)
    }

    fn session(&self) -> anyhow::Result<Option<Arc<Vault>>> {
        let (true, Some(address), Some(ca), Some(token)) =
            (self.apply, &self.address, &self.ca, &self.token_file)
        else {
            return Ok(None);
        };
        let config = VaultConfig {
            address: address.clone(),
            ca: ca.clone(),
            client: None,
            namespace: self.namespace.clone(),
            auth: VaultAuth::TokenFile {
                path: token.clone(),
            },
            timeout: WAIT,
        };
        Ok(Some(Vault::start(config)?))
    }
}

fn apply(mesh: &Mesh, vault: &Vault) -> anyhow::Result<()> {
    let state = plan::State {
        mounts: read(vault, "sys/mounts")?,
        methods: read(vault, "sys/auth")?,
    };
    for step in mesh.mounts(&state) {
        run(vault, &step)?;
    }
    let methods = read(vault, "sys/auth")?;
    let method = &methods[format!("{}/", mesh.auth_path)];
    let Some(accessor) = method["accessor"].as_str() else {
        bail!("auth method {}/ has no accessor", mesh.auth_path);
    };
    if mesh.needs_root(list(vault, &format!("{}/issuers", mesh.pki))?) {
        run(vault, &mesh.root())?;
    }
    for step in mesh.roles(accessor) {
        run(vault, &step)?;
    }
    for step in mesh.keys() {
        // A key that is there stays: it may be in use.
        let exists = ask(vault, Method::Get, &step.path, None).is_ok();
        if step.is_key && exists {
            say(&format!("kept     {}", step.path));
        } else {
            run(vault, &step)?;
        }
    }
    say("done: docs/vault.md says how a workload is configured");
    Ok(())
}

fn run(vault: &Vault, step: &Step) -> anyhow::Result<()> {
    ask(vault, Method::Post, &step.path, Some(step.body.clone()))
        .with_context(|| format!("to {}", step.why))?;
    say(&format!("written  {}: {}", step.path, step.why));
    Ok(())
}

fn read(vault: &Vault, path: &str) -> anyhow::Result<Value> {
    ask(vault, Method::Get, path, None)
}

/// How many there are.
fn list(vault: &Vault, path: &str) -> anyhow::Result<usize> {
    match ask(vault, Method::List, path, None) {
        Ok(answer) => Ok(answer["keys"].as_array().map_or(0, Vec::len)),
        Err(error) if error.to_string().contains("has no") => Ok(0),
        Err(error) => Err(error),
    }
}

fn ask(vault: &Vault, method: Method, path: &str, body: Option<Value>) -> anyhow::Result<Value> {
    let request = Request {
        method,
        what: format!("{path} as an operator"),
        path: path.to_owned(),
        body,
    };
    Ok(vault.ask(request, WAIT)?)
}
