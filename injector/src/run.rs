//! From a configuration to a running injector, and to its end.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use sealwire_proxy::{logging, planes};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::certificate::Serving;
use crate::certificate::files::CertificateFiles;
use crate::certificate::generations::Making;
use crate::certificate::keeping::Keeping;
use crate::claims::ClaimFollower;
use crate::config::{Claims, InjectorConfig, Native, WebhookCertificate};
use crate::controller::Controller;
use crate::health::{self, Health};
use crate::inject::Injector;
use crate::lease::Election;
use crate::webhook::Webhook;

/// How long requests under way have at the end: longer than an API server's own patience with an
/// endpoint that is withdrawn.
const LAST_ANSWERS: Duration = Duration::from_secs(10);

/// The first minor version of Kubernetes 1 whose kubelets have native sidecars.
const NATIVE_SINCE: u32 = 29;

/// Runs the injector until it is told to end.
///
/// # Errors
/// Before anything is served: a bad configuration, a taken port, an API server that cannot be found.
pub async fn run(config: &Path, kubeconfig: Option<&Path>) -> anyhow::Result<()> {
    let config = InjectorConfig::load(config)?;
    let log = logging::start(&config.log).map_err(|problem| anyhow::anyhow!("log: {problem}"))?;
    // No review waits for who reads it.
    let _log = log
        .write_by_thread()
        .context("the log cannot be written by a thread")?;
    let metrics = health::install_metrics()?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let client = connect(kubeconfig).await?;
    let native = has_native(&client, config.sidecar.native).await?;
    tracing::info!(native, "sidecars");

    let (end, ended) = watch::channel(false);
    let controller = &config.controller;
    let (election, leader) = Election::new(client.clone(), &controller.namespace, identity());
    let election = tokio::spawn(election.run(ended.clone()));
    tokio::spawn(Controller::new(config.clone(), leader.clone()).run(client.clone()));
    let serving = Arc::new(Serving::default());
    match making(&config) {
        Ok(making) => {
            let keeping = Keeping {
                client: client.clone(),
                namespace: controller.namespace.clone(),
                making,
                leader,
                serving: serving.clone(),
            };
            tokio::spawn(keeping.run());
        }
        Err(files) => drop(tokio::spawn(files.keep(serving.clone()))),
    }

    let webhook = &config.webhook;
    let (port, health_port) = (webhook.port, webhook.health_port);
    let listener = listen(port).await?;
    let health = Arc::new(Health::new(serving.clone(), metrics, ended));
    planes::serve(vec![listen(health_port).await?], &health::router(health));
    let follows = config.policy.claims == Claims::Follow;
    let host_paths = config.policy.host_paths.clone();
    let claims = follows.then(|| ClaimFollower::new(client, host_paths));
    let tls = Arc::new(serving.tls()?);
    let webhook = Arc::new(Webhook::new(Injector::new(config, native), claims));
    tokio::spawn(webhook.serve(listener, tls));
    tracing::info!(port, health_port, "serving");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending: requests that still come are answered");
    end.send_replace(true);
    let _ = election.await;
    // The other replica leads by now; this one answers until its endpoint is withdrawn.
    tokio::time::sleep(LAST_ANSWERS).await;
    Ok(())
}

/// A client of the API server: from a kubeconfig file, or as a pod of the cluster.
async fn connect(kubeconfig: Option<&Path>) -> anyhow::Result<Client> {
    let config = match kubeconfig {
        None => kube::Config::incluster().context("no pod of a cluster: give --kubeconfig")?,
        Some(path) => {
            let file = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
    };
    Ok(Client::try_from(config)?)
}

async fn has_native(client: &Client, said: Native) -> anyhow::Result<bool> {
    if said != Native::Auto {
        return Ok(said == Native::Always);
    }
    let version = client
        .apiserver_version()
        .await
        .context("the API server does not say which version it is (sidecar.native: auto)")?;
    // Such as "34" or "34+".
    let minor = version
        .minor
        .trim_end_matches(|c: char| !c.is_ascii_digit());
    let minor: u32 = minor
        .parse()
        .with_context(|| format!("{:?} is no minor version", version.minor))?;
    Ok(version.major == "1" && minor >= NATIVE_SINCE)
}

/// How the certificate is made, or where it is.
fn making(config: &InjectorConfig) -> Result<Making, CertificateFiles> {
    match &config.webhook.certificate {
        WebhookCertificate::Files { certificate, key } => Err(CertificateFiles {
            certificate: certificate.clone(),
            key: key.clone(),
        }),
        WebhookCertificate::SelfMade {
            names,
            lifetime_seconds,
            settle_seconds,
        } => {
            let controller = &config.controller;
            let service = format!("{}.{}.svc", controller.service, controller.namespace);
            Ok(Making {
                names: if names.is_empty() {
                    vec![service]
                } else {
                    names.clone()
                },
                lifetime: Duration::from_secs(*lifetime_seconds),
                settle: Duration::from_secs(*settle_seconds),
            })
        }
    }
}

/// A name that no other replica has.
fn identity() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    format!("{host}-{:08x}", fastrand::u32(..))
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    // IPv4 as well, unless the system says otherwise.
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let bound = match TcpListener::bind(address).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(("0.0.0.0", port)).await
        }
        bound => bound,
    };
    bound.with_context(|| format!("port {port} cannot be listened on"))
}
