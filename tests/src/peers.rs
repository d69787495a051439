//! Peers that are not ours: `openssl` with keys in files and certificates as the test wants them.

use std::path::{Path, PathBuf};

use sealwire_pods::{Mesh, PROXY_UID, Pod, PodCommand};

use crate::SOON;

/// A certificate and its key, in files that every user of the world can read.
#[derive(Clone, Debug)]
pub struct Peer {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// A peer with a certificate of the mesh's CA; `arguments` for `hsm-sim issue`.
pub fn of_the_mesh(mesh: &Mesh, name: &str, arguments: &[&str]) -> Peer {
    let peer = fresh(mesh, name);
    let directory = mesh.world().directory().join("peers").join(name);
    let request = directory.join("request.pem");
    openssl(
        mesh,
        &format!(
            "req -new -key {} -subj / -out {}",
            peer.key.display(),
            request.display()
        ),
    );
    let (out, csr) = (
        peer.certificate.display().to_string(),
        request.display().to_string(),
    );
    let issue = ["issue", "--csr", &csr, "--out", &out];
    expect(mesh.hsm(&[&issue, arguments].concat()));
    peer
}

/// A peer with a certificate that another CA of the same name issued.
pub fn of_another_ca(mesh: &Mesh, name: &str, spiffe_id: &str, address: &str) -> Peer {
    let peer = fresh(mesh, name);
    let directory = mesh.world().directory().join("peers").join(name);
    let (ca, ca_key) = (directory.join("ca.pem"), directory.join("ca-key.pem"));
    openssl(
        mesh,
        &format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 2 -subj /CN=mesh.example%20CA \
             -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign -keyout {} -out {}",
            ca_key.display(),
            ca.display()
        ),
    );
    openssl(
        mesh,
        &format!(
            "req -x509 -new -key {} -CA {} -CAkey {} -days 1 -subj /CN=x -addext basicConstraints=critical,CA:FALSE \
             -addext keyUsage=critical,digitalSignature -addext subjectAltName=URI:{spiffe_id},IP:{address} -out {}",
            peer.key.display(),
            ca.display(),
            ca_key.display(),
            peer.certificate.display()
        ),
    );
    peer
}

/// `openssl s_client` in a pod, connecting to `address` (with brackets for IPv6).
pub fn s_client(mesh: &Mesh, pod: &Pod, address: &str, peer: Option<&Peer>) -> PodCommand {
    let command = pod
        .app("openssl")
        .args(["s_client", "-connect", address, "-CAfile"]);
    let command = command
        .args([mesh.world().directory().join("server/bundle.pem")])
        .args(["-verify_return_error", "-quiet"]);
    match peer {
        Some(peer) => command.args([
            Path::new("-cert"),
            &peer.certificate,
            Path::new("-key"),
            &peer.key,
        ]),
        None => command,
    }
}

/// `openssl s_server` in a pod, which demands a certificate of the mesh and prints what comes.
pub fn s_server(mesh: &Mesh, pod: &Pod, port: u16, peer: &Peer) -> PodCommand {
    pod.app("openssl")
        .args([
            "s_server",
            "-quiet",
            "-Verify",
            "2",
            "-verify_return_error",
            "-naccept",
            "1",
        ])
        .args(["-accept", &port.to_string()])
        .args([
            Path::new("-CAfile"),
            &mesh.world().directory().join("client/bundle.pem"),
            Path::new("-cert"),
            &peer.certificate,
            Path::new("-key"),
            &peer.key,
        ])
}

fn fresh(mesh: &Mesh, name: &str) -> Peer {
    let directory = mesh.world().directory().join("peers").join(name);
    let owner = PROXY_UID.to_string();
    let made = mesh
        .world()
        .command("install")
        .args(["-d", "-m", "0755", "-o", &owner, "-g", &owner])
        .args([directory.parent().unwrap_or(&directory), &directory])
        .run(SOON);
    assert!(expect(made).success());
    let peer = Peer {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
    };
    openssl(
        mesh,
        &format!(
            "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out {}",
            peer.key.display()
        ),
    );
    let readable = mesh
        .world()
        .command("chmod")
        .args(["0644"])
        .args([&peer.key])
        .run(SOON);
    assert!(expect(readable).success());
    peer
}

fn openssl(mesh: &Mesh, arguments: &str) {
    let arguments = arguments
        .split(' ')
        .filter(|word| !word.is_empty())
        .map(|word| word.replace("%20", " "));
    let done = expect(
        mesh.world()
            .command("openssl")
            .user(PROXY_UID)
            .args(arguments)
            .run(SOON),
    );
    assert!(done.success(), "{}", done.stderr);
}

fn expect<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("the peer can be made")
}
