//! A cluster: what Sealwire needs of it, and whether what is installed does its work. Nothing is
//! changed: pods are created as a dry run, which goes through every webhook and is stored nowhere.

mod installed;

use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client, Error, ResourceExt};
use sealwire_injector::names;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::finding::Finding;
use crate::cluster::{Connected, list, words};

/// The oldest minor release of Kubernetes 1 that is supported.
const OLDEST: u32 = 30;

/// The oldest kernel whose nftables know what the capture rules say.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

/// From when on landlock restricts ports as well.
const LANDLOCK_KERNEL: (u32, u32) = (6, 7);

/// By how much clocks may differ.
const CLOCKS: Duration = Duration::from_secs(30);

pub(super) async fn look(cluster: &Connected, system: &str) -> Vec<Finding> {
    let client = &cluster.client;
    let version = match client.apiserver_version().await {
        Ok(version) => version,
        Err(error) => {
            let fix = "check the address and the login: `kubectl version` uses the same";
            let said = format!("{} does not answer: {}", cluster.address, words(&error));
            return vec![Finding::fault("API server", said, fix)];
        }
    };
    let mut findings = vec![release(&version.git_version, &version.minor)];
    findings.extend(groups(client).await);
    findings.push(native_sidecars(client).await);
    findings.push(clock(client).await);
    findings.extend(nodes(client).await);
    findings.extend(installed::look(client, system).await);
    findings
}

fn release(version: &str, minor: &str) -> Finding {
    let check = "Kubernetes";
    let digits: String = minor.chars().take_while(char::is_ascii_digit).collect();
    match digits.parse::<u32>() {
        Ok(minor) if minor >= OLDEST => Finding::good(check, version),
        _ => Finding::fault(
            check,
            format!("{version} is older than 1.{OLDEST}"),
            "upgrade: the webhooks use match conditions, which older API servers ignore or refuse",
        ),
    }
}

/// The groups of the API that the chart uses.
async fn groups(client: &Client) -> Vec<Finding> {
    let check = "API groups";
    let wanted = [
        ("admissionregistration.k8s.io", "the webhooks"),
        ("coordination.k8s.io", "which replica writes"),
        ("policy/v1", "disruption budgets"),
    ];
    let there = match client.list_api_groups().await {
        Ok(list) => list.groups,
        Err(error) => {
            let fix = "the right to read /apis is given to every login by system:discovery";
            return vec![Finding::fault(check, words(&error), fix)];
        }
    };
    let has = |wanted: &str| {
        let (group, version) = wanted.split_once('/').unwrap_or((wanted, "v1"));
        let mut groups = there.iter().filter(|one| one.name == group);
        groups.any(|one| one.versions.iter().any(|served| served.version == version))
    };
    let missing: Vec<_> = wanted.iter().filter(|(group, _)| !has(group)).collect();
    if missing.is_empty() {
        return vec![Finding::good(check, "all that the chart uses are served")];
    }
    let fault = |(group, what): &&(&str, &str)| {
        let fix = "have the API server serve it (--runtime-config)";
        Finding::fault(
            check,
            format!("{group} is not served, needed for {what}"),
            fix,
        )
    };
    missing.iter().map(fault).collect()
}

/// Asks the API server to take a native sidecar. One that has none drops the field in silence.
async fn native_sidecars(client: &Client) -> Finding {
    let check = "native sidecars";
    let wanted = serde_json::from_value::<Pod>(json!({
        "metadata": { "generateName": "sealwire-doctor-", "namespace": "default" },
        "spec": {
            "initContainers": [
                { "name": "sidecar", "image": "sealwire.invalid/none", "restartPolicy": "Always" }
            ],
            "containers": [{ "name": "main", "image": "sealwire.invalid/none" }],
        },
    }));
    let created = match wanted {
        Ok(pod) => dry_run(client, "default", &pod).await,
        Err(error) => Err(Error::SerdeError(error)),
    };
    match created {
        Ok(pod) => {
            let spec = pod.spec.unwrap_or_default();
            let mut init = spec.init_containers.into_iter().flatten();
            let kept = init.any(|one| one.restart_policy.as_deref() == Some("Always"));
            if kept {
                return Finding::good(check, "are there");
            }
            Finding::warning(
                check,
                "the API server drops restartPolicy of init containers",
                "turn the feature gate SidecarContainers on, or set config.sidecar.native: never in the chart's values",
            )
        }
        Err(error) => Finding::warning(
            check,
            format!("cannot be told: {}", words(&error)),
            "give this login the right to create pods in the namespace default: it creates none",
        ),
    }
}

/// What the API server would store.
async fn dry_run(client: &Client, namespace: &str, pod: &Pod) -> Result<Pod, Error> {
    let asked = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    Api::<Pod>::namespaced(client.clone(), namespace)
        .create(&asked, pod)
        .await
}

/// Compares this machine's clock with the API server's.
async fn clock(client: &Client) -> Finding {
    let check = "clock";
    let now = OffsetDateTime::now_utc();
    match server_time(client).await {
        Ok(server) if (server - now).abs() <= CLOCKS => {
            Finding::good(check, "this machine and the API server agree")
        }
        Ok(server) => Finding::fault(
            check,
            format!(
                "this machine and the API server differ by {} s",
                (server - now).whole_seconds().abs()
            ),
            "correct whichever is wrong: certificates and exceptions go by the clock",
        ),
        Err(problem) => Finding::warning(
            check,
            format!("cannot be told: {problem}"),
            "compare `date` here and on the nodes",
        ),
    }
}

async fn server_time(client: &Client) -> Result<OffsetDateTime, String> {
    let request = hyper::Request::get("/version")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let answer = client.send(request).await.map_err(|error| words(&error))?;
    let date = answer.headers().get(hyper::header::DATE);
    let date = date.and_then(|date| date.to_str().ok());
    let date = date.ok_or("its answers carry no date")?;
    OffsetDateTime::parse(date, &Rfc2822).map_err(|error| format!("{date:?}: {error}"))
}

/// Kernels and clocks of the nodes.
async fn nodes(client: &Client) -> Vec<Finding> {
    let check = "nodes";
    let nodes = match list(&Api::<Node>::all(client.clone()), None).await {
        Ok(nodes) => nodes,
        Err(error) => {
            let fix = "give this login the right to list nodes, or look at each with --here";
            let said = format!("cannot be told: {}", words(&error));
            return vec![Finding::warning(check, said, fix)];
        }
    };
    if nodes.is_empty() {
        return vec![Finding::warning(
            check,
            "there are none",
            "add one: pods need it",
        )];
    }
    let mut findings = Vec::new();
    for node in &nodes {
        findings.extend(kernel(node));
    }
    let beats: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    if let (Ok(leases), Ok(now)) = (list(&beats, None).await, server_time(client).await) {
        findings.extend(leases.iter().filter_map(|lease| ahead(lease, now)));
    }
    if findings.is_empty() {
        let said = format!("{} with kernels and clocks that do", nodes.len());
        findings.push(Finding::good(check, said));
    }
    findings
}

/// What is not as it should be with the kernel of a node.
fn kernel(node: &Node) -> Option<Finding> {
    let check = format!("node {}", node.name_any());
    let info = node.status.as_ref()?.node_info.as_ref()?;
    if info.operating_system == "windows" {
        return None;
    }
    let kernel = &info.kernel_version;
    let mut numbers = kernel.split(['.', '-', '+']);
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let Some(version) = number().zip(number()) else {
        let said = format!("kernel {kernel:?} has no version that can be read");
        return Some(Finding::warning(
            check,
            said,
            "look at it with sealwire doctor --here",
        ));
    };
    if version < OLDEST_KERNEL {
        let (major, minor) = OLDEST_KERNEL;
        return Some(Finding::fault(
            check,
            format!(
                "kernel {kernel} is older than {major}.{minor}: its nftables lack what capture needs"
            ),
            "upgrade it, or keep sealed pods off it",
        ));
    }
    let (major, minor) = LANDLOCK_KERNEL;
    (version < LANDLOCK_KERNEL).then(|| {
        Finding::warning(
            check,
            format!("kernel {kernel}: landlock restricts ports from {major}.{minor} on"),
            "upgrade it for the sidecar to lock itself in wholly; it says so in /healthz",
        )
    })
}

/// A node whose heartbeat comes from the future has a clock that is ahead. One from the past may
/// just be late.
fn ahead(lease: &Lease, now: OffsetDateTime) -> Option<Finding> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0.as_second();
    let ahead = renewed.saturating_sub(now.unix_timestamp());
    let bound = i64::try_from(CLOCKS.as_secs()).unwrap_or(i64::MAX);
    (ahead > bound).then(|| {
        Finding::fault(
            format!("node {}", lease.name_any()),
            format!("its clock is {ahead} s ahead of the API server's"),
            "correct it: certificates and exceptions go by the clock",
        )
    })
}

/// Namespaces in which somebody is to be sealed.
async fn sealed_namespaces(client: &Client) -> Result<Vec<Namespace>, Error> {
    let selector = format!(
        "{} in ({},{})",
        names::INJECT,
        names::ENABLED,
        names::LABELLED
    );
    list(&Api::all(client.clone()), Some(&selector)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(kernel: &str) -> Node {
        let info = json!({
            "architecture": "amd64", "bootID": "", "containerRuntimeVersion": "", "kernelVersion": kernel,
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "linux",
            "osImage": "", "systemUUID": "",
        });
        let node = json!({ "metadata": { "name": "a" }, "status": { "nodeInfo": info } });
        serde_json::from_value(node).unwrap()
    }

    #[test]
    fn a_release_that_is_too_old_is_a_fault_and_what_vendors_add_to_it_is_none() {
        assert!(!release("v1.37.2", "37").is_fault());
        assert!(!release("v1.34.1-vendor.7", "34+").is_fault());
        assert!(release("v1.29.0", "29").is_fault());
        assert!(release("unknown", "").is_fault());
    }

    #[test]
    fn kernels_are_judged_by_their_number_alone() {
        assert_eq!(kernel(&node("6.18.5-cloud+")), None);
        assert!(kernel(&node("5.4.0-150-generic")).unwrap().is_fault());
        assert!(!kernel(&node("6.1.0-31-amd64")).unwrap().is_fault());
        assert!(!kernel(&node("custom")).unwrap().is_fault());
    }

    #[test]
    fn a_node_whose_heartbeat_comes_from_the_future_is_ahead() {
        let lease: Lease = serde_json::from_value(json!({
            "metadata": { "name": "a" }, "spec": { "renewTime": "2030-01-01T00:02:00.000000Z" },
        }))
        .unwrap();
        let at = |text: &str| {
            OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).unwrap()
        };
        assert!(
            ahead(&lease, at("2030-01-01T00:00:00Z"))
                .unwrap()
                .is_fault()
        );
        assert_eq!(ahead(&lease, at("2030-01-01T00:01:50Z")), None);
        assert_eq!(ahead(&lease, at("2031-01-01T00:00:00Z")), None);
    }
}
