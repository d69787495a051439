//! A server that answers badly, or will not answer any more what it answered before: it is named,
//! what is sealed is not touched, and all recovers alone.

use sealwire_pods::{Pod, Process};

use super::front::Front;
use super::*;

fn renew(pod: &Pod) {
    let asked = ["-sfX", "POST", "http://127.0.0.1:15000/renew"];
    assert!(pod.app("curl").args(asked).run(SOON).unwrap().success());
}

fn health(sidecar: &Sidecar) -> Value {
    let text = sidecar.health("/healthz").map(|(_, text)| text);
    text.and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default()
}

/// Waits until the certificate has been renewed by a key that signs.
fn recovers(sidecar: &Sidecar, before: &str) {
    assert_eventually("it recovers alone", LONG, || {
        let health = health(sidecar);
        let key = health["health"]["key"].to_string();
        let renewed = serial(sidecar) != before;
        (renewed && key.contains("ready") && sidecar.is_ready()).then_some(())
    });
}

/// An exchange that goes on and on, through one link.
fn steady(web: &Pod, web_car: &Sidecar, api: &Pod) -> Process {
    let steady = client(web, api.v4(), 8080, "steady").args(["60"]);
    let steady = steady.spawn().unwrap();
    assert_eventually("it moves", SOON, || {
        (!web_car.admin("/links").as_array()?.is_empty()).then_some(())
    });
    steady
}

fn was_not_touched(mut steady: Process) {
    assert!(steady.is_running(), "all of it happened meanwhile");
    assert!(steady.wait(LONG).unwrap().success(), "{}", steady.stdout());
    let said = steady.stdout();
    assert!(said.contains("none broken"), "{said}");
}

#[test]
fn a_server_that_fails_is_busy_or_slow_is_named_and_what_is_sealed_goes_on() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let front = Front::before(&vaulted);
        let hurried =
            |text: String| text.replace("lookSeconds: 1", "lookSeconds: 1, waitSeconds: 1");
        let (web, web_car) = front.sealed_pod("web", KeyFrom::Transit, hurried);
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let echo = || {
            let done = client(&web, api.v4(), 8080, "echo").run(SOON).unwrap();
            assert!(done.success(), "{}{}", done.stdout, done.stderr);
        };
        echo();
        let steady = steady(&web, &web_car, &api);
        for (mode, said) in [
            ("500", "failing"),
            ("429", "busy"),
            ("slow", "answer within 1."),
        ] {
            let before = serial(&web_car);
            front.answers(mode);
            renew(&web);
            assert_eventually(&format!("{mode} is named"), SOON, || {
                let health = health(&web_car);
                let key = health["health"]["key"].to_string();
                let failures = health["health"]["online"]["renewal"]["failures"].as_u64()?;
                let metrics = web_car.metrics();
                let counted = metrics.lines().any(|line| {
                    line.starts_with("sealwire_certificate_renewal_failures")
                        && !line.ends_with(" 0")
                });
                (key.contains("degraded") && key.contains(said) && failures > 0 && counted)
                    .then_some(())
            });
            assert!(web_car.is_ready(), "{mode}");
            // A new link needs no signature: its session is resumed.
            echo();
            assert_eq!(serial(&web_car), before);
            front.answers("ok");
            recovers(&web_car, &before);
            echo();
        }
        was_not_touched(steady);
    });
}

#[test]
fn a_role_that_was_deleted_and_a_policy_that_was_reduced_are_named_and_what_is_sealed_goes_on() {
    in_a_mesh(|mesh| {
        let workloads = ["web", "api"];
        let vaulted = vaulted(mesh, "1h");
        let (web, web_car) = vaulted.sealed_pod("web", KeyFrom::Transit).unwrap();
        let (api, _api_car) = vaulted.sealed_pod("api", KeyFrom::Transit).unwrap();
        let _server = server(&api, 8080, "echo");
        let steady = steady(&web, &web_car, &api);
        let bao = &vaulted.bao;
        let named = |said: &str| {
            renew(&web);
            assert_eventually(&format!("{said} is named"), SOON, || {
                health(&web_car).to_string().contains(said).then_some(())
            });
        };

        let before = serial(&web_car);
        bao.delete("pki/roles/sealwire").unwrap();
        named("unknown role");
        assert!(web_car.is_ready());
        vaulted.set_up(&workloads).unwrap();
        recovers(&web_car, &before);

        let before = serial(&web_car);
        let less = "path \"transit/keys/web\" { capabilities = [\"read\"] }";
        bao.write(
            "sys/policies/acl/sealwire-workload",
            &json!({ "policy": less }),
        )
        .unwrap();
        named("does not allow this workload");
        assert!(!web_car.is_ready(), "the key is down until somebody helps");
        vaulted.set_up(&workloads).unwrap();
        recovers(&web_car, &before);

        let before = serial(&web_car);
        bao.delete("auth/approle/role/web").unwrap();
        bao.write("sys/leases/revoke-prefix/auth/approle", &json!({}))
            .unwrap();
        named("refuses the login by AppRole");
        vaulted.set_up(&workloads).unwrap();
        vaulted.let_log_in(&web, "web").unwrap();
        recovers(&web_car, &before);
        was_not_touched(steady);
    });
}
