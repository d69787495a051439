//! Something before the server, which answers in its place or holds a request up.

use std::cell::Cell;
use std::path::PathBuf;

use sealwire_pods::{Pod, Process};

use super::*;

/// Something before the server.
pub(super) struct Front<'a> {
    pub(super) vaulted: &'a Vaulted<'a>,
    mode: PathBuf,
    process: Process,
    holds: Cell<u32>,
}

/// When a request is held up.
#[derive(Copy, Clone, Debug, Eq, PartialEq)]
pub(super) enum When {
    /// Before the server has it.
    Before,
    /// After the server has done it: the answer alone is lost.
    After,
}

impl<'a> Front<'a> {
    pub(super) fn before(vaulted: &'a Vaulted<'a>) -> Self {
        let world = vaulted.mesh.world();
        let mode = world.directory().join("mode");
        vaulted.mesh.write(&mode, "ok").unwrap();
        let address = vaulted.bao.address();
        let faulty = include_str!("../../../crates/keys/tests/openbao/faulty.py");
        let process = world
            .command("/usr/bin/python3")
            .args(["-c", faulty, address.trim_start_matches("https://")])
            .args([
                vaulted.bao.ca(),
                vaulted.bao.ca().with_file_name("server.key"),
                mode.clone(),
            ])
            .args(["198.18.255.1"])
            .spawn()
            .unwrap();
        Self {
            vaulted,
            mode,
            process,
            holds: Cell::new(0),
        }
    }

    /// Answers signatures so, of keys and of certificates; `ok` lets all pass.
    pub(super) fn answers(&self, mode: &str) {
        self.vaulted.mesh.write(&self.mode, mode).unwrap();
    }

    /// Holds the `number`th request from now on with this in its path.
    pub(super) fn hold(&self, when: When, part: &str, number: u32) {
        self.holds.set(self.holds.get() + 1);
        let when = match when {
            When::Before => "before",
            When::After => "after",
        };
        let id = self.holds.get();
        self.answers(&format!("hold {when} {part} {number} {id}"));
    }

    pub(super) fn wait_until_it_holds(&self) {
        let held = format!("held {}", self.holds.get());
        assert_eventually(&held, LONG, || {
            let said = self.process.stdout();
            said.lines().any(|line| line == held).then_some(())
        });
    }

    /// The configuration of a pod whose sidecar knows the server by this alone.
    pub(super) fn config(&self, pod: &Pod, workload: &str, key: KeyFrom) -> String {
        let port = assert_eventually("it listens", SOON, || {
            self.process.stdout().lines().next()?.parse::<u16>().ok()
        });
        let text = self.vaulted.config(pod, workload, key);
        let own = format!("https://198.18.255.1:{port}");
        text.replace(&self.vaulted.bao.address(), &own)
    }

    /// A pod with such a sidecar, whose configuration is changed before it starts.
    pub(super) fn sealed_pod(
        &self,
        name: &str,
        key: KeyFrom,
        changed: impl Fn(String) -> String,
    ) -> (Pod, Sidecar) {
        let mesh = self.vaulted.mesh;
        let pod = mesh.world().pod(name).unwrap();
        let config = self.vaulted.prepare(&pod, name, key).unwrap();
        let text = changed(self.config(&pod, name, key));
        mesh.write(&config, &text).unwrap();
        mesh.capture(&pod, &config).unwrap();
        let mut sidecar = mesh.start(&pod, &config).unwrap();
        sidecar.wait_until_ready().unwrap();
        (pod, sidecar)
    }
}
