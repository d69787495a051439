//! `sealwire keys`: asks the admin port of a sidecar, inside its pod.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::screen::say;

/// How long the sidecar may take.
const WAIT: Duration = Duration::from_secs(30);

/// `sealwire keys …`
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Has a new version of the key made. It is in use as soon as there is a certificate for it;
    /// links that were made before go on with the old one.
    Rotate(Admin),
    /// Shows where the key is, and what its home says of it.
    Show(Admin),
}

/// Where the sidecar listens.
#[derive(Args)]
pub(crate) struct Admin {
    /// The sidecar's admin port on loopback.
    #[arg(long, default_value_t = 15000)]
    admin_port: u16,
}

impl Command {
    /// Does it.
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let said = match self {
            Self::Rotate(admin) => admin.ask(Method::POST, "/rotate"),
            Self::Show(admin) => admin.ask(Method::GET, "/custody"),
        }?;
        say(said.trim_end());
        Ok(())
    }
}

impl Admin {
    fn ask(&self, method: Method, path: &str) -> anyhow::Result<String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let address = (Ipv4Addr::LOCALHOST, self.admin_port);
        runtime.block_on(async {
            timeout(WAIT, exchange(address.into(), method, path))
                .await
                .context("the sidecar did not answer in time")?
        })
    }
}

async fn exchange(address: SocketAddr, method: Method, path: &str) -> anyhow::Result<String> {
    let connected = TcpStream::connect(address).await;
    let connected = connected
        .with_context(|| format!("no sidecar listens at {address}: run this inside the pod"))?;
    let (mut sender, connection) = handshake(TokioIo::new(connected)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address.to_string())
        .body(Empty::<Bytes>::new())?;
    let answer = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        // Closes the connection.
        drop(sender);
        anyhow::Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let (answer, _) = tokio::join!(answer, connection);
    match answer? {
        (status, text) if status.is_success() => Ok(text),
        (_, text) => bail!("{}", text.trim_end()),
    }
}
