//! A cluster, reached as kubectl would reach it. For the commands that look into one.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use kube::api::ListParams;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Error};
use serde::de::DeserializeOwned;

/// How long one question to the API may take.
const WAIT: Duration = Duration::from_secs(20);

/// How many objects are asked for at once.
const PAGE: u32 = 500;

/// Which cluster.
#[derive(Args, Debug)]
pub(crate) struct Cluster {
    /// File with clusters and logins. When it is not given: what kubectl would take, else the
    /// cluster that this runs in.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Which of the file's contexts.
    #[arg(long)]
    context: Option<String>,
}

/// A cluster that can be asked.
pub(crate) struct Connected {
    /// The client.
    pub(crate) client: Client,
    /// Its address.
    pub(crate) address: String,
}

impl Cluster {
    /// Does something with it, to the end.
    pub(crate) fn with<T>(
        &self,
        work: impl AsyncFnOnce(Connected) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { work(self.connect().await?).await })
    }

    async fn connect(&self) -> anyhow::Result<Connected> {
        let mut config = self
            .config()
            .await
            .context("no cluster to ask: name one with --kubeconfig and --context")?;
        config.connect_timeout = Some(WAIT);
        config.read_timeout = Some(WAIT);
        let address = config.cluster_url.to_string();
        Ok(Connected {
            client: Client::try_from(config)?,
            address: address.trim_end_matches('/').to_owned(),
        })
    }

    async fn config(&self) -> anyhow::Result<Config> {
        if self.kubeconfig.is_none() && self.context.is_none() {
            return Ok(Config::infer().await?);
        }
        let options = KubeConfigOptions {
            context: self.context.clone(),
            ..KubeConfigOptions::default()
        };
        let Some(path) = &self.kubeconfig else {
            return Ok(Config::from_kubeconfig(&options).await?);
        };
        let file = Kubeconfig::read_from(path)?;
        Ok(Config::from_custom_kubeconfig(file, &options).await?)
    }
}

/// Every object of a kind, page by page.
pub(crate) async fn list<K>(api: &Api<K>, selector: Option<&str>) -> Result<Vec<K>, Error>
where
    K: Clone + DeserializeOwned + Debug,
{
    let mut asked = ListParams::default().limit(PAGE);
    asked.label_selector = selector.map(str::to_owned);
    let mut all = Vec::new();
    loop {
        let page = api.list(&asked).await?;
        all.extend(page.items);
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => asked.continue_token = Some(token),
            _ => return Ok(all),
        }
    }
}

/// What the API said, in its own words.
pub(crate) fn words(error: &Error) -> String {
    match error {
        Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}
