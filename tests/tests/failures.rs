//! What users' proxies died of, injected under load in both roles: each row of the table in
//! `docs/hsm.md`, with the device failing under the side that dials and under the side that is
//! dialled. What is sealed goes on, what is new is served or refused in time, and when the device
//! is well again so is the sidecar, without anybody's help.
//!
//! `scripts/failures` runs this and writes the figures into `docs/hsm.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail loudly, and these print what they measured"
)]

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sealwire_pods::{Mesh, OPEN_MESH, Pod, Sealing, Sidecar, assert_eventually};
use sealwire_tests::load::{Load, now, tool};
use sealwire_tests::{LONG, SOON, in_a_mesh, pin};
use serde_json::Value;

/// A pod whose key is behind a device, with a load on it or from it.
struct Failing<'a> {
    mesh: &'a Mesh,
    pod: Pod,
    sidecar: Sidecar,
    pid: u32,
}

/// Every connection is a full handshake then: two signatures, one a side.
const NO_RESUMPTION: &str = "  resumption: { enabled: false }\n";

/// Seconds in which a link is sealed or refused.
const DEADLINE: u32 = 2;

/// A row of the table.
struct Row {
    /// What happens to the device.
    what: &'static str,
    /// What is done to it, `hsm-sim ctl` as in a shell; again and again where it passes by itself.
    inject: &'static [&'static str],
    again: bool,
    /// What ends it, where it does not pass by itself.
    heal: &'static [&'static str],
    /// Whether new connections can be expected to be refused meanwhile.
    refuses: bool,
}

const ROWS: &[Row] = &[
    Row {
        what: "restarts; old sessions answer CKR_DEVICE_ERROR, then CKR_SESSION_HANDLE_INVALID",
        inject: &["restart --first CKR_DEVICE_ERROR"],
        again: true,
        heal: &[],
        refuses: false,
    },
    Row {
        what: "forgets logins; every handle of the key is invalid",
        inject: &["log-out"],
        again: true,
        heal: &[],
        refuses: false,
    },
    Row {
        what: "fails one signature in ten (CKR_FUNCTION_FAILED)",
        inject: &["fault C_Sign CKR_FUNCTION_FAILED --probability 0.1"],
        again: false,
        heal: &["clear"],
        refuses: false,
    },
    Row {
        what: "says that another operation is active, one time in ten",
        inject: &["fault C_SignInit CKR_OPERATION_ACTIVE --probability 0.1"],
        again: false,
        heal: &["clear"],
        refuses: false,
    },
    Row {
        what: "its module is broken until initialised anew (CKR_GENERAL_ERROR)",
        inject: &["break-until-reinit"],
        again: false,
        heal: &[],
        refuses: false,
    },
    Row {
        what: "its token shows only after initialising anew",
        inject: &["hide-until-reinit", "restart"],
        again: false,
        heal: &[],
        refuses: false,
    },
    Row {
        what: "gives out 2 sessions where it said nothing of a limit",
        inject: &["sessions --max 2 --shown unavailable", "restart"],
        again: false,
        heal: &["sessions --shown forwarded"],
        refuses: false,
    },
    Row {
        what: "refuses sessions with CKR_ARGUMENTS_BAD, its limit \"infinite\"",
        inject: &[
            "sessions --max 2 --full CKR_ARGUMENTS_BAD --shown infinite",
            "restart",
        ],
        again: false,
        heal: &["sessions --shown forwarded"],
        refuses: false,
    },
    Row {
        what: "closes sessions that are idle for 50 ms",
        inject: &["sessions --idle 50ms"],
        again: false,
        heal: &["sessions --shown forwarded"],
        refuses: false,
    },
    Row {
        what: "takes 200 ms a signature",
        inject: &["latency --fixed 200ms"],
        again: false,
        heal: &["latency --off"],
        refuses: false,
    },
    Row {
        what: "is frozen",
        inject: &["freeze"],
        again: false,
        heal: &["thaw"],
        refuses: true,
    },
    Row {
        what: "is removed, and put back",
        inject: &["remove"],
        again: false,
        heal: &["insert"],
        refuses: true,
    },
    Row {
        what: "fails altogether (CKR_DEVICE_ERROR)",
        inject: &["fault C_OpenSession C_SignInit C_Sign CKR_DEVICE_ERROR"],
        again: false,
        heal: &["clear"],
        refuses: true,
    },
];

impl<'a> Failing<'a> {
    fn new(mesh: &'a Mesh, name: &str, identity: &str) -> Self {
        let sealing = Sealing {
            device: Some("soft".to_owned()),
            identity: identity.to_owned(),
            key: "    waitSeconds: 1\n".to_owned(),
            sections: format!("{OPEN_MESH}\nlimits: {{ handshakeSeconds: {DEADLINE} }}\n"),
            ..Sealing::default()
        };
        let (pod, sidecar) = mesh.sealed_pod(name, &sealing).unwrap();
        Self {
            mesh,
            pid: sidecar.process.pid(),
            pod,
            sidecar,
        }
    }

    fn device(&self, commands: &[&str]) -> Value {
        let mut answer = Value::Null;
        for command in commands {
            let arguments: Vec<_> = command.split(' ').collect();
            answer = self.mesh.device(&self.pod, &arguments).unwrap();
        }
        answer
    }

    fn key_state(&self) -> String {
        let health = self.sidecar.health("/healthz").map(|(_, body)| body);
        let health: Value = serde_json::from_str(&health.unwrap_or_default()).unwrap_or_default();
        health["health"]["key"]["state"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn metric(&self, name: &str) -> f64 {
        let metrics = self.sidecar.metrics();
        let line = metrics.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .unwrap_or_default()
    }

    /// How often it has logged this.
    fn said(&self, message: &str) -> usize {
        let log = self.sidecar.log();
        let lines = log.iter();
        lines
            .filter(|line| line["fields"]["message"] == message || line["message"] == message)
            .count()
    }

    /// The same process, nothing broken in it, and no session open but those it knows of.
    fn is_sound(&mut self) {
        assert!(self.sidecar.process.is_running());
        assert_eq!(self.sidecar.process.pid(), self.pid);
        assert!(!self.sidecar.process.stderr().contains("panicked"));
        let counted = self.device(&["counters"]);
        assert_eq!(
            counted["violations"].as_object().map(serde_json::Map::len),
            Some(0),
            "{counted}"
        );
        assert_eventually("no session is leaked", SOON, || {
            let known = self.metric("sealwire_key_sessions{state=\"busy\"}")
                + self.metric("sealwire_key_sessions{state=\"idle\"}");
            (self.sessions_in_the_log() == known).then_some(())
        });
    }

    /// Sessions that were opened and not given up again, as the module has logged it.
    fn sessions_in_the_log(&self) -> f64 {
        let log = self
            .mesh
            .device_directory(&self.pod)
            .join("operations.jsonl");
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let mut open = 0;
        for line in text.lines() {
            let operation: Value = serde_json::from_str(line).unwrap_or_default();
            match (operation["function"].as_str(), operation["rv"].as_str()) {
                (Some("C_OpenSession"), Some("CKR_OK")) => open += 1,
                (Some("C_CloseSession"), _) => open -= 1,
                (Some("C_Finalize"), Some("CKR_OK")) => open = 0,
                _ => {}
            }
        }
        f64::from(open)
    }
}

fn head() {
    println!(
        "FAILURES | what the device does | under the side that | open links, of before | new links | recovered after |"
    );
    println!("FAILURES |---|---|---|---|---|");
}

/// Lets a row happen to one of two pods under load, and prints what came of it.
fn inject(row: &Row, load: &Load, failing: &mut Failing<'_>, role: &str) {
    let before = load.watch(Duration::from_millis(1500));
    assert_eq!(before.refused, 0, "{}: before anything happened", row.what);
    let from = now();
    let fault = Duration::from_millis(if row.refuses { 3500 } else { 2000 });
    if row.again {
        for _ in 0..4 {
            failing.device(row.inject);
            load.watch(fault / 4);
        }
    } else {
        failing.device(row.inject);
        load.watch(fault);
    }
    let during = load.since(from);
    if row.refuses {
        assert_eq!(failing.key_state(), "degraded", "{}", row.what);
        assert_eq!(
            failing.metric("sealwire_key_health{state=\"degraded\"}"),
            1.0
        );
        // Twice, since both sides have a deadline, one after the other.
        assert!(during.longest < f64::from(2 * DEADLINE), "{during:?}");
        assert!(during.refused > 0, "{during:?}");
    }
    failing.device(row.heal);
    let healed = now();
    let recovered = load.serves_since(healed);
    assert_eventually("the key is well again", LONG, || {
        (failing.key_state() == "ready").then_some(())
    });
    if row.refuses {
        // One line a transition, and no more.
        assert_eq!(failing.said("the key does not sign now"), 1, "{}", row.what);
        assert_eq!(failing.said("the key signs again"), 1, "{}", row.what);
    }
    let after = load.watch(Duration::from_millis(500));
    assert_eq!(after.broken, 0, "{}: an open link broke", row.what);
    failing.is_sound();
    println!(
        "FAILURES | {} | {role} | {:.2} | {} served, {} refused, {:.2} s at the longest | {recovered:.2} s |",
        row.what,
        during.exchanges / before.exchanges,
        during.served,
        during.refused,
        during.longest,
    );
    assert!(
        row.refuses || during.served > 0,
        "{}: nobody was served meanwhile",
        row.what
    );
}

#[test]
fn a_failing_device_costs_no_open_link_and_is_recovered_from_without_help_in_both_roles() {
    in_a_mesh(|mesh| {
        head();
        for (number, row) in ROWS.iter().enumerate() {
            let pod = |name: &str| Failing::new(mesh, &format!("{name}{number}"), NO_RESUMPTION);
            let (mut dials, mut dialled) = (pod("dials"), pod("dialled"));
            let load = Load::start(mesh, &dials.pod, &dialled.pod, 20);
            inject(row, &load, &mut dials, "dials");
            inject(row, &load, &mut dialled, "is dialled");
        }
    });
}

#[test]
fn a_frozen_device_leaves_resumptions_and_open_links_as_they_are() {
    in_a_mesh(|mesh| {
        let pod = |name: &str| Failing::new(mesh, name, "");
        let (mut dials, mut dialled) = (pod("dials"), pod("dialled"));
        let load = Load::start(mesh, &dials.pod, &dialled.pod, 20);
        let before = load.watch(Duration::from_secs(1));
        for failing in [&dials, &dialled] {
            failing.device(&["freeze"]);
        }
        let during = load.watch(Duration::from_secs(3));
        assert_eq!((during.refused, during.broken), (0, 0), "{during:?}");
        assert!(during.served > before.served, "{during:?}");
        let ready = |failing: &Failing<'_>| failing.sidecar.is_ready();
        assert!(ready(&dials) && ready(&dialled));
        for failing in [&dials, &dialled] {
            failing.device(&["thaw"]);
        }
        dials.is_sound();
        dialled.is_sound();
    });
}

#[test]
fn a_full_handshake_costs_two_signatures_and_a_resumed_one_none() {
    in_a_mesh(|mesh| {
        for (identity, each) in [(NO_RESUMPTION, 1), ("", 0)] {
            let pod = |name: &str| Failing::new(mesh, &format!("{name}{each}"), identity);
            let (dials, dialled) = (pod("dials"), pod("dialled"));
            let serving = dialled.pod.app(tool(mesh)).args(["serve", "7000"]).spawn();
            let _serving = serving.unwrap();
            assert_eventually("the server listens", SOON, || {
                dialled.pod.listens(7000).then_some(())
            });
            let dial = |count: &str| {
                let burst = dials
                    .pod
                    .app(tool(mesh))
                    .args([
                        "burst",
                        &dialled.pod.v4().to_string(),
                        "7000",
                        "--count",
                        count,
                    ])
                    .run(LONG)
                    .unwrap();
                assert!(burst.stdout.contains("\"failed\":0"), "{}", burst.stdout);
            };
            // The first is a full handshake in any case.
            dial("1");
            let signatures = || {
                [&dials, &dialled].map(|failing| {
                    failing.device(&["counters"])["signatures"]
                        .as_u64()
                        .unwrap()
                })
            };
            let before = signatures();
            for _ in 0..20 {
                dial("1");
            }
            let after = signatures();
            assert_eq!(
                [after[0] - before[0], after[1] - before[1]],
                [20 * each, 20 * each]
            );
        }
    });
}

#[test]
fn a_wrong_pin_costs_one_try_over_ten_changes_of_the_configuration_and_ten_restarts() {
    in_a_mesh(|mesh| {
        let state = mesh.world().directory().join("state");
        std::fs::create_dir(&state).unwrap();
        std::fs::set_permissions(&state, PermissionsExt::from_mode(0o777)).unwrap();
        let sealing = Sealing {
            device: Some("soft".to_owned()),
            key: format!("    state: {}\n", state.display()),
            ..Sealing::default()
        };
        let pod = mesh.world().pod("pod").unwrap();
        let config = mesh.prepare(&pod, &sealing).unwrap();
        mesh.capture(&pod, &config).unwrap();
        mesh.device(&pod, &["pin", "pod", "--tries", "5"]).unwrap();
        let left = || mesh.device(&pod, &["pin", "pod"]).unwrap()["left"].clone();
        let right = pin(mesh, "pod");
        write_pin(mesh, "000000");
        let refused = |sidecar: &Sidecar| {
            assert_eventually("the PIN is refused", SOON, || {
                let (_, body) = sidecar.health("/readyz")?;
                body.contains("refused the PIN").then_some(())
            });
        };
        let text = mesh.config(&pod, &sealing);
        for _ in 0..10 {
            let sidecar = mesh.start(&pod, &config).unwrap();
            refused(&sidecar);
        }
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        for number in 0..10 {
            mesh.write(&config, &format!("{text}\n# {number}\n"))
                .unwrap();
            refused(&sidecar);
        }
        assert_eq!(left(), 4);
        write_pin(mesh, &right);
        sidecar.wait_until_ready().unwrap();
        assert_eq!(left(), 5);
    });
}

fn write_pin(mesh: &Mesh, pin: &str) {
    let file = mesh.hsm_directory().join("pins/pod");
    let script = format!("printf {pin} > {}", file.display());
    let written = mesh.world().command("sh").args(["-c", &script]).run(SOON);
    assert!(written.unwrap().success());
}
