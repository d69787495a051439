//! What the tests across processes share: the privileges to run under, applications, and peers
//! with certificates of the test's own making.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests fail loudly"
)]

pub mod cluster;
pub mod load;
pub mod names;
pub mod peers;
mod warnings;

use std::time::{Duration, Instant};

use sealwire_pods::{
    Finished, KeyFrom, Mesh, OPEN_MESH, OPEN_SERVICES, Pod, PodCommand, Privilege, Process,
    Programs, Sealing, Sidecar, Storage, Vaulted, assert_eventually,
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

/// Where a mesh has its keys and certificates from.
#[derive(Debug)]
pub enum Home<'a> {
    /// Keys in PKCS#11 tokens, certificates in files.
    Tokens(&'a Mesh),
    /// Keys in OpenBao's transit mount, certificates from its PKI mount, for the workloads
    /// `client`, `server` and `other`.
    Vault(Box<Vaulted<'a>>),
}

impl Home<'_> {
    /// The mesh.
    pub fn mesh(&self) -> &Mesh {
        match self {
            Self::Tokens(mesh) => mesh,
            Self::Vault(vaulted) => vaulted.mesh,
        }
    }

    /// Two sealed pods, `client` and `server`.
    pub fn pair(&self) -> [(Pod, Sidecar); 2] {
        ["client", "server"].map(|name| self.sealed(name))
    }

    /// One of them.
    pub fn sealed(&self, name: &str) -> (Pod, Sidecar) {
        self.sealed_with(name, self.open_mesh())
    }

    /// The same, with these sections `mesh`, `inbound` and what else differs, as YAML.
    pub fn sealed_with(&self, name: &str, sections: &str) -> (Pod, Sidecar) {
        match self {
            Self::Tokens(mesh) => {
                let sealing = Sealing {
                    sections: sections.to_owned(),
                    ..Sealing::default()
                };
                mesh.sealed_pod(name, &sealing)
            }
            Self::Vault(vaulted) => vaulted.sealed_pod_with(name, KeyFrom::Transit, sections),
        }
        .expect("a pod can be sealed")
    }

    /// Sections by which everything of the mesh may connect.
    pub fn open_mesh(&self) -> &'static str {
        match self {
            Self::Tokens(_) => OPEN_MESH,
            Self::Vault(_) => OPEN_SERVICES,
        }
    }

    /// Has a pod's certificate issued anew, and gives its serial number once it is in force.
    pub fn renew(&self, pod: &Pod, sidecar: &Sidecar) -> String {
        let serial = || {
            let own = sidecar.admin("/certificates")["own"]["serial"].clone();
            own.as_str().map(str::to_owned)
        };
        let before = serial();
        match self {
            Self::Tokens(mesh) => drop(mesh.issue(pod, &Sealing::default()).expect("it is issued")),
            Self::Vault(_) => {
                let asked = curl(pod, &["-fX", "POST", "http://127.0.0.1:15000/renew"]);
                assert!(asked.success(), "{}", asked.stderr);
            }
        }
        assert_eventually("the new certificate is in force", SOON, || {
            serial().filter(|now| before.as_ref() != Some(now))
        })
    }

    /// Lets peers of the test's own in that have certificates of the mesh's CA
    /// ([`peers::of_the_mesh`]), and lets them know whom to trust.
    pub fn trust_peers(&self) {
        let Self::Vault(vaulted) = self else { return };
        let mesh = vaulted.mesh;
        let ca = mesh.hsm_directory().join("ca.pem");
        let ca = mesh.world().command("cat").args([ca]).run(SOON).unwrap();
        let imported = serde_json::json!({ "pem_bundle": ca.stdout });
        let bao = &vaulted.bao;
        bao.write("pki/issuers/import/cert", &imported).unwrap();
        let own = bao.read("pki/cert/ca").unwrap();
        let own = own["data"]["certificate"].as_str().unwrap().to_owned();
        for name in ["client", "server"] {
            let directory = mesh.world().directory().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            let bundle = directory.join("bundle.pem");
            mesh.write(&bundle, &format!("{own}\n{}", ca.stdout))
                .unwrap();
        }
    }

    /// The SPIFFE ID of one of them.
    pub fn id(&self, name: &str) -> String {
        match self {
            Self::Tokens(_) => format!("spiffe://mesh.example/ns/demo/sa/{name}"),
            Self::Vault(_) => format!("spiffe://mesh.example/workload/{name}"),
        }
    }

    /// The reference of the key of one of them.
    pub fn key(&self, name: &str) -> String {
        match self {
            Self::Tokens(_) => format!("pkcs11:token={name};object={name}"),
            Self::Vault(_) => format!("vault-transit:transit/{name}?version=1"),
        }
    }
}

/// Runs a test in a new mesh for each home that keys can have.
pub fn with_each_home(test: impl Fn(&Home<'_>)) {
    in_a_mesh(|mesh| test(&Home::Tokens(mesh)));
    in_a_mesh(|mesh| test(&in_vault(mesh)));
}

/// The same with every privilege that this process has, as root and without.
pub fn with_each_home_and_privilege(test: impl Fn(&Home<'_>)) {
    with_each_privilege(|mesh| test(&Home::Tokens(mesh)));
    with_each_privilege(|mesh| test(&in_vault(mesh)));
}

fn in_vault(mesh: &Mesh) -> Home<'_> {
    let workloads = ["client", "server", "other"];
    let vaulted = Vaulted::new(mesh, Storage::Memory, "1h", &workloads);
    Home::Vault(Box::new(vaulted.expect("OpenBao can be set up")))
}

/// Runs a test in a new mesh without any privilege outside of it.
pub fn in_a_mesh(test: impl Fn(&Mesh)) {
    in_a_mesh_with(Privilege::UserNamespace, test);
}

/// Every sidecar logs all that it can, and afterwards no secret may stand in anything that any
/// process of the test has written: no PIN, nothing that somebody logs in to Vault with, no token of
/// Vault and no JWT.
fn in_a_mesh_with(privilege: Privilege, test: impl Fn(&Mesh)) {
    let own = std::env::current_exe().expect("this program has a path");
    let programs = Programs::beside(&own).expect("the programs are built");
    let mut mesh = Mesh::new(privilege, &programs).expect("a mesh can be made");
    mesh.log_at("trace");
    let told = warnings::told_on_failure(&mesh.world().output());
    test(&mesh);
    drop(told);
    let script = format!(
        "export LC_ALL=C
        cd {}
        for secret in {}/pins/* {}/*; do
            [ ! -s $secret ] || ! grep -rlFf $secret . || echo $secret
        done
        ! grep -raoE '\\b((hv)?s\\.[A-Za-z0-9]{{20,}}|eyJ[A-Za-z0-9_-]{{20,}}\\.)' . || echo tokens",
        mesh.world().output().display(),
        mesh.hsm_directory().display(),
        mesh.secrets_directory().display(),
    );
    let found = mesh
        .world()
        .command("sh")
        .args(["-c", &script])
        .run(SOON)
        .unwrap();
    assert_eq!(found.stdout, "", "a secret stands in an output");
    assert!(found.success(), "{}", found.stderr);
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

/// Leaves twelve ports that connections of a pod may come from.
pub fn narrow_ports(pod: &Pod) {
    let few = ["-qw", "net.ipv4.ip_local_port_range=40000 40011"];
    let narrowed = pod.command("sysctl").args(few).run(SOON).unwrap();
    assert!(narrowed.success(), "{}", narrowed.stderr);
}

/// Has an application hold connections to another pod from every port that [`narrow_ports`] leaves,
/// each from some ports to many places. The kernel gives what it redirects another port where two
/// connections would have the same.
pub fn hold_all_ports(from: &Pod, to: &Pod) -> [Process; 2] {
    let run = |pod: &Pod, address: &str| {
        let program = include_str!("programs/ports.py");
        let python = pod.app(PYTHON).args(["-c", program, address]);
        let process = python.spawn().expect("python3 starts");
        let said = assert_eventually("it says something", SOON, || {
            let said = process.stdout() + &process.stderr();
            (!said.is_empty()).then_some(said)
        });
        (process, said)
    };
    let (server, said) = run(to, "serve");
    assert_eq!(said, "listening\n");
    let (client, said) = run(from, &to.v4().to_string());
    assert_eq!(said, "missing []\n");
    [server, client]
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
pub fn record(sidecar: &Sidecar, wanted: &[(&str, &str)]) -> Value {
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
