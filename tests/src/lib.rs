//! What the tests across processes share: the privileges to run under, applications, and peers
//! with certificates of the test's own making.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

pub mod load;
pub mod peers;

use std::time::{Duration, Instant};

use sealwire_pods::{
    Finished, Mesh, Pod, PodCommand, Privilege, Process, Programs, assert_eventually,
};
use serde_json::Value;

/// How long something may take that happens at once, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// How long something may take that moves much.
pub const LONG: Duration = Duration::from_secs(120);

/// Debian's own, which every user can reach.
const PYTHON: &str = "/usr/bin/python3";

/// Runs a test in a new mesh with every privilege that this process has: as root and without.
pub fn with_each_privilege(test: impl Fn(&Mesh)) {
    for privilege in Privilege::available() {
        in_a_mesh_with(privilege, &test);
    }
}

/// Runs a test in a new mesh without any privilege outside of it.
pub fn in_a_mesh(test: impl Fn(&Mesh)) {
    in_a_mesh_with(Privilege::UserNamespace, test);
}

/// Every sidecar logs all that it can, and afterwards no PIN may stand in anything that any
/// process of the test has written.
fn in_a_mesh_with(privilege: Privilege, test: impl Fn(&Mesh)) {
    let own = std::env::current_exe().expect("this program has a path");
    let programs = Programs::beside(&own).expect("the programs are built");
    let mut mesh = Mesh::new(privilege, &programs).expect("a mesh can be made");
    mesh.log_at("trace");
    test(&mesh);
    let script = format!(
        "cd {}; for pin in {}/pins/*; do grep -rlFf $pin . && echo $pin; done; true",
        mesh.world().output().display(),
        mesh.hsm_directory().display()
    );
    let found = mesh
        .world()
        .command("sh")
        .args(["-c", &script])
        .run(SOON)
        .unwrap();
    assert_eq!(found.stdout, "", "a PIN stands in an output");
}

/// The PIN of a token.
pub fn pin(mesh: &Mesh, token: &str) -> String {
    let readable = mesh.world().directory().join(format!("{token}.pin"));
    let copied = mesh
        .world()
        .command("install")
        .args(["-m", "0644"])
        .args([&mesh.hsm_directory().join("pins").join(token), &readable])
        .run(SOON)
        .unwrap();
    assert!(copied.success(), "{}", copied.stderr);
    std::fs::read_to_string(readable).unwrap()
}

/// Starts one of the applications of `programs/server.py` and waits until it listens.
pub fn server(pod: &Pod, port: u16, mode: &str) -> Process {
    server_on(pod, "::", port, mode)
}

/// The same, on one address.
pub fn server_on(pod: &Pod, host: &str, port: u16, mode: &str) -> Process {
    let server = pod
        .app(PYTHON)
        .args([
            "-c",
            include_str!("programs/server.py"),
            &port.to_string(),
            mode,
            host,
        ])
        .spawn()
        .expect("python3 starts");
    assert_eventually("the server listens", SOON, || {
        pod.listens(port).then_some(())
    });
    server
}

/// A client of `programs/client.py`.
pub fn client(pod: &Pod, address: impl ToString, port: u16, mode: &str) -> PodCommand {
    pod.app(PYTHON).args([
        "-c",
        include_str!("programs/client.py"),
        &address.to_string(),
        &port.to_string(),
        mode,
    ])
}

/// Runs Python in a pod as an application does.
pub fn python(pod: &Pod, script: &str) -> Finished {
    pod.app(PYTHON)
        .args(["-c", script])
        .run(SOON)
        .expect("python3 ends")
}

/// Fetches a page and gives what came.
pub fn curl(pod: &Pod, arguments: &[&str]) -> Finished {
    pod.app("curl")
        .args(["-sS", "-m", "10"])
        .args(arguments.iter().copied())
        .run(SOON)
        .expect("curl ends")
}

/// Waits for a record that has these values.
pub fn record(sidecar: &sealwire_pods::Sidecar, wanted: &[(&str, &str)]) -> Value {
    let found = || {
        let records = sidecar.records().into_iter();
        let mut matching =
            records.filter(|record| wanted.iter().all(|(name, value)| record[*name] == *value));
        matching.next()
    };
    let deadline = Instant::now() + SOON;
    loop {
        match found() {
            Some(record) => return record,
            None => assert!(
                Instant::now() < deadline,
                "no record with {wanted:?} among {:#?}",
                sidecar.records()
            ),
        }
    }
}
