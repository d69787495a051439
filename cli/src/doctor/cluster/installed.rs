//! What is installed: the webhooks as they are registered, the injector behind them, the ConfigMaps
//! that it hands out, and, the one proof that counts, what becomes of a pod.

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::{Api, Client, Error, ResourceExt};
use sealwire_injector::names;
use serde_json::json;

use super::{dry_run, sealed_namespaces};
use crate::cluster::words;
use crate::doctor::finding::Finding;

const INSTALL: &str = "install the chart: docs/install.md";

pub(super) async fn look(client: &Client, system: &str) -> Vec<Finding> {
    let webhooks = match webhooks(client).await {
        Ok(Some(findings)) => findings,
        Ok(None) => {
            let said = "is not installed: no webhook is registered";
            return vec![Finding::warning("Sealwire", said, INSTALL)];
        }
        Err(error) => {
            let fix = "give this login the right to read webhook configurations";
            return vec![Finding::warning("webhooks", words(&error), fix)];
        }
    };
    let mut findings = webhooks;
    findings.push(injector(client, system).await);
    match sealed_namespaces(client).await {
        Ok(namespaces) if namespaces.is_empty() => findings.push(Finding::warning(
            "namespaces",
            "none is to be sealed",
            format!(
                "label one: kubectl label namespace NAME {}={}",
                names::INJECT,
                names::ENABLED
            ),
        )),
        Ok(namespaces) => {
            for namespace in &namespaces {
                findings.push(configuration(client, namespace).await);
                findings.push(sealing(client, namespace).await);
            }
        }
        Err(error) => findings.push(Finding::warning(
            "namespaces",
            words(&error),
            "give this login the right to list namespaces",
        )),
    }
    findings
}

/// None when neither is registered.
async fn webhooks(client: &Client) -> Result<Option<Vec<Finding>>, Error> {
    let mutating: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let validating: Api<ValidatingWebhookConfiguration> = Api::all(client.clone());
    let mutating = mutating.get_opt(names::WEBHOOKS).await?;
    let validating = validating.get_opt(names::WEBHOOKS).await?;
    if mutating.is_none() && validating.is_none() {
        return Ok(None);
    }
    let mutating = mutating.map(|configuration| {
        let hooks = configuration.webhooks.into_iter().flatten();
        let hook = |hook: k8s_openapi::api::admissionregistration::v1::MutatingWebhook| {
            let ca = hook
                .client_config
                .ca_bundle
                .is_some_and(|ca| !ca.0.is_empty());
            (hook.name, hook.failure_policy, ca)
        };
        hooks.map(hook).collect()
    });
    let validating = validating.map(|configuration| {
        let hooks = configuration.webhooks.into_iter().flatten();
        let hook = |hook: k8s_openapi::api::admissionregistration::v1::ValidatingWebhook| {
            let ca = hook
                .client_config
                .ca_bundle
                .is_some_and(|ca| !ca.0.is_empty());
            (hook.name, hook.failure_policy, ca)
        };
        hooks.map(hook).collect()
    });
    Ok(Some(vec![
        registered("mutating webhooks", mutating),
        registered("validating webhooks", validating),
    ]))
}

/// Judges webhooks by name, failure policy and whether there is a CA.
fn registered(check: &str, hooks: Option<Vec<(String, Option<String>, bool)>>) -> Finding {
    let hooks = hooks.unwrap_or_default();
    if hooks.is_empty() {
        return Finding::fault(check, "are not registered", INSTALL);
    }
    for (name, policy, has_ca) in &hooks {
        if policy.as_deref() != Some("Fail") {
            return Finding::fault(
                check,
                format!("{name} lets pods pass when the injector is down"),
                "set its failurePolicy to Fail, as the chart does",
            );
        }
        if !has_ca {
            return Finding::fault(
                check,
                format!("{name} has no CA, so that no call of it succeeds"),
                "the injector writes it: see its log; or cert-manager, if that is to",
            );
        }
    }
    Finding::good(
        check,
        format!("{} registered, and each fails closed", hooks.len()),
    )
}

async fn injector(client: &Client, system: &str) -> Finding {
    let check = "injector";
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), system);
    let deployment = match deployments.get_opt("sealwire-injector").await {
        Ok(Some(deployment)) => deployment,
        Ok(None) => {
            return Finding::warning(
                check,
                format!("no Deployment sealwire-injector in the namespace {system}"),
                "name its namespace with --system-namespace",
            );
        }
        Err(error) => {
            let fix = format!("give this login the right to read Deployments in {system}");
            return Finding::warning(check, words(&error), fix);
        }
    };
    let wanted = deployment.spec.and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = deployment.status.and_then(|status| status.ready_replicas);
    let ready = ready.unwrap_or(0);
    let said = format!("{ready} of {wanted} replicas are ready");
    let fix = format!("kubectl --namespace {system} describe deployment sealwire-injector");
    match ready {
        0 => Finding::fault(
            check,
            format!("{said}: no pod can be created in a sealed namespace"),
            fix,
        ),
        ready if ready < wanted || ready < 2 => Finding::warning(check, said, fix),
        _ => Finding::good(check, said),
    }
}

async fn configuration(client: &Client, namespace: &Namespace) -> Finding {
    let name = namespace.name_any();
    let check = format!("configuration in {name}");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &name);
    match maps.get_opt(names::CONFIG_MAP).await {
        Ok(Some(map))
            if map
                .data
                .iter()
                .flatten()
                .any(|(key, _)| key == names::CONFIG_KEY) =>
        {
            Finding::good(check, "is there")
        }
        Ok(_) => Finding::fault(
            check,
            format!(
                "no ConfigMap {} with {}: its pods wait",
                names::CONFIG_MAP,
                names::CONFIG_KEY
            ),
            "the injector writes it: see its log, and its right to write ConfigMaps",
        ),
        Err(error) => Finding::warning(
            check,
            words(&error),
            "give this login the right to read ConfigMaps there",
        ),
    }
}

/// Has a pod created that is stored nowhere, and looks at what became of it.
async fn sealing(client: &Client, namespace: &Namespace) -> Finding {
    let name = namespace.name_any();
    let check = format!("sealing in {name}");
    let pod = serde_json::from_value::<Pod>(json!({
        "metadata": {
            "generateName": "sealwire-doctor-", "namespace": name,
            "labels": { (names::INJECT): names::ENABLED },
        },
        "spec": {
            "containers": [{
                "name": "main", "image": "sealwire.invalid/none",
                "securityContext": {
                    "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] },
                    "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": { "type": "RuntimeDefault" },
                },
            }],
        },
    }));
    let created = match pod {
        Ok(pod) => dry_run(client, &name, &pod).await,
        Err(error) => Err(Error::SerdeError(error)),
    };
    match created {
        Ok(pod) if has_sidecar(&pod) => {
            Finding::good(check, "a pod that is created there comes up sealed")
        }
        Ok(_) => Finding::fault(
            check,
            "a pod that is created there comes up in the open",
            "compare the webhooks' selectors with the namespace's labels",
        ),
        Err(Error::Api(status)) if status.message.contains("failed calling webhook") => {
            Finding::fault(
                check,
                status.message.clone(),
                "the API server has to reach the injector: its Service, NetworkPolicies, and the firewall before the nodes",
            )
        }
        Err(Error::Api(status))
            if status.is_forbidden() && !status.message.contains("admission webhook") =>
        {
            Finding::warning(
                check,
                status.message.clone(),
                "give this login the right to create pods there: it creates none",
            )
        }
        Err(error) => Finding::fault(
            check,
            words(&error),
            "no such pod can be created there: see why",
        ),
    }
}

fn has_sidecar(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let mut all = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers);
    all.any(|container| container.name == names::PROXY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_that_fails_open_or_has_no_ca_is_a_fault() {
        let hook = |policy: &str, ca| Some(vec![("pods".to_owned(), Some(policy.to_owned()), ca)]);
        assert!(!registered("w", hook("Fail", true)).is_fault());
        assert!(registered("w", hook("Ignore", true)).is_fault());
        assert!(registered("w", hook("Fail", false)).is_fault());
        assert!(registered("w", Some(Vec::new())).is_fault());
        assert!(registered("w", None).is_fault());
    }
}
