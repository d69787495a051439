//! Starting, changing and ending: what an operator sees when something is wrong, and what goes on
//! while something changes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

#[path = "lifecycle/keys.rs"]
mod keys;

use std::fs;
use std::path::{Path, PathBuf};

use sealwire_pods::{Mesh, PROXY_UID, Pod, Sealing, Sidecar, assert_eventually};
use sealwire_tests::{
    LONG, SOON, client, in_a_mesh, pin as read_pin, record, server, with_each_home,
    with_each_privilege,
};

/// OpenSC's PKCS#11 spy.
const SPY: &str = "/usr/lib/x86_64-linux-gnu/pkcs11-spy.so";

/// A pod with key, certificate and rules, whose sidecar has not been started.
fn prepared(mesh: &Mesh) -> (Pod, PathBuf, String) {
    let pod = mesh.world().pod("pod").unwrap();
    let config = mesh.prepare(&pod, &Sealing::default()).unwrap();
    mesh.capture(&pod, &config).unwrap();
    let text = mesh.config(&pod, &Sealing::default());
    (pod, config, text)
}

/// Starts a sidecar that cannot become ready, and gives what `/readyz` says.
fn unready(mesh: &Mesh, pod: &Pod, config: &Path, text: &str, expected: &[&str]) -> Sidecar {
    mesh.write(config, text).unwrap();
    let sidecar = mesh.start(pod, config).unwrap();
    let said = assert_eventually("it says what is wrong", SOON, || {
        let (status, body) = sidecar.health("/readyz")?;
        (status == 503 && expected.iter().all(|part| body.contains(part))).then_some(body)
    });
    assert!(!said.contains("pin-value"), "{said}");
    sidecar
}

fn in_world(mesh: &Mesh, program: &str, arguments: &[&str]) {
    let done = mesh
        .world()
        .command(program)
        .args(arguments.iter().copied())
        .run(SOON)
        .unwrap();
    assert!(done.success(), "{}", done.stderr);
}

#[test]
fn a_pin_file_that_others_can_read_is_refused_and_taken_as_soon_as_it_is_mended() {
    with_each_privilege(|mesh| {
        let (pod, config, text) = prepared(mesh);
        let pin = mesh.hsm_directory().join("pins/pod").display().to_string();
        in_world(mesh, "chmod", &["0644", &pin]);
        let mut sidecar = unready(mesh, &pod, &config, &text, &["mode 0644", "chmod 0600"]);
        in_world(mesh, "chmod", &["0600", &pin]);
        sidecar.wait_until_ready().unwrap();
    });
}

#[test]
fn a_wrong_pin_is_tried_once_and_the_right_one_as_soon_as_its_file_changes() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        let pin = mesh.hsm_directory().join("pins/pod").display().to_string();
        let right = read_pin(mesh, "pod");
        in_world(mesh, "sh", &["-c", &format!("printf 000000 > {pin}")]);
        // OpenSC's spy stands before the real module and writes down every call.
        let calls = mesh.world().directory().join("pod/calls.log");
        let module = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("module: "))
            .unwrap();
        let spied = text.replace(module, SPY).replace(
            "write: [",
            &format!("write: [{}, ", calls.parent().unwrap().display()),
        );
        mesh.write(&config, &spied).unwrap();
        let command = mesh.sidecar_command(&pod, &config);
        let spying = command
            .env("PKCS11SPY", module)
            .env("PKCS11SPY_OUTPUT", &calls);
        let mut sidecar = mesh.start_with(&pod, &config, spying).unwrap();
        let logins = || {
            let text = fs::read_to_string(&calls).unwrap_or_default();
            (
                text.matches(": C_Login\n").count(),
                text.matches(": C_OpenSession\n").count(),
            )
        };
        assert_eventually("the key has been asked for again and again", LONG, || {
            (logins().1 >= 4).then_some(())
        });
        assert_eq!(logins().0, 1);
        let said = sidecar.health("/readyz").unwrap().1;
        assert!(
            said.contains("refused the PIN") && said.contains("not tried again"),
            "{said}"
        );
        in_world(mesh, "sh", &["-c", &format!("printf {right} > {pin}")]);
        sidecar.wait_until_ready().unwrap();
        assert_eq!(logins().0, 2);
    });
}

#[test]
fn a_missing_token_key_module_and_certificate_are_each_named_with_the_way_out() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        let cases: [(&str, &str, &[&str]); 4] = [
            (
                "token=pod;",
                "token=other;",
                &["no token matches", "\"pod\""],
            ),
            (
                "object=pod",
                "object=other",
                &["no private key matches", "\"pod\""],
            ),
            (
                "libsofthsm2.so",
                "libmissing.so",
                &["PKCS#11 module", "key.pkcs11.module"],
            ),
            ("tls.pem", "missing.pem", &["missing.pem", "identity"]),
        ];
        for (from, to, expected) in cases {
            unready(mesh, &pod, &config, &text.replace(from, to), expected);
        }
    });
}

#[test]
fn without_a_key_the_sidecar_ends_in_time_with_its_own_exit_code() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        let hurried = text.replace("token=pod;", "token=other;") + "limits: { startSeconds: 1 }\n";
        mesh.write(&config, &hurried).unwrap();
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        assert_eq!(sidecar.process.wait(SOON).unwrap().code(), Some(2));
    });
}

#[test]
fn a_bad_configuration_ends_with_its_line_and_check_says_the_same() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        mesh.write(&config, &format!("{text}\nsurprise: 1\n"))
            .unwrap();
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        assert_eq!(sidecar.process.wait(SOON).unwrap().code(), Some(1));
        assert!(
            sidecar.process.stderr().contains("surprise"),
            "{}",
            sidecar.process.stderr()
        );
        let check = pod
            .app(&mesh.programs().proxy)
            .args(["check", "--config"])
            .args([&config]);
        let checked = check.run(SOON).unwrap();
        assert_eq!(checked.code(), Some(1));
        assert!(checked.stderr.contains("line"), "{}", checked.stderr);
    });
}

#[test]
fn a_key_in_memory_is_refused_unless_this_is_development_and_shown_when_it_is() {
    in_a_mesh(|mesh| {
        let (pod, config, text) = prepared(mesh);
        let directory = mesh.world().directory().join("pod");
        let key = directory.join("key.pem").display().to_string();
        let csr = directory.join("csr.pem").display().to_string();
        let out = directory.join("tls.pem").display().to_string();
        let script = format!(
            "umask 077; openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {key} && \
             openssl req -new -key {key} -subj / -out {csr}"
        );
        let made = mesh
            .world()
            .command("sh")
            .user(PROXY_UID)
            .args(["-c", &script])
            .run(SOON)
            .unwrap();
        assert!(made.success(), "{}", made.stderr);
        let id = "spiffe://mesh.example/ns/demo/sa/pod";
        mesh.hsm(&["issue", "--csr", &csr, "--spiffe-id", id, "--out", &out])
            .unwrap();
        let (before, rest) = text.split_once("key:").unwrap();
        let after = &rest[rest.find("capture:").unwrap()..];
        let memory = format!("{before}key: {{ memory: {{ file: {key} }} }}\n{after}");
        mesh.write(&config, &memory).unwrap();
        let mut refused = mesh.start(&pod, &config).unwrap();
        assert_eq!(refused.process.wait(SOON).unwrap().code(), Some(1));
        assert!(refused.process.stderr().contains("development: true"));
        mesh.write(&config, &format!("development: true\n{memory}"))
            .unwrap();
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        sidecar.wait_until_ready().unwrap();
        assert!(sidecar.metrics().contains("sealwire_development 1"));
        assert!(sidecar.health("/healthz").unwrap().1.contains("in memory"));
    });
}

#[test]
fn a_good_change_is_in_force_at_once_and_a_bad_one_leaves_the_last_good_one() {
    with_each_home(|home| {
        let mesh = home.mesh();
        let [(from, _out), (pod, sidecar)] = home.pair();
        let config = &sidecar.config;
        let text = fs::read_to_string(config).unwrap();
        let _echo = server(&pod, 7000, "echo");
        let works = || {
            client(&from, pod.v4(), 7000, "echo")
                .run(SOON)
                .unwrap()
                .success()
        };
        assert!(works());
        // Bad: refused, said, and nothing changes.
        mesh.write(config, &text.replace("inbound:", "inbounds:"))
            .unwrap();
        assert_eventually("the bad change is said", SOON, || {
            let details = sidecar.health("/healthz")?.1;
            (details.contains("inbounds") && details.contains("last good one")).then_some(())
        });
        assert!(sidecar.is_ready() && works());
        assert!(
            sidecar
                .metrics()
                .contains("what=\"config\",outcome=\"refused\"} 1")
        );
        // Good: nobody may come in any more.
        let closed = text.replace("/**", "/nobody");
        mesh.write(config, &closed).unwrap();
        assert_eventually("the good change is in force", SOON, || {
            (!works()).then_some(())
        });
        assert!(!sidecar.health("/healthz").unwrap().1.contains("inbounds"));
        // What needs a restart is said.
        mesh.write(config, &format!("{closed}limits: {{ connections: 7 }}\n"))
            .unwrap();
        assert_eventually("what needs a restart is said", SOON, || {
            sidecar
                .health("/healthz")?
                .1
                .contains("only after a restart: limits")
                .then_some(())
        });
    });
}

#[test]
fn a_new_certificate_serves_new_links_while_old_ones_live_on() {
    with_each_home(|home| {
        let [(from, _out), (to, inn)] = home.pair();
        let _drip = server(&to, 7000, "drip");
        let _echo = server(&to, 7001, "echo");
        let mut old = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        assert_eventually("bytes flow", SOON, || {
            old.stdout().contains("reading").then_some(())
        });
        let serials = |epoch: u64| move |line: &serde_json::Value| line["epoch"] == epoch;
        let serial = home.renew(&to, &inn);
        assert_eq!(inn.admin("/certificates")["epoch"], 2);
        assert!(
            client(&from, to.v4(), 7001, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        let fresh = record(&inn, &[("outcome", "complete")]);
        assert!(serials(2)(&fresh) && fresh["serial"] == *serial, "{fresh}");
        assert!(old.is_running(), "the old link was cut: {}", old.stdout());
        let live = inn.admin("/links");
        assert!(live.as_array().unwrap().iter().any(serials(1)), "{live}");
    });
}

#[test]
fn a_bad_certificate_leaves_the_last_good_one_in_force() {
    in_a_mesh(|mesh| {
        let (pod, sidecar) = mesh.sealed_pod("pod", &Sealing::default()).unwrap();
        let tls = mesh
            .world()
            .directory()
            .join("pod/tls.pem")
            .display()
            .to_string();
        in_world(mesh, "sh", &["-c", &format!("echo nonsense > {tls}")]);
        assert_eventually("it is said", SOON, || {
            sidecar
                .health("/healthz")?
                .1
                .contains("last good one")
                .then_some(())
        });
        assert!(sidecar.is_ready());
        mesh.issue(&pod, &Sealing::default()).unwrap();
        assert_eventually("and over with a good one", SOON, || {
            (!sidecar.health("/healthz")?.1.contains("last good one")).then_some(())
        });
    });
}

#[test]
fn at_its_certificates_end_the_sidecar_is_not_ready_and_its_links_have_ended() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let short = Sealing {
            // Long enough to be ready before, on a busy machine too.
            issue: vec!["--lifetime".to_owned(), "12s".to_owned()],
            ..Sealing::default()
        };
        let (to, inn) = mesh.sealed_pod("server", &short).unwrap();
        let _drip = server(&to, 7000, "drip");
        let mut reader = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        reader
            .wait(SOON)
            .expect("the link ends with the certificate");
        assert!(
            reader.stdout().contains("ConnectionResetError"),
            "{}",
            reader.stdout()
        );
        assert_eventually(
            "the record says why, on one side or the other",
            SOON,
            || {
                let both = [out.records(), inn.records()].concat();
                both.into_iter().find(|record| record["reason"] == "expiry")
            },
        );
        assert_eventually("readiness falls", SOON, || (!inn.is_ready()).then_some(()));
        assert!(inn.health("/readyz").unwrap().1.contains("certificate"));
    });
}

#[test]
fn draining_under_load_breaks_no_exchange() {
    with_each_home(|home| {
        let [(from, _out), (to, mut inn)] = home.pair();
        let _echo = server(&to, 7000, "echo");
        let mut clients: Vec<_> = (0..8)
            .map(|_| {
                client(&from, to.v4(), 7000, "steady")
                    .args(["4"])
                    .spawn()
                    .unwrap()
            })
            .collect();
        assert_eventually("all of them exchange", SOON, || {
            inn.metrics()
                .contains("sealwire_connections_open 8")
                .then_some(())
        });
        inn.process.signal("TERM");
        assert_eventually("readiness falls first", SOON, || {
            (!inn.is_ready()).then_some(())
        });
        // Endpoints are withdrawn later than the pod is told: who still comes is served.
        assert!(
            client(&from, to.v4(), 7000, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        for client in &mut clients {
            client.wait(LONG).expect("the client ends");
            assert!(
                client.stdout().contains("none broken"),
                "{}",
                client.stdout()
            );
        }
        assert_eq!(
            inn.process
                .wait(SOON)
                .expect("it ends when all is quiet")
                .code(),
            Some(0)
        );
    });
}

#[test]
fn what_is_open_when_the_drain_time_is_over_is_reset_and_recorded() {
    with_each_home(|home| {
        let (from, _out) = home.sealed("client");
        let hurried = format!("{}\ndrain: {{ seconds: 1 }}\n", home.open_mesh());
        let (to, mut inn) = home.sealed_with("server", &hurried);
        let _drip = server(&to, 7000, "drip");
        let mut reader = client(&from, to.v4(), 7000, "until-it-ends")
            .spawn()
            .unwrap();
        assert_eventually("bytes flow", SOON, || {
            reader.stdout().contains("reading").then_some(())
        });
        inn.process.signal("TERM");
        assert_eq!(inn.process.wait(SOON).unwrap().code(), Some(0));
        reader.wait(SOON).unwrap();
        assert!(
            reader.stdout().contains("ConnectionResetError"),
            "{}",
            reader.stdout()
        );
        record(&inn, &[("outcome", "closed"), ("reason", "drain")]);
    });
}

#[test]
fn the_sidecar_is_locked_in() {
    with_each_home(|home| {
        let (_pod, sidecar) = home.sealed("server");
        let status = fs::read_to_string(format!("/proc/{}/status", sidecar.process.pid())).unwrap();
        let line = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        assert_eq!(line("CapEff:"), "0000000000000000");
        assert_eq!(line("CapBnd:"), "0000000000000000");
        assert_eq!(line("NoNewPrivs:"), "1");
        assert_eq!(line("Seccomp:"), "2");
        let details: serde_json::Value =
            serde_json::from_str(&sidecar.health("/healthz").unwrap().1).unwrap();
        for measure in ["not_dumpable", "no_new_privileges", "landlock", "seccomp"] {
            assert_eq!(details["confinement"][measure]["state"], "on", "{details}");
        }
    });
}

#[test]
fn no_pin_stands_in_any_log_argument_or_environment_even_at_trace_level() {
    in_a_mesh(|mesh| {
        let (from, out) = mesh.sealed_pod("client", &Sealing::default()).unwrap();
        let (to, inn) = mesh.sealed_pod("server", &Sealing::default()).unwrap();
        let _echo = server(&to, 7000, "echo");
        assert!(
            client(&from, to.v4(), 7000, "echo")
                .run(SOON)
                .unwrap()
                .success()
        );
        record(&inn, &[("outcome", "complete")]);
        for (sidecar, name) in [(&out, "client"), (&inn, "server")] {
            let pin = read_pin(mesh, name);
            assert!(pin.len() >= 32);
            let log = sidecar.process.stdout() + &sidecar.process.stderr();
            assert!(
                log.contains("\"level\":\"TRACE\"") || log.contains("\"level\":\"DEBUG\""),
                "not loud"
            );
            let process = format!("/proc/{}", sidecar.process.pid());
            let inside = mesh.world().command("cat");
            let seen = inside.args([format!("{process}/cmdline"), format!("{process}/environ")]);
            let seen = seen.run(SOON).unwrap().stdout;
            let said = [
                log,
                seen,
                sidecar.metrics(),
                sidecar.admin("/config").to_string(),
                sidecar.admin("/custody").to_string(),
                sidecar.health("/healthz").unwrap().1,
            ];
            for text in said {
                assert!(!text.contains(&pin), "the PIN of {name} stands in {text}");
            }
        }
    });
}

/// Runs a program whose standard output is a pipe that nobody reads.
const UNREAD: &str = "
import os, sys
reads, writes = os.pipe()
os.dup2(writes, 1)
os.set_inheritable(reads, True)
os.execv(sys.argv[1], sys.argv[1:])";

#[test]
fn a_log_that_nobody_reads_holds_nothing_up_and_what_is_lost_of_it_is_counted() {
    in_a_mesh(|mesh| {
        let (to, _inn) = mesh.sealed_pod("to", &Sealing::default()).unwrap();
        let _echo = server(&to, 7000, "echo");
        let (pod, config, _) = prepared(mesh);
        let command = pod
            .command("/usr/bin/python3")
            .user(PROXY_UID)
            .env("SOFTHSM2_CONF", mesh.hsm_directory().join("softhsm2.conf"))
            .args(["-c", UNREAD])
            .args([&mesh.programs().proxy])
            .args(["run", "--config"])
            .args([&config]);
        let mut stuck = mesh.start_with(&pod, &config, command).unwrap();
        stuck.wait_until_ready().unwrap();
        let answer = client(&pod, to.v4(), 7000, "many").run(LONG).unwrap();
        assert_eq!(answer.stdout.trim(), "1000 of 1000");
        assert_eventually("lines are lost", SOON, || {
            let metrics = stuck.metrics();
            let name = "sealwire_log_lines_lost_total ";
            let lost = metrics.lines().find_map(|line| line.strip_prefix(name));
            lost.is_some_and(|lost| lost != "0").then_some(())
        });
        assert!(stuck.is_ready());
        stuck.process.signal("TERM");
        assert!(stuck.process.wait(SOON).unwrap().success(), "it ends");
    });
}
