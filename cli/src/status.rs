//! `sealwire status`: every pod of a cluster, sealed or not, and why.

mod judge;

use std::collections::BTreeMap;

use anyhow::Context;
use clap::Args;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{Api, ResourceExt};
use sealwire_injector::names;
use serde::Serialize;
use serde_json::json;

pub(crate) use self::judge::{Policy, Seal, failure, judge};
use crate::cluster::{Cluster, Connected, list};
use crate::screen::say;

/// Options of `sealwire status`.
#[derive(Args, Debug)]
pub(crate) struct Status {
    #[command(flatten)]
    cluster: Cluster,
    /// Pods of this namespace; of all when not given.
    #[arg(long, short)]
    namespace: Option<String>,
    /// Also pods of namespaces that nobody has asked to seal.
    #[arg(long, short)]
    all: bool,
    /// For machines.
    #[arg(long)]
    json: bool,
}

/// One pod.
#[derive(Serialize)]
struct Line {
    namespace: String,
    pod: String,
    #[serde(flatten)]
    seal: Seal,
}

impl Status {
    /// Shows them. True when every pod is sealed, or is meant not to be.
    pub(crate) fn run(&self) -> anyhow::Result<bool> {
        let lines = self
            .cluster
            .with(async |cluster| self.look(&cluster).await)?;
        let faults = lines.iter().filter(|line| line.seal.is_fault()).count();
        if self.json {
            say(&serde_json::to_string_pretty(
                &json!({ "pods": lines, "faults": faults }),
            )?);
        } else {
            say(&table(&lines));
        }
        Ok(faults == 0)
    }

    async fn look(&self, cluster: &Connected) -> anyhow::Result<Vec<Line>> {
        let policies = self.policies(cluster).await?;
        let pods: Api<Pod> = match &self.namespace {
            Some(namespace) => Api::namespaced(cluster.client.clone(), namespace),
            None => Api::all(cluster.client.clone()),
        };
        let pods = list(&pods, None)
            .await
            .context("cannot list pods: status needs the right to list them")?;
        let mut lines: Vec<_> = pods
            .iter()
            .filter_map(|pod| {
                let namespace = pod.namespace().unwrap_or_default();
                let policy = policies.get(&namespace).copied().unwrap_or(Policy::Nobody);
                let shown = self.all || self.namespace.is_some() || policy != Policy::Nobody;
                shown.then(|| Line {
                    pod: pod.name_any(),
                    seal: judge(pod, policy),
                    namespace,
                })
            })
            .collect();
        lines.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        Ok(lines)
    }

    async fn policies(&self, cluster: &Connected) -> anyhow::Result<BTreeMap<String, Policy>> {
        let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
        let namespaces = match &self.namespace {
            Some(name) => namespaces.get(name).await.map(|one| vec![one]),
            None => list(&namespaces, None).await,
        };
        let namespaces =
            namespaces.context("cannot read namespaces, whose labels say who is sealed")?;
        let policy = |namespace: &Namespace| {
            let label = namespace.labels().get(names::INJECT).cloned();
            (namespace.name_any(), Policy::of(label.as_deref()))
        };
        Ok(namespaces.iter().map(policy).collect())
    }
}

fn table(lines: &[Line]) -> String {
    if lines.is_empty() {
        return format!(
            "no pods in namespaces with the label {}: kubectl label namespace NAME {}={}",
            names::INJECT,
            names::INJECT,
            names::ENABLED
        );
    }
    let width = |column: fn(&Line) -> &str, title: &str| {
        let widths = lines.iter().map(|line| column(line).len());
        widths.chain([title.len()]).max().unwrap_or_default()
    };
    let namespace = width(|line| &line.namespace, "NAMESPACE");
    let pod = width(|line| &line.pod, "POD");
    let seal = width(|line| line.seal.word(), "SEAL");
    let row = |a: &str, b: &str, c: &str, d: &str| {
        format!("{a:namespace$}  {b:pod$}  {c:seal$}  {d}")
            .trim_end()
            .to_owned()
    };
    let mut rows = vec![row("NAMESPACE", "POD", "SEAL", "WHY")];
    rows.extend(lines.iter().map(|line| {
        let (word, why) = (line.seal.word(), line.seal.why());
        row(&line.namespace, &line.pod, word, why)
    }));
    let mut counts = BTreeMap::<&str, usize>::new();
    for line in lines {
        *counts.entry(line.seal.word()).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    rows.push(format!("\n{}", counts.join(", ")));
    rows.join("\n")
}
