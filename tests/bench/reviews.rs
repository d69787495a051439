//! How long the webhooks take for pods that a real API server asks them about, on the machine that
//! the API server and etcd run on as well. `make bench-reviews`.

use std::time::Instant;

use sealwire_pods::Release;
use sealwire_tests::cluster::Cluster;
use serde_json::{Value, json};

/// Clients at a time. `kubectl` makes some fifty requests a second, after a rush of 300.
const CLIENTS: usize = 4;

/// Pods that each client asks for.
const PODS: usize = 1000;

pub(crate) fn measure() {
    let cluster = Cluster::sealing(Release::ALL[Release::ALL.len() - 1]);
    let pod = |number: usize| {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": format!("web-{number}"), "namespace": "shop" },
            "spec": { "containers": [{
                "name": "web", "image": "registry.example/web:1",
                "readinessProbe": { "httpGet": { "path": "/ready", "port": 8080 } },
            }] },
        })
    };
    let pods: Vec<Value> = (0..PODS).map(pod).collect();
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": pods }).to_string();
    let before = cluster.injector_metrics();
    let begun = Instant::now();
    let create = ["create", "--dry-run=server", "-o", "name", "-f", "-"];
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| cluster.api.kubectl_with(&create, &list).unwrap());
        }
    });
    let took = begun.elapsed().as_secs_f64();
    let after = cluster.injector_metrics();
    println!(
        "| webhook | reviews a second | half within | 99 % within | all within |\n|---|---|---|---|---|"
    );
    for task in ["mutate", "validate"] {
        let counted: Vec<(f64, f64)> = (buckets(&before, task).into_iter())
            .zip(buckets(&after, task))
            .map(|((bound, before), (_, after))| (bound, after - before))
            .collect();
        let all = counted.last().unwrap().1;
        let within = |share: f64| {
            let found = counted.iter().find(|(_, count)| *count >= share * all);
            found.map_or(f64::INFINITY, |(bound, _)| bound * 1000.0)
        };
        println!(
            "| {task} | {:.0} | {} ms | {} ms | {} ms |",
            all / took,
            within(0.5),
            within(0.99),
            within(1.0)
        );
    }
}

/// The bounds of a histogram and how many were within each.
fn buckets(metrics: &str, task: &str) -> Vec<(f64, f64)> {
    let lines = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("sealwire_injector_review_seconds_bucket{")?;
        let (labels, count) = rest.split_once("} ")?;
        let (_, bound) = labels.split_once("le=\"")?;
        labels.contains(&format!("task=\"{task}\"")).then(|| {
            (
                bound.trim_end_matches('"').parse().unwrap(),
                count.parse().unwrap(),
            )
        })
    });
    lines.collect()
}
