//! The ValidatingAdmissionPolicy: the same refusals, decided in the API server itself, while no
//! webhook is there at all.

use sealwire_pods::assert_eventually;
use sealwire_tests::SOON;
use sealwire_tests::cluster::{container_names, in_each_cluster};
use serde_json::{Value, json};

use super::plain;

#[test]
fn without_any_webhook_the_policy_refuses_what_would_get_past_the_seal() {
    in_each_cluster(|cluster| {
        let sealed = cluster.create(&plain("sealed", |_| {})).unwrap();
        cluster.run("delete validatingwebhookconfiguration,mutatingwebhookconfiguration sealwire");
        assert_eventually("no webhook is called", SOON, || {
            cluster.kill_injectors();
            let elsewhere = plain("probe", |pod| {
                pod["metadata"]["namespace"] = json!("default")
            });
            cluster.dry_run(&elsewhere).ok()
        });
        // A pod that the injector has sealed, but for one thing.
        let like_sealed = |name: &str, change: &dyn Fn(&mut Value)| {
            let mut pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": "shop",
                    "annotations": sealed["metadata"]["annotations"],
                },
                "spec": sealed["spec"],
            });
            change(&mut pod);
            cluster.create(&pod)
        };
        let main = |pod: &mut Value, field: &str, value: Value| {
            pod["spec"]["containers"][0]["securityContext"][field] = value;
        };
        type Change<'a> = Box<dyn Fn(&mut Value) + 'a>;
        let refused: Vec<(&str, Change<'_>)> = vec![
            ("1337", Box::new(|pod| main(pod, "runAsUser", json!(1337)))),
            (
                "privileged",
                Box::new(|pod| main(pod, "privileged", json!(true))),
            ),
            (
                "NET_ADMIN",
                Box::new(|pod| main(pod, "capabilities", json!({ "add": ["NET_ADMIN"] }))),
            ),
            (
                "hostNetwork",
                Box::new(|pod| pod["spec"]["hostNetwork"] = json!(true)),
            ),
            (
                "hostPID",
                Box::new(|pod| pod["spec"]["hostPID"] = json!(true)),
            ),
            (
                "shareProcessNamespace",
                Box::new(|pod| pod["spec"]["shareProcessNamespace"] = json!(true)),
            ),
        ];
        for (i, (said, change)) in refused.iter().enumerate() {
            let message = like_sealed(&format!("refused-{i}"), change).expect_err(said);
            assert!(
                message.contains("ValidatingAdmissionPolicy") && message.contains(said),
                "{said}: {message}"
            );
        }
        let good = like_sealed("good", &|_| {}).unwrap();
        assert_eq!(
            container_names(&good, "initContainers"),
            container_names(&sealed, "initContainers")
        );
    });
}
