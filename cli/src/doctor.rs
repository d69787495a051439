//! `sealwire doctor`: looks at a cluster before and after Sealwire is installed, at one pod, or at
//! this machine, and says of each thing how it stands, and what to do about it.

mod cluster;
mod finding;
mod here;
mod pod;

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;

use crate::cluster::Cluster;
use crate::screen::say;

/// Options of `sealwire doctor`.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    #[command(flatten)]
    cluster: Cluster,
    /// Namespace of the injector.
    #[arg(long, default_value = "sealwire-system")]
    system_namespace: String,
    /// Looks at this pod as well.
    #[arg(long, value_name = "NAMESPACE/POD")]
    pod: Option<String>,
    /// Looks at this machine instead of a cluster: whether its kernel can hold a sealed pod.
    #[arg(long, conflicts_with_all = ["pod", "kubeconfig", "context"])]
    here: bool,
    /// With --here: whether what this configuration of a sidecar names can be reached and used from
    /// here. A signature is made by the key.
    #[arg(long, requires = "here")]
    config: Option<PathBuf>,
    #[command(flatten)]
    facts: sealwire_proxy::pod::PodFacts,
    /// For machines.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Looks, and says it. True when nothing is at fault; a warning is no fault.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let findings = if self.here {
            here::look(self.config.as_deref(), &self.facts)
        } else {
            let pod = self.pod()?;
            self.cluster.with(async |cluster| {
                let mut findings = cluster::look(&cluster, &self.system_namespace).await;
                if let Some((namespace, name)) = pod {
                    findings.extend(pod::look(&cluster.client, namespace, name).await);
                }
                Ok(findings)
            })?
        };
        let faults = findings.iter().filter(|finding| finding.is_fault()).count();
        if self.json {
            let shown = json!({ "findings": findings, "faults": faults });
            say(&serde_json::to_string_pretty(&shown)?);
        } else {
            say(&finding::as_text(&findings));
        }
        Ok(faults == 0)
    }

    fn pod(&self) -> anyhow::Result<Option<(&str, &str)>> {
        let Some(pod) = &self.pod else {
            return Ok(None);
        };
        let split = pod.split_once('/');
        split
            .map(Some)
            .with_context(|| format!("--pod {pod}: write it as NAMESPACE/POD"))
    }
}
