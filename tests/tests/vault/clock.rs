//! A sidecar whose clock is wrong: it says so, and all is well again once the clock is right.

use std::path::{Path, PathBuf};

use sealwire_pods::Pod;

use super::*;

/// Where libfaketime is usually installed. It stands before the C library of one process.
const FAKETIME: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
];

/// A sidecar whose clock goes by what a file says, such as `+2h`.
struct Skewed<'a> {
    mesh: &'a Mesh,
    clock: PathBuf,
    config: PathBuf,
    pod: Pod,
}

impl<'a> Skewed<'a> {
    fn prepare(vaulted: &Vaulted<'a>, name: &str) -> Self {
        let mesh = vaulted.mesh;
        let pod = mesh.world().pod(name).unwrap();
        let config = vaulted.prepare(&pod, name, KeyFrom::Transit).unwrap();
        let directory = config.parent().unwrap();
        let text = vaulted.config(&pod, name, KeyFrom::Transit);
        let read = format!("confinement: {{ read: [{}] }}\n", directory.display());
        mesh.write(&config, &(text + &read)).unwrap();
        mesh.capture(&pod, &config).unwrap();
        Self {
            mesh,
            clock: directory.join("clock"),
            config,
            pod,
        }
    }

    fn is(&self, skew: &str) {
        self.mesh.write(&self.clock, skew).unwrap();
    }

    fn start(&self) -> Sidecar {
        let faketime = FAKETIME.into_iter().find(|path| Path::new(path).exists());
        let faketime = faketime.expect("libfaketime is installed: run `scripts/setup test`");
        // By `env`, so that what leads into the pod keeps its own clock.
        let command = self
            .pod
            .command("env")
            .user(PROXY_UID)
            .args([
                &format!("LD_PRELOAD={faketime}"),
                &format!("FAKETIME_TIMESTAMP_FILE={}", self.clock.display()),
                "FAKETIME_CACHE_DURATION=1",
                "FAKETIME_DONT_FAKE_MONOTONIC=1",
                "FAKETIME_DISABLE_SHM=1",
            ])
            .args([&self.mesh.programs().proxy])
            .args(["run", "--config"])
            .args([&self.config]);
        self.mesh
            .start_with(&self.pod, &self.config, command)
            .unwrap()
    }
}

/// Waits until the sidecar is not ready, and says why.
fn is_named(sidecar: &Sidecar, said: &str) {
    let mut last = String::new();
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        if let Some((503, text)) = sidecar.health("/readyz") {
            if text.contains(said) {
                return;
            }
            last = text;
        }
    }
    let errors = sidecar.process.stderr();
    panic!("not named: {last} {errors}");
}

fn is_ready(sidecar: &Sidecar) {
    assert_eventually("it is ready", LONG, || sidecar.is_ready().then_some(()));
}

#[test]
fn a_clock_that_goes_wrong_is_named_and_all_recovers_once_it_is_right() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        let web = Skewed::prepare(&vaulted, "web");
        web.is("+0");
        let sidecar = web.start();
        is_ready(&sidecar);
        for (skew, said) in [("+2h", "expired"), ("-2h", "begins at")] {
            web.is(skew);
            is_named(&sidecar, said);
            web.is("+0");
            is_ready(&sidecar);
        }
    });
}

#[test]
fn a_sidecar_that_starts_with_a_wrong_clock_says_so_and_begins_once_it_is_right() {
    in_a_mesh(|mesh| {
        let vaulted = vaulted(mesh, "1h");
        for (name, skew, said) in [
            // The server answers, and what it issues is over already.
            ("web", "+2h", "certificate expired"),
            // The server's own certificate has not begun.
            ("api", "-2h", "not valid yet"),
        ] {
            let pod = Skewed::prepare(&vaulted, name);
            pod.is(skew);
            let sidecar = pod.start();
            is_named(&sidecar, said);
            pod.is("+0");
            is_ready(&sidecar);
        }
    });
}
