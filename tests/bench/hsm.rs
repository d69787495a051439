//! What an HSM that is frozen costs between two sealed pods: `make bench-hsm`. And what a device
//! allows to a program that only signs.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sealwire_keys::{KeyConfig, Pkcs11Config, Scheme};
use sealwire_pods::{Mesh, OPEN_MESH, Pod, Privilege, Programs, Sealing, Sidecar};
use sealwire_tests::load::{Load, now};

use crate::SOON;

/// Links that carry data all the time.
const LINKS: usize = 200;

/// How long the device is frozen, and how long it is watched before.
const FREEZE: Duration = Duration::from_secs(30);
const BEFORE: Duration = Duration::from_secs(10);

/// Sessions that a device gives to each pod.
pub(crate) const SESSIONS: usize = 16;

/// A sealed pod whose connections are full handshakes, its key behind a device.
pub(crate) fn sealed(mesh: &Mesh, name: &str, device: Option<&Pod>) -> (Pod, Sidecar) {
    let sealing = Sealing {
        device: Some("soft".to_owned()),
        identity: "  resumption: { enabled: false }\n".to_owned(),
        key: format!("    maxSessions: {SESSIONS}\n"),
        sections: OPEN_MESH.to_owned(),
        ..Sealing::default()
    };
    let pod = mesh.world().pod(name).unwrap();
    let config = mesh.prepare(&pod, &sealing).unwrap();
    let device = mesh.device_directory(device.unwrap_or(&pod));
    let own = mesh.device_directory(&pod).display().to_string();
    let text = mesh.config(&pod, &sealing);
    let text = text.replace(&own, &device.display().to_string());
    mesh.write(&config, &text).unwrap();
    mesh.capture(&pod, &config).unwrap();
    let command = mesh.sidecar_command(&pod, &config).env("HSM_SIM", device);
    let mut sidecar = mesh.start_with(&pod, &config, command).unwrap();
    sidecar.wait_until_ready().unwrap();
    (pod, sidecar)
}

/// Freezes the device under one side and then the other, and prints what became of the links.
pub(crate) fn freeze() {
    let programs = Programs::beside(&std::env::current_exe().unwrap()).unwrap();
    println!(
        "| frozen for {} s under the side that | exchanges a second before | new links a second | their longest wait | exchanges meanwhile | meanwhile over before | new links meanwhile | the longest wait | served again after |\n|---|---|---|---|---|---|---|---|---|",
        FREEZE.as_secs()
    );
    for role in ["dials", "is dialled"] {
        let mesh = Mesh::new(Privilege::available()[0], &programs).unwrap();
        let (dials, _out) = sealed(&mesh, "dials", None);
        let (dialled, _in) = sealed(&mesh, "dialled", None);
        let frozen = if role == "dials" { &dials } else { &dialled };
        let load = Load::start(&mesh, &dials, &dialled, LINKS);
        load.watch(Duration::from_secs(2));
        let before = load.watch(BEFORE);
        mesh.device(frozen, &["freeze"]).unwrap();
        let during = load.watch(FREEZE);
        mesh.device(frozen, &["thaw"]).unwrap();
        let again = load.serves_since(now());
        assert_eq!(during.broken, 0, "an open link broke");
        println!(
            "| {role} | {:.0} | {} | {:.1} s | {:.0} | {:.3} | {} served, {} refused | {:.1} s | {again:.2} s |",
            before.exchanges,
            before.served / BEFORE.as_secs(),
            before.longest,
            during.exchanges,
            during.exchanges / before.exchanges,
            during.served,
            during.refused,
            during.longest,
        );
    }
    println!();
}

/// Signs with as many threads as there are sessions, and prints how many that made a second.
pub(crate) fn sign(module: &Path, uri: &str) {
    const SIGNATURES: usize = 4000;
    let key = sealwire_keys::open(&KeyConfig::Pkcs11(Box::new(Pkcs11Config {
        module: module.to_owned(),
        uri: uri.parse().unwrap(),
        max_sessions: NonZeroUsize::new(SESSIONS).unwrap(),
        queue: SESSIONS,
        wait: SOON,
        generate: None,
        certified: None,
        state: None,
    })))
    .unwrap();
    let left = AtomicUsize::new(SIGNATURES);
    let one_less = |left: usize| left.checked_sub(1);
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                while (left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)).is_ok() {
                    key.sign(Scheme::EcdsaP256Sha256, b"message").unwrap();
                }
            });
        }
    });
    println!("{}", 4000.0 / begun.elapsed().as_secs_f64());
    drop(key);
    sealwire_keys::finish(SOON);
}
